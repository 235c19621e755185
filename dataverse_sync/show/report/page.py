"""Lay out the report as one HTML page, for a mail, a share or a phone, and write it.

The page holds all that it needs: no script, no font, no picture from elsewhere. Its text
is in ``report.html``, where every value is escaped, its looks in ``report.css``.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from dataverse_sync.errors import ConfigError, StorageError
from dataverse_sync.files import make_folders, try_folder, write_whole
from dataverse_sync.show.report import charts
from dataverse_sync.show.report.data import ReportData, judge, load_report
from dataverse_sync.show.text import format_count, format_duration
from dataverse_sync.version import __version__

CHANGES_SHOWN = 100
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def write_report(db_path: Path, path: Path, now: datetime) -> None:
    """Write the report, whole or not at all; ages in it are counted from ``now``.

    Raises:
        ConfigError: There is no database, or ``path`` is one.
        StorageError: The page cannot be written there.
    """
    check_target(path, db_path)
    text = render(load_report(db_path, now))
    try:
        make_folders(path.absolute().parent)
        write_whole(path, text)
    except OSError as error:
        raise StorageError(
            f"{path}: the report cannot be written ({error.strerror or error})",
            "Name a file in a folder that can be written.",
        ) from error


def check_target(path: Path, db_path: Path) -> None:
    """Refuse a path that is a folder or a database, or whose folder cannot be made."""
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder, not a place for a report", "Name an HTML file.")
    is_database = path.absolute() == db_path.absolute()
    with suppress(OSError), path.open("rb") as file:
        is_database |= file.read(16) == b"SQLite format 3\0"
    if is_database:
        raise ConfigError(
            f"{path}: is a database, not a place for a report",
            "Name an HTML file, such as report.html; --db names the database.",
        )
    try:
        try_folder(path.absolute().parent)
    except OSError as error:
        raise ConfigError(
            f"{path}: the folder cannot be made or written ({error.strerror or error})",
            "Name a file in another folder.",
        ) from error


def render(data: ReportData) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dataverse_sync.show.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_replace_control_characters,
    )
    environment.filters.update(
        number="{:,}".format,
        signed=format_signed,
        moment=format_moment,
        duration=format_duration,
        counted=format_count,
        px=charts.format_px,
    )
    return environment.get_template("report.html").render(
        data=data,
        charts=charts,
        verdict=judge(data),
        seconds_ago=lambda moment: max(0.0, (data.written_at - moment).total_seconds()),
        changes_shown=CHANGES_SHOWN,
        version=__version__,
    )


def _replace_control_characters(value: Any) -> Any:
    """Replace characters that HTML forbids by U+FFFD; ``Markup`` stays ``Markup``."""
    return type(value)(_CONTROL.sub("\ufffd", value)) if isinstance(value, str) else value


def format_signed(number: int) -> str:
    """Write a change: ``+1,204``, or with a real minus sign before it."""
    return f"{number:+,}".replace("-", "\u2212")


def format_moment(moment: datetime) -> str:
    """Write ``2026-11-23 02:00``; the page says that times are UTC."""
    return moment.strftime("%Y-%m-%d %H:%M")
