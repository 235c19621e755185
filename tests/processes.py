"""Run Python, and the program, as a process of its own, without this machine's settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
KILLED = 1 if os.name == "nt" else -9  # the status of a process that was killed


def make_environment(**variables: str) -> dict[str, str]:
    """The variables of a process that imports this package and is given these settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("DATAVERSE_") and name != "SQLITE_DB_PATH"
    }
    return {**kept, **variables, "PYTHONPATH": str(ROOT)}


def run_python(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python in this folder until it ends, for a minute at most."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=make_environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
