"""``schedule``: print a Task Scheduler task, a cron line or a systemd timer for the job.

Functions from a job and a schedule to text; nothing is registered. If a scheduler starts
a second run meanwhile, the run lock ends it.

https://learn.microsoft.com/windows/win32/taskschd/task-scheduler-schema
https://www.freedesktop.org/software/systemd/man/latest/systemd.timer.html
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess  # for its quoting alone
import sys
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

from dataverse_sync.commands.console import OK
from dataverse_sync.commands.options import PLACES, Options, add_shared, argument
from dataverse_sync.config import find_windows_user
from dataverse_sync.errors import ConfigError
from dataverse_sync.redaction import Redactor

NAMESPACE = "http://schemas.microsoft.com/windows/2004/02/mit/task"
LONGEST_EVERY = timedelta(days=31)  # the longest interval of Task Scheduler
DESCRIPTION = "Copy what changed in Dataverse to SQLite."
STOP_AFTER = timedelta(hours=6)
RETRIES = 3  # of a failed run
RETRY_AFTER = timedelta(minutes=10)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_NO_RETRY = "2 3 4"  # exit statuses of errors that a retry does not solve


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    when = parser.add_mutually_exclusive_group(required=True)
    when.add_argument(
        "--every", type=argument(parse_every), metavar="1h", help="run again and again"
    )
    when.add_argument(
        "--daily",
        type=argument(parse_daily),
        metavar="02:00",
        help="run once a day at this time",
    )
    parser.add_argument(
        "--format",
        choices=("task", "cron", "systemd"),
        default="task",
        help="a Windows Task Scheduler task, a cron line or a systemd timer (default: %(default)s)",
    )
    add_shared(parser, *PLACES)
    add_shared(parser, "--log-file", help="where the job logs (default: sync.log)")


def run(options: Options, _redactor: Redactor) -> int:
    """Print the text alone: nothing is registered here."""
    when = options.every if options.every is not None else options.daily
    try:
        job = Job(
            interpreter=sys.executable,
            folder=str(Path.cwd()),
            arguments=("-m", "dataverse_sync", "sync", "-q", *_list_places(options)),
        )
        if options.format == "cron":
            print(cron_line(job, when), end="")
        elif options.format == "systemd":
            units = systemd_units(job, when)
            print(f"# dataverse-sync.service\n{units.service}")
            print(f"# dataverse-sync.timer\n{units.timer}", end="")
        else:
            today = datetime.now().astimezone().date()
            print(task_scheduler_xml(job, when, start=today, user=find_windows_user()), end="")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return OK


def _list_places(options: Options) -> list[str]:
    """Options of the job that name files, absolute: a scheduler starts it anywhere."""
    places = {
        "--log-file": options.log_file or "sync.log",
        "--env-file": options.env_file,
        "--config": options.config,
        "--schema": options.schema,
        "--db": options.db,
    }
    return [
        word
        for name, path in places.items()
        if path is not None
        for word in (name, str(Path(path).absolute()))
    ]


@dataclass(frozen=True, slots=True)
class Job:
    """The command that a scheduler starts; all paths absolute."""

    interpreter: str  # sys.executable
    folder: str  # the working folder, where .env and entities_config.json are
    arguments: tuple[str, ...] = ("-m", "dataverse_sync", "sync", "-q")

    def __post_init__(self) -> None:
        for text in (self.folder, *self.command):
            if re.search(r"[\x00-\x1f\x7f\ufffe\uffff\ud800-\udfff]", text):
                raise ValueError(f"{text!r} holds a character that no scheduler accepts")

    @property
    def command(self) -> tuple[str, ...]:
        return (self.interpreter, *self.arguments)


@dataclass(frozen=True, slots=True)
class Units:
    """The two files of a systemd timer."""

    service: str
    timer: str


# When: an interval, or a time of day


def parse_every(text: str) -> timedelta:
    """Parse an interval such as ``15m`` or ``1h``, from a minute to 31 days; or ValueError."""
    match = re.fullmatch(r"(\d{1,5})([mhd])", text, re.ASCII)
    every = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else timedelta()
    if not timedelta(minutes=1) <= every <= LONGEST_EVERY:
        raise ValueError(f"{text!r} is not an interval such as 15m, 1h or 1d, of at most 31d")
    return every


def parse_daily(text: str) -> time:
    """Parse a time of day such as ``02:00``, by the clock of the job's machine; or ValueError."""
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text, re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is not a time of day such as 02:00")
    return time(int(match[1]), int(match[2]))


