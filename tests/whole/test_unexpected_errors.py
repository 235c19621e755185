"""Unexpected errors in every part: the traceback is shown without a secret.

The program runs as a process of its own, in which one function raises.
"""

from __future__ import annotations

from subprocess import CompletedProcess

import pytest
from conftest import World
from processes import run_python

pytestmark = pytest.mark.slow

PLACES = {
    "worker": "dataverse_sync.dataverse.odata.parse_page",
    "storing thread": "dataverse_sync.sync.storing.write_records",
    "sign-in": "dataverse_sync.dataverse.credentials.parse_challenge",
    "at the end": "dataverse_sync.show.text.format_summary",
}
BUGGY = """
import faulthandler, importlib, pathlib, sys, threading
from dataverse_sync import cli
from dataverse_sync.dataverse import auth

place, words, dumps = sys.argv[1:4]
tokens = pathlib.Path("tokens.txt")
learnt = auth.Auth.get_token

def get_token(self):
    secret_token = learnt(self)
    tokens.write_text(secret_token)
    return secret_token

def fail(*args, **kwargs):
    if name == "parse_page" and threading.current_thread() is threading.main_thread():
        return real(*args, **kwargs)  # it is for the workers
    secret = "emu8Q~not-a-secret-of-anyone"
    token = tokens.read_text() if tokens.exists() else ""
    if dumps:
        faulthandler.dump_traceback(all_threads=True)
    raise ZeroDivisionError(words.format(secret=secret, token=token))

auth.Auth.get_token = get_token
module, name = place.rsplit(".", 1)
real = getattr(importlib.import_module(module), name)
setattr(importlib.import_module(module), name, fail)
sys.argv[1:] = ["sync", "-vv", "--log-file", "sync.log"]
cli.entry_point()
"""


def run_with_a_bug(
    world: World, place: str, words: str, dumps: bool = False
) -> tuple[CompletedProcess[str], str]:
    """Run a sync in which this function raises; return the process and all that it wrote."""
    world.write_entity_list()
    world.write_env_file()
    arguments = ("-X", "faulthandler", "-c", BUGGY, place, words, "1" if dumps else "")
    done = run_python(world.folder, *arguments)
    log = (world.folder / "sync.log").read_text(encoding="utf-8")
    return done, done.stdout + done.stderr + log


def secrets_in(world: World, text: str) -> list[str]:
    """Return the parts of the secret and of the token that a text contains."""
    assert world.emulator.client_secret in BUGGY
    tokens = world.folder / "tokens.txt"
    secrets = [world.emulator.client_secret, *([tokens.read_text()] if tokens.exists() else [])]
    pieces = {one[at : at + 8] for one in secrets for at in range(len(one) - 7)}
    return sorted(piece for piece in pieces if piece in text)


@pytest.mark.parametrize("place", PLACES)
def test_traceback_shown_without_secret(world: World, place: str) -> None:
    done, text = run_with_a_bug(world, PLACES[place], "a bug")

    assert done.returncode == 1
    assert "in fail" in done.stderr
    # Not the last line for certain: the workers log the answers that are still under way.
    assert "\nZeroDivisionError: a bug\n" in done.stderr
    assert secrets_in(world, text) == []
    if world.db_path.exists():
        kept = world.query("SELECT error FROM _sync_state UNION SELECT error FROM _sync_log")
        assert secrets_in(world, str(kept)) == []


@pytest.mark.parametrize("place", ["worker", "storing thread"])
def test_thread_dump_holds_no_secret(world: World, place: str) -> None:
    done, text = run_with_a_bug(world, PLACES[place], "a bug", dumps=True)

    assert "Thread 0x" in done.stderr
    assert "in fail" in done.stderr
    assert secrets_in(world, text) == []


@pytest.mark.parametrize("place", PLACES)
def test_secret_in_message_is_masked(world: World, place: str) -> None:
    done, text = run_with_a_bug(world, PLACES[place], "Authorization: {token} and {secret}")

    assert done.returncode == 1
    assert "in fail" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert secrets_in(world, text) == []
