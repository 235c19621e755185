"""What all answers draw on: the data, the clock, the tokens that were sent, the settings."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from ..data.clock import Clock
from ..data.store import Store, StoredTable
from ..data.tables import Table
from .paging import Tokens


@dataclass(slots=True)
class DeltaToken:
    """A delta token that was sent: the version it names, and what it depends on."""

    version: int
    schema_version: int
    sent_at: float


@dataclass(slots=True)
class Environment:
    """One emulated environment."""

    store: Store
    clock: Clock
    max_page_size: int = 5000
    metadata_readable: bool = True
    full_read_on_expiry: bool = False
    delta_token_life_s: float = 7 * 86400.0
    user_id: str = "4026be43-6b69-e111-8f65-78e7d1620f5e"
    business_unit_id: str = "38e0dbe4-131b-e111-ba7e-78e7d1620f5e"
    organization_id: str = "883278f5-07af-45eb-a0bc-3fea67caa544"
    cursors: Tokens = field(default_factory=Tokens)
    delta_tokens: dict[tuple[str, str | None, str], DeltaToken] = field(default_factory=dict)
    tracking_denied: set[str] = field(default_factory=set)
    totals: dict[str, tuple[float, int]] = field(default_factory=dict)

    def find_set(self, entity_set: str) -> StoredTable | None:
        return self.store.tables.get(entity_set)

    def find_table(self, logical_name: str) -> StoredTable | None:
        for table in list(self.store.tables.values()):
            if table.spec.logical_name == logical_name:
                return table
        return None

    @property
    def specs(self) -> list[Table]:
        return [table.spec for table in list(self.store.tables.values())]


def privilege_id(logical_name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"prvRead{logical_name}"))