# Windows


def task_scheduler_xml(
    job: Job, schedule: timedelta | time, *, start: date, user: str | None = None
) -> str:
    r"""A task for ``schtasks /create /tn NAME /xml FILE``, version 1.2 of its schema.

    The text is plain ASCII and names no encoding, so that a shell may write it to a file
    as UTF-8, as UTF-16 with its mark or in a code page. ``start`` is the first day, by the
    machine's calendar; without a ``user`` (``DOMAIN\name``), who registers the task runs it.
    """
    task = ET.Element("Task", {"version": "1.2", "xmlns": NAMESPACE})
    _add(task, "RegistrationInfo", Description=DESCRIPTION)
    _add_trigger(_add(task, "Triggers"), schedule, start)
    principal = _add(_add(task, "Principals"), "Principal")
    principal.set("id", "Author")
    if user is not None:
        _add(principal, "UserId").text = user
    # Runs while nobody is logged on, without a password; reaches no file on another machine.
    _add(principal, "LogonType").text = "S4U"
    _add(principal, "RunLevel").text = "LeastPrivilege"
    settings = _add(
        task,
        "Settings",
        MultipleInstancesPolicy="IgnoreNew",
        DisallowStartIfOnBatteries="false",
        StopIfGoingOnBatteries="false",
        AllowHardTerminate="true",
        StartWhenAvailable="true",
        RunOnlyIfNetworkAvailable="false",  # it judges some networks wrongly; a retry does better
        AllowStartOnDemand="true",
        Enabled="true",
        ExecutionTimeLimit=format_duration(STOP_AFTER),
    )
    interval = format_duration(RETRY_AFTER)
    _add(settings, "RestartOnFailure", Interval=interval, Count=str(RETRIES))
    actions = _add(task, "Actions")
    actions.set("Context", "Author")
    _add(
        actions,
        "Exec",
        Command=job.interpreter,
        Arguments=subprocess.list2cmdline(job.arguments),
        WorkingDirectory=job.folder,
    )
    ET.indent(task)
    body = ET.tostring(task, encoding="us-ascii", xml_declaration=False).decode("ascii")
    return f'<?xml version="1.0"?>\n{body}\n'


def _add(parent: ET.Element, name: str, **children: str) -> ET.Element:
    element = ET.SubElement(parent, name)
    for child, text in children.items():
        ET.SubElement(element, child).text = text
    return element


def _add_trigger(triggers: ET.Element, schedule: timedelta | time, start: date) -> None:
    # Enabled, StartBoundary, ..., Repetition is a sequence; a boundary without an
    # offset is local time, so 02:00 stays 02:00 when the clocks change.
    if isinstance(schedule, time):
        at = datetime.combine(start, schedule)
        trigger = _add(triggers, "CalendarTrigger", Enabled="true", StartBoundary=at.isoformat())
        _add(trigger, "ScheduleByDay", DaysInterval="1")
    else:
        at = datetime.combine(start, time())
        trigger = _add(triggers, "TimeTrigger", Enabled="true", StartBoundary=at.isoformat())
        _add(trigger, "Repetition", Interval=format_duration(schedule), StopAtDurationEnd="false")


