"""The wings of the house: imports point down, and each outside thing has a home."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dataverse_sync"

# From the ground up. A module imports from its own wing and from the lines above it here.
# The emulator stands apart: see the tests at the end.
WINGS = (
    {"model", "version", "redaction", "moments", "files", "interrupts", "streams"},
    {"errors"},
    {"config"},
    {"dataverse"},
    {"schema"},
    {"store"},
    {"show", "sync", "export"},
    {"logs", "__init__"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
HOMES = {
    # notify posts to an address of the user's, without the token: nothing for the transport.
    "requests": {"dataverse", "show.notify"},
    "urllib3": {"dataverse"},
    "sqlalchemy": {"store"},  # but for types: see SQL_TYPES
    "sqlite3": {"store.sqlite"},
    "dotenv": {"config"},
    "filelock": {"store"},
    "rich": {"show"},
    "pyarrow": {"export"},
    "xlsxwriter": {"export"},
    "argparse": {"cli", "commands"},
}
PRINTS = {"cli", "commands"}
# What upper wings hand on without a look inside.
SQL_TYPES = {"sqlalchemy.Connection", "sqlalchemy.Select"}
SQLITES = {"store.sqlite", "store.sqlite_sql", "store.sqlite_compare"}
SQLITES_OWN = re.compile(
    r"\b(pragma|rowid|json_each|json_valid|group_concat|begin immediate|nocase|or (ignore|replace)"
    r"|integrity_check|legacy_alter_table|user_version|sqlite_(master|schema|with_rowid))\b",
    re.IGNORECASE,
)


@cache
def trees() -> dict[str, ast.Module]:
    """Parse every module of the package, by its name within the package, emulator included."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def own_modules() -> list[str]:
    return [name for name in trees() if wing_of(name) != "emulator"]


def emulator_modules() -> list[str]:
    return [name for name in trees() if wing_of(name) == "emulator"]


def wing_of(name: str) -> str:
    return name.partition(".")[0]


def imported(name: str) -> Iterator[str]:
    """The full names of what a module imports: ``dataverse_sync.dataverse.odata.follow``."""
    is_package = (PACKAGE / name.replace(".", "/")).is_dir()
    package = ["dataverse_sync", *name.split(".")[: None if is_package else -1]]
    for node in ast.walk(trees()[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imported_modules(name: str) -> set[str]:
    """The package's own modules that a module imports, by their names within the package."""
    found = set()
    for full in imported(name):
        root, *rest = full.split(".")
        if root == "dataverse_sync":
            known = [".".join(rest[:end]) for end in range(len(rest), 0, -1)]
            found.add(next((module for module in known if module in trees()), "__init__"))
    return found


def libraries(name: str) -> set[str]:
    return {full.split(".")[0] for full in imported(name) if full not in SQL_TYPES}


def is_home(name: str, homes: set[str]) -> bool:
    return name in homes or wing_of(name) in homes


@cache
def names_used(name: str) -> set[str]:
    """Names and dotted names in a module's code: ``print``, ``os.environ``."""
    used = set()
    for node in ast.walk(trees()[name]):
        if isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.add(f"{node.value.id}.{node.attr}")
    return used | set(imported(name))


def users(*wanted: str) -> set[str]:
    return {name for name in own_modules() if names_used(name) & set(wanted)}


def test_every_module_has_a_wing():
    listed = set().union(*WINGS)

    assert {wing_of(name) for name in own_modules()} == listed


@pytest.mark.parametrize("name", own_modules())
def test_imports_point_down(name):
    floor = next(number for number, wings in enumerate(WINGS) if wing_of(name) in wings)
    below = set().union(*WINGS[:floor], {wing_of(name), "emulator"})

    wrong = {module for module in imported_modules(name) if wing_of(module) not in below}

    assert not wrong, f"{name} imports {', '.join(sorted(wrong))}, which is not on a lower floor"


def test_modules_import_no_circle():
    graph = {name: imported_modules(name) - {name} for name in own_modules()}

    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("library", HOMES)
def test_library_has_one_home(library):
    found = {name for name in own_modules() if library in libraries(name)}

    assert found, f"nothing imports {library} any more"
    assert not {name for name in found if not is_home(name, HOMES[library])}


def words_of(tree: ast.Module) -> Iterator[str]:
    """Every name and string of a module except docstrings, to search for a database's own SQL."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in docstrings:
            yield str(node.value)
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg


def test_sqlite_dialect_in_its_modules():
    speaking = {
        name
        for name in own_modules()
        if any(SQLITES_OWN.search(word) for word in words_of(trees()[name]))
        or any(full.startswith("sqlalchemy.dialects") for full in imported(name))
    }

    assert speaking == SQLITES


def test_only_database_knows_sqlite():
    knowing = {name for name in own_modules() if imported_modules(name) & SQLITES}

    assert knowing - SQLITES == {"store.database"}


def test_only_config_reads_the_environment():
    assert users("os.environ", "os.environb", "os.getenv", "os.getenvb") == {"config"}


def test_only_commands_print():
    assert users("print", "sys.stdout")
    assert not {name for name in users("print", "sys.stdout") if not is_home(name, PRINTS)}


def test_only_cli_exits():
    assert users("sys.exit", "os._exit", "exit", "quit") <= {"cli", "__main__"}


def test_only_init_asks():
    assert users("input") == {"commands.init"}


def test_only_logs_configures_logging():
    configuring = {"addHandler", "removeHandler", "basicConfig", "dictConfig", "captureWarnings"}

    found = {
        name
        for name in own_modules()
        for node in ast.walk(trees()[name])
        if isinstance(node, ast.Attribute) and node.attr in configuring
    }

    # The package itself has only the handler that says nothing, so that a library prints nothing.
    assert found == {"logs", "__init__"}


def test_no_relative_imports():
    relative = {
        name
        for name in own_modules()
        for node in ast.walk(trees()[name])
        if isinstance(node, ast.ImportFrom) and node.level
    }

    assert not relative


# The emulator: it shares no code with the client, or both would agree on the same mistake


def test_emulator_is_found():
    assert len(emulator_modules()) > 10
    assert "emulator.http.server" in emulator_modules()


def test_emulator_imports_nothing_else_of_ours():
    found = {
        f"{name} imports {full}"
        for name in emulator_modules()
        for full in imported(name)
        if full.split(".")[0] == "dataverse_sync"
        if full.split(".")[1:2] != ["emulator"]
    }

    assert not found


def test_emulator_uses_no_client_library():
    found = {name for name in emulator_modules() if libraries(name) & {"requests", "msgspec"}}

    assert not found


def test_only_commands_import_the_emulator():
    found = {
        name
        for name in own_modules()
        if "emulator" in {wing_of(module) for module in imported_modules(name)}
    }

    assert found == {"commands.demo", "commands.emulator"}
