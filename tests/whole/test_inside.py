"""A real page of records takes the way that ``docs/inside.md`` describes."""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from conftest import CANDIDATES, insert

import dataverse_sync
from dataverse_sync import EntityConfig

ROOT = Path(__file__).parents[2]
INSTALLED = Path(dataverse_sync.__file__).parents[1]  # the checkout, or where tox installs
STEP = re.compile(r"\[`([\w.]+)`\]\(\.\./([\w/]+\.py)\)")


def test_page_takes_the_documented_way(make_world: Any) -> None:
    world = make_world([CANDIDATES])
    insert(world.emulator, "vin_candidates", [{"vin_name": str(n)} for n in range(8)])
    text = (ROOT / "docs" / "inside.md").read_text(encoding="utf-8")
    steps = [(path, name) for name, path in STEP.findall(text)]
    seen: list[tuple[str, str]] = []
    inside: set[int] = set()  # threads that are on the page's way, and not on that of metadata

    def watch(frame: FrameType, event: str, _argument: object) -> None:
        path, here = Path(frame.f_code.co_filename), threading.get_ident()
        if event not in ("call", "return") or not path.is_relative_to(INSTALLED):
            return
        found = (path.relative_to(INSTALLED).as_posix(), frame.f_code.co_qualname)
        if found[1] in ("PageLoop.run", "_fetch"):
            (inside.add if event == "call" else inside.discard)(here)
        # The first step is the one that begins: the way to it is not a page's.
        is_on_the_way = here in inside or found == steps[0]
        if event == "call" and is_on_the_way and found in steps and found not in seen:
            seen.append(found)

    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        world.sync([EntityConfig("vin_candidates")])
    finally:
        sys.setprofile(None)
        threading.setprofile(None)

    assert len(steps) > 20
    assert seen == list(dict.fromkeys(steps))
