"""The command line: output, exit statuses, files, and the README that describes them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import World
from processes import ROOT, make_environment, run_python

from dataverse_sync import cli
from dataverse_sync.commands.console import FAILED, OK, USAGE
from dataverse_sync.emulator import Fault
from dataverse_sync.store.run_lock import hold
from dataverse_sync.version import __version__

README = (ROOT / "README.md").read_text(encoding="utf-8")


class Shell:
    """A user's working folder with a ``.env`` and an ``entities_config.json``."""

    def __init__(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        self.world = world
        self.capsys = capsys
        self.folder = world.folder
        world.write_env_file()
        world.write_entity_list()

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command; return exit status, standard output and standard error."""
        try:
            status = cli.main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
        output = self.capsys.readouterr()
        return status, output.out, output.err

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def shell(
    world: World,
    no_settings: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    monkeypatch.chdir(world.folder)
    return Shell(world, capsys)


def test_sync_is_default_command(shell: Shell) -> None:
    status, out, err = shell.run()

    assert (status, err) == (0, "")
    assert [line[:5] for line in out.splitlines() if line.startswith("[")] == [
        f"[{n}/6]" for n in range(1, 7)
    ]
    assert "5 of 5 entities completed: 24 fetched, 24 added" in out
    assert shell.world.is_mirror("vin_candidates", "vin_products")
    assert (shell.folder / "schema" / "schema.json").exists()
    assert (shell.folder / "dataverse.db").exists()


def test_summary_counts_every_entity(shell: Shell) -> None:
    _, out, _ = shell.run("sync")

    (line,) = [line for line in out.splitlines() if line.startswith("vin_candidates ")]
    assert line.split()[:6] == ["vin_candidates", "12", "12", "0", "0", "0"]
    assert line.endswith("completed")


def test_quiet_sync_prints_one_line(shell: Shell) -> None:
    status, out, err = shell.run("-q")

    assert (status, err) == (0, "")
    assert len(out.splitlines()) == 1


def test_options_name_other_files(shell: Shell) -> None:
    (shell.folder / ".env").rename(shell.folder / "other.env")
    (shell.folder / "entities_config.json").rename(shell.folder / "few.json")

    status, _, _ = shell.run(
        *("--env-file", "other.env", "--config", "few.json"),
        *("--schema", "lock/s.json", "--db", "copy.db", "--entity", "vin_products"),
    )

    assert status == 0
    assert (shell.folder / "lock" / "s.json").exists()
    assert shell.files() == ["copy.db", "few.json", "lock", "other.env"]


def test_db_option_wins_over_variable(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQLITE_DB_PATH", "from_env.db")

    shell.run("-q")
    shell.run("-q", "--db", "option.db")

    assert {"from_env.db", "option.db"} <= set(shell.files())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--workers", "0"),
        ("--workers", "many"),
        ("--segments", "0"),
        ("--no-such-option",),
        ("nonsense",),
        ("schema",),
        ("status", "--max-age", "soon"),
        ("emulator", "--port", "99999"),
        ("--entity", "vin_unknowns"),
        ("--env-file", "missing.env"),
        ("--config", "missing.json"),
        ("--db", "."),
        ("--db", ".env/dataverse.db"),
        ("verify",),
        ("schema", "diff"),
        ("schema", "accept"),
    ],
)
def test_wrong_usage_exits_2_without_effect(shell: Shell, arguments: tuple[str, ...]) -> None:
    before = shell.files()

    status, _, err = shell.run(*arguments)

    assert status == 2
    assert err
    assert shell.files() == before
    assert shell.world.emulator.log == []


def test_all_mistakes_reported_at_once(shell: Shell) -> None:
    shell.write(".env", "DATAVERSE_API_URL=http://org.example/api/data/v9.2/")
    shell.write("entities_config.json", '{"entities": [{"name": "_x", "colour": 1}]}')

    status, _, err = shell.run()

    assert status == 2
    for part in ("DATAVERSE_CLIENT_ID", "DATAVERSE_CLIENT_SECRET", "https://", "colour", "_"):
        assert part in err


@pytest.mark.parametrize("text", ["{", '{"version": 99, "entities": {}}', "[]"])
def test_damaged_or_newer_lock_exits_2(shell: Shell, text: str) -> None:
    (shell.folder / "schema").mkdir()
    shell.write("schema/schema.json", text)

    status, _, err = shell.run()

    assert status == 2
    assert "schema.json" in err
    assert shell.world.emulator.log == []


def test_refused_secret_exits_3(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAVERSE_CLIENT_SECRET", "a-wrong-secret-value")
    before = shell.files()

    status, out, err = shell.run()

    assert status == 3
    assert "AADSTS7000215" in err
    assert "a-wrong-secret-value" not in out + err
    assert shell.files() == before


def test_failed_entity_exits_1_others_complete(shell: Shell) -> None:
    fault = Fault("status", match="vin_products", status=403, code="0x80040220", times=99)
    shell.world.emulator.control.fault(fault)

    status, out, err = shell.run()

    assert status == 1
    assert "4 of 5 entities completed, 1 failed" in out
    assert "0x80040220" in err
    assert shell.world.is_mirror("vin_candidates")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("0x80072560", "make the application user"),
        ("0x80042f09", "any role"),
        ("0x80095ffc", "ask its administrator"),
        ("-2147220955", "enable it"),
        ("0x8004A113", "administration mode"),
    ],
)
@pytest.mark.parametrize("arguments", [(), ("-q",), ("-v",)])
def test_way_out_said_once_a_run(
    shell: Shell, code: str, words: str, arguments: tuple[str, ...]
) -> None:
    fault = Fault("status", r"v9.2/\w", 99, status=403, code=code, message="No.")
    shell.world.emulator.control.fault(fault)

    status, out, err = shell.run("sync", *arguments)
    _, shown, _ = shell.run("status")

    assert status == 1
    assert (out + err).count(words) == shown.count(words) == 1
    assert len(re.findall(r"ERROR: \w+, page 1: the service answered 403", err)) == 5


def test_database_in_use_exits_4(shell: Shell) -> None:
    with hold(shell.folder / "dataverse.db", shell.world.emulator.clock.now()):
        status, _, err = shell.run()

    assert status == 4
    assert f"process {os.getpid()}" in err


def test_unreachable_server_exits_1(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.world.emulator.stop()
    monkeypatch.setattr("dataverse_sync.dataverse.retries.RETRIES", 0)
    before = shell.files()

    status, _, err = shell.run()

    assert status == 1
    assert "cannot be reached" in err
    assert shell.files() == before


def test_full_reads_everything_again(shell: Shell) -> None:
    shell.run("-q")

    _, out, _ = shell.run("--full", "-q")

    assert "24 fetched, 0 added, 0 updated, 24 unchanged" in out


def test_allow_deletes_removes_more_than_half(shell: Shell) -> None:
    emulator = shell.world.emulator
    emulator.insert_many("vin_candidates", [{"vin_name": "x"}] * 100)
    shell.run("-q")
    for key in emulator.ids("vin_candidates")[:100]:
        emulator.delete("vin_candidates", key)

    refused, _, err = shell.run("-q")
    allowed, _, _ = shell.run("-q", "--allow-deletes")

    assert (refused, allowed) == (1, 0)
    assert "100 of 112 rows" in err
    assert shell.world.is_mirror("vin_candidates")


def test_log_file_without_secrets(shell: Shell) -> None:
    shell.run("-vv", "--log-file", "sync.log")

    text = (shell.folder / "sync.log").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    assert any("it has no bookmark yet" in line["message"] for line in lines)
    assert shell.world.emulator.client_secret not in text
    assert "Bearer" not in text.replace("[secret]", "")


@pytest.mark.parametrize("option", ["--log-file", "--db", "--schema", "--report"])
def test_unmakeable_folder_exits_2(shell: Shell, option: str) -> None:
    shell.write("file", "")
    before = shell.files()

    for name in ("file/there", "file/missing/there"):
        status, _, err = shell.run(option, name)
        assert status == 2
        assert "there: " in err
        assert re.search(r"--db|--schema|--log-file|another folder", err)
    assert shell.files() == before
    assert shell.world.emulator.log == []


def test_missing_folders_are_made(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQLITE_DB_PATH", "data/of/d.db")
    places = ("--schema", "schemas/a/s.json", "--log-file", "logs/a/l", "--report", "reports/a/r")

    assert shell.run("-q", *places)[0] == 0
    assert shell.run("report", "others/a/r.html")[0] == 0

    made = ("data/of/d.db", "schemas/a/s.json", "logs/a/l", "reports/a/r", "others/a/r.html")
    assert all((shell.folder / name).is_file() for name in made)
    assert not (shell.folder / "data/of/d.db.lock").exists()


@pytest.mark.parametrize(
    ("command", "expected"), [("check", 0), ("status", 0), ("verify", 2), ("labels", 2)]
)
def test_reading_commands_make_no_folder(shell: Shell, command: str, expected: int) -> None:
    before = shell.files()

    assert shell.run(command, "--db", "new/d.db", "--schema", "too/s.json")[0] == expected
    assert shell.files() == before


def test_failed_sign_in_leaves_no_folder(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAVERSE_CLIENT_SECRET", "the-wrong-secret-of-nobody")
    before = shell.files()
    places = ("--db", "new/d.db", "--schema", "too/s.json", "--report", "more/r.html")

    assert shell.run("sync", *places)[0] == 3
    assert shell.files() == before


def test_status_shows_state_and_age(shell: Shell) -> None:
    assert shell.run("status")[:2] == (
        0,
        "dataverse.db: there is no database yet; the first sync makes it\n",
    )
    assert shell.run("status", "--max-age", "26h")[0] == 1
    shell.run("-q")

    status, out, _ = shell.run("status")
    assert status == 0
    assert "vin_candidates" in out
    assert shell.run("status", "--max-age", "26h")[0] == 0
    status, _, err = shell.run("status", "--max-age", "0s")
    assert status == 1
    assert err.startswith("error: no success within --max-age: ")
    assert "vin_candidates" in err
    status, _, err = shell.run("status", "--max-proof-age", "8d")
    assert status == 1
    assert err.startswith("error: not proven within --max-proof-age: ")
    assert err.endswith("Run: python -m dataverse_sync verify\n")
    assert shell.run("verify")[0] == 0
    assert shell.run("status", "--max-proof-age", "8d", "--max-age", "26h")[0] == 0


def test_never_synced_database_is_too_old(shell: Shell) -> None:
    shell.world.execute("CREATE TABLE notes (text)")

    status, _, err = shell.run("status", "--max-age", "26h")

    assert (status, err) == (1, "error: dataverse.db: it was never synced\n")


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (("status",), r"5 of 5 entities completed, oldest: \d+ s"),
        (("verify",), "5 tables agree, 0 do not"),
        (("schema", "diff"), "The locked schema matches the live one."),
    ],
)
def test_quiet_commands_print_one_line(shell: Shell, command: tuple[str, ...], line: str) -> None:
    shell.run("-q")

    status, out, err = shell.run(*command, "-q")

    assert (status, err) == (0, "")
    assert re.fullmatch(line, out.strip())


def test_quiet_shows_differences(shell: Shell) -> None:
    shell.run("-q")
    shell.world.execute("DELETE FROM vin_products")

    status, out, _ = shell.run("verify", "-q")

    assert status == 1
    assert "8 missing" in out


def test_quiet_shows_breaking_drift(shell: Shell) -> None:
    shell.run("-q")
    shell.world.emulator.drop_column("vin_products", "vin_name")

    status, out, _ = shell.run("-q")

    assert status == 0
    assert "Schema drift: 1 difference, 1 breaking." in out


@pytest.mark.parametrize("command", [("status",), ("check",), ("verify",), ("schema", "diff")])
def test_json_is_only_output(shell: Shell, command: tuple[str, ...]) -> None:
    shell.run("-q")

    status, out, _ = shell.run(*command, "--json")

    assert status == 0
    assert isinstance(json.loads(out), dict)


@pytest.mark.parametrize("command", [("status",), ("check",), ("verify",), ("schema", "diff")])
def test_json_printed_on_known_error(shell: Shell, command: tuple[str, ...]) -> None:
    shell.world.db_path.write_bytes(b"no database" * 10)

    status, out, err = shell.run(*command, "--json")

    assert status == 2
    assert f"error: {json.loads(out)['error']}\n" == err
    assert json.loads(out)["ok"] is False


@pytest.mark.parametrize("error", [ZeroDivisionError("the secret words"), KeyboardInterrupt()])
def test_json_printed_on_unexpected_error(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def end(*_: Any) -> int:
        raise error

    monkeypatch.setattr("dataverse_sync.commands.status.run", end)

    status, out, _ = shell.run("status", "--json")

    assert status == 1
    assert json.loads(out)["ok"] is False
    assert "secret" not in out


def test_comparing_commands_exit_1_on_differences(shell: Shell) -> None:
    shell.run("-q")
    assert shell.run("check")[0] == 0
    assert shell.run("verify")[0] == 0
    assert shell.run("schema", "diff")[0] == 0

    shell.world.execute("DELETE FROM vin_products")
    shell.world.emulator.drop_column("vin_candidates", "vin_name")
    assert shell.run("verify")[0] == 1
    assert shell.run("verify", "--repair")[0] == 0
    assert shell.run("schema", "diff")[0] == 1
    assert shell.run("schema", "accept", "vin_candidates")[0] == 0
    assert shell.run("schema", "diff")[0] == 0
    shell.world.emulator.remove_table("vin_products")
    assert shell.run("check")[0] == 1


def test_report_written_by_option_and_command(shell: Shell) -> None:
    assert shell.run("-q", "--report", "after.html")[0] == 0
    assert shell.run("report")[:2] == (0, "written: report.html\n")

    for name in ("after.html", "report.html"):
        text = (shell.folder / name).read_text(encoding="utf-8")
        assert "vin_candidates" in text.replace("<wbr>", "")
        assert shell.world.emulator.client_secret not in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("--report", ".env/report.html"),
        ("report", ".env/missing/report.html"),
        ("--report", "."),
        ("--notify", "http://hooks.example/x"),
        ("--notify-always",),
        ("report", "--db", "missing.db"),
    ],
)
def test_impossible_report_or_webhook_exits_2(shell: Shell, arguments: tuple[str, ...]) -> None:
    assert shell.run(*arguments)[0] == 2
    assert shell.world.emulator.log == []


def test_notification_sent_on_failure_or_always(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted: list[tuple[bool, str | None]] = []
    monkeypatch.setattr(
        "dataverse_sync.show.notify.send_notification",
        lambda _url, report, error: posted.append((report is not None and report.ok, error)),
    )
    hook = ("--notify", "https://hooks.example/x")

    shell.run("-q", *hook)
    shell.run("-q", *hook, "--notify-always")
    shell.world.emulator.remove_table("vin_products")
    shell.run("-q", *hook)
    monkeypatch.setenv("DATAVERSE_CLIENT_SECRET", "a-wrong-secret-value")
    shell.run("-q", *hook)

    assert [ok for ok, _ in posted] == [True, False, False]
    assert "AADSTS7000215" in str(posted[-1][1])


@pytest.mark.parametrize(
    ("error", "posted"),
    [
        (ZeroDivisionError("of a secret"), "unexpected error (ZeroDivisionError); "),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_broken_run_is_notified(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, error: BaseException, posted: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        (shell.folder / "r.html").mkdir()  # the report fails too, after it was checked
        raise error

    said: list[str] = []
    monkeypatch.setattr(
        "dataverse_sync.show.notify.send_notification",
        lambda _url, _report, error: said.append(error),
    )

    shell.run("-q")  # makes a database, without which there is no report
    monkeypatch.setattr("dataverse_sync.commands.sync.run_sync", fail)
    status, _, err = shell.run(
        "-q", "--notify", "https://hooks.example/x", "--report", str(shell.folder / "r.html")
    )

    assert status == 1
    assert "r.html: is a folder" in err
    assert len(said) == 1
    assert said[0].startswith(posted)
    assert "secret" not in said[0]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--daily", "02:00"), "<Task "),
        (("--every", "1h", "--format", "cron"), "0 * * * * cd "),
        (("--daily", "02:00", "--format", "systemd"), "OnCalendar="),
    ],
)
def test_schedule_prints_every_format(shell: Shell, arguments: tuple[str, ...], part: str) -> None:
    status, out, _ = shell.run("schedule", *arguments, "--db", "copy.db")

    assert status == 0
    assert part in out
    assert sys.executable in out
    assert str(shell.folder / "copy.db") in out
    assert shell.files() == [".env", "entities_config.json"]


@pytest.mark.parametrize(
    "arguments",
    [(), ("--daily", "25:00"), ("--every", "soon"), ("--every", "7m", "--format", "cron")],
)
def test_impossible_schedule_exits_2(shell: Shell, arguments: tuple[str, ...]) -> None:
    assert shell.run("schedule", *arguments)[0] == 2


def test_labels_and_init_write_results(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    emulator = shell.world.emulator
    shell.run("-q")
    assert shell.run("labels")[0] == 0
    assert shell.world.query("SELECT count(*) FROM accounts_labelled") == [(2,)]

    arguments = ("init", "--url", emulator.origin, "--client-id", emulator.client_id)
    monkeypatch.setenv("DATAVERSE_CLIENT_SECRET", emulator.client_secret)
    assert shell.run(*arguments, "--entities", "vin_candidates")[0] == 2  # they are there already
    places = ("--env-file", "new.env", "--config", "new.json")
    status, out, _ = shell.run(*arguments, "--entities", "vin_candidates", *places)
    assert status == 0
    assert emulator.client_secret not in out
    monkeypatch.delenv("DATAVERSE_CLIENT_SECRET")
    assert shell.run("check", *places)[0] == 0


def test_interruption_exits_1(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dataverse_sync.commands.sync.run_sync", interrupt)

    status, _, err = shell.run()

    assert status == 1
    assert err.startswith("interrupted")


def test_output_fits_cp1252_console(shell: Shell) -> None:
    for command in (["sync"], ["check"], ["status"], ["verify"], ["schema", "diff"], ["--help"]):
        _, out, err = shell.run(*command)
        (out + err).encode("cp1252")
        assert "\x1b" not in out + err


def test_version_is_printed(shell: Shell) -> None:
    assert shell.run("--version")[1] == f"dataverse_sync {__version__}\n"


def test_every_command_has_help(shell: Shell) -> None:
    _, out, _ = shell.run("--help")
    commands = re.findall(r"^ {4}(\w+) ", out, flags=re.MULTILINE)

    assert {"sync", "demo", "emulator", "check", "status", "verify", "schema"} <= set(commands)
    for command in commands:
        assert shell.run(command, "--help")[0] == 0


# The README is held to the code


def options_of(command: str, shell: Shell) -> set[str]:
    _, out, _ = shell.run(command, "--help")
    return set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", out)) - {"--help", "--verbose", "--quiet"}


def test_readme_lists_sync_options(shell: Shell) -> None:
    table = README.split("| option of `sync`")[1].split("\n\n")[0]
    named = set(re.findall(r"`(--[a-z-]+)", table))

    assert named == options_of("sync", shell)


def test_readme_lists_commands(shell: Shell) -> None:
    _, out, _ = shell.run("--help")
    commands = set(re.findall(r"^ {4}(\w+) ", out, flags=re.MULTILINE))
    table = README.split("## Commands")[1].split("\n\n")[1]

    assert set(re.findall(r"^\| `(\w+)", table, flags=re.MULTILINE)) == commands


def test_readme_lists_variables() -> None:
    table = README.split("## Settings")[1].split("\n\n")[2]
    named = set(re.findall(r"`([A-Z_]+)`", table))
    source = (ROOT / "dataverse_sync" / "config.py").read_text(encoding="utf-8")

    assert named == set(re.findall(r'"((?:DATAVERSE|SQLITE)_[A-Z_]+)"', source))


def test_readme_lists_exit_statuses() -> None:
    table = README.split("| exit status")[1].split("\n\n")[0]
    named = {int(number) for number in re.findall(r"^\| (\d) \|", table, flags=re.MULTILINE)}

    assert named == {OK, FAILED, USAGE, *cli.EXIT_STATUSES.values()}


def test_ci_runs_readme_test_command() -> None:
    commands = re.findall(r"```sh\n(.*?)\n```", README, flags=re.DOTALL)
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()

    assert [command for command in commands if "tox" in command] == [ci[-1]]


# The program as a process of its own


def run_process(
    shell: Shell, *arguments: str, how: Sequence[str] = ("-m", "dataverse_sync")
) -> subprocess.CompletedProcess[Any]:
    return subprocess.run(
        [sys.executable, *how, *arguments],
        cwd=shell.folder,
        env=make_environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )


SLOW = {"jinja2", "requests", "rich", "sqlalchemy", "dataverse_sync.emulator"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (("--version",), set()),
        (("schedule", "--daily", "02:00"), set()),
        (("status",), {"sqlalchemy"}),
        (("sync",), {"requests", "sqlalchemy"}),
    ],
)
def test_command_imports_what_it_needs(
    shell: Shell, arguments: tuple[str, ...], needed: set[str]
) -> None:
    done = run_process(shell, *arguments, how=("-X", "importtime", "-m", "dataverse_sync"))

    lines = done.stderr.decode().splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time")}
    assert imported & SLOW == needed


@pytest.mark.slow
def test_module_runs_in_cp1252_console(shell: Shell) -> None:
    os.environ["PYTHONIOENCODING"] = "cp1252"
    try:
        done = run_process(shell, "sync")
    finally:
        del os.environ["PYTHONIOENCODING"]

    assert done.returncode == 0, done.stderr
    assert "5 of 5 entities completed" in done.stdout.decode("cp1252")


@pytest.mark.slow
def test_exit_status_reaches_shell(shell: Shell) -> None:
    assert run_process(shell, "--db", ".").returncode == 2


WITHOUT_STREAMS = """
import runpy, sys

sys.stdin = sys.stdout = sys.stderr = None
runpy.run_module("dataverse_sync", run_name="__main__")
"""


@pytest.mark.slow
def test_runs_silently_without_console(shell: Shell) -> None:
    alone = ("-c", WITHOUT_STREAMS)

    done = [run_process(shell, *command, how=alone) for command in ((), ("status",), ("nosuch",))]

    assert [(one.returncode, one.stdout, one.stderr) for one in done] == [
        (0, b"", b""),
        (0, b"", b""),
        (2, b"", b""),
    ]
    assert shell.world.is_mirror("vin_candidates", "vin_products")


SIGNALLED = """
import runpy, signal, sys

module, number = sys.argv[1:]
del sys.argv[1:]

class Finder:
    def find_spec(self, name, *_):
        if name == module:
            signal.raise_signal(getattr(signal, number))

sys.meta_path.insert(0, Finder())
runpy.run_module("dataverse_sync", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    "module", ["dataverse_sync.cli", "sqlalchemy", "requests", "dataverse_sync.commands.options"]
)
def test_stop_during_import_exits_1(tmp_path: Path, module: str, number: str) -> None:
    done = run_python(tmp_path, "-c", SIGNALLED, module, number)

    assert (done.returncode, done.stdout, done.stderr) == (1, "", "interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_emulator_serves_until_stopped(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dataverse_sync", "emulator"]
    env = make_environment()
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline().decode() for _ in range(3)]
            (tmp_path / ".env").write_text("".join(lines), encoding="utf-8")
            places = ["--env-file", str(tmp_path / ".env"), "--db", str(tmp_path / "d.db")]
            done = subprocess.run(
                [*command[:3], "check", *places, "--config", str(ROOT / "entities_config.json")],
                cwd=tmp_path,
                env=env,
                capture_output=True,
                timeout=60,
                check=False,
            )
        finally:
            process.terminate()

    assert done.returncode == 0, done.stdout + done.stderr
    assert b"failures: 0, warnings: 0" in done.stdout
    if os.name != "nt":
        assert process.returncode == 0
