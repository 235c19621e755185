"""The layers of the house: imports point down, and each outside thing has a home."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dataverse_sync"

# From the ground up. A module imports from the lines above its own here, never from its own
# line nor from those below. The emulator stands apart: see the tests at the end.
LAYERS = (
    ("errors", "model", "version", "redaction", "choices"),
    ("odata",),
    ("metadata", "config", "segments"),
    ("schema_manager", "transport"),
    ("auth", "database", "labelled_views", "page_memory"),
    ("dataverse_client", "run_lock", "sync_state"),
    ("references", "deletions", "environment", "lock_store"),
    ("discovery", "pages"),
    ("reader",),
    ("reads",),
    ("sync", "check", "verify", "schema_drift", "labels", "init"),
    ("summary", "tally", "console", "report", "__init__"),
    ("status", "demo", "notify", "schedule", "progress"),
    ("live_display",),
    ("options",),
    ("cli",),
    ("__main__",),
)
HOMES = {
    # notify posts to an address of the user's, without the token: nothing for the transport.
    "requests": {"auth", "dataverse_client", "transport", "notify"},
    "urllib3": {"auth", "dataverse_client", "transport"},
    "sqlalchemy": {
        "schema_manager",
        "database",
        "sync_state",
        "references",
        "deletions",
        # Connections that are handed on, errors that are caught, and queries of their own.
        "pages",
        "reads",
        "sync",
        "verify",
        "schema_drift",
        "report",
        "status",
        "demo",
        "choices",
        "labelled_views",
        "labels",
    },
    "sqlite3": {"database"},
    "dotenv": {"config"},
    "filelock": {"run_lock"},
    "rich": {"live_display"},
    "argparse": {"cli", "options"},
}
MAY_IMPORT_THE_EMULATOR = {"cli", "demo"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


@cache
def trees() -> dict[str, ast.Module]:
    """Every module of the package by its name within it, the emulator's too."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def own_modules() -> list[str]:
    return [name for name in trees() if not name.startswith("emulator.")]


def emulator_modules() -> list[str]:
    return [name for name in trees() if name.startswith("emulator.")]


def imported(name: str) -> Iterator[str]:
    """The full names of what a module imports, wherever in it: ``dataverse_sync.odata.follow``."""
    package = ["dataverse_sync", *name.split(".")[:-1]]
    for node in ast.walk(trees()[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imported_modules(name: str) -> set[str]:
    """Those of our own modules that a module imports, ``emulator`` as one."""
    found = set()
    for full in imported(name):
        root, *rest = full.split(".")
        if root == "dataverse_sync":
            known = bool(rest) and (rest[0] in trees() or rest[0] == "emulator")
            found.add(rest[0] if known else "__init__")
    return found


def libraries(name: str) -> set[str]:
    return {full.split(".")[0] for full in imported(name)}


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


def test_every_module_has_a_layer():
    listed = [name for layer in LAYERS for name in layer]

    assert len(listed) == len(set(listed)), "a module is in LAYERS twice"
    missing = sorted(set(own_modules()) - set(listed))
    assert not missing, (
        f"put {', '.join(missing)} into LAYERS in tests/test_layers.py, "
        "on the first line that comes after all that it imports"
    )
    gone = sorted(set(listed) - set(own_modules()))
    assert not gone, f"take {', '.join(gone)} out of LAYERS in tests/test_layers.py: no such module"


@pytest.mark.parametrize(
    ("number", "name"), [(number, name) for number, layer in enumerate(LAYERS) for name in layer]
)
def test_imports_point_down(number, name):
    below = {each for layer in LAYERS[:number] for each in layer}

    found = imported_modules(name) - {"emulator"}

    wrong = sorted(found - below)
    assert not wrong, f"{name} imports {', '.join(wrong)}, not on a lower layer"


@pytest.mark.parametrize("library", HOMES)
def test_an_outside_thing_has_a_home(library):
    at_home = HOMES[library]

    found = {name for name in own_modules() if library in libraries(name)}

    assert found, f"nothing imports {library} any more"
    assert found <= at_home, f"{library} is imported by {sorted(found - at_home)} too"


def test_only_config_reads_the_environment():
    assert users("os.environ", "os.environb", "os.getenv", "os.getenvb") == {"config"}


def test_only_the_command_line_prints_and_exits():
    assert users("print", "sys.stdout") == {"cli"}
    assert users("input", "sys.exit", "os._exit", "exit", "quit") <= {"cli", "__main__"}


def test_only_console_configures_logging():
    configuring = {"addHandler", "removeHandler", "basicConfig", "dictConfig", "captureWarnings"}

    found = {
        name
        for name in own_modules()
        for node in ast.walk(trees()[name])
        if isinstance(node, ast.Attribute) and node.attr in configuring
    }

    # The package itself has only the handler that says nothing, so that a library prints nothing.
    assert found == {"console", "__init__"}


def test_modules_do_not_import_each_other_by_relative_names():
    relative = {
        name
        for name in own_modules()
        for node in ast.walk(trees()[name])
        if isinstance(node, ast.ImportFrom) and node.level
    }

    assert not relative


# The emulator: it shares no code with the client, or both would agree on the same mistake


def test_the_emulator_is_found():
    assert len(emulator_modules()) > 10
    assert "emulator.server" in emulator_modules()


def test_the_emulator_imports_nothing_from_the_rest():
    found = {
        f"{name} imports {full}"
        for name in emulator_modules()
        for full in imported(name)
        if full.split(".")[0] == "dataverse_sync"
        if full.split(".")[1:2] != ["emulator"]
    }

    assert not found


def test_the_emulator_uses_none_of_the_libraries_of_the_client():
    found = {name for name in emulator_modules() if libraries(name) & {"requests", "msgspec"}}

    assert not found


def test_only_the_commands_that_start_it_import_the_emulator():
    found = {name for name in own_modules() if "emulator" in imported_modules(name)}

    assert found <= MAY_IMPORT_THE_EMULATOR, f"{sorted(found - MAY_IMPORT_THE_EMULATOR)} too"
