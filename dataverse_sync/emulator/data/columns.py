"""Columns: their type in metadata, their members in JSON, their value in SQLite.

A column is named as Dataverse names attributes (``primarycontactid``); its members are
named as the Web API names properties (``_primarycontactid_value``). One column has one
member as a rule, a file two, a party list none.

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/web-api-types-operations
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from json.encoder import encode_basestring
from typing import cast

SqlValue = str | int | None

_JSON_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?")


class Storage(Enum):
    """How a member's value lies in SQLite, and so how it is compared and written as JSON."""

    GUID = "guid"
    TEXT = "text"
    MOMENT = "moment"
    WHOLE = "whole"
    NUMBER = "number"  # the JSON literal as text: 20000.0000 keeps its zeros
    BOOLEAN = "boolean"


TYPES: dict[str, tuple[Storage, str]] = {  # and the name in OData's type system
    **dict.fromkeys(("String", "Memo", "EntityName"), (Storage.TEXT, "Edm.String")),
    "MultiSelectPicklist": (Storage.TEXT, "Edm.String"),
    **dict.fromkeys(("Integer", "Picklist", "State", "Status"), (Storage.WHOLE, "Edm.Int32")),
    "BigInt": (Storage.WHOLE, "Edm.Int64"),
    **dict.fromkeys(("Decimal", "Money"), (Storage.NUMBER, "Edm.Decimal")),
    "Double": (Storage.NUMBER, "Edm.Double"),
    "Boolean": (Storage.BOOLEAN, "Edm.Boolean"),
    "DateTime": (Storage.MOMENT, "Edm.DateTimeOffset"),
    **dict.fromkeys(("Lookup", "Owner", "Customer"), (Storage.GUID, "Edm.Guid")),
    **dict.fromkeys(("Uniqueidentifier", "File"), (Storage.GUID, "Edm.Guid")),
    "PartyList": (Storage.TEXT, ""),
}
LOOKUPS = ("Lookup", "Owner", "Customer")
CHOICES = ("Picklist", "State", "Status", "Boolean", "MultiSelectPicklist")

_DEFAULT_OPTIONS: dict[str, dict[int, str]] = {
    "Boolean": {0: "No", 1: "Yes"},
    "State": {0: "Active", 1: "Inactive"},
    "Status": {1: "Active", 2: "Inactive"},
}


@dataclass(frozen=True, slots=True)
class Column:
    """One attribute of a table; ``type`` is its ``AttributeType`` in metadata.

    Choices and files, which metadata calls ``Virtual``, go by the name of their own.
    """

    name: str
    type: str
    targets: tuple[str, ...] = ()  # logical names, of a lookup
    options: Mapping[int, str] | None = None  # value to label, of a choice
    date_only: bool = False
    readable: bool = True  # IsValidForRead
    secured: bool = False  # needs a right of its own to be read

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            raise ValueError(f"{self.name}: not a column type: {self.type!r}")
        object.__setattr__(self, "targets", tuple(self.targets))
        if self.options is None and self.type in _DEFAULT_OPTIONS:
            object.__setattr__(self, "options", _DEFAULT_OPTIONS[self.type])

    @property
    def members(self) -> tuple[Member, ...]:
        """The properties that a record's JSON has for this column."""
        storage, edm = TYPES[self.type]
        if self.type in LOOKUPS:
            return (Member(f"_{self.name}_value", storage, edm, self),)
        if self.type == "PartyList":
            return ()
        if self.type == "File":
            name = Member(f"{self.name}_name", Storage.TEXT, "Edm.String", self)
            return (Member(self.name, storage, edm, self), name)
        return (Member(self.name, storage, "Edm.Date" if self.date_only else edm, self),)


@dataclass(frozen=True, slots=True)
class Member:
    """One property of a record's JSON."""

    name: str
    storage: Storage
    edm: str
    column: Column = field(repr=False)


def guid_rank(guid: str) -> str:
    """Text that sorts as SQL Server sorts this guid: its last group first, its first last.

    Recorded pages (samples/webapi-recorded/contacts-page1-annotated.json) come in this order.
    An id that is not a guid sorts after all that are.
    """
    g = guid.lower()
    if len(g) != 36 or g[23] != "-":
        return f"~{g}"
    last, middle = g[24:] + g[19:23], g[16:18] + g[14:16] + g[11:13] + g[9:11]
    return last + middle + g[6:8] + g[4:6] + g[2:4] + g[:2]


def moment_text(moment: dt.datetime) -> str:
    """A moment as the service writes it: UTC, whole seconds, ``Z``."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _moment(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dt.datetime):
        return moment_text(value)
    if isinstance(value, dt.date):
        return value.isoformat()
    raise TypeError(f"{value!r} is not a moment")


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _number(value: object) -> str:
    if isinstance(value, str) and _JSON_NUMBER.fullmatch(value):
        return value
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return repr(value)
    raise TypeError(f"{value!r} is not a number")


def _boolean(value: object) -> int:
    if not isinstance(value, (bool, int)):
        raise TypeError(f"{value!r} is not true or false")
    return int(value)


TO_SQL: dict[Storage, Callable[[object], SqlValue]] = {
    Storage.GUID: lambda value: str(value).lower(),
    Storage.TEXT: _text,
    Storage.MOMENT: _moment,
    Storage.WHOLE: _whole,
    Storage.NUMBER: _number,
    Storage.BOOLEAN: _boolean,
}

# What json.dumps uses for text, without its detours: a million values are written at once.
_quoted = cast(Callable[[SqlValue], str], encode_basestring)

TO_JSON: dict[Storage, Callable[[SqlValue], str]] = {
    Storage.GUID: _quoted,
    Storage.TEXT: _quoted,
    Storage.MOMENT: _quoted,
    Storage.WHOLE: str,
    Storage.NUMBER: str,
    Storage.BOOLEAN: lambda value: "true" if value else "false",
}
