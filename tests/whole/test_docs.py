"""The documentation is true: its commands are run, its tables are compared with the code.

Each page has a folder and an emulated environment of its own. Its ``console`` blocks are
run from top to bottom, and its ``sql`` blocks against the database they made. A line of
output may hold ``...`` for what varies; one that is nothing else stands for any number of
lines. A comment ``<!-- in Dataverse: ... -->`` says what happens there in between.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from conftest import OLD, World

from dataverse_sync import Config, EntityConfig, EntityReport, SyncReport, cli, errors
from dataverse_sync.cli import build_parser
from dataverse_sync.commands.console import FAILED, OK
from dataverse_sync.emulator import Column, Emulator, Fault, Table
from dataverse_sync.model import Counts, Drift

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
ORG = "https://ORG.crm.dynamics.com"
CLIENT_ID = "00000000-0000-0000-0000-000000000000"
PROGRAM = ["python", "-m", "dataverse_sync"]


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


# The environment of the examples

CANDIDATES = Table(
    "vin_candidate",
    "vin_candidates",
    "vin_candidateid",
    [
        Column("vin_name", "String"),
        Column("vin_modality", "Picklist", options={1: "Vaccine", 2: "Diagnostic"}),
        Column("vin_developerid", "Lookup", targets=("account",)),
    ],
)
REGIONS = Table(
    "vin_region",
    "vin_regions",
    "vin_regionid",
    [Column("vin_name", "String")],
    change_tracking=True,
)
LINKS = Table(
    "vin_vin_candidate_vin_region",
    "vin_vin_candidate_vin_regionset",
    "vin_vin_candidate_vin_regionid",
    [Column("vin_candidateid", "Uniqueidentifier"), Column("vin_regionid", "Uniqueidentifier")],
    intersect=True,
    modifiedon=False,
    createdon=False,
)
ACCOUNTS = Table("account", "accounts", "accountid", [Column("name", "String")])
TABLES = [CANDIDATES, REGIONS, LINKS, ACCOUNTS]
ENTITIES = [
    {"name": "vin_candidates"},
    {"name": "vin_regions"},
    {"name": "vin_vin_candidate_vin_regionset"},
    {"name": "accounts", "filtered": True},
]


def id_of(kind: str, number: int) -> str:
    return f"{kind}000000{number:01x}-0000-4000-8000-000000000000"


def candidate(number: int) -> str:
    return f"c{number:07d}-0000-4000-8000-000000000000"


def fill(emulator: Emulator) -> None:
    """Insert 120 candidates of 2 developers, 3 regions, 4 links and an account without links."""
    moments = {"createdon": OLD, "modifiedon": OLD}

    def insert(name: str, record: Mapping[str, object], key: str) -> None:
        emulator.insert(name, {**moments, **record}, id=key)

    for number, name in enumerate(("Litware", "Fabrikam", "Nobody's")):
        insert("accounts", {"name": name}, id_of("a", number))
    for number, name in enumerate(("Africa", "Asia", "Europe")):
        insert("vin_regions", {"vin_name": name}, id_of("b", number))
    for number in range(120):
        record = {
            "vin_name": f"Candidate {number}",
            "vin_modality": number % 2 + 1,
            "vin_developerid": id_of("a", number % 2),
        }
        insert("vin_candidates", record, candidate(number))
    for number in range(4):
        link = {"vin_candidateid": candidate(number), "vin_regionid": id_of("b", number % 3)}
        emulator.insert("vin_vin_candidate_vin_regionset", link, id=id_of("d", number))


def delete_candidates(emulator: Emulator, numbers: range) -> None:
    for number in numbers:
        emulator.delete("vin_candidates", candidate(number))


EVENTS: Mapping[str, Callable[[Emulator], object]] = {
    "a candidate is created": lambda it: it.insert(
        "vin_candidates", {"vin_name": "Candidate 120"}, id=candidate(120)
    ),
    "a candidate is changed": lambda it: it.update(
        "vin_candidates", candidate(7), {"vin_name": "Candidate seven"}
    ),
    "a candidate is deleted": lambda it: it.delete("vin_candidates", candidate(9)),
    "a region is deleted": lambda it: it.delete("vin_regions", id_of("b", 2)),
    "no candidate names the second developer": lambda it: [
        it.update("vin_candidates", key, {"vin_developerid": id_of("a", 0)})
        for key, row in it.rows("vin_candidates").items()
        if row["_vin_developerid_value"] == id_of("a", 1)
    ],
    "candidates get a column": lambda it: it.add_column(
        "vin_candidates", Column("vin_score", "Integer")
    ),
    "a candidate gets a score": lambda it: it.update(
        "vin_candidates", candidate(7), {"vin_score": 4}
    ),
    "the column is removed": lambda it: it.drop_column("vin_candidates", "vin_score"),
    "the modality becomes text": lambda it: it.retype_column(
        "vin_candidates", "vin_modality", "String"
    ),
    "70 candidates are deleted": lambda it: delete_candidates(it, range(50, 120)),
    "the delta token expires": lambda it: it.control.expire_delta_tokens(),
    "the regions may not be read": lambda it: it.control.fault(
        Fault("status", match="/vin_regions", status=403, code="0x80040220", times=99)
    ),
}


# Pages


@dataclass(frozen=True)
class Block:
    """One block of a page: commands, SQL, or an event."""

    kind: str
    text: str


@dataclass(frozen=True)
class Step:
    """A command of a block, and its documented output."""

    command: str
    shown: list[str]


_BLOCK = re.compile(
    r"^<!-- (?P<where>in Dataverse|here): (?P<event>[^\n]+?) -->$"
    r"|^```(?P<kind>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def blocks_of(text: str) -> list[Block]:
    return [
        Block(match["where"] or match["kind"], match["event"] or match["text"])
        for match in _BLOCK.finditer(text)
    ]


def steps_of(block: Block) -> list[Step]:
    steps: list[Step] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            steps.append(Step(line[2:], []))
        else:
            steps[-1].shown.append(line)
    return steps


class Reader:
    """Follows a page in a folder with an environment of its own."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self._monkeypatch = monkeypatch
        self._status = 0
        world.write_env_file()
        config = json.dumps({"entities": ENTITIES})
        (world.folder / "entities_config.json").write_text(config, encoding="utf-8")

    def follow(self, block: Block) -> None:
        match block.kind:
            case "in Dataverse":
                EVENTS[block.text](self.world.emulator)
                self.world.wait()
            case "here":
                self._prepare(block.text)
            case "console":
                for step in steps_of(block):
                    check_output(step, self.run(step.command))
            case "sql":
                for statement in block.text.split(";"):
                    if statement.strip():
                        self.world.query(statement)

    def run(self, command: str) -> str:
        """Run a command; return both output streams in the order written."""
        if command == "echo $?":
            return f"{self._status}\n"
        emulator = self.world.emulator
        words = shlex.split(command.replace(ORG, emulator.origin))
        words = [emulator.client_id if word == CLIENT_ID else word for word in words]
        assert words[:3] == PROGRAM, command
        output = io.StringIO()
        with (
            self._monkeypatch.context() as patch,
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            if "init" in words:
                patch.setenv("DATAVERSE_CLIENT_SECRET", emulator.client_secret)
            try:
                self._status = cli.main(words[3:])
            except SystemExit as end:
                self._status = int(end.code or 0)
        return (
            output.getvalue()
            .replace(emulator.api_url, f"{ORG}/api/data/v9.2/")
            .replace(emulator.origin, ORG)
        )

    def _prepare(self, what: str) -> None:
        folder = self.world.folder
        if what == "an empty folder":
            (folder / ".env").unlink()
            (folder / "entities_config.json").unlink()
        elif what == "the secret is wrong":
            lines = self.world.emulator.env_lines()
            (folder / ".env").write_text("\n".join(lines)[:-1], encoding="utf-8")
        elif what == "everything is synced":
            self.run("python -m dataverse_sync sync -q")
            self.run("python -m dataverse_sync labels -q")
        elif what == "the lock file is lost":
            self.world.schema_path.unlink()
        elif what == "rows are lost":
            self.world.execute("DELETE FROM vin_regions")
        else:
            raise AssertionError(what)


_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00)?")


