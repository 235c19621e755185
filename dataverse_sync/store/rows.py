"""Turn records into rows: every column of the table, whatever the record holds.

A record may hold more than the table has columns for (it stays in ``json_response``) or
less (that is null). Values are made to fit here, so that no record can break a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from dataverse_sync.errors import PageError
from dataverse_sync.model import ColumnType
from dataverse_sync.store.tables import INT64, EntityTable

_REPORT = "Run again; if it stays, report it. The other tables are not concerned."
SqlRow = tuple[Any, ...]  # the key first; at the end sync_time, valid_from, json_response
Head = tuple[str, str | None]  # key and modifiedon
VALID_FROM, JSON_RESPONSE = -2, -1  # where they stand in a row


def to_rows(table: EntityTable, records: Iterable[msgspec.Raw], sync_time: str) -> list[SqlRow]:
    """Turn records into rows: every column, then ``sync_time``, ``valid_from``, ``json_response``.

    A record that is not an object, has no key, or is not UTF-8 text is a PageError.
    """
    valid_from = next(
        (at for at, column in enumerate(table.columns) if column.name == "modifiedon"), None
    )
    rows = []
    for record in records:
        try:
            text = str(record, "utf-8")
        except UnicodeDecodeError as error:
            raise PageError(
                f"{table.name}: a record is not UTF-8 text ({error})", _REPORT
            ) from error
        try:
            values = msgspec.structs.astuple(table.decode(record))
        except (msgspec.MsgspecError, RecursionError):
            values = _decode_slowly(table, text)
        key = values[0]
        if not isinstance(key, str) or not key:
            raise PageError(
                f"{table.name}: a record has no {table.entity.key}, the key of the locked schema",
                "Was the table's key changed? Compare with: python -m dataverse_sync schema diff",
            )
        rows.append((*values, sync_time, None if valid_from is None else values[valid_from], text))
    return rows


def to_heads(table: EntityTable, records: Iterable[msgspec.Raw]) -> list[Head]:
    """The key and ``modifiedon`` of each record; raises as ``to_rows`` does."""
    heads = []
    for record in records:
        try:
            head = table.decode_head(record)
            heads.append((head.key, head.modifiedon))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            (row,) = to_rows(table, [record], "")
            heads.append((row[0], row[VALID_FROM]))
    return heads


def _decode_slowly(table: EntityTable, text: str) -> tuple[Any, ...]:
    """The same values, from a record whose types are not those of the lock."""
    try:
        record = json.loads(text, parse_int=_fitting_int)
    except RecursionError as error:
        raise PageError(f"{table.name}: a record is nested too deep", _REPORT) from error
    except ValueError as error:
        raise PageError(f"{table.name}: a record is not JSON ({error})", _REPORT) from error
    if not isinstance(record, dict):
        raise PageError(f"{table.name}: a record is not an object", _REPORT)
    return tuple(_to_sql(record.get(column.name), column.type) for column in table.columns)


def _fitting_int(digits: str) -> int | str:
    """An integer that SQLite can hold, else its digits as text."""
    if len(digits) <= 20 and INT64[0] <= int(digits) <= INT64[1]:
        return int(digits)
    return digits


def _to_sql(value: Any, column_type: ColumnType) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # a lone surrogate is no UTF-8
    if isinstance(value, dict | list):
        return json.dumps(value, separators=(",", ":"))
    if column_type != "TEXT" or value is None:
        return value
    return json.dumps(value) if isinstance(value, bool) else str(value)
