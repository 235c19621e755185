"""Set-up shared by many tests: a database to write to, an environment to sync from.

The environment is the emulator, over real HTTP; the database is real SQLite.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dataverse_sync import Config, EntityConfig, SyncReport, run_sync
from dataverse_sync.emulator import Column, Emulator, LoggedRequest, Table
from dataverse_sync.store.database import open_target, prepare_own_tables

OLD = "2024-01-01T00:00:00Z"  # long before any bookmark is held back

CANDIDATES = Table(
    "vin_candidate",
    "vin_candidates",
    "vin_candidateid",
    [
        Column("vin_name", "String"),
        Column("vin_number", "BigInt"),
        Column("vin_dose", "Decimal"),
        Column("vin_developerid", "Lookup", targets=("account",)),
    ],
)
PRODUCTS = Table(
    "vin_product",
    "vin_products",
    "vin_productid",
    [Column("vin_name", "String")],
    change_tracking=True,
)
LINKS = Table(
    "vin_vin_candidate_account",
    "vin_vin_candidate_accountset",
    "vin_vin_candidate_accountid",
    [Column("vin_candidateid", "Uniqueidentifier"), Column("accountid", "Uniqueidentifier")],
    intersect=True,
    modifiedon=False,
    createdon=False,
)
ACCOUNTS = Table(
    "account",
    "accounts",
    "accountid",
    [
        Column("name", "String"),
        Column("primarycontactid", "Lookup", targets=("contact",)),
        Column("parentaccountid", "Lookup", targets=("account",)),
    ],
)
CONTACTS = Table(
    "contact",
    "contacts",
    "contactid",
    [
        Column("fullname", "String"),
        Column("parentcustomerid", "Customer", targets=("account", "contact")),
    ],
)
TABLES = [CANDIDATES, PRODUCTS, LINKS, ACCOUNTS, CONTACTS]
ENTITIES = [
    EntityConfig("vin_candidates"),
    EntityConfig("vin_products"),
    EntityConfig("vin_vin_candidate_accountset"),
    EntityConfig("accounts", filtered=True),
    EntityConfig("contacts", filtered=True),
]
CANDIDATES_ONLY = [EntityConfig("vin_candidates")]
LINK_SET = LINKS.entity_set
_ANNOTATION = re.compile(rb'"\w+@Microsoft\.Dynamics\.CRM\.lookuplogicalname":"\w+",')


class World:
    """An emulated environment and its SQLite copy."""

    def __init__(self, emulator: Emulator, folder: Path, tables: Sequence[Table]) -> None:
        self.emulator = emulator
        self.folder = folder
        self.db_path = folder / "dataverse.db"
        self.schema_path = folder / "schema" / "schema.json"
        self.page_size = 5
        self._keys = {table.entity_set: table.key for table in tables}

    def config(self, **changes: Any) -> Config:
        settings: dict[str, Any] = {
            "api_url": self.emulator.api_url,
            "client_id": self.emulator.client_id,
            "client_secret": self.emulator.client_secret,
            "sqlite_db_path": self.db_path,
            "schema_path": self.schema_path,
            "page_size": self.page_size,
            "workers": 4,
        }
        return Config(**{**settings, **changes})

    def settings(self) -> dict[str, str]:
        """The environment variables that lead the program to the emulator."""
        return dict(line.split("=", 1) for line in self.emulator.env_lines())

    def write_env_file(self) -> None:
        text = "\n".join(self.emulator.env_lines())
        (self.folder / ".env").write_text(text, encoding="utf-8")

    def write_entity_list(self, entities: Sequence[EntityConfig] = ENTITIES) -> None:
        entries = [{"name": one.name, "filtered": one.filtered} for one in entities]
        text = json.dumps({"entities": entries})
        (self.folder / "entities_config.json").write_text(text, encoding="utf-8")

    def sync(self, entities: Sequence[EntityConfig] = ENTITIES, **options: Any) -> SyncReport:
        """Clear the emulator's log, then run a sync, which asks for no labels unless told to."""
        self.emulator.log.clear()
        return run_sync(self.config(), entities, **{"labels": False, **options})

    def wait(self, minutes: float = 10) -> None:
        """Advance the service's clock past the overlap that a bookmark keeps."""
        self.emulator.clock.advance(minutes * 60)

    def query(self, sql: str, *values: object) -> list[Any]:
        with closing(sqlite3.connect(self.db_path)) as connection:
            return connection.execute(sql, values).fetchall()

    def execute(self, sql: str, *values: object) -> None:
        """Change the SQLite copy directly."""
        with closing(sqlite3.connect(self.db_path)) as connection, connection:
            connection.execute(sql, values)

    def copy(self, name: str) -> dict[str, bytes]:
        """Return the rows of the copy: key → ``json_response``."""
        rows = self.query(f'SELECT "{self._keys[name]}", json_response FROM "{name}"')
        return {key: text.encode() for key, text in rows}

    def source(self, name: str) -> dict[str, bytes]:
        """Return the records of the service: key → the bytes that it sends."""
        return {key: self.emulator.record_bytes(name, key) for key in self.emulator.rows(name)}

    def rows(self) -> dict[str, list[Any]]:
        """Return every row of every synced table, ``sync_time`` included."""
        return {name: self.query(f'SELECT * FROM "{name}" ORDER BY 1') for name in self._keys}

    def removed(self, name: str) -> dict[str, tuple[str, bytes]]:
        """Return a table's rows in ``_sync_deleted``: key → reason and record."""
        rows = self.query(
            "SELECT record_id, reason, json_response FROM _sync_deleted WHERE entity_name = ?", name
        )
        return {key: (reason, text.encode()) for key, reason, text in rows}

    def state(self, name: str, column: str) -> Any:
        return self.query(f"SELECT {column} FROM _sync_state WHERE entity_name = ?", name)[0][0]

    def asked(self, name: str | None = None, kind: str = "data") -> list[LoggedRequest]:
        """Return the requests of the last run, of one kind, for one entity set or all."""
        return [
            request
            for request in self.emulator.log
            if request.kind == kind and name in (None, request.entity_set)
        ]

    def is_mirror(self, *names: str) -> bool:
        """Whether these tables equal the service byte for byte, but for annotations of lookups."""
        return all(
            {key: _ANNOTATION.sub(b"", text) for key, text in self.copy(name).items()}
            == self.source(name)
            for name in names
        )


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Any]:
    """Start an emulator with these tables and settings; stop it when the test ends."""
    with ExitStack() as stack:

        def make(tables: Sequence[Table] = TABLES, **levers: Any) -> World:
            emulator = stack.enter_context(Emulator(tables))
            for name, value in levers.items():
                setattr(emulator.control, name, value)
            return World(emulator, tmp_path, tables)

        yield make


