"""Open the copy of an environment: a database, and the schema that its tables were made by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from dataverse_sync.errors import ConfigError
from dataverse_sync.model import EntityConfig
from dataverse_sync.store import tables as store_tables
from dataverse_sync.store.database import Target
from dataverse_sync.store.schema_lock import LockedSchema, load_schema
from dataverse_sync.store.tables import EntityTable


@dataclass(frozen=True)
class Copy:
    """A database, and the schema that its tables were made by."""

    target: Target
    locked: LockedSchema
    entities: Sequence[EntityConfig]

    @cached_property
    def tables(self) -> dict[str, EntityTable]:
        """The tables of the configured entities that have one; built when first asked for."""
        return {
            entity.name: store_tables.build_table(self.locked.lock[entity.name])
            for entity in self.entities
            if entity.name in self.locked.lock and entity.name in self.locked.tables
        }


@contextmanager
def open_copy(
    target: Target,
    schema_path: str | Path,
    entities: Sequence[EntityConfig],
    *,
    write: bool = False,
    must_exist: bool = True,
    must_fit: bool = True,
) -> Iterator[Copy]:
    """Check a database and load its schema; nothing is written, and no connection opened.

    Args:
        target: The database.
        schema_path: The schema lock's file.
        entities: All that is configured.
        write: Whether it will be written: the run lock is held for as long as the block lasts.
        must_exist: Whether a database that does not exist is an error.
        must_fit: Whether a table that does not have what is locked is an error.

    Raises:
        ConfigError: The database or the schema lock is not usable.
        LockedError: Another run holds the database.
    """
    target.check(to_write=write)
    if must_exist and not target.exists():
        raise ConfigError(
            f"{target.name}: there is no database yet",
            "Run a sync first, or name the database with --db or SQLITE_DB_PATH.",
        )
    with ExitStack() as stack:
        if write:
            stack.enter_context(target.hold(datetime.now(UTC)))
        yield Copy(target, load_schema(target, schema_path, must_fit=must_fit), entities)
