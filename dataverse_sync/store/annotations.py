"""Tell whether two texts of a record differ in what annotates its members alone.

An annotation is a member with an ``@`` in its name, such as the table that a lookup points to:
``_ownerid_value@Microsoft.Dynamics.CRM.lookuplogicalname``. Whether it comes goes by how the
record was asked for; the record is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from dataverse_sync.dataverse.odata import LOOKUP_TARGET
from dataverse_sync.store.rows import JSON_RESPONSE, SqlRow
from dataverse_sync.store.tables import EntityTable

_NAMES_TARGET = f'@{LOOKUP_TARGET}":"'  # not within a text: its quotes are escaped


def differ_in_annotations_alone(one: bytes, other: bytes) -> bool:
    """Whether two records of other bytes have the same members, but for those that annotate."""
    try:
        split = [_split_members(record) for record in (one, other)]
    except (msgspec.MsgspecError, RecursionError):  # damaged, or half a surrogate pair
        return False
    (members, notes), (other_members, other_notes) = split
    return members == other_members and notes != other_notes


def _split_members(record: bytes) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The members of a record in any order, and those that annotate it or another member."""
    items = [(name, bytes(value)) for name, value in _decode_members(record).items()]
    plain = {name: value for name, value in items if "@" not in name}
    return plain, {name: value for name, value in items if "@" in name}


_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def choose_annotated(
    table: EntityTable, rows: Sequence[SqlRow], stored: Mapping[str, str]
) -> list[SqlRow]:
    """Those of the rows that differ from their ``stored`` texts in annotations alone.

    Nearly always a row differs since it is a new version: that is seen by looking for its version
    in the text, and only if that is there the texts are compared without annotations.
    """
    name = table.entity.version_column
    at = next((n for n, column in enumerate(table.columns) if column.name == name), None)
    mark = f'"{name}":"%s"' if name == "modifiedon" else f'"{name}":%s'
    annotated = []
    for row in rows:
        before, text = stored.get(row[0]), row[JSON_RESPONSE]
        if not isinstance(before, str):  # new, or damaged
            continue
        version = "" if at is None else mark % row[at]
        if version not in before and version in text:
            continue
        is_same = _leave_targets_out(text) == _leave_targets_out(before)  # a tenth of the time
        if is_same or differ_in_annotations_alone(text.encode(), before.encode()):
            annotated.append(row)
    return annotated


def _leave_targets_out(text: str) -> str:
    """A record as the service writes it, without what its lookups point to."""
    kept, *others = text.split(_NAMES_TARGET)
    parts = [kept]
    for other in others:
        parts[-1] = parts[-1][: parts[-1].rfind('"')]  # the member's name
        parts.append(other[other.find('",') + 2 :])
    return "".join(parts)