def format_duration(length: timedelta) -> str:
    """Write a duration in ISO 8601, such as ``PT1H30M`` or ``P1D``."""
    minutes, seconds = divmod(int(length.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = "".join(
        f"{number}{unit}"
        for number, unit in ((hours, "H"), (minutes, "M"), (seconds, "S"))
        if number
    )
    text = "P" + (f"{days}D" if days else "") + (f"T{clock}" if clock else "")
    return text if text != "P" else "PT0S"


# cron


def cron_line(job: Job, schedule: timedelta | time) -> str:
    """A line for ``crontab -e``.

    The line that a good run prints is dropped, since cron mails all output; errors are
    mailed. Cron neither stops a run nor retries it. An interval that it cannot express is a
    ValueError.
    """
    command = f"cd {shlex.quote(job.folder)} && {shlex.join(job.command)} >/dev/null"
    # To cron, an unescaped percent sign ends the command, quoted or not.
    return f"{_cron_times(schedule)} {command.replace('%', chr(92) + '%')}\n"


def _cron_times(schedule: timedelta | time) -> str:
    if isinstance(schedule, time):
        return f"{schedule.minute} {schedule.hour} * * *"
    minutes = int(schedule.total_seconds()) // 60
    if minutes < 60 and 60 % minutes == 0:
        return "* * * * *" if minutes == 1 else f"*/{minutes} * * * *"
    hours, rest = divmod(minutes, 60)
    if not rest and hours < 24 and 24 % hours == 0:
        return "0 * * * *" if hours == 1 else f"0 */{hours} * * *"
    if minutes == 24 * 60:
        return "0 0 * * *"
    raise ValueError(
        f"cron cannot repeat every {minutes} minutes: only what divides an hour or a day evenly"
    )


# systemd


def systemd_units(job: Job, schedule: timedelta | time) -> Units:
    """A service and the timer that starts it, one instance at a time.

    A failed run is retried if the next one is far enough away: systemd counts the
    timer's starts among those that it limits.
    """
    if isinstance(schedule, time):
        when = f"OnCalendar=*-*-* {schedule:%H:%M}:00\nPersistent=true"
        apart = timedelta(days=1)
    else:
        # Counted from the last start; OnCalendar can say only what divides a day.
        when = f"OnActiveSec=1min\nOnUnitActiveSec={_seconds(schedule)}"
        apart = schedule
    limit, restart = "", ""
    if apart >= 2 * (RETRIES + 1) * RETRY_AFTER:
        limit = f"StartLimitIntervalSec={_seconds(apart / 2)}\nStartLimitBurst={RETRIES + 1}\n"
        restart = (
            f"Restart=on-failure\n"
            f"RestartSec={_seconds(RETRY_AFTER)}\n"
            f"RestartPreventExitStatus={_NO_RETRY}\n"
        )
    service = (
        f"[Unit]\n"
        f"Description={DESCRIPTION}\n"
        f"Wants=network-online.target\n"
        f"After=network-online.target\n"
        f"{limit}"
        f"\n"
        f"[Service]\n"
        f"Type=oneshot\n"
        f"WorkingDirectory={job.folder.replace('%', '%%')}\n"
        f"ExecStart={' '.join(map(_quote_for_systemd, job.command))}\n"
        f"TimeoutStartSec={_seconds(STOP_AFTER)}\n"
        f"{restart}"
    )
    timer = (
        f"[Unit]\n"
        f"Description={DESCRIPTION}\n"
        f"\n"
        f"[Timer]\n"
        f"{when}\n"
        f"\n"
        f"[Install]\n"
        f"WantedBy=timers.target\n"
    )
    return Units(service, timer)


def _seconds(length: timedelta) -> str:
    return f"{int(length.total_seconds())}s"


def _quote_for_systemd(word: str) -> str:
    for char, escaped in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        word = word.replace(char, escaped)
    return word if re.fullmatch(r"[\w@%+=:,./$-]+", word) else f'"{word}"'