@pytest.fixture
def world(make_world: Any) -> World:
    """12 candidates, 8 products, 3 accounts (2 of them linked to), 2 contacts (1 linked to)."""
    world: World = make_world()
    fill(world.emulator)
    return world


def fill(emulator: Emulator, candidates: int = 12, products: int = 8) -> None:
    contacts = insert(emulator, "contacts", [{"fullname": "Nancy"}, {"fullname": "Nobody's"}])
    accounts = insert(
        emulator,
        "accounts",
        [
            {"name": "Litware", "primarycontactid": contacts[0]},
            {"name": "Fabrikam"},
            {"name": "Nobody's"},
        ],
    )
    made = insert(
        emulator,
        "vin_candidates",
        [
            {"vin_name": f"Candidate {n}", "vin_number": n, "vin_developerid": accounts[0]}
            for n in range(candidates)
        ],
    )
    insert(emulator, "vin_products", [{"vin_name": f"Product {n}"} for n in range(products)])
    emulator.insert(
        "vin_vin_candidate_accountset", {"vin_candidateid": made[0], "accountid": accounts[1]}
    )


def insert(emulator: Emulator, name: str, records: Sequence[Mapping[str, object]]) -> list[str]:
    """Insert records whose dates are years old."""
    moments = {"createdon": OLD, "modifiedon": OLD}
    return emulator.insert_many(name, [{**moments, **record} for record in records])


def raw(text: str | bytes) -> msgspec.Raw:
    return msgspec.Raw(text.encode() if isinstance(text, str) else text)


@pytest.fixture
def db_path(tmp_path: Path) -> Path:
    return tmp_path / "dataverse.db"


@pytest.fixture
def connection(db_path: Path) -> Iterator[Any]:
    """A writing connection to a database with the program's own tables; rolled back at the end."""
    with open_target(db_path).open_writer() as opened:
        with opened.begin():
            prepare_own_tables(opened)
        yield opened


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Restore the logging configuration, which the command line changes for the whole process."""
    root, urllib3 = logging.getLogger(), logging.getLogger("urllib3")
    handlers, levels = root.handlers[:], (root.level, urllib3.level)
    yield
    logging.captureWarnings(False)
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    for handler in handlers:
        if handler not in root.handlers:
            root.addHandler(handler)
    root.setLevel(levels[0])
    urllib3.setLevel(levels[1])


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove this machine's settings, for tests that run the command line in this process."""
    for name in list(os.environ):
        if name.startswith("DATAVERSE_") or name == "SQLITE_DB_PATH":
            monkeypatch.delenv(name)
