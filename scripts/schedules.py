"""Play many schedules of changes against a copy: ``tests/whole/test_schedules.py`` in bulk.

    python scripts/schedules.py --seeds 0:10000 --jobs 2

Exits 1 if a seed fails; its number is all that is needed to play it again.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import tempfile
import time
import traceback
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(_ROOT), str(_ROOT / "tests"), str(_ROOT / "tests" / "whole")]


def main() -> int:
    parser = argparse.ArgumentParser(description="Play schedules of changes against a copy.")
    parser.add_argument("--seeds", type=_seeds, default=range(1000), metavar="A:B", help="0:1000")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes; 1")
    parser.add_argument("--folder", help="where the copies are made; a temporary folder")
    parser.add_argument("-v", action="store_true", dest="verbose", help="show the runs' log")
    options = parser.parse_args()
    began = time.monotonic()
    failed = []
    jobs = ((seed, options.folder, options.verbose) for seed in options.seeds)
    with multiprocessing.Pool(options.jobs) as pool:
        for done, (seed, error) in enumerate(pool.imap_unordered(_play, jobs, chunksize=5), 1):
            if error:
                failed.append(seed)
                print(f"seed {seed} failed:\n{error}", flush=True)
            if done % 1000 == 0:
                print(f"{done} played, {len(failed)} failed", flush=True)
    seconds = time.monotonic() - began
    span = f"{options.seeds.start}:{options.seeds.stop}"
    print(f"{len(options.seeds)} schedules ({span}) in {seconds:.0f} s: {len(failed)} failed")
    if failed:
        print("failing seeds:", *sorted(failed))
    return 1 if failed else 0


def _seeds(text: str) -> range:
    first, _, end = text.partition(":")
    return range(int(first), int(end) if end else int(first) + 1)


def _play(job: tuple[int, str | None, bool]) -> tuple[int, str]:
    from test_schedules import play

    seed, where, verbose = job
    if not verbose:
        logging.disable()
    else:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory(prefix=f"schedule-{seed}-", dir=where) as folder:
        try:
            play(seed, Path(folder))
        except Exception:
            return seed, traceback.format_exc()
    return seed, ""


if __name__ == "__main__":
    sys.exit(main())
