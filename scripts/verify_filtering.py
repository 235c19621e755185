"""See that $filter returns what is asked for: a batch of ids of a filtered entity set.

    python scripts/verify_filtering.py --entity accounts --count 50
    python scripts/verify_filtering.py --entity accounts --count 500 --db dataverse.db

The ids come from a database that a sync made, or from the first page of the entity set;
they are asked for as a sync does, 50 to a request. Reads, and writes nothing. Exits 1 if
an id is missing from the answers, was not asked for, or came twice.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgspec
from sqlalchemy import Select, column, select, table

from dataverse_sync import Config, EntityConfig
from dataverse_sync import config as settings
from dataverse_sync.cli import guard
from dataverse_sync.commands.console import FAILED, OK, load
from dataverse_sync.commands.options import Options, add_shared, positive
from dataverse_sync.dataverse import odata
from dataverse_sync.dataverse.session import Session, open_session
from dataverse_sync.errors import ConfigError, EntityError, PageError, RequestError
from dataverse_sync.model import Entity, Page
from dataverse_sync.redaction import Redactor
from dataverse_sync.schema import discovery
from dataverse_sync.store import database
from dataverse_sync.sync.reading import EntityReader, Query, QueryRead

__test__ = False  # for pytest: this is a program, not a test

URL_LIMIT = 32 * 1024  # characters that the service takes
EXAMPLES = 5


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(argv, Options())
    redactor = Redactor()
    return guard(lambda: _run(options, redactor), redactor)


def _run(options: Options, redactor: Redactor) -> int:
    config, entities = load(options, redactor, workers=1)
    name = _choose(entities, options.entity)
    if options.db is not None:
        _check_table(options.db, name)
    return _verify(config, name, options.count, options.db, redactor)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Ask for a batch of ids with $filter, and compare what comes back."
    )
    add_shared(parser, "--env-file", "--config")
    parser.add_argument(
        "--entity", metavar="NAME", help="the entity set to ask (default: the first filtered one)"
    )
    parser.add_argument(
        "--count",
        type=positive,
        default=odata.IDS_PER_REQUEST,
        metavar="N",
        help="ids to ask for (default: %(default)s)",
    )
    parser.add_argument(
        "--db",
        type=Path,
        metavar="PATH",
        help="take the ids from the table there (default: from the entity set's first pages)",
    )
    add_shared(parser, "--verbose")
    return parser


def _choose(entities: Sequence[EntityConfig], name: str | None) -> str:
    if name is not None:
        return settings.select_entities(entities, [name])[0].name
    for entity in entities:
        if entity.filtered:
            return entity.name
    raise ConfigError("no entity is filtered in the configuration", "Name one with --entity.")


def _check_table(path: Path, name: str) -> None:
    database.open_target(path).check()
    if not path.exists():
        raise ConfigError(f"{path}: there is no such database", "Run a sync first.")
    with database.open_target(path).open_reader() as connection:
        if name not in database.dialect_of(connection).read_tables(connection):
            raise ConfigError(f"{path}: there is no table {name}", "Run a sync first.")


def _verify(config: Config, name: str, count: int, db: Path | None, redactor: Redactor) -> int:
    with open_session(config, redactor) as session:
        session.sign_in()
        entity = _find_entity(session, name)
        reader = EntityReader(entity, config.api_url)
        found = _load_ids(db, entity, count) if db else _get_ids(session, reader, count)
        ids = [key.lower() for key in found if odata.is_guid(key)]
        if not ids:
            print(f"{name}: there are no ids to ask for, so nothing was verified.")
            return FAILED
        asked = _Keys(reader, reader.by_id(ids, (entity.key,)))
        asked.read(session)
    returned, urls = Counter(asked.keys), asked.urls
    wrong = {
        "missing": [key for key in ids if key not in returned],
        "not asked for": [key for key in returned if key not in set(ids)],
        "twice": [key for key, times in returned.items() if times > 1],
        "not ids": [key for key in found if not odata.is_guid(key)],
    }
    source = f"the table in {db}" if db else "the first pages"
    print(f"{name}: {len(ids)} ids from {source}, asked for by {entity.key}.")
    print(
        f"{len(urls)} answers, {sum(returned.values())} records; "
        f"longest URL {max(map(len, urls))} of {URL_LIMIT} characters."
    )
    for what, keys in wrong.items():
        more = f" and {len(keys) - EXAMPLES} more" if len(keys) > EXAMPLES else ""
        examples = f": {', '.join(keys[:EXAMPLES])}{more}" if keys else ""
        print(redactor.redact(f"  {what + ':':<14} {len(keys)}{examples}"))
    if not any(wrong.values()):
        print("The filter returned exactly what was asked for.")
        return OK
    print("The filter did not return exactly what was asked for.")
    if wrong["missing"] and db:
        print("Records deleted since the last sync are missing rightly: sync, and ask again.")
    return FAILED


def _find_entity(session: Session, name: str) -> Entity:
    """Its key above all; out of the metadata, or guessed from a sample."""
    found = discovery.read_metadata(session.client, [name])
    if found.unknown:
        found = discovery.read_samples(session.client, session.pool, [name])
    if name in found.failures:
        raise found.failures[name]
    if name not in found.entities:
        raise EntityError(f"{name}: empty and not in the metadata", "There is nothing to ask for.")
    return found.entities[name]


def _load_ids(path: Path, entity: Entity, count: int) -> list[str]:
    with database.open_target(path).open_reader() as connection:
        if entity.key not in database.dialect_of(connection).read_tables(connection)[entity.name]:
            raise ConfigError(f"{path}: the table {entity.name} has no column {entity.key}")
        query: Select[Any] = select(column(entity.key)).select_from(table(entity.name)).limit(count)
        return [str(key) for key in connection.execute(query).scalars()]


class _Keys(QueryRead):
    """Reads keys, and takes note of the URLs that brought them."""

    def __init__(self, reader: EntityReader, queries: Sequence[Query]) -> None:
        super().__init__(reader, queries)
        self._key = reader.entity.key
        record_type = msgspec.defstruct("Record", [("key", str)], rename={"key": self._key})
        self._decode = msgspec.json.Decoder(record_type).decode
        self.keys: list[str] = []
        self.urls: list[str] = []

    def store(self, page: Page) -> None:
        self.urls.append(page.request.url)
        try:
            self.keys += [
                self._decode(record).key.lower()  # type: ignore[attr-defined]
                for record in page.records
            ]
        except msgspec.MsgspecError as error:
            raise PageError(f"{page.request}: a record has no {self._key}") from error

    def read(self, session: Session, enough: float = math.inf) -> None:
        """Send one request after the other, until there are so many keys."""
        waiting = [*self.begin()]
        while waiting and len(self.keys) < enough:
            try:
                page = session.client.get_page(waiting.pop(0))
            except RequestError as error:
                waiting += self.refused(error)  # in another order, or raised again
                continue
            session.client.release(page)
            waiting += self.follow(page)
            self.store(page)


def _get_ids(session: Session, reader: EntityReader, count: int) -> list[str]:
    first = _Keys(reader, [Query(select=(reader.entity.key,))])
    first.read(session, count)
    return first.keys[:count]


if __name__ == "__main__":
    sys.exit(main())
