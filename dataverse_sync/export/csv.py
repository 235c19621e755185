"""Write a CSV file: UTF-8, a comma between values, every text in quotes, null without.

So an empty text is told from null, and a text is what it is: ``=1+1`` is in quotes, not changed.
Moments are written as the service writes them, with a Z in UTC.

https://arrow.apache.org/docs/python/csv.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from dataverse_sync.export.arrays import LOCAL, MOMENT, without_zone


class FileWriter:
    """Writes batches into one CSV file."""

    cut: Mapping[str, int] = {}

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file = path.open("wb")
        kinds = [pa.string() if _is_moment(kind) else kind for kind in schema.types]
        self._schema = pa.schema(list(zip(schema.names, kinds, strict=True)))
        self._writer = pa_csv.CSVWriter(self._file, self._schema)

    def write(self, batch: pa.RecordBatch) -> None:
        arrays = [_to_text(it) if _is_moment(it.type) else it for it in batch.columns]
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        with self._file, self._writer:
            pass


def _is_moment(kind: pa.DataType) -> bool:
    return kind in (MOMENT, LOCAL)


def _to_text(moments: pa.Array) -> pa.Array:
    texts = pc.replace_substring(without_zone(moments).cast(pa.string()), " ", "T")
    texts = pc.replace_substring_regex(texts, r"\.?0+$", "")
    return pc.binary_join_element_wise(texts, "Z" if moments.type == MOMENT else "", "")
