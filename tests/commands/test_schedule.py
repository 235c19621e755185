"""The scheduled job: against the Task Scheduler schema, a real shell and systemd's own check.

The rules of the schema are written out below as published for version 1.2
(learn.microsoft.com, "Task Scheduler Schema"; [MS-TSCH] 2.5).
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from datetime import date, time, timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from dataverse_sync.commands.schedule import (
    NAMESPACE,
    Job,
    cron_line,
    format_duration,
    parse_daily,
    parse_every,
    systemd_units,
    task_scheduler_xml,
)

JOB = Job(
    interpreter=r"C:\Program Files\Python\python.exe",
    folder=r"D:\Jobs\R&D <sync>",
    arguments=("-m", "dataverse_sync", "sync", "-q", "--log-file", r"D:\Jobs\R&D <sync>\Zoë log"),
)
TODAY = date(2026, 11, 23)
DURATION = re.compile(r"P(?=.)(\d+Y)?(\d+M)?(\d+D)?(T(?=.)(\d+H)?(\d+M)?(\d+S)?)?")
BOOLEAN = re.compile(r"true|false")
# For each type: its children in order; a set where the schema says xs:all.
SEQUENCES = {
    "CalendarTrigger": [
        "Enabled",
        "StartBoundary",
        "EndBoundary",
        "Repetition",
        "ExecutionTimeLimit",
        "RandomDelay",
        "ScheduleByDay",
    ],
    "TimeTrigger": [
        "Enabled",
        "StartBoundary",
        "EndBoundary",
        "Repetition",
        "ExecutionTimeLimit",
        "RandomDelay",
    ],
}
ALLS = {
    "Task": {"RegistrationInfo", "Triggers", "Settings", "Data", "Principals", "Actions"},
    "RegistrationInfo": {"URI", "Author", "Version", "Date", "Description", "Source"},
    "Triggers": {"TimeTrigger", "CalendarTrigger", "BootTrigger", "LogonTrigger"},
    "Repetition": {"Interval", "Duration", "StopAtDurationEnd"},
    "ScheduleByDay": {"DaysInterval"},
    "Principals": {"Principal"},
    "Principal": {"UserId", "LogonType", "GroupId", "DisplayName", "RunLevel"},
    "Settings": {
        "AllowStartOnDemand",
        "RestartOnFailure",
        "MultipleInstancesPolicy",
        "DisallowStartIfOnBatteries",
        "StopIfGoingOnBatteries",
        "AllowHardTerminate",
        "StartWhenAvailable",
        "NetworkProfileName",
        "RunOnlyIfNetworkAvailable",
        "WakeToRun",
        "Enabled",
        "Hidden",
        "DeleteExpiredTaskAfter",
        "IdleSettings",
        "NetworkSettings",
        "ExecutionTimeLimit",
        "Priority",
        "RunOnlyIfIdle",
    },
    "RestartOnFailure": {"Interval", "Count"},
    "Actions": {"Exec"},
    "Exec": {"Command", "Arguments", "WorkingDirectory"},
}
REQUIRED = {
    "Task": {"Actions"},
    "TimeTrigger": {"StartBoundary"},
    "CalendarTrigger": {"StartBoundary", "ScheduleByDay"},
    "Repetition": {"Interval"},
    "RestartOnFailure": {"Interval", "Count"},
    "Exec": {"Command"},
}
LEAVES = {
    "Enabled": BOOLEAN,
    "StartBoundary": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"),
    "Interval": DURATION,
    "StopAtDurationEnd": BOOLEAN,
    "ExecutionTimeLimit": DURATION,
    "DaysInterval": re.compile(r"[1-9]\d{0,2}"),
    "Count": re.compile(r"[1-9]|[1-9]\d|1\d\d|2[0-4]\d|25[0-5]"),
    "LogonType": re.compile(r"S4U|Password|InteractiveToken|InteractiveTokenOrPassword"),
    "RunLevel": re.compile(r"LeastPrivilege|HighestAvailable"),
    "MultipleInstancesPolicy": re.compile(r"Parallel|Queue|IgnoreNew|StopExisting"),
    "DisallowStartIfOnBatteries": BOOLEAN,
    "StopIfGoingOnBatteries": BOOLEAN,
    "AllowHardTerminate": BOOLEAN,
    "StartWhenAvailable": BOOLEAN,
    "RunOnlyIfNetworkAvailable": BOOLEAN,
    "AllowStartOnDemand": BOOLEAN,
    "Description": re.compile(r".+"),
    "UserId": re.compile(r".+"),
    "Command": re.compile(r".+"),
    "Arguments": re.compile(r".*"),
    "WorkingDirectory": re.compile(r'[^"]+'),
}


def find_violations(element: ET.Element) -> list[str]:
    """Where a task breaks the schema's rules."""
    assert element.tag.startswith(f"{{{NAMESPACE}}}"), element.tag
    name = element.tag.partition("}")[2]
    if name in LEAVES:
        text = element.text or ""
        fits = LEAVES[name].fullmatch(text) and len(element) == 0
        return [] if fits else [f"{name}: {text!r}"]
    children = [child.tag.partition("}")[2] for child in element]
    found = [f"{name}: no {child}" for child in REQUIRED.get(name, set()) - set(children)]
    if len(set(children)) < len(children):
        found.append(f"{name}: {children} twice")
    if name in SEQUENCES:
        order = [child for child in SEQUENCES[name] if child in children]
        if order != children:
            found.append(f"{name}: {children} is not in the order {SEQUENCES[name]}")
    elif not set(children) <= ALLS.get(name, set()):
        found.append(f"{name}: {children}: one is unknown")
    return [*found, *(problem for child in element for problem in find_violations(child))]


