"""The command line: options, console, exit status. The only module that prints."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from dataverse_sync import config as settings
from dataverse_sync import logs as console
from dataverse_sync.commands.options import build_parser
from dataverse_sync.config import Config
from dataverse_sync.errors import (
    AuthError,
    ConfigError,
    EntityError,
    LockedError,
    StorageError,
    SyncError,
    UnreachableError,
)
from dataverse_sync.model import EntityConfig, SyncReport
from dataverse_sync.redaction import Redactor
from dataverse_sync.show import progress
from dataverse_sync.show import text as summary
from dataverse_sync.sync.run import run_sync

OK, FAILED, USAGE = 0, 1, 2
EXIT_STATUSES: dict[type[SyncError], int] = {
    ConfigError: USAGE,
    AuthError: 3,
    LockedError: 4,
    StorageError: FAILED,
    UnreachableError: FAILED,
    EntityError: FAILED,
}

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console that lacks a character shows another
            stream.reconfigure(errors="replace")
    if not arguments or (
        arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")
    ):
        arguments.insert(0, "sync")
    options = build_parser().parse_args(arguments)
    redactor = Redactor()
    _listen_to_signals()
    as_json = getattr(options, "json", False)
    return guard(lambda: COMMANDS[options.command](options, redactor), redactor, as_json=as_json)


def guard(work: Callable[[], int], redactor: Redactor, *, as_json: bool = False) -> int:
    """Run a command; what a user can act on becomes a line and an exit status.

    Args:
        work: The command; returns its exit status.
        redactor: Takes the secrets out of what is said.
        as_json: Whether whoever called reads a document from standard output, and gets one.
    """
    try:
        return work()
    except SyncError as error:
        said = _describe_end(error, redactor)
        print(f"error: {said}", file=sys.stderr)
        status = next(code for kind, code in EXIT_STATUSES.items() if isinstance(error, kind))
    except KeyboardInterrupt as error:
        said = _describe_end(error, redactor)
        print(
            "interrupted; what was committed is kept, and the next run goes on from there",
            file=sys.stderr,
        )
        status = FAILED
    except Exception as error:
        said = _describe_end(error, redactor)
        # Its words may hold what was being sent: logging takes the secrets out of them.
        log.critical("an error that nobody foresaw; please report it", exc_info=True)
        status = FAILED
    if as_json:
        print(json.dumps({"ok": False, "error": said}, indent=2))
    return status


def entry_point() -> None:
    """The console script: end with the status, and at once, whoever waits for the service."""
    status = main()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = status or FAILED
    # Python itself would end an interrupted process by the signal, whatever its status, and take
    # 20 ms to take apart what was imported.
    os._exit(status)


def _open_missing_streams() -> None:
    """A job may be started without a console (``pythonw``): what is said then goes nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def _listen_to_signals() -> None:
    """Let a stop by the system end a run as Ctrl-C does."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGBREAK"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), interrupt)


def load(
    options: argparse.Namespace, redactor: Redactor, **changes: Any
) -> tuple[Config, list[EntityConfig]]:
    """The settings and the entities, with the mistakes of both told at once.

    Args:
        options: Where they are, and what they say of the run and the console.
        redactor: Learns the secret.
        changes: Fields of ``Config`` that no option names.

    Raises:
        ConfigError: With every mistake.
    """
    _configure_logging(options, redactor)
    mistakes: list[ConfigError] = []
    config: Config | None = None
    entities: list[EntityConfig] = []
    try:
        values = settings.load_settings(options.env_file)
        redactor.add(values.get("DATAVERSE_CLIENT_SECRET", ""))
        given = {
            "schema_path": getattr(options, "schema", None),
            "workers": getattr(options, "workers", None),
            "segments": getattr(options, "segments", None),
        }
        known = {name: value for name, value in given.items() if value is not None}
        db_path = getattr(options, "db", None)
        config = settings.build_config(values, db_path, **{**known, **changes})
    except ConfigError as error:
        mistakes.append(error)
    try:
        entities = settings.load_entities(options.config)
    except ConfigError as error:
        mistakes.append(error)
    if mistakes or config is None:
        raise ConfigError("\n".join(str(mistake) for mistake in mistakes))
    return config, entities


def _configure_logging(options: argparse.Namespace, redactor: Redactor) -> None:
    verbosity = -1 if getattr(options, "quiet", False) else getattr(options, "verbose", 0)
    console.configure_logging(verbosity, getattr(options, "log_file", None), redactor)


# Commands


def _sync(options: argparse.Namespace, redactor: Redactor) -> int:
    config, entities = load(options, redactor)
    _check_outputs(options, config)
    try:
        report = _run_and_show(
            config,
            entities,
            options,
            redactor,
            only=options.entity,
            full=options.full,
            allow_deletes=options.allow_deletes,
        )
    except (Exception, KeyboardInterrupt) as error:
        try:
            _tell_others(options, config, None, _describe_end(error, redactor))
        except SyncError as problem:  # of the report; why the run ended matters more
            log.error("%s", problem)
        raise
    _tell_others(options, config, report, None)
    return OK if report.ok else FAILED


def _describe_end(error: BaseException, redactor: Redactor) -> str:
    """Why a run ended early; the words of what nobody foresaw may hold anything, and stay here."""
    if isinstance(error, SyncError):
        return redactor.redact(str(error))
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"an error that nobody foresaw ({type(error).__name__}); its log says where"


def _check_outputs(options: argparse.Namespace, config: Config) -> None:
    """See before the run that its report and its notification have somewhere to go."""
    if options.notify_always and not options.notify:
        raise ConfigError("--notify-always: there is no address", "Name it with --notify URL.")
    if options.notify:
        from dataverse_sync.show.notify import find_url_problem

        if problem := find_url_problem(options.notify):
            raise ConfigError(f"--notify: {problem}", "Name an https:// address.")
    if options.report:
        from dataverse_sync.show.report import check_target

        check_target(options.report, config.db_path)
        if not options.report.absolute().parent.is_dir():
            raise ConfigError(
                f"{options.report}: there is no folder {options.report.parent}",
                "Make it, or name another file with --report.",
            )


def _tell_others(
    options: argparse.Namespace, config: Config, report: SyncReport | None, error: str | None
) -> None:
    """Post the summary and write the report, however the run ended."""
    if options.notify and (options.notify_always or report is None or not report.ok):
        from dataverse_sync.show.notify import send_notification

        send_notification(options.notify, report, error)
    if options.report and config.db_path.exists():
        from dataverse_sync.show.report import write_report

        write_report(config.db_path, options.report, datetime.now(UTC))


def _report(options: argparse.Namespace, redactor: Redactor) -> int:
    from dataverse_sync.show.report import write_report

    _configure_logging(options, redactor)
    path = Path(settings.find_db_path(settings.load_settings(options.env_file), options.db))
    write_report(path, options.path, datetime.now(UTC))
    _tell(options)(f"written: {options.path}")
    return OK


def _run_and_show(
    config: Config,
    entities: Sequence[EntityConfig],
    options: argparse.Namespace,
    redactor: Redactor,
    **choices: Any,
) -> SyncReport:
    """Run a sync and show it; ``choices`` are those of ``run_sync``."""
    display = _display(options)
    log_line = display.log_line if sys.stderr.isatty() else None
    try:
        with console.diverted(log_line):
            report = run_sync(config, entities, on_event=display.show, redactor=redactor, **choices)
    finally:
        display.close()
    _print_summary(report, options)
    return report


def _demo(options: argparse.Namespace, redactor: Redactor) -> int:
    from dataverse_sync.commands.demo import run_demo

    _configure_logging(options, redactor)
    done = run_demo(
        options.config,
        options.workers,
        lambda config, entities, known: _run_and_show(config, entities, options, known),
        _tell(options),
    )
    return OK if done else FAILED


def _emulator(options: argparse.Namespace, _redactor: Redactor) -> int:
    from dataverse_sync.emulator import Emulator, demo_tables, fill_demo

    emulator = Emulator(demo_tables(), port=options.port)
    fill_demo(emulator)
    try:
        emulator.start()
    except OSError as error:
        raise ConfigError(
            f"port {options.port}: cannot be used ({error})", "Name another with --port."
        ) from error
    try:
        for line in emulator.env_lines():
            print(line, flush=True)
        print("# It serves until Ctrl-C.", file=sys.stderr, flush=True)
        stopped = threading.Event()
        while not stopped.wait(0.5):  # Windows cannot interrupt a wait without an end
            pass
    except KeyboardInterrupt:
        return OK
    finally:
        emulator.stop()
    return OK


def _check(options: argparse.Namespace, redactor: Redactor) -> int:
    from dataverse_sync.commands import check

    config, entities = load(options, redactor)
    findings = check.run_check(config, entities, options.entity, redactor)
    document = check.to_document(findings)
    calm = all(finding.result == "ok" for finding in findings)
    _show(options, document, lambda: check.format_findings(findings), calm)
    return OK if document["ok"] else FAILED


def _status(options: argparse.Namespace, redactor: Redactor) -> int:
    from dataverse_sync.commands import status

    _configure_logging(options, redactor)
    max_age: timedelta | None = options.max_age
    path = Path(settings.find_db_path(settings.load_settings(options.env_file), options.db))
    configured = None
    if options.config.exists():
        configured = [entity.name for entity in settings.load_entities(options.config)]
    found = status.load_status(path, datetime.now(UTC), configured)
    if found is None:
        message = f"{path}: there is no database yet; the first sync makes it"
        _show(options, {"database": None, "entities": []}, lambda: [message], True)
        return OK if max_age is None else FAILED
    old = status.find_too_old(found, max_age) if max_age is not None else ()
    document = status.to_document(found)
    if max_age is not None:
        document["too_old"] = [entity.entity for entity in old]
    done = all(entity.state == "completed" for entity in found.entities if entity.configured)
    _show(options, document, lambda: status.format_status(found), done)
    if old:
        names = ", ".join(entity.entity for entity in old)
        print(
            f"error: no success within --max-age: {names}. "
            "Look into the job's log, or run it now: python -m dataverse_sync sync",
            file=sys.stderr,
        )
    never = max_age is not None and not found.entities
    if never:
        print(f"error: {path}: nothing was ever synced into it", file=sys.stderr)
    return FAILED if old or never else OK


def _verify(options: argparse.Namespace, redactor: Redactor) -> int:
    from dataverse_sync.commands import verify
    from dataverse_sync.sync.verification import run_verify

    config, entities = load(options, redactor)
    found = run_verify(
        config,
        entities,
        only=options.entity,
        repair=options.repair,
        allow_deletes=options.allow_deletes,
        redactor=redactor,
    )
    _show(options, verify.to_document(found), lambda: verify.format_verification(found), found.ok)
    return OK if found.ok else FAILED


def _schema_diff(options: argparse.Namespace, redactor: Redactor) -> int:
    from dataverse_sync.commands import schema as schema_drift

    config, entities = load(options, redactor)
    live = schema_drift.get_drift(config, entities, options.entity, redactor)
    same = not live.drift and not live.failures
    _show(options, schema_drift.to_document(live), lambda: schema_drift.format_drift(live), same)
    return OK if same else FAILED


def _schema_accept(options: argparse.Namespace, redactor: Redactor) -> int:
    from dataverse_sync.commands import schema as schema_drift

    config, entities = load(options, redactor)
    failures = schema_drift.accept(
        config, entities, options.only, redactor, drop=options.drop, tell=_tell(options)
    )
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return FAILED if failures else OK


def _tell(options: argparse.Namespace) -> Callable[[str], None]:
    write: Callable[[str], None] = print
    return (lambda _: None) if options.quiet else write


def _show(
    options: argparse.Namespace,
    document: dict[str, Any],
    lines: Callable[[], Sequence[str]],
    ok: bool,
) -> None:
    """One JSON document, or lines for a person: the last alone where that is enough."""
    if options.json:
        print(json.dumps(document, indent=2, ensure_ascii=True))
        return
    shown = lines()
    for line in shown[-1:] if options.quiet and ok else shown:
        print(line)


def _display(options: argparse.Namespace) -> progress.Display:
    if options.quiet:
        return progress.QuietDisplay()
    if sys.stdout.isatty() and not options.no_progress:
        from dataverse_sync.show.live_display import LiveDisplay

        live = LiveDisplay()
        if live.is_possible:
            return live
    return progress.PlainDisplay(_write_line)


def _write_line(line: str) -> None:
    """Print at once, also into a pipe; a reader who has gone ends no sync."""
    with suppress(OSError):
        print(line, flush=True)


def _print_summary(report: SyncReport, options: argparse.Namespace) -> None:
    if options.quiet and report.ok:
        print(summary.format_result(report))
        if breaking := [item for item in report.drift if item.severity == "breaking"]:
            print(summary.format_drift(breaking))
        return
    print()
    for line in summary.format_summary(report):
        print(line)


def _labels(options: argparse.Namespace, redactor: Redactor) -> int:
    from dataverse_sync.commands import labels

    config, entities = load(options, redactor)
    report = labels.run_labels(
        config, entities, options.entity, redactor, _tell(options), options.language
    )
    for line in labels.format_labels(report):
        _tell(options)(line)
    return OK if report.ok else FAILED


def _init(options: argparse.Namespace, redactor: Redactor) -> int:
    import getpass

    from dataverse_sync.commands import init

    _configure_logging(options, redactor)
    secret = settings.find_client_secret()
    if options.client_secret_stdin:
        secret = sys.stdin.readline().strip()
    choices = init.InitChoices(
        url=options.url,
        client_id=options.client_id,
        client_secret=secret,
        entities=tuple(options.entities),
        custom=options.custom,
        env_file=options.env_file,
        config=options.config,
        force=options.force,
        yes=options.yes,
        interactive=sys.stdin.isatty() and not options.client_secret_stdin,
    )
    done = init.run_init(choices, input, getpass.getpass, print, redactor)
    return FAILED if done is None else OK


def _schedule(options: argparse.Namespace, _redactor: Redactor) -> int:
    """Only text: nothing is registered here."""
    from dataverse_sync.commands import schedule

    when = options.every if options.every is not None else options.daily
    try:
        job = schedule.Job(
            interpreter=sys.executable,
            folder=str(Path.cwd()),
            arguments=("-m", "dataverse_sync", "sync", "-q", *_job_arguments(options)),
        )
        if options.format == "cron":
            print(schedule.cron_line(job, when), end="")
        elif options.format == "systemd":
            units = schedule.systemd_units(job, when)
            print(f"# dataverse-sync.service\n{units.service}")
            print(f"# dataverse-sync.timer\n{units.timer}", end="")
        else:
            today = datetime.now().astimezone().date()
            user = settings.find_windows_user()
            print(schedule.task_scheduler_xml(job, when, start=today, user=user), end="")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return OK


def _job_arguments(options: argparse.Namespace) -> list[str]:
    """The places that the job works with, absolute: a scheduler starts it anywhere."""
    arguments = ["--log-file", str((options.log_file or Path("sync.log")).absolute())]
    named = {
        "--env-file": options.env_file,
        "--config": options.config,
        "--schema": options.schema,
        "--db": options.db,
    }
    for name, path in named.items():
        if path is not None:
            arguments += [name, str(Path(path).absolute())]
    return arguments


COMMANDS: Mapping[str, Callable[[argparse.Namespace, Redactor], int]] = {
    "sync": _sync,
    "demo": _demo,
    "emulator": _emulator,
    "check": _check,
    "status": _status,
    "verify": _verify,
    "schema diff": _schema_diff,
    "schema accept": _schema_accept,
    "report": _report,
    "labels": _labels,
    "init": _init,
    "schedule": _schedule,
}
