"""Hold the rights of this app against those that the copy was made with, in a run."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cached_property

from sqlalchemy import Connection

from dataverse_sync.model import Entity
from dataverse_sync.store import sync_state
from dataverse_sync.store.database import transaction
from dataverse_sync.store.environment import Environment, save_rights_unknown
from dataverse_sync.store.limits import Rights, dump_rights, parse_rights, record_limits
from dataverse_sync.sync.asking_rights import PendingRights
from dataverse_sync.sync.entity import EntitySync
from dataverse_sync.sync.rights import HIDES, AccessRights, Change, describe_loss
from dataverse_sync.sync.setup import Setup, utc_now

log = logging.getLogger(__name__)


class RightsInRun:
    """What the app may read in a run, and what follows for the entities that are copied."""

    def __init__(self, setup: Setup, connection: Connection, pending: PendingRights) -> None:
        self.pending = pending
        self._allow_deletes = setup.allow_deletes
        self._connection = connection
        self._begun: set[str] = set()  # entities of which an answer was taken

    @cached_property
    def access(self) -> AccessRights:
        return self.pending.wait()

    def compare(self, sync: EntitySync) -> Change:
        return self.access.compare(sync.table.entity, sync.state.rights)

    def admit(self, sync: EntitySync) -> None:
        """Raise an EntityError if the app may read less of an entity than what was copied.

        What a read begins with is kept then: one that is gone on with later has begun with it.
        """
        if (change := self.compare(sync)).lost and not self._allow_deletes:
            raise describe_loss(sync.name, change)
        begins = sync.state.rights is None or (sync.is_full_read and not sync.config.filtered)
        if begins and sync.name not in self._begun:
            self.save(sync)
        self._begun.add(sync.name)

    def list_changed(self, syncs: Iterable[EntitySync]) -> list[EntitySync]:
        """The entities of which the app may read something else than what was copied; says why."""
        changed = []
        for sync in syncs:
            change = self.compare(sync)
            if texts := (*change.gained, *change.lost):
                changed.append(sync)
                log.warning(
                    "%s: what the app may read of it has changed (%s); it is read in full once",
                    sync.name,
                    "; ".join(texts),
                )
        return changed

    def save_at_end(self, sync: EntitySync) -> None:
        """Keep the rights of an entity that completed, unless it is still to be read in full."""
        if sync.is_full_read or self.compare(sync) == Change():
            self.save(sync)

    def save(self, sync: EntitySync) -> None:
        now = self.access.tables.get(sync.name, Rights())
        text = dump_rights(parse_rights(sync.state.rights), now)
        if text != sync.state.rights:
            sync_state.set_state(self._connection, sync.name, rights=text)

    def keep_limits(
        self, entities: Iterable[Entity], configured: Iterable[str], recorded: Environment | None
    ) -> None:
        """Write down what is not seen of these tables, and say what is new of it."""
        unknown = ", ".join(self.access.unknown) or None
        is_known = recorded is not None and recorded.rights_unknown == unknown
        if unknown and not is_known:
            log.warning("%s", self.access.describe_unknown())
        found, settled = self.access.find_limits(entities), self.access.list_settled()
        with transaction(self._connection):
            save_rights_unknown(self._connection, unknown)
            new = record_limits(self._connection, found, settled, set(configured), utc_now())
        for limit in new:
            log.log(logging.WARNING if limit.kind in HIDES else logging.INFO, "%s", limit)