def texts(xml: str) -> dict[str, str]:
    root = ET.fromstring(xml)
    return {element.tag.partition("}")[2]: element.text or "" for element in root.iter()}


@pytest.mark.parametrize("schedule", [timedelta(hours=1), time(2)], ids=["every", "daily"])
@pytest.mark.parametrize("user", [None, "CONTOSO\\sync & co"])
def test_task_follows_published_schema(schedule, user):
    xml = task_scheduler_xml(JOB, schedule, start=TODAY, user=user)

    root = ET.fromstring(xml)
    assert find_violations(root) == []
    assert root.get("version") == "1.2"
    principal = root.find(f".//{{{NAMESPACE}}}Principal")
    actions = root.find(f".//{{{NAMESPACE}}}Actions")
    assert principal.get("id") == actions.get("Context")  # the actions run as that principal
    assert "RestartOnFailure" in texts(xml)
    assert texts(xml).get("UserId") == user


def test_schema_rules_find_violations():
    xml = task_scheduler_xml(JOB, timedelta(hours=1), start=TODAY)

    swapped = re.sub(r"(<Enabled>true</Enabled>)\s*(<StartBoundary>.*?>)", r"\2\1", xml, count=1)
    broken = {
        "order": swapped,
        "duration": xml.replace("PT1H", "1 hour"),
        "unknown": xml.replace("StartWhenAvailable", "StartWhenever"),
        "missing": re.sub(r"<Command>.*?</Command>", "", xml),
    }

    for what, text in broken.items():
        assert text != xml, what
        assert find_violations(ET.fromstring(text)), what


def test_task_says_how_job_runs():
    xml = task_scheduler_xml(JOB, time(2), start=TODAY)

    said = texts(xml)
    assert said["Command"] == JOB.interpreter
    assert said["WorkingDirectory"] == JOB.folder
    assert said["Arguments"] == (
        r'-m dataverse_sync sync -q --log-file "D:\Jobs\R&D <sync>\Zoë log"'
    )
    assert said["StartBoundary"] == "2026-11-23T02:00:00"
    assert said["DaysInterval"] == "1"
    assert said["MultipleInstancesPolicy"] == "IgnoreNew"
    assert said["StartWhenAvailable"] == "true"
    assert said["ExecutionTimeLimit"] == "PT6H"
    assert (said["Interval"], said["Count"]) == ("PT10M", "3")
    assert said["LogonType"] == "S4U"


def test_interval_task_repeats_without_end():
    xml = task_scheduler_xml(JOB, timedelta(minutes=90), start=TODAY)

    trigger = ET.fromstring(xml).find(f".//{{{NAMESPACE}}}TimeTrigger")
    assert trigger.find(f".//{{{NAMESPACE}}}Interval").text == "PT1H30M"
    assert trigger.find(f".//{{{NAMESPACE}}}Duration") is None
    assert texts(xml)["LogonType"] == "S4U"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252", "utf-8-sig"])
def test_task_survives_any_shell_encoding(encoding):
    xml = task_scheduler_xml(JOB, time(2), start=TODAY)

    root = ET.fromstring(xml.encode(encoding))

    assert xml.isascii()
    assert "encoding" not in xml.partition("?>")[0]
    assert root.find(f".//{{{NAMESPACE}}}WorkingDirectory").text == JOB.folder


@pytest.mark.parametrize("text", ["a\nb", "a\0b", "a\ud800b"])
def test_control_characters_refused(text):
    with pytest.raises(ValueError, match="no scheduler accepts"):
        Job("/usr/bin/python3", text)


@pytest.mark.parametrize(
    ("text", "every"),
    [
        ("1m", timedelta(minutes=1)),
        ("15m", timedelta(minutes=15)),
        ("1h", timedelta(hours=1)),
        ("31d", timedelta(days=31)),
    ],
)
def test_interval_is_parsed(text, every):
    assert parse_every(text) == every


@pytest.mark.parametrize(
    "text", ["", "1", "h", "0m", "30s", "1.5h", "-1h", "32d", "1h ", "\u0661h"]
)
def test_wrong_interval_refused(text):
    with pytest.raises(ValueError, match="is not an interval such as 15m"):
        parse_every(text)


