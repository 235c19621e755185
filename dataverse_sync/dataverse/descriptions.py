"""Describe columns by their metadata: names, types, formats, targets. Pure.

An answer of attributes that are not selected has the properties of each one's own type too:
``Format``, ``Precision``, ``DateTimeBehavior``, ``Targets``.

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/query-metadata-web-api
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from dataverse_sync.dataverse.definitions import Attribute, Labels, columns_of

_REQUIRED = ("SystemRequired", "ApplicationRequired")


@dataclass(frozen=True, slots=True)
class ColumnDescription:
    """What Dataverse tells of a column; None where it does not."""

    display_name: str | None = None
    description: str | None = None
    type: str | None = None  # such as String, Picklist, DateTime, Lookup
    format: str | None = None
    date_behavior: str | None = None  # UserLocal, DateOnly or TimeZoneIndependent
    precision: int | None = None
    targets: tuple[str, ...] = ()  # logical names
    is_required: bool | None = None
    is_secured: bool | None = None


class _Valued(msgspec.Struct, rename="pascal"):
    value: str | None = None


class _Described(Attribute, rename="pascal"):
    display_name: object = None
    description: object = None
    format: object = None
    format_name: object = None
    date_time_behavior: object = None
    precision: object = None
    targets: object = None
    required_level: object = None
    is_secured: bool | None = None


def describe_columns(attributes: Iterable[object]) -> Iterator[tuple[str, ColumnDescription]]:
    """Each column's JSON name and description; attributes that do not fit are left out."""
    for attribute in attributes:
        with suppress(msgspec.ValidationError):
            found = msgspec.convert(attribute, _Described)
            description = _describe(found)
            yield from ((column.name, description) for column in columns_of(found, {}))


def _describe(found: _Described) -> ColumnDescription:
    required = _value(found.required_level)
    precision = found.precision
    return ColumnDescription(
        _label(found.display_name),
        _label(found.description),
        found.type_name.removesuffix("Type") or found.attribute_type,
        _value(found.format) or _value(found.format_name),
        _value(found.date_time_behavior),
        precision if isinstance(precision, int) and abs(precision) < 1000 else None,
        tuple(sorted(name for name in _list(found.targets) if isinstance(name, str))),
        None if required is None else required in _REQUIRED,
        found.is_secured,
    )


def _value(told: object) -> str | None:
    """A text, or that of an object with a ``Value``."""
    if isinstance(told, str):
        return told
    with suppress(msgspec.ValidationError):
        return msgspec.convert(told, _Valued).value
    return None


def _list(told: object) -> list[object]:
    return told if isinstance(told, list) else []


def _label(labels: object) -> str | None:
    """The label in the app user's language, else the first one."""
    try:
        found = msgspec.convert(labels, Labels)
    except msgspec.ValidationError:
        return None
    chosen = [found.user_localized_label, *(found.localized_labels or [])]
    texts = (label.label for label in chosen if label and label.label)
    text = next(texts, None)
    return None if text is None else text.encode("utf-8", "replace").decode()  # half a surrogate
