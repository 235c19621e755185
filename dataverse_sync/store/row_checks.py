"""Look at rows as they are stored: against their own JSON, and against records that came."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, Text, cast, literal, select

from dataverse_sync.errors import EntityError, PageError
from dataverse_sync.store.annotations import differ_in_annotations_alone
from dataverse_sync.store.database import dialect_of
from dataverse_sync.store.rows import VALID_FROM, SqlRow, to_heads, to_rows
from dataverse_sync.store.tables import EntityTable

KEYS_AT_ONCE = 500


def list_keys(connection: Connection, keys: Select[Any]) -> Sequence[str]:
    return [key for key in connection.execute(keys).scalars() if key is not None]  # of damage


def load_versions(
    connection: Connection, table: EntityTable, keys: Sequence[str]
) -> dict[str, str | None]:
    """The version of each of these rows as the table has it now."""
    key, name = table.key, table.entity.version_column
    version = literal(None) if name is None else cast(table.table.c[name], Text)
    found: dict[str, str | None] = {}
    for start in range(0, len(keys), KEYS_AT_ONCE):
        query = select(key, version).where(key.in_(keys[start : start + KEYS_AT_ONCE]))
        found.update((row[0], row[1]) for row in connection.execute(query))
    return found


class _Partition(msgspec.Struct):
    partitionid: str | None = None


_decode_partition = msgspec.json.Decoder(_Partition).decode


def check_partitions(
    connection: Connection, table: EntityTable, records: Sequence[msgspec.Raw]
) -> None:
    """Raise a PageError if two records share an id and are in different partitions.

    The key of an elastic table is unique only together with ``partitionid``.
    """
    if not table.entity.has("partitionid"):
        return
    found: dict[str, str | None] = {}
    for (key, _), record in zip(to_heads(table, records), records, strict=True):
        with suppress(msgspec.MsgspecError):
            partition = _decode_partition(record).partitionid
            if found.setdefault(key, partition) != partition:
                raise _refuse_partitions(table, key, found[key], partition)
    keys = list(found)
    for start in range(0, len(keys), KEYS_AT_ONCE):
        stored = select(table.key, table.table.c.partitionid)
        part = stored.where(table.key.in_(keys[start : start + KEYS_AT_ONCE]))
        for key, partition in connection.execute(part):
            if found[key] != partition:
                raise _refuse_partitions(table, key, partition, found[key])


def _refuse_partitions(table: EntityTable, key: str, one: str | None, two: str | None) -> PageError:
    return PageError(
        f"{table.name}: two records have the id {key}, in the partitions {one!r} and {two!r}",
        "The id of an elastic table tells records apart only within a partition, and a row here "
        "has the id alone. Take the table out of the configuration, or give its records ids of "
        "their own.",
    )


def find_unlike(
    connection: Connection, table: EntityTable, records: Sequence[msgspec.Raw]
) -> list[str]:
    """Keys of records whose row holds other bytes; annotations aside.

    Records that have no row are left out.
    """
    heads = to_heads(table, records)
    came = {key: record for (key, _), record in zip(heads, records, strict=True)}
    unlike, keys = [], list(came)
    for start in range(0, len(keys), KEYS_AT_ONCE):
        part = keys[start : start + KEYS_AT_ONCE]
        texts = [came[key] for key in part]
        same = dialect_of(connection).find_unchanged(connection, table, part, texts)
        others = [key for key in part if key not in same]
        stored = select(table.key, table.table.c.json_response).where(table.key.in_(others))
        for key, text in connection.execute(stored) if others else ():
            if not differ_in_annotations_alone(bytes(came[key]), str(text).encode()):
                unlike.append(key)
    return unlike


def choose_sample(
    connection: Connection, table: EntityTable, count: int, after: str | None
) -> Sequence[str]:
    """So many keys, the next ones after a key in their order; from the first on after the last."""
    following = select(table.key).order_by(table.key).limit(count)
    keys = list_keys(connection, following.where(table.key > (after or "")))
    if len(keys) < count:
        keys = list(dict.fromkeys([*keys, *list_keys(connection, following)]))[:count]
    return keys


def find_altered(connection: Connection, table: EntityTable, known: Collection[str]) -> list[str]:
    """Keys of rows, but those ``known``, whose columns are not what their own JSON says."""
    names = [column.name for column in table.columns]
    columns = [table.table.c[name] for name in (*names, "valid_from", "json_response")]
    with connection.execute(select(*columns).order_by(table.key)) as result:
        # One by one: a row may be large.
        rows = (tuple(row) for row in result if row[0] not in known)
        return [row[0] for row in rows if row[0] is not None and not _agrees(table, row)]


def _agrees(table: EntityTable, stored: SqlRow) -> bool:
    *values, valid_from, text = stored
    try:
        (row,) = to_rows(table, [msgspec.Raw(str(text).encode())], "")
    except EntityError:
        return False
    same = (
        column.gone or _as_stored(told, column.type) == value
        for column, told, value in zip(table.columns, row, values, strict=False)
    )
    return all(same) and row[VALID_FROM] == valid_from


def _as_stored(value: Any, column_type: str) -> Any:
    """What SQLite's column affinity makes of a value; numbers compare by their worth."""
    if column_type != "TEXT" and isinstance(value, str):
        with suppress(ValueError):
            return float(value)  # digits beyond 64 bits
    return value
