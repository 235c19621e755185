"""How each entity of a run began and ended: in the database, and as the run's report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from dataverse_sync.errors import EntityError
from dataverse_sync.model import (
    Counts,
    EntityFinished,
    EntityReport,
    EntityStarted,
    Event,
    State,
)
from dataverse_sync.moments import to_text
from dataverse_sync.redaction import Redactor
from dataverse_sync.store import sync_state
from dataverse_sync.store.tables import EntityTable
from dataverse_sync.store.upsert import count_rows

NOTHING = Counts()


@dataclass(frozen=True, slots=True)
class Begun:
    """An entity that this run has begun with."""

    log_id: int  # its row in _sync_log
    at: float  # on the clock that only goes forward


class RunLog:
    """Writes ``_sync_log`` and the state of each entity, in the transaction of what they tell.

    Args:
        connection: The one that writes.
        run_id: The run.
        redactor: Takes secrets out of errors.
        now: The wall clock, UTC.
        emit: Told of each entity that begins.
    """

    def __init__(
        self,
        connection: Connection,
        run_id: str,
        redactor: Redactor,
        now: Callable[[], datetime],
        emit: Callable[[Event], None],
    ) -> None:
        self.begun: dict[str, Begun] = {}
        self.reports: dict[str, EntityReport] = {}  # of the entities that have ended
        self._connection = connection
        self._run_id = run_id
        self._redactor = redactor
        self._now = now
        self._emit = emit

    def start(self, names: Sequence[str]) -> None:
        log_ids = sync_state.start_entities(self._connection, self._run_id, names, self._now())
        for name in names:
            self.begun[name] = Begun(log_ids[name], time.monotonic())
            self._emit(EntityStarted(name))

    def finish(
        self,
        name: str,
        error: EntityError | None,
        counts: Counts = NOTHING,
        requests: int = 0,
        table: EntityTable | None = None,
        state: State = "completed",
    ) -> EntityFinished:
        """Write how an entity ended.

        Args:
            name: The entity.
            error: Why it failed; None if it did not.
            counts: What was done to its rows.
            requests: HTTP requests that it took.
            table: Its table, if it was worked on.
            state: What it is if it did not fail.
        """
        now, begun = to_text(self._now()), self.begun[name]
        text = None if error is None else self._redactor.redact(str(error))
        state = "failed" if error else state
        changes: dict[str, object] = {"state": state, "error": text}
        if table is not None:
            changes["records_count"] = count_rows(self._connection, table)
        if state == "completed":
            changes["last_sync_time"] = now
        sync_state.set_state(self._connection, name, **changes)
        sync_state.update_log(
            self._connection,
            begun.log_id,
            counts,
            requests,
            status="failed" if error else "completed",
            finished_at=now,
            error=text,
        )
        seconds = time.monotonic() - begun.at
        self.reports[name] = EntityReport(name, state, counts, requests, seconds, text)
        return EntityFinished(self.reports[name])
