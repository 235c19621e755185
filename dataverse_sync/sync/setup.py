"""What a run is to do, checked as far as that goes without the network."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dataverse_sync.config import Config, check_entities, select_entities
from dataverse_sync.errors import ConfigError
from dataverse_sync.model import EntityConfig, Event
from dataverse_sync.redaction import Redactor
from dataverse_sync.store.schema_lock import Locked


@dataclass(frozen=True, slots=True)
class Setup:
    """What a run is to do."""

    config: Config
    entities: Sequence[EntityConfig]  # all that is configured: what is not selected links too
    selected: Sequence[EntityConfig]
    full: bool
    allow_deletes: bool
    emit: Callable[[Event], None]
    redactor: Redactor
    run_id: str
    started_at: datetime

    @property
    def is_partial(self) -> bool:
        """Whether ``--entity`` leaves some of the entities out."""
        return len(self.selected) < len(self.entities)

    @property
    def filtered(self) -> set[str]:
        return {entity.name for entity in self.entities if entity.filtered}


def build_setup(
    config: Config,
    entities: Sequence[EntityConfig],
    only: Sequence[str],
    *,
    full: bool,
    allow_deletes: bool,
    emit: Callable[[Event], None],
    redactor: Redactor,
) -> Setup:
    """Check the entities, and choose those that are named.

    Raises:
        ConfigError: An entity is not usable, or a name is not configured.
    """
    check_entities(entities)
    return Setup(
        config=config,
        entities=entities,
        selected=select_entities(entities, only),
        full=full,
        allow_deletes=allow_deletes,
        emit=emit,
        redactor=redactor,
        run_id=uuid.uuid4().hex,
        started_at=utc_now(),
    )


def check_names(setup: Setup, locked: Locked) -> None:
    """See that no table of another program has the name of a selected entity.

    Raises:
        ConfigError: One has.
    """
    others = {name.lower() for name in locked.tables if name not in locked.lock}
    if taken := [entity.name for entity in setup.selected if entity.name.lower() in others]:
        raise ConfigError(
            f"{setup.config.db_path}: holds tables of other programs under the names "
            f"{', '.join(taken)}",
            "Name another database with --db.",
        )


def utc_now() -> datetime:
    return datetime.now(UTC)
