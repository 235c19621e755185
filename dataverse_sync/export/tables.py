"""Export one table: its rows through the reader of records into a file, in batches.

A column whose values do not fit its type is text, all of it, in a file that is begun anew: what
fits is known for certain only at the end, and a Parquet file has one type for each column.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from sqlalchemy import Connection

from dataverse_sync.errors import DAMAGED, EntityError
from dataverse_sync.export.arrays import build_arrays, build_schema
from dataverse_sync.export.columns import (
    Beside,
    ExportColumn,
    Kind,
    Member,
    plan_columns,
    widen,
)
from dataverse_sync.export.records import RecordReader
from dataverse_sync.files import written_beside
from dataverse_sync.store.dictionary import DICTIONARY, ColumnEntry
from dataverse_sync.store.export_rows import (
    ExportSource,
    Row,
    Tables,
    find_source,
    iter_batches,
    load_columns,
)
from dataverse_sync.store.tables import EntityTable

OnRows = Callable[[int, int], None]  # rows that were written, and the size of their JSON

_HINT = "Is there space left, and is the file open in another program?"
_DICTIONARY_KINDS: Mapping[str, Kind] = {  # other columns of it are text
    "position": "integer",
    "precision": "integer",
    "is_required": "boolean",
    "is_secured": "boolean",
}


class Writer(Protocol):
    """Writes batches into one file."""

    @property
    def cut(self) -> Mapping[str, int]: ...  # texts that were cut, by column
    def write(self, batch: pa.RecordBatch) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """A file that was written."""

    path: Path
    rows: int
    size: int  # bytes
    notes: Sequence[str] = ()  # what of it is not as it should be


class Exporter:
    """Writes tables into a folder, as they are in one snapshot."""

    def __init__(self, connection: Connection, tables: Tables, folder: Path, kind: str) -> None:
        """``kind`` is the format: a module of this wing, and the ending of the files."""
        self._connection = connection
        self._tables = tables
        self._entries = load_columns(connection)
        self._folder = folder
        self._kind = kind
        self._open_file = import_module(f"dataverse_sync.export.{kind}").FileWriter

    def find_source(self, name: str, *, raw: bool) -> ExportSource:
        return find_source(self._connection, self._tables, name, raw=raw)

    def export_table(self, name: str, source: ExportSource, on_rows: OnRows) -> ExportedFile:
        """Write the file of a table; an EntityError if that cannot be done, and none is left."""
        told = {entry.column: entry for entry in self._entries.get(name, ())}
        columns = plan_columns(self._tables[name], told, source.beside)
        path = self._folder / f"{name}.{self._kind}"
        notes: list[str] = []
        try:
            with written_beside(path) as partial:
                while True:
                    rows, misfits, cut = self._write_rows(partial, name, source, columns, on_rows)
                    if not misfits:
                        break
                    notes += [
                        f"{name}.{column.name}: holds values that are not {column.kind}, so it "
                        "is text"
                        for column in columns
                        if column.name in misfits and misfits[column.name].kind == "text"
                    ]
                    columns = [misfits.get(column.name, column) for column in columns]
        except OSError as error:
            raise EntityError(f"{path}: the file cannot be written ({error})", _HINT) from error
        notes += [
            f"{name}.{column}: {count:,} texts that are longer than a cell holds (32,767 "
            "characters) were cut"
            for column, count in cut.items()
        ]
        return ExportedFile(path, rows, path.stat().st_size, notes)

    def _write_rows(
        self,
        path: Path,
        name: str,
        source: ExportSource,
        columns: Sequence[ExportColumn],
        on_rows: OnRows,
    ) -> tuple[int, Mapping[str, ExportColumn], Mapping[str, int]]:
        """Write all rows, or find all columns that cannot hold their values."""
        schema = build_schema(columns)
        sources = ((column.source, column.kind) for column in columns)
        reader = RecordReader({it.name: kind for it, kind in sources if isinstance(it, Member)})
        count = 0
        misfits: dict[str, ExportColumn] = {}
        with closing(self._open_file(path, schema)) as writer:
            for rows, size in iter_batches(self._connection, name, source):
                taken = [misfits.get(column.name, column) for column in columns]
                arrays, found = _build_batch(name, reader, taken, rows)
                misfits |= found
                if not misfits:
                    writer.write(pa.RecordBatch.from_arrays(arrays, schema=schema))
                    count += len(rows)
                    on_rows(len(rows), size)
        return count, misfits, writer.cut

    def export_dictionary(self, names: Sequence[str]) -> ExportedFile:
        """Write the file ``_columns``: the data dictionary, else what the lock tells of a table."""
        entries = [
            entry
            for name in names
            for entry in self._entries.get(name) or _list_locked(self._tables[name])
        ]
        columns = [
            ExportColumn(column.name, _DICTIONARY_KINDS.get(column.name, "text"), Beside(at))
            for at, column in enumerate(DICTIONARY.c)
        ]
        values = list(zip(*map(_to_row, entries), strict=True)) or [()] * len(columns)
        arrays, _ = build_arrays(columns, {}, values)
        schema = build_schema(columns)
        path = self._folder / f"{DICTIONARY.name}.{self._kind}"
        try:
            with written_beside(path) as partial, closing(self._open_file(partial, schema)) as file:
                file.write(pa.RecordBatch.from_arrays(arrays, schema=schema))
        except OSError as error:
            raise EntityError(f"{path}: the file cannot be written ({error})", _HINT) from error
        return ExportedFile(path, len(entries), path.stat().st_size)


def _build_batch(
    name: str, reader: RecordReader, columns: Sequence[ExportColumn], rows: Sequence[Row]
) -> tuple[list[pa.Array], dict[str, ExportColumn]]:
    texts, *beside = zip(*rows, strict=True)
    try:
        members = reader.read(texts)
    except (ValueError, TypeError, RecursionError) as error:
        raise EntityError(
            f"{name}: holds a record whose json_response cannot be read ({error})", DAMAGED
        ) from error
    arrays, misfits = build_arrays(columns, members, beside)
    for column in columns:
        if column.name in reader.misfits and column.name not in misfits:
            misfits[column.name] = widen(column, ())
    return arrays, misfits


def _to_row(entry: ColumnEntry) -> tuple[Any, ...]:
    """An entry in the order of the table's columns."""
    targets = json.dumps(entry.targets) if entry.targets else None
    return (
        entry.entity,
        entry.column,
        entry.position,
        entry.display_name,
        entry.description,
        entry.type,
        entry.format,
        entry.date_behavior,
        entry.precision,
        targets,
        entry.is_required,
        entry.is_secured,
    )


def _list_locked(table: EntityTable) -> list[ColumnEntry]:
    """What the schema lock tells of a table's columns; their types are SQL's."""
    return [
        ColumnEntry(table.name, column.name, position, type=column.type, targets=column.targets)
        for position, column in enumerate(table.columns, 1)
    ]
