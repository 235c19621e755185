"""The floors that ``benchmark.py`` compares with: as little as has to be done, in one thread.

    python scripts/benchmark_floor.py URL MADE.db NEW.db [--row-by-row]

Reads the pages of every table that the program made in MADE.db, and inserts their records
into NEW.db, into the same tables with the same indexes. Nothing is compared, counted,
retried or kept to go on from.

- The floor splits and decodes with msgspec and inserts tuples with sqlite3, twenty pages a
  transaction, with the settings of the program (WAL, pages of 16 KiB, C adapters for None
  and bool).
- With --row-by-row it is what one writes at first: ``json.loads``, ``json.dumps`` and one
  ``INSERT OR REPLACE`` a record on a plain sqlite3 connection, a commit a page.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

_TYPES = {"TEXT": str | None, "INTEGER": int | bool | None, "REAL": float | None}
_PAGES_PER_TRANSACTION = 20


class _Envelope(msgspec.Struct):
    value: list[msgspec.Raw]
    next_link: str | None = msgspec.field(default=None, name="@odata.nextLink")


@dataclass(frozen=True, slots=True)
class MadeTable:
    """A table as the program made it."""

    name: str
    statements: tuple[str, ...]  # that make it and its indexes
    columns: tuple[tuple[str, str], ...]  # name and type, without the last three

    def insert(self, verb: str) -> str:
        places = ",".join("?" * (len(self.columns) + 3))
        return f'{verb} INTO "{self.name}" VALUES ({places})'


def load_tables(path: str) -> list[MadeTable]:
    connection = sqlite3.connect(path)
    rows = connection.execute(
        "SELECT tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL "
        "AND tbl_name NOT LIKE '\\_%' ESCAPE '\\' ORDER BY tbl_name, type DESC"
    ).fetchall()
    tables = []
    for name in dict.fromkeys(name for name, _ in rows):
        columns = connection.execute("SELECT name, type FROM pragma_table_info(?)", (name,))
        statements = tuple(sql for of, sql in rows if of == name)
        tables.append(MadeTable(name, statements, tuple(columns.fetchall()[:-3])))
    connection.close()
    return tables


def iter_bodies(
    connection: http.client.HTTPConnection, path: str, find_next: Callable[[bytes], tuple[Any, Any]]
) -> Iterator[Any]:
    """What ``find_next`` makes of each page, to the last."""
    following: str | None = path
    while following:
        connection.request("GET", following, headers={"Authorization": "Bearer floor"})
        records, link = find_next(connection.getresponse().read())
        yield records
        following = link and link[link.index("/", len("http://")) :]


def run_floor(connection: http.client.HTTPConnection, root: str, made: str, new: str) -> None:
    """Split, decode, insert."""
    sqlite3.register_adapter(type(None), {}.get)
    sqlite3.register_adapter(bool, int)
    database = sqlite3.connect(new, isolation_level=None)
    for pragma in (
        "page_size=16384",
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "cache_size=-131072",
    ):
        database.execute(f"PRAGMA {pragma}")
    split = msgspec.json.Decoder(_Envelope).decode
    astuple = msgspec.structs.astuple
    now = datetime.now(UTC).isoformat()
    pages = 0
    database.execute("BEGIN")
    for table in load_tables(made):
        for statement in table.statements:
            database.execute(statement)
        names = [name for name, _ in table.columns]
        struct = msgspec.defstruct(
            "Record",
            [(f"c{at}", _TYPES[kind], None) for at, (_, kind) in enumerate(table.columns)],
            rename={f"c{at}": name for at, name in enumerate(names)},
            gc=False,
        )
        decode = msgspec.json.Decoder(struct).decode
        changed = names.index("modifiedon") if "modifiedon" in names else None
        sql = table.insert("INSERT")

        def find_next(body: bytes) -> tuple[list[msgspec.Raw], str | None]:
            page = split(body)
            return page.value, page.next_link

        for records in iter_bodies(connection, root + table.name, find_next):
            rows = []
            for record in records:
                values = astuple(decode(record))
                valid_from = None if changed is None else values[changed]
                rows.append((*values, now, valid_from, str(memoryview(record), "utf-8")))
            database.executemany(sql, rows)
            pages += 1
            if pages % _PAGES_PER_TRANSACTION == 0:
                database.execute("COMMIT")
                database.execute("BEGIN")
    database.execute("COMMIT")
    database.close()


def run_row_by_row(connection: http.client.HTTPConnection, root: str, made: str, new: str) -> None:
    """One statement a record."""
    database = sqlite3.connect(new)
    for table in load_tables(made):
        for statement in table.statements:
            database.execute(statement)
        names = [name for name, _ in table.columns]
        sql = table.insert("INSERT OR REPLACE")

        def find_next(body: bytes) -> tuple[list[dict[str, Any]], str | None]:
            page = json.loads(body)
            return page["value"], page.get("@odata.nextLink")

        for records in iter_bodies(connection, root + table.name, find_next):
            for record in records:
                values = [record.get(name) for name in names]
                now = datetime.now(UTC).isoformat()
                text = json.dumps(record)
                database.execute(sql, [*values, now, record.get("modifiedon"), text])
            database.commit()
    database.close()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Insert the pages of a source into SQLite.")
    parser.add_argument("url", help="the root of the Web API")
    parser.add_argument("made", help="a database that the program made from it")
    parser.add_argument("new", help="the database to make")
    parser.add_argument("--row-by-row", action="store_true", help="one statement a record")
    options = parser.parse_args(argv)
    parts = urlsplit(options.url)
    connection = http.client.HTTPConnection(parts.netloc)
    run = run_row_by_row if options.row_by_row else run_floor
    run(connection, parts.path, options.made, options.new)
    connection.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
