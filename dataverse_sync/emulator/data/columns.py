"""What a column can be: its type in metadata, its members in JSON, its value in SQLite.

A column is named as Dataverse names attributes (``primarycontactid``); its members are
named as the Web API names properties (``_primarycontactid_value``). One column has one
member as a rule, a file two, an image four, a party list none.

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/web-api-types-operations
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from json.encoder import encode_basestring
from typing import cast

SqlValue = str | int | None

_JSON_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?")
GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class Storage(Enum):
    """How a member's value lies in SQLite, and so how it is compared and written as JSON."""

    GUID = "guid"
    TEXT = "text"
    MOMENT = "moment"
    WHOLE = "whole"
    NUMBER = "number"  # the JSON literal as text: 20000.0000 keeps its zeros
    BOOLEAN = "boolean"
    COMPLEX = "complex"  # JSON text


@dataclass(frozen=True, slots=True)
class Kind:
    """The names one type goes by."""

    attribute_type: str
    type_name: str
    metadata_type: str
    edm: str
    storage: Storage


KINDS: dict[str, Kind] = {
    name: Kind(attribute_type, f"{stem}Type", f"{metadata}AttributeMetadata", edm, storage)
    for name, attribute_type, stem, metadata, edm, storage in (
        ("String", "String", "String", "String", "Edm.String", Storage.TEXT),
        ("Memo", "Memo", "Memo", "Memo", "Edm.String", Storage.TEXT),
        ("EntityName", "EntityName", "EntityName", "EntityName", "Edm.String", Storage.TEXT),
        ("Integer", "Integer", "Integer", "Integer", "Edm.Int32", Storage.WHOLE),
        ("BigInt", "BigInt", "BigInt", "BigInt", "Edm.Int64", Storage.WHOLE),
        ("Picklist", "Picklist", "Picklist", "Picklist", "Edm.Int32", Storage.WHOLE),
        ("State", "State", "State", "State", "Edm.Int32", Storage.WHOLE),
        ("Status", "Status", "Status", "Status", "Edm.Int32", Storage.WHOLE),
        ("Decimal", "Decimal", "Decimal", "Decimal", "Edm.Decimal", Storage.NUMBER),
        ("Money", "Money", "Money", "Money", "Edm.Decimal", Storage.NUMBER),
        ("Double", "Double", "Double", "Double", "Edm.Double", Storage.NUMBER),
        ("Boolean", "Boolean", "Boolean", "Boolean", "Edm.Boolean", Storage.BOOLEAN),
        ("DateTime", "DateTime", "DateTime", "DateTime", "Edm.DateTimeOffset", Storage.MOMENT),
        ("Lookup", "Lookup", "Lookup", "Lookup", "Edm.Guid", Storage.GUID),
        ("Owner", "Owner", "Owner", "Lookup", "Edm.Guid", Storage.GUID),
        ("Customer", "Customer", "Customer", "Lookup", "Edm.Guid", Storage.GUID),
        (
            "Uniqueidentifier",
            "Uniqueidentifier",
            "Uniqueidentifier",
            "UniqueIdentifier",
            "Edm.Guid",
            Storage.GUID,
        ),
        (
            "MultiSelectPicklist",
            "Virtual",
            "MultiSelectPicklist",
            "MultiSelectPicklist",
            "Edm.String",
            Storage.TEXT,
        ),
        ("File", "Virtual", "File", "File", "Edm.Guid", Storage.GUID),
        ("Image", "Virtual", "Image", "Image", "Edm.Binary", Storage.TEXT),
        ("PartyList", "PartyList", "PartyList", "Lookup", "", Storage.TEXT),
        (
            "ManagedProperty",
            "ManagedProperty",
            "ManagedProperty",
            "ManagedProperty",
            "mscrm.BooleanManagedProperty",
            Storage.COMPLEX,
        ),
    )
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

    Choices, files and images, which metadata calls ``Virtual``, go by the name of their own.
    """

    name: str
    type: str
    targets: tuple[str, ...] = ()  # logical names, of a lookup
    options: Mapping[int, str] | None = None  # value to label, of a choice
    nullable: bool = True
    date_only: bool = False
    readable: bool = True  # IsValidForRead

    def __post_init__(self) -> None:
        if self.type not in KINDS:
            raise ValueError(f"{self.name}: no column type is called {self.type!r}")
        object.__setattr__(self, "targets", tuple(self.targets))
        if self.options is None and self.type in _DEFAULT_OPTIONS:
            object.__setattr__(self, "options", _DEFAULT_OPTIONS[self.type])

    @property
    def kind(self) -> Kind:
        return KINDS[self.type]

    @property
    def members(self) -> tuple[Member, ...]:
        """What a record's JSON holds of this column."""
        storage, edm = self.kind.storage, self.kind.edm
        if self.type in LOOKUPS:
            return (Member(f"_{self.name}_value", storage, edm, self),)
        if self.type == "PartyList":
            return ()
        if self.type == "File":
            return (
                Member(self.name, storage, edm, self),
                Member(f"{self.name}_name", Storage.TEXT, "Edm.String", self),
            )
        if self.type == "Image":
            return (
                Member(self.name, storage, edm, self),
                Member(f"{self.name}_timestamp", Storage.WHOLE, "Edm.Int64", self),
                Member(f"{self.name}_url", Storage.TEXT, "Edm.String", self),
                Member(f"{self.name}id", Storage.GUID, "Edm.Guid", self),
            )
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
    An id that is no guid sorts after all that are.
    """
    g = guid.lower()
    if len(g) != 36 or g[23] != "-":
        return f"~{g}"
    last, middle = g[24:] + g[19:23], g[16:18] + g[14:16] + g[11:13] + g[9:11]
    return last + middle + g[6:8] + g[4:6] + g[2:4] + g[:2]


def moment_text(moment: dt.datetime) -> str:
    """A moment as the service writes it: UTC, whole seconds, ``Z``."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _guid(value: object) -> str:
    return str(value).lower()


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (list, tuple)):
        return ",".join(str(part) for part in value)
    return str(value)


def _moment(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dt.datetime):
        return moment_text(value)
    if isinstance(value, dt.date):
        return value.isoformat()
    raise TypeError(f"{value!r} is no moment")


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


def _complex(value: object) -> str:
    if isinstance(value, bool):
        value = {"Value": value, "CanBeChanged": True, "ManagedPropertyLogicalName": "canmodify"}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


TO_SQL: dict[Storage, Callable[[object], SqlValue]] = {
    Storage.GUID: _guid,
    Storage.TEXT: _text,
    Storage.MOMENT: _moment,
    Storage.WHOLE: _whole,
    Storage.NUMBER: _number,
    Storage.BOOLEAN: _boolean,
    Storage.COMPLEX: _complex,
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
    Storage.COMPLEX: str,
}


def new_id() -> str:
    return str(uuid.uuid4())
