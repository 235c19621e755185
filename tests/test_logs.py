"""Logging of the command line: levels, files, and no secret in any of them."""

from __future__ import annotations

import json
import logging
import warnings
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import pytest

from dataverse_sync import logs as console
from dataverse_sync.errors import ConfigError
from dataverse_sync.logs import configure_logging
from dataverse_sync.redaction import MASK, Redactor

SECRET = "Zq3~8Q.pretend-secret-3Fh"

log = logging.getLogger("dataverse_sync.somewhere")


@pytest.fixture
def redactor() -> Redactor:
    made = Redactor()
    made.add(SECRET)
    return made


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def log_at_every_level() -> None:
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        log.log(level, "said at %s", logging.getLevelName(level))


@pytest.mark.parametrize(
    ("verbosity", "expected"),
    [
        (-1, ["ERROR"]),
        (0, ["WARNING", "ERROR"]),
        (1, ["INFO", "WARNING", "ERROR"]),
        (2, ["DEBUG", "INFO", "WARNING", "ERROR"]),
        (3, ["DEBUG", "INFO", "WARNING", "ERROR"]),
    ],
)
def test_verbosity_raises_console_level(capsys, redactor, verbosity, expected):
    configure_logging(verbosity, None, redactor)
    log_at_every_level()

    out, err = capsys.readouterr()
    assert err.splitlines() == [f"{level}: said at {level}" for level in expected]
    assert out == ""


@pytest.mark.parametrize(
    ("verbosity", "expected"),
    [(-1, ["info", "warning", "error"]), (2, ["debug", "info", "warning", "error"])],
)
def test_log_file_ignores_quiet(tmp_path, redactor, verbosity, expected):
    path = tmp_path / "sync.log"

    configure_logging(verbosity, path, redactor)
    log_at_every_level()

    found = lines(path)
    assert [line["level"] for line in found] == expected
    assert found[-1].keys() == {"time", "level", "logger", "message"}
    assert found[-1]["logger"] == "dataverse_sync.somewhere"
    assert found[-1]["message"] == "said at ERROR"
    assert found[-1]["time"].endswith("Z")


def test_message_is_one_json_line(tmp_path, redactor):
    path = tmp_path / "sync.log"

    configure_logging(-1, path, redactor)
    log.warning("Grüße\n\u2028😀 %s", "100 %")

    assert lines(path)[0]["message"] == "Grüße\n\u2028😀 100 %"


def test_no_secret_in_console_or_file(tmp_path, capsys, redactor):
    path = tmp_path / "sync.log"
    configure_logging(2, path, redactor)

    log.info("sent client_secret=%s", SECRET)
    log.info(f"sent {SECRET[3:15]}%")
    logging.getLogger("urllib3.connectionpool").debug("header: Bearer %s", "abcdef0123456789")
    try:
        raise ValueError(f"refused: {SECRET}")
    except ValueError:
        log.exception("it failed")

    written = path.read_text() + capsys.readouterr().err
    assert not [SECRET[at : at + 8] for at in range(18) if SECRET[at : at + 8] in written]
    assert "abcdef" not in written
    assert lines(path)[0]["message"] == f"sent client_secret={MASK}"
    assert lines(path)[1]["message"] == f"sent {MASK}%"


def test_traceback_logged_without_secret(tmp_path, capsys, redactor):
    path = tmp_path / "sync.log"
    for handler in logging.getLogger().handlers[:]:  # pytest's would write the traceback first
        logging.getLogger().removeHandler(handler)
    configure_logging(0, path, redactor)

    try:
        raise ValueError(f"refused: {SECRET}")
    except ValueError:
        log.exception("it failed")

    traceback = lines(path)[0]["traceback"]
    assert traceback.startswith("Traceback (most recent call last)")
    assert traceback.endswith(f"ValueError: refused: {MASK}")
    assert f"ValueError: refused: {MASK}" in capsys.readouterr().err


def test_unwritable_log_file_refused(tmp_path, redactor):
    (tmp_path / "file").touch()

    for name in ("file/sync.log", "file/missing/sync.log"):
        with pytest.raises(ConfigError, match="cannot be written"):
            configure_logging(0, tmp_path / name, redactor)


def test_log_file_rotated_five_kept(tmp_path, redactor, monkeypatch):
    monkeypatch.setattr(console, "LOG_FILE_BYTES", 300)
    path = tmp_path / "sync.log"

    configure_logging(-1, path, redactor)
    for number in range(40):
        log.info("line %s", number)

    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["sync.log", *(f"sync.log.{number}" for number in range(1, 6))]
    assert lines(path)[-1]["message"] == "line 39"
    assert all(file.stat().st_size <= 300 for file in tmp_path.iterdir())


def test_other_handlers_left_alone(redactor):
    theirs = logging.NullHandler()
    logging.getLogger().addHandler(theirs)

    configure_logging(0, None, redactor)

    assert theirs in logging.getLogger().handlers


def test_second_configuration_replaces_first(tmp_path, capsys, redactor):
    configure_logging(0, tmp_path / "first.log", redactor)
    first = [one for one in logging.getLogger().handlers if isinstance(one, RotatingFileHandler)]

    configure_logging(0, tmp_path / "second.log", redactor)
    log.warning("once")

    assert capsys.readouterr().err == "WARNING: once\n"
    assert (tmp_path / "first.log").read_text() == ""
    assert [line["message"] for line in lines(tmp_path / "second.log")] == ["once"]
    assert not set(first) & set(logging.getLogger().handlers)


@pytest.mark.parametrize(("verbosity", "heard"), [(0, False), (1, False), (2, True)])
def test_urllib3_logged_only_at_vv(capsys, redactor, verbosity, heard):
    configure_logging(verbosity, None, redactor)
    logging.getLogger("urllib3.connectionpool").warning("Retrying")

    assert ("WARNING: Retrying\n" in capsys.readouterr().err) == heard


def test_python_warnings_are_logged(tmp_path, redactor):
    path = tmp_path / "sync.log"

    with warnings.catch_warnings():
        configure_logging(-1, path, redactor)
        warnings.simplefilter("always")
        warnings.warn(f"old, and {SECRET}", stacklevel=1)
        logging.captureWarnings(False)

    assert lines(path)[0]["logger"] == "py.warnings"
    assert f"UserWarning: old, and {MASK}" in lines(path)[0]["message"]


def test_misfitting_log_arguments_survive(tmp_path, capsys, redactor):
    path = tmp_path / "sync.log"
    for handler in logging.getLogger().handlers[:]:  # pytest's would raise
        logging.getLogger().removeHandler(handler)
    configure_logging(0, path, redactor)

    logging.getLogger("a.library").warning("%d of %d done", SECRET)  # noqa: PLE1206

    assert lines(path)[0]["message"] == f"%d of %d done ('{MASK}',)"
    assert "WARNING: %d of %d done" in capsys.readouterr().err


def test_diverted_while_terminal_is_owned(capsys, redactor):
    printed: list[str] = []
    configure_logging(0, None, redactor)

    with console.diverted(printed.append):
        log.warning("during %s", SECRET)
        log.info("not asked for")
    log.warning("after")

    assert printed == [f"WARNING: during {MASK}"]
    assert capsys.readouterr().err == "WARNING: after\n"


def test_lost_terminal_ends_no_run(capsys, redactor):
    def refuse(_line: str) -> None:
        raise OSError("the terminal is gone")

    configure_logging(0, None, redactor)

    with console.diverted(refuse):
        log.warning("unheard")

    assert "the terminal is gone" in capsys.readouterr().err
