"""``export``: write every table as a Parquet, CSV or Excel file, from the database alone.

All tables are read in one transaction, so they are as of one moment, also beside a sync.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from dataverse_sync.commands.console import FAILED, OK, find_database, open_log, show
from dataverse_sync.commands.display import showing
from dataverse_sync.commands.options import CONSOLE, PLACES, Options, add_shared
from dataverse_sync.config import load_entities, select_entities
from dataverse_sync.errors import ConfigError, EntityError
from dataverse_sync.files import make_folders
from dataverse_sync.model import (
    EntityConfig,
    EntityExported,
    EntityStarted,
    Event,
    PageStored,
    ReadExpected,
)
from dataverse_sync.redaction import Redactor
from dataverse_sync.show.text import format_count, format_duration, format_size
from dataverse_sync.store.database import open_target
from dataverse_sync.store.export_rows import open_snapshot
from dataverse_sync.store.schema_lock import open_copy

if TYPE_CHECKING:
    from dataverse_sync.export.tables import ExportedFile, Exporter

_LIBRARIES = {  # that each format needs
    "parquet": ("pyarrow",),
    "csv": ("pyarrow",),
    "xlsx": ("pyarrow", "xlsxwriter"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        metavar="FOLDER",
        default=Path("export"),
        help="where the files are written (default: %(default)s)",
    )
    parser.add_argument(
        "--format",
        choices=list(_LIBRARIES),
        default="parquet",
        help="of the files (default: %(default)s)",
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="leave out labels, and the types and names of lookups",
    )
    add_shared(parser, *PLACES, "--entity", *CONSOLE)


def run(options: Options, redactor: Redactor) -> int:
    open_log(options, redactor)
    _require_libraries(_LIBRARIES[options.format])
    began_at = time.monotonic()
    target = open_target(find_database(options))
    with open_copy(target, options.schema) as locked:
        configured = [EntityConfig(name) for name in locked.lock]
        if options.config.exists():
            configured = load_entities(options.config)
        selected = select_entities(configured, options.entity)
        tables = locked.build_tables([EntityConfig(name) for name in locked.lock])
    names = [entity.name for entity in selected if entity.name in tables]
    if not names:
        raise ConfigError(f"{target.name}: nothing is synced yet", "Run a sync first.")
    _make_folder(options.folder)
    from dataverse_sync.export.tables import Exporter

    with open_snapshot(target) as connection, showing(options) as tell:
        exporter = Exporter(connection, tables, options.folder, options.format)
        files, failures = _export_tables(exporter, names, options.raw, tell)
    unmade = [entity.name for entity in selected if entity.name not in tables]
    lines = [f"note     {name}: no table yet: it was never synced" for name in unmade]
    lines += _format_files(options.folder, files, failures, time.monotonic() - began_at)
    show(options, {}, lambda: lines, ok=not failures)
    return FAILED if failures else OK


def _require_libraries(wanted: Sequence[str]) -> None:
    """Raise a ConfigError if a library that writes the files is not installed."""
    for name in wanted:
        try:
            import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"export: needs {name}, which cannot be used ({error})",
                "Install what it needs: pip install .[export]",
            ) from error


def _make_folder(folder: Path) -> None:
    try:
        make_folders(folder)
    except OSError as error:
        raise ConfigError(
            f"{folder}: the folder cannot be made ({error.strerror or error})", "Name another."
        ) from error


def _export_tables(
    exporter: Exporter, names: Sequence[str], raw: bool, tell: Callable[[Event], None]
) -> tuple[list[ExportedFile], list[str]]:
    """Write the file of each table, then the dictionary; returns the failures too."""
    files, failures = [], []
    for name in names:
        tell(EntityStarted(name))
    for name in names:

        def tell_rows(rows: int, size: int, name: str = name) -> None:
            tell(PageStored(name, rows, size, in_flight=0))

        try:
            source = exporter.find_source(name, raw=raw)
            tell(ReadExpected(name, source.rows))
            files.append(exporter.export_table(name, source, tell_rows))
        except EntityError as error:
            failures.append(str(error))
        tell(EntityExported(name))
    try:
        files.append(exporter.export_dictionary(names))
    except EntityError as error:
        failures.append(str(error))
    return files, failures


def _format_files(
    folder: Path, files: Sequence[ExportedFile], failures: Sequence[str], seconds: float
) -> list[str]:
    """A line for each file, what of its values is not as stored, and a last one about all."""
    lines = []
    for file in files:
        rows, size = format_count(file.rows, "row"), format_size(file.size)
        lines.append(f"ok       {file.path.name}: {rows}, {size}")
        lines += [f"note     {note}" for note in file.notes]
    lines += [f"failure  {failure}" for failure in failures]
    size = format_size(sum(file.size for file in files))
    told = f"{folder}: {format_count(len(files), 'file')}, {size} in {format_duration(seconds)}"
    return [*lines, "", f"{told}, {len(failures)} failed" if failures else told]