@pytest.mark.parametrize(
    ("text", "at"), [("02:00", time(2)), ("2:05", time(2, 5)), ("23:59", time(23, 59))]
)
def test_time_of_day_is_parsed(text, at):
    assert parse_daily(text) == at


@pytest.mark.parametrize("text", ["", "24:00", "2", "02:60", "2 am", "02:00:00", "02:00\n"])
def test_wrong_time_of_day_refused(text):
    with pytest.raises(ValueError, match="is not a time of day such as 02:00"):
        parse_daily(text)


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(), "PT0S"),
        (timedelta(seconds=90), "PT1M30S"),
        (timedelta(days=1), "P1D"),
        (timedelta(days=2, hours=3), "P2DT3H"),
    ],
)
def test_duration_is_iso_8601(length, text):
    assert format_duration(length) == text
    assert DURATION.fullmatch(text)


@pytest.mark.parametrize(
    ("schedule", "times"),
    [
        (time(2, 30), "30 2 * * *"),
        (timedelta(minutes=1), "* * * * *"),
        (timedelta(minutes=15), "*/15 * * * *"),
        (timedelta(hours=1), "0 * * * *"),
        (timedelta(hours=6), "0 */6 * * *"),
        (timedelta(days=1), "0 0 * * *"),
    ],
)
def test_cron_line_says_when(schedule, times):
    line = cron_line(Job("/usr/bin/python3", "/srv/sync"), schedule)

    assert line == (
        f"{times} cd /srv/sync && /usr/bin/python3 -m dataverse_sync sync -q >/dev/null\n"
    )


@pytest.mark.parametrize(
    "schedule", [timedelta(minutes=7), timedelta(minutes=90), timedelta(hours=5), timedelta(days=2)]
)
def test_cron_refuses_uneven_intervals(schedule):
    with pytest.raises(ValueError, match="cron cannot repeat every"):
        cron_line(JOB, schedule)


@pytest.mark.skipif(shutil.which("sh") is None, reason="sh is not installed")
def test_shell_reads_cron_line_back(tmp_path):
    folder = tmp_path / "it's 100% $HOME & co"
    folder.mkdir()
    script = "import sys, os; print(os.getcwd(), sys.argv[1:], file=sys.stderr)"
    job = Job(sys.executable, str(folder), ("-c", script, "a b", "50%", "$HOME", '"'))

    line = cron_line(job, time(2))
    assert not re.search(r"(?<!\\)%", line)
    command = line.split(" ", 5)[5].replace(r"\%", "%")  # as cron hands it to the shell
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)

    assert done.stderr.strip() == f"{folder} {['a b', '50%', '$HOME', chr(34)]}"
    assert done.stdout == ""
    assert shlex.split(command)[0] == "cd"


def test_daily_timer_catches_up_and_retries():
    units = systemd_units(Job("/usr/bin/python3", "/srv/sync"), time(2, 30))

    assert "\nOnCalendar=*-*-* 02:30:00\nPersistent=true\n" in units.timer
    assert "\nExecStart=/usr/bin/python3 -m dataverse_sync sync -q\n" in units.service
    assert "\nWorkingDirectory=/srv/sync\n" in units.service
    assert "\nTimeoutStartSec=21600s\n" in units.service
    assert (
        "\nRestart=on-failure\nRestartSec=600s\nRestartPreventExitStatus=2 3 4\n" in units.service
    )
    assert "\nStartLimitIntervalSec=43200s\nStartLimitBurst=4\n" in units.service


def test_frequent_timer_does_not_restart():
    service = systemd_units(Job("/usr/bin/python3", "/srv"), timedelta(hours=1)).service

    assert "Restart" not in service
    assert "StartLimit" not in service


def test_timer_counts_from_last_start():
    assert (
        "\nOnActiveSec=1min\nOnUnitActiveSec=5400s\n"
        in systemd_units(JOB, timedelta(minutes=90)).timer
    )


def test_systemd_words_are_quoted():
    job = Job("/opt/my python", "/srv/100%", ("a b", "50%", "$HOME", 'say "hi"', "back\\slash", ""))

    service = systemd_units(job, time(2)).service

    assert (
        '\nExecStart="/opt/my python" "a b" 50%% $$HOME "say \\"hi\\"" "back\\\\slash" ""\n'
        in service
    )
    assert "\nWorkingDirectory=/srv/100%%\n" in service


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
@pytest.mark.parametrize("schedule", [time(2), timedelta(minutes=90)], ids=["daily", "every"])
def test_systemd_accepts_units(tmp_path, schedule):
    arguments = ("-m", "dataverse_sync", "--log-file", '/var/log/50% "x" $HOME.log')
    job = Job(str(Path("/bin/sh").resolve()), "/tmp", arguments)
    units = systemd_units(job, schedule)
    (tmp_path / "dataverse-sync.service").write_text(units.service)
    (tmp_path / "dataverse-sync.timer").write_text(units.timer)

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "dataverse-sync.timer")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
