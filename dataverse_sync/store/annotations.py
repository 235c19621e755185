"""Tell whether two texts of a record differ in what annotates its members alone.

An annotation is a member with an ``@`` in its name, such as the table that a lookup points to:
``_ownerid_value@Microsoft.Dynamics.CRM.lookuplogicalname``. Whether it comes goes by how the
record was asked for; the record is the same.
"""

from __future__ import annotations

import msgspec

from dataverse_sync.store.rows import JSON_RESPONSE, SqlRow
from dataverse_sync.store.tables import EntityTable


def differ_in_annotations_alone(one: bytes, other: bytes) -> bool:
    """Whether two records of other bytes have the same members, but for those that annotate."""
    try:
        split = [_split_members(record) for record in (one, other)]
    except (msgspec.MsgspecError, RecursionError):  # damaged, or half a surrogate pair
        return False
    (members, notes), (other_members, other_notes) = split
    return members == other_members and notes != other_notes


def _split_members(record: bytes) -> tuple[list[tuple[str, bytes]], list[tuple[str, bytes]]]:
    """The members of a record in their order, and those that annotate it or another member."""
    items = [(name, bytes(value)) for name, value in _decode_members(record).items()]
    return [one for one in items if "@" not in one[0]], [one for one in items if "@" in one[0]]


_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def choose_annotated(
    table: EntityTable, rows: list[SqlRow], stored: dict[str, str]
) -> list[SqlRow]:
    """Those of the rows that differ from their ``stored`` texts in annotations alone.

    Nearly always a row differs since it is a new version: that is seen by looking for its version
    in the text (0.6 us a row of 1.2 kB), and only if that is there its members are compared.
    """
    name = table.entity.version_column
    at = next((n for n, column in enumerate(table.columns) if column.name == name), None)
    mark = f'"{name}":"%s"' if name == "modifiedon" else f'"{name}":%s'
    annotated = []
    for row in rows:
        before, text = stored.get(row[0]), row[JSON_RESPONSE]
        if not isinstance(before, str):  # new, or damaged
            continue
        version = mark % row[at] if at is not None else ""
        if version not in before and version in text:
            continue
        if differ_in_annotations_alone(text.encode(), before.encode()):
            annotated.append(row)
    return annotated