def normalise(line: str) -> str:
    """Remove what differs between runs and machines from a line."""
    line = _MOMENT.sub("2026-01-01", line.replace("\\", "/"))
    line = re.sub(r"\b\d+\.\d(?= (s|MB)\b| {2}(completed|failed|pending)$)", "0.0", line)
    line = re.sub(r"\b\d+ s\b", "0 s", line)
    return re.sub(r" {2,}", "  ", line).rstrip()


def check_output(step: Step, output: str) -> None:
    pattern = ""
    for line in step.shown:
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(map(re.escape, normalise(line).split("..."))) + "\n"
    told = "".join(f"{normalise(line)}\n" for line in output.splitlines())
    if not re.fullmatch(pattern, told):
        shown = "\n".join(step.shown)
        pytest.fail(f"$ {step.command}\nshown:\n{shown}\n\nbut it says:\n{output}", pytrace=False)


@pytest.fixture
def reader(make_world: Any, no_settings: None, monkeypatch: pytest.MonkeyPatch) -> Reader:
    world = make_world(TABLES)
    fill(world.emulator)
    monkeypatch.chdir(world.folder)
    return Reader(world, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_commands_print_documented_output(page: Path, reader: Reader) -> None:
    text = page.read_text(encoding="utf-8")
    blocks = blocks_of(text)

    assert text.count("```console") == sum(block.kind == "console" for block in blocks)
    for block in blocks:
        reader.follow(block)


def test_output_that_differs_is_seen() -> None:
    output = "accounts: 2 rows, the same\n\n1 tables agree in 0.3 s\n"
    step = Step("x", ["accounts: ... rows, the same", "...", "1 tables agree in 12.0 s"])

    check_output(step, output)
    for altered in (
        ["accounts: ... rows, the same"],
        ["accounts: ... rows, the same", "1 tables agree in 12.0 s"],
        ["accounts: ... rows, the same", "...", "2 tables agree in 12.0 s"],
        [*step.shown, "and more"],
    ):
        with pytest.raises(pytest.fail.Exception):
            check_output(Step("x", altered), output)


# Commands and options


def list_commands(parser: argparse.ArgumentParser, name: str = "") -> dict[str, Any]:
    """Each command's parser by its whole name."""
    found = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                found.update(list_commands(below, f"{name} {word}".strip()))
    return found or {name: parser}


COMMANDS = list_commands(build_parser())


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Return a parser's options under the names that the pages use: ``--entity``, ``-v``."""
    names = {action.option_strings[0] for action in parser._actions if action.option_strings}
    return names - {"-h"}


def sections_of(text: str) -> dict[str, str]:
    """Return the text under each second-level heading."""
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return {
        head.replace("`", ""): body for head, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def first_cells(text: str) -> list[str]:
    """Return the text in backticks of each table row's first cell."""
    cells = re.findall(r"^\| (`[^|]+`) +\|", text, flags=re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_every_command_and_option_documented() -> None:
    sections = sections_of(text_of("commands.md"))

    assert set(COMMANDS) <= set(sections)
    for name, parser in COMMANDS.items():
        listed = re.findall(r"^Options: (.+?)\n\n", sections[name], re.MULTILINE | re.DOTALL)
        named = re.findall(r"`(--?[a-z][a-z-]*)", listed[0]) if listed else []
        assert (name, set(named)) == (name, options_of(parser))


def test_every_option_has_its_row() -> None:
    rows = [
        cell.split()[0].rstrip(",")
        for cell in first_cells(sections_of(text_of("commands.md"))["Options"])
    ]

    assert sorted(rows) == sorted(set().union(*map(options_of, COMMANDS.values())))


def test_documented_commands_and_options_exist() -> None:
    known = set().union(
        *(action.option_strings for parser in COMMANDS.values() for action in parser._actions)
    )
    for page in PAGES:
        text = re.sub(r"^python scripts/.*$", "", page.read_text(encoding="utf-8"), flags=re.M)
        for option in re.findall(r"(?<=[ `])--[a-z][a-z-]+", text):
            assert option in known, f"{page.name}: {option}"
        for line in re.findall(r"python -m dataverse_sync[^`\n|>]*", text):
            words = shlex.split(line.partition(" #")[0])[3:]
            build_parser().parse_args(words or ["sync"])


def test_every_exit_status_has_its_row() -> None:
    rows = re.findall(r"^\| (\d) \|", text_of("commands.md"), re.MULTILINE)

    assert sorted(map(int, rows)) == sorted({OK, FAILED, *cli.EXIT_STATUSES.values()})


# Tables, columns and types


def test_every_column_documented(reader: Reader) -> None:
    reader.follow(Block("here", "everything is synced"))
    names = [row[0] for row in reader.world.query("SELECT name FROM sqlite_master ORDER BY 1")]
    own = [name for name in names if name.startswith("_")]
    sections = sections_of(text_of("database.md"))

    assert set(own) == {name for name in sections if name.startswith("_")}
    for name in own:
        columns = [row[1] for row in reader.world.query(f"PRAGMA table_info({name})")]
        assert (name, first_cells(sections[name])) == (name, columns)


@pytest.mark.parametrize("kind", [Config, EntityConfig, SyncReport, EntityReport, Counts, Drift])
def test_every_field_documented(kind: Any) -> None:
    rows = first_cells(sections_of(text_of("python.md"))[kind.__name__])

    assert rows == [one.name for one in fields(kind)]


# Messages


def list_texts() -> tuple[set[str], set[str]]:
    """Return every string of the source with ``...`` for fields, and those that are messages."""
    kinds = {name for name in dir(errors) if name.endswith("Error")}
    texts, messages = set(), set()
    package = ROOT / "dataverse_sync"
    for path in {*package.rglob("*.py")} - {*(package / "emulator").rglob("*.py")}:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.expr) and (text := template_of(node)):
                texts.add(text)
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
                if name in kinds or name == "warning":
                    messages.add(template_of(node.args[0]) or "")
    return texts, {text for text in messages if len(re.findall(r"[a-z]{2,}", text)) > 1}


def template_of(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%(s|d|\.0f)", "...", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join((template_of(part) or "...") for part in node.values)
    if isinstance(node, ast.BinOp):
        return (template_of(node.left) or "...") + (template_of(node.right) or "...")
    return None


def matches(message: str, text: str) -> bool:
    parts = [re.escape(part) for part in message.split("...")]
    return re.search(".*".join(parts), text, re.DOTALL) is not None


def test_every_message_explained_word_for_word() -> None:
    texts, messages = list_texts()
    rows = first_cells(text_of("troubleshooting.md"))

    assert [row for row in rows if not any(matches(row, text) for text in texts)] == []
    assert [text for text in sorted(messages) if not any(matches(r, text) for r in rows)] == []
