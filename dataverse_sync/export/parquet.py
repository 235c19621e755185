"""Write a Parquet file, row group by row group.

https://arrow.apache.org/docs/python/parquet.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# Readers skip and share out whole row groups: of many rows, but all in memory until written.
_GROUP_ROWS = 120_000
_GROUP_BYTES = 32 * 1024 * 1024


class FileWriter:
    """Writes batches into one Parquet file."""

    cut: Mapping[str, int] = {}

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._file = path.open("wb")
        self._writer = pq.ParquetWriter(self._file, schema)
        self._waiting: list[pa.RecordBatch] = []

    def write(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        rows = sum(each.num_rows for each in self._waiting)
        if rows >= _GROUP_ROWS or sum(each.nbytes for each in self._waiting) >= _GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        table = pa.Table.from_batches(self._waiting, self._schema)
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self._waiting = []

    def close(self) -> None:
        with self._file, self._writer:
            if self._waiting:
                self._write_group()
