"""Set up logging for the command line: the console, and the log file as JSON lines."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from dataverse_sync.dataverse.error_codes import drop_repeated_hint
from dataverse_sync.errors import ConfigError
from dataverse_sync.files import make_folders
from dataverse_sync.moments import to_text
from dataverse_sync.redaction import Redactor

LOG_FILE_BYTES = 10 * 2**20
LOG_FILES_KEPT = 5


class _Redacting(logging.Filter):
    """Mask secrets in every record, of any library."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except Exception:  # a library's arguments do not fit its message: the run goes on
            message = f"{record.msg} {record.args!r}"
        record.msg = self._redactor.redact(message)
        record.args = ()
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self._redactor.redact(record.exc_text)
        return True


class _ConsoleHandler(logging.StreamHandler[TextIO]):
    """Write to standard error, or through the display that owns the terminal now."""

    log_line: Callable[[str], None] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.log_line is None:
            super().emit(record)
            return
        try:
            self.log_line(self.format(record))
        except Exception:
            self.handleError(record)


class _ConsoleFormatter(logging.Formatter):
    """Level and message; a hint about refused access is said once, however many tables have it."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s: %(message)s")
        self.said: set[str] = set()

    def format(self, record: logging.LogRecord) -> str:
        return drop_repeated_hint(super().format(record), self.said)


class _JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": to_text(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_text:
            line["traceback"] = record.exc_text
        return json.dumps(line)


def configure_logging(verbosity: int, log_file: Path | None, redactor: Redactor) -> None:
    """Send warnings to standard error, more with ``-v``, and everything to the log file.

    ``verbosity``: -1 errors alone, 0 warnings, 1 what is done and why, 2 every request. The log
    file holds JSON lines, is rotated at 10 MB, and five are kept.
    """
    levels = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}
    console: logging.Handler = _ConsoleHandler()
    console.setLevel(levels.get(verbosity, logging.DEBUG))
    console.setFormatter(_ConsoleFormatter())
    handlers: list[logging.Handler] = [console]
    if log_file is not None:
        from logging.handlers import RotatingFileHandler  # slow to import, and seldom needed

        try:
            make_folders(log_file.absolute().parent)
            file = RotatingFileHandler(
                log_file, maxBytes=LOG_FILE_BYTES, backupCount=LOG_FILES_KEPT, encoding="utf-8"
            )
        except OSError as error:
            raise ConfigError(
                f"{log_file}: cannot be written ({error})", "Name another with --log-file."
            ) from error
        file.setLevel(logging.DEBUG if verbosity > 1 else logging.INFO)
        file.setFormatter(_JsonLines())
        handlers.append(file)
    root = logging.getLogger()
    for old in [it for it in root.handlers if any(isinstance(f, _Redacting) for f in it.filters)]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.addFilter(_Redacting(redactor))
        root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbosity > 1 else logging.INFO)
    # urllib3 warns of every retry; we warn only if the last one fails.
    logging.getLogger("urllib3").setLevel(logging.NOTSET if verbosity > 1 else logging.ERROR)
    logging.captureWarnings(True)


def find_said_hints() -> set[str]:
    """The hints about refused access that the console has shown so far in this command."""
    formatters = [handler.formatter for handler in logging.getLogger().handlers]
    return {hint for it in formatters if isinstance(it, _ConsoleFormatter) for hint in it.said}


@contextmanager
def diverted(log_line: Callable[[str], None] | None) -> Iterator[None]:
    """Write the console's log through this function while the block lasts; None: as before."""
    handlers = [it for it in logging.getLogger().handlers if isinstance(it, _ConsoleHandler)]
    for handler in handlers:
        handler.log_line = log_line
    try:
        yield
    finally:
        for handler in handlers:
            handler.log_line = None
