"""Write an Excel workbook, row by row: what a cell cannot hold as a number or date is text.

XlsxWriter writes each row as it comes, and only ever a string where it is told to.

https://support.microsoft.com/office/excel-specifications-and-limits
https://xlsxwriter.readthedocs.io/working_with_memory.html
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.sax.saxutils import escape

import pyarrow as pa
import xlsxwriter
from xlsxwriter.exceptions import XlsxFileError

from dataverse_sync.export.arrays import without_zone

MOST_ROWS = 1_048_576  # of a sheet, the header among them
MOST_DIGITS = 15  # that a number keeps
MOST_UNITS = 32_767  # of UTF-16, in the text of a cell
_FIRST_YEAR = 1900  # of a date; an older one is text
_RETURN = {"\r": "&#13;"}


class FileWriter:
    """Writes batches into the sheets of one workbook; a full sheet is followed by another."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.cut: Counter[str] = Counter()  # texts that were cut, by column
        self._names = list(schema.names)
        self._folder = TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True)
        options = {"constant_memory": True, "tmpdir": self._folder.name, "use_zip64": True}
        self._workbook = xlsxwriter.Workbook(str(path), options)
        self._bold = self._workbook.add_format({"bold": True})
        self._date = self._workbook.add_format({"num_format": "yyyy-mm-dd"})
        self._moment = self._workbook.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
        self._add_sheet()

    def _add_sheet(self) -> None:
        self._sheet = self._workbook.add_worksheet()
        self._sheet.xls_strmax = sys.maxsize  # texts are cut here; markup may be longer
        self._sheet.freeze_panes(1, 0)
        for at, name in enumerate(self._names):
            self._sheet.write_string(0, at, name, self._bold)
        self._row = 1

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [without_zone(array).to_pylist() for array in batch.columns]
        with _as_os_error():
            for values in zip(*columns, strict=True):
                if self._row == MOST_ROWS:
                    self._add_sheet()
                self._write_row(values)

    def _write_row(self, values: Sequence[Any]) -> None:
        row, sheet = self._row, self._sheet
        for at, value in enumerate(values):
            match value:
                case None:
                    pass
                case str():
                    self._write_text(row, at, value)
                case bool():
                    sheet.write_boolean(row, at, value)
                case datetime() if value.year >= _FIRST_YEAR:
                    sheet.write_datetime(row, at, value, self._moment)
                case datetime():
                    sheet.write_string(row, at, value.isoformat())
                case date() if value.year >= _FIRST_YEAR:
                    sheet.write_datetime(row, at, value, self._date)
                case _ if isinstance(value, date) or count_digits(value) > MOST_DIGITS:
                    sheet.write_string(row, at, str(value))
                case _:
                    sheet.write_number(row, at, float(value))
        self._row += 1

    def _write_text(self, row: int, at: int, text: str) -> None:
        shown = cut_text(text)
        if shown != text:
            self.cut[self._names[at]] += 1
        if "\r" in shown or (shown.startswith("<r>") and shown.endswith("</r>")):
            # XlsxWriter takes text in <r> for markup, and writes it as it is. A carriage return
            # it would write in a way that only Excel understands.
            shown = f'<r><t xml:space="preserve">{escape(shown, _RETURN)}</t></r>'
        self._sheet.write_string(row, at, shown)

    def close(self) -> None:
        with self._folder, _as_os_error():
            self._workbook.close()


def cut_text(text: str) -> str:
    """As much of a text as a cell holds."""
    if len(text) <= MOST_UNITS // 2:
        return text
    return text.encode("utf-16-le")[: 2 * MOST_UNITS].decode("utf-16-le", "ignore")


def count_digits(number: int | float | Decimal) -> int:
    """The significant digits of a number: 3 of 1.20, 2 of 1200."""
    digits = Decimal(repr(number) if isinstance(number, float) else number).as_tuple().digits
    return len("".join(map(str, digits)).strip("0"))


@contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except XlsxFileError as error:
        raise OSError(str(error)) from error
