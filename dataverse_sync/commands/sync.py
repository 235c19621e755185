"""``sync``: copy what changed since the last run; write a report and a notification if asked to."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dataverse_sync import logs
from dataverse_sync.commands.console import FAILED, OK, describe_end, load
from dataverse_sync.commands.display import showing
from dataverse_sync.commands.options import (
    CONSOLE,
    PLACES,
    Options,
    add_shared,
    page_size,
    positive,
)
from dataverse_sync.config import MAX_PAGE_SIZE, Config
from dataverse_sync.errors import ConfigError, SyncError
from dataverse_sync.model import EntityConfig, SyncReport
from dataverse_sync.redaction import Redactor
from dataverse_sync.show import text
from dataverse_sync.sync.run import run_sync

log = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add_shared(parser, *PLACES, "--entity")
    parser.add_argument(
        "--full", action="store_true", help="ignore the bookmarks: read everything again"
    )
    add_shared(parser, "--workers")
    parser.add_argument(
        "--segments",
        type=positive,
        metavar="N",
        help="ranges that one large table is read in at once, at most; 1: one chain of pages",
    )
    parser.add_argument(
        "--page-size",
        type=page_size,
        metavar="N",
        help=f"records a page at most (default: {MAX_PAGE_SIZE})",
    )
    add_shared(parser, "--allow-deletes")
    parser.add_argument(
        "--new-environment",
        action="store_true",
        help="the database is to hold another environment from now on: everything is compared",
    )
    parser.add_argument(
        "--no-labels",
        action="store_true",
        help="do not make or refresh labels, dictionary and labelled views",
    )
    parser.add_argument(
        "--report", type=Path, metavar="PATH", help="write the HTML report after the run"
    )
    parser.add_argument(
        "--notify", metavar="URL", help="post the run's summary as JSON there when it failed"
    )
    parser.add_argument(
        "--notify-always",
        action="store_true",
        help="post it after every run, not only a failed one",
    )
    add_shared(parser, *CONSOLE)


def run(options: Options, redactor: Redactor) -> int:
    config, entities = load(
        options,
        redactor,
        workers=options.workers,
        segments=options.segments,
        page_size=options.page_size or MAX_PAGE_SIZE,
    )
    _check_outputs(options, config)
    try:
        report = run_and_show(
            config,
            entities,
            options,
            redactor,
            only=options.entity,
            full=options.full,
            allow_deletes=options.allow_deletes,
            new_environment=options.new_environment,
            labels=not options.no_labels,
        )
    except (Exception, KeyboardInterrupt) as error:
        try:
            _tell_others(options, config, None, describe_end(error, redactor))
        except SyncError as problem:  # of the report; why the run ended matters more
            log.error("%s", problem)
        raise
    _tell_others(options, config, report, None)
    return OK if report.ok else FAILED


def run_and_show(
    config: Config,
    entities: Sequence[EntityConfig],
    options: Options,
    redactor: Redactor,
    **arguments: Any,
) -> SyncReport:
    """Run a sync and show it on the console; ``arguments`` are others of ``run_sync``."""
    with showing(options) as show:
        report = run_sync(config, entities, on_event=show, redactor=redactor, **arguments)
    _print_summary(report, options)
    return report


def _print_summary(report: SyncReport, options: Options) -> None:
    if options.quiet and report.ok:
        print(text.format_result(report))
        told = [item for item in report.drift if item.severity == "breaking" or item.is_new]
        if told:
            print(text.format_drift(told))
        return
    print()
    for line in text.format_summary(report, logs.find_said_hints()):
        print(line)


def _check_outputs(options: Options, config: Config) -> None:
    """Check before the run that its report and its notification have somewhere to go."""
    if options.notify_always and not options.notify:
        raise ConfigError("--notify-always: there is no address", "Name it with --notify URL.")
    if options.notify:
        from dataverse_sync.show.notify import find_url_problem

        if problem := find_url_problem(options.notify):
            raise ConfigError(f"--notify: {problem}", "Name an https:// address.")
    if options.report:
        from dataverse_sync.show.report import check_target

        check_target(options.report, config.db_path)


def _tell_others(
    options: Options, config: Config, report: SyncReport | None, error: str | None
) -> None:
    """Post the summary and write the report, however the run ended."""
    if options.notify and (options.notify_always or report is None or not report.ok):
        from dataverse_sync.show.notify import send_notification

        send_notification(options.notify, report, error)
    if options.report and config.db_path.exists():
        from dataverse_sync.show.report import write_report

        write_report(config.db_path, options.report, datetime.now(UTC))
