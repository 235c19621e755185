"""What a run is to do: handed to each of its phases."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from dataverse_sync.config import Config, select_entities
from dataverse_sync.model import EntityConfig, Event
from dataverse_sync.redaction import Redactor


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a run is to do."""

    config: Config
    entities: Sequence[EntityConfig]  # all that is configured: what is not selected links too
    only: Sequence[str]  # the names that are selected; all if empty
    full: bool
    allow_deletes: bool
    new_environment: bool
    labels: bool
    emit: Callable[[Event], None]
    redactor: Redactor
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started_at: datetime = field(default_factory=utc_now)

    @property
    def selected(self) -> Sequence[EntityConfig]:
        return select_entities(self.entities, self.only)

    @property
    def is_partial(self) -> bool:
        return len(self.selected) < len(self.entities)

    @property
    def filtered(self) -> set[str]:
        return {entity.name for entity in self.entities if entity.filtered}
