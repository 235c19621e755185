"""Find the best page size: read pages of one entity set with each size, and time them.

    python scripts/test_pagination.py --entity accounts --pages 10

Reads, and writes nothing. Exits 1 if a key came twice, if a page held more records than
were asked for, or, with --all, if two sizes read different records.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgspec

from dataverse_sync import Config
from dataverse_sync import config as settings
from dataverse_sync.cli import guard
from dataverse_sync.commands.console import FAILED, OK, load
from dataverse_sync.commands.options import Options, add_shared, positive
from dataverse_sync.dataverse.session import Session, open_session
from dataverse_sync.errors import EntityError, PageError, RequestError
from dataverse_sync.model import Entity, Page
from dataverse_sync.redaction import Redactor
from dataverse_sync.schema import discovery
from dataverse_sync.show.text import format_table
from dataverse_sync.sync.reading import EntityReader, Query, QueryRead

__test__ = False  # for pytest: this is a program, not a test

SIZES = (500, 1000, 2500, 5000)
_HEADS = ("size", "pages", "rows", "MB", "seconds", "s/page", "rows/s", "MB/s", "result")


@dataclass(slots=True)
class Reading:
    """What reading with one page size came to."""

    size: int  # rows asked for
    pages: int = 0
    rows: int = 0
    bytes_read: int = 0
    seconds: float = 0.0  # spent waiting for pages
    largest: int = 0  # rows of the largest page
    twice: int = 0  # keys that had come before
    is_whole: bool = False  # the last page was reached
    keys: set[str] = field(default_factory=set)

    @property
    def rows_per_s(self) -> float:
        return self.rows / max(self.seconds, 1e-6)

    @property
    def problems(self) -> list[str]:
        found = []
        if self.twice:
            found.append(f"{self.twice} keys came twice")
        if self.largest > self.size:
            found.append(f"a page held {self.largest} rows")
        return found


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(argv, Options())
    redactor = Redactor()
    return guard(lambda: _run(options, redactor), redactor)


def _run(options: Options, redactor: Redactor) -> int:
    config, entities = load(options, redactor, workers=1)
    chosen = settings.select_entities(entities, [options.entity] if options.entity else [])
    pages = None if options.all else options.pages
    return _compare(config, chosen[0].name, options.sizes, pages, redactor)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Read pages of one entity set with several page sizes, and time them."
    )
    add_shared(parser, "--env-file", "--config")
    parser.add_argument(
        "--entity", metavar="NAME", help="the entity set to read (default: the first configured)"
    )
    parser.add_argument(
        "--sizes",
        type=_sizes,
        metavar="N,N,...",
        default=SIZES,
        help="page sizes, from 1 to 5000 (default: " + ",".join(map(str, SIZES)) + ")",
    )
    parser.add_argument(
        "--pages",
        type=positive,
        metavar="N",
        default=5,
        help="pages to read with each size (default: %(default)s)",
    )
    parser.add_argument(
        "--all", action="store_true", help="read every page with each size, and compare the keys"
    )
    add_shared(parser, "--verbose")
    return parser


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(dict.fromkeys(positive(part.strip()) for part in text.split(",")))
    if max(sizes) > 5000:
        raise argparse.ArgumentTypeError(f"{max(sizes)} is more than the service allows (5000)")
    return sizes


def _compare(
    config: Config, name: str, sizes: Sequence[int], pages: int | None, redactor: Redactor
) -> int:
    how = "every page" if pages is None else f"{pages} pages"
    print(f"{name}: {how} with each size. One page is read before, and not timed.", flush=True)
    readings: list[Reading] = []
    for size in sizes:
        with open_session(replace(config, page_size=size), redactor) as session:
            session.sign_in()
            if not readings:
                entity = _find_entity(session, name)
                _read(session, entity, size, pages=1)
            readings.append(_read(session, entity, size, pages))
    problems = [f"size {one.size}: {text}" for one in readings for text in one.problems]
    if pages is None:
        problems += _differences(readings)
    print()
    for line in format_table(_HEADS, [_row(one) for one in readings]):
        print(line)
    print()
    for line in problems:
        print(f"problem: {line}")
    print(_conclude(readings))
    return FAILED if problems else OK


def _find_entity(session: Session, name: str) -> Entity:
    """Its key above all; out of the metadata, or guessed from a sample."""
    found = discovery.read_metadata(session.client, [name])
    if found.unknown:
        found = discovery.read_samples(session.client, session.pool, [name])
    if name in found.failures:
        raise found.failures[name]
    if name not in found.entities:
        raise EntityError(f"{name}: empty and not in the metadata", "There are no pages to time.")
    return found.entities[name]


class _Keys(QueryRead):
    """Every record of an entity set; takes note of their keys."""

    def __init__(self, entity: Entity, api_url: str, reading: Reading) -> None:
        super().__init__(EntityReader(entity, api_url), [Query()])
        record_type = msgspec.defstruct("Record", [("key", str)], rename={"key": entity.key})
        self._decode = msgspec.json.Decoder(record_type).decode
        self._key = entity.key
        self._reading = reading

    def store(self, page: Page) -> None:
        for record in page.records:
            try:
                key = self._decode(record).key  # type: ignore[attr-defined]
            except msgspec.MsgspecError as error:
                raise PageError(f"{page.request}: a record has no {self._key}") from error
            self._reading.twice += key in self._reading.keys
            self._reading.keys.add(key)


def _read(session: Session, entity: Entity, size: int, pages: int | None) -> Reading:
    """Read so many pages, one after the other, as a sync does; None for every page."""
    client, reading = session.client, Reading(size)
    read = _Keys(entity, client.api_url, reading)
    waiting = [*read.begin()]
    while waiting and reading.pages != pages:
        began = time.perf_counter()
        try:
            page = client.get_page(waiting.pop())
        except RequestError as error:
            waiting += read.refused(error)  # in another order, or raised again
            continue
        reading.seconds += time.perf_counter() - began
        client.release(page)
        reading.pages += 1
        reading.rows += len(page.records)
        reading.bytes_read += page.size
        reading.largest = max(reading.largest, len(page.records))
        reading.is_whole = page.next_link is None
        waiting += read.follow(page)
        read.store(page)
    return reading


def _differences(readings: Sequence[Reading]) -> list[str]:
    first = readings[0]
    return [
        f"sizes {first.size} and {one.size}: {len(first.keys ^ one.keys)} keys came with only one "
        "of them (were records made or deleted meanwhile?)"
        for one in readings[1:]
        if one.keys != first.keys
    ]


def _row(reading: Reading) -> tuple[str, ...]:
    megabytes = reading.bytes_read / 1e6
    seconds = max(reading.seconds, 1e-6)
    end = "read to its end" if reading.is_whole else "more pages follow"
    return (
        str(reading.size),
        str(reading.pages),
        str(reading.rows),
        f"{megabytes:.2f}",
        f"{reading.seconds:.2f}",
        f"{reading.seconds / reading.pages:.3f}",
        f"{reading.rows_per_s:.0f}",
        f"{megabytes / seconds:.2f}",
        ", ".join(reading.problems) or end,
    )


def _conclude(readings: Sequence[Reading]) -> str:
    sound = [one for one in readings if not one.problems and one.rows]
    if not sound:
        return "No size is best: nothing was read, or nothing that can be trusted."
    best = max(sound, key=lambda one: one.rows_per_s)
    text = f"Best: {best.size} rows a page, {best.rows_per_s:.0f} rows/s."
    single = [one.size for one in readings if one.is_whole and one.pages == 1]
    if single:
        text += f" The table fits on one page of {min(single)}: larger ones tell nothing more."
    return text


if __name__ == "__main__":
    sys.exit(main())
