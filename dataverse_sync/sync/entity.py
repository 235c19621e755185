"""Which reads an entity takes in a run, in which order, as prose.

Each function yields reads for the page loop and goes on when a read has ended; an error that
ends a read is raised where it was yielded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from sqlalchemy import Connection

from dataverse_sync.config import MAX_PAGE_SIZE
from dataverse_sync.dataverse import odata
from dataverse_sync.errors import RequestError
from dataverse_sync.model import Counts, EntityConfig, PageRequest
from dataverse_sync.moments import to_text
from dataverse_sync.store import deletions, sync_state
from dataverse_sync.store.references import References
from dataverse_sync.store.sync_state import Checkpoint, EntityState
from dataverse_sync.store.tables import EntityTable
from dataverse_sync.store.upsert import find_newest, has_future, is_empty
from dataverse_sync.sync.plan import ReadPlan, plan_read
from dataverse_sync.sync.ranges import WHOLE, DisorderError, NewestRead, RangesRead
from dataverse_sync.sync.reading import EntityReader, Query, Read, Reads
from dataverse_sync.sync.removal import Removal
from dataverse_sync.sync.storing import ChainRead, FetchRead, Progress, Storing
from dataverse_sync.sync.ways import REFUSED_QUERY, TOO_HEAVY, parse_way

log = logging.getLogger(__name__)

_REFUSED_LINK = (*REFUSED_QUERY, 410)


class EntitySync:
    """One entity in one run: ``state`` is what earlier runs left of it."""

    def __init__(
        self,
        config: EntityConfig,
        table: EntityTable,
        state: EntityState,
        connection: Connection,
        api_url: str,
        log_id: int,
        now: Callable[[], datetime],
        *,
        full: bool = False,
        allow_deletes: bool = False,
        compares: bool = False,
        page_size: int = MAX_PAGE_SIZE,
        server_date: datetime | None = None,
    ) -> None:
        self.config = config
        self.table = table
        self.state = state
        way = parse_way(state.asked_how, now())
        self.reader = EntityReader(table.entity, api_url, way, page_size)
        self.storing = Storing(connection, table, self.reader, log_id, now)
        self.full = full
        self.ranges = 1  # that a read of everything is cut into, at most
        self._connection = connection
        self._began = to_text(now())  # rows written since are of this run
        self._latest = max(now(), server_date or now())  # that any clock has reached
        self.removal = Removal(
            config,
            state,
            connection,
            self.reader,
            self.storing,
            allow_deletes=allow_deletes,
            compares=compares,
            latest=self._latest,
            began=self._began,
        )
        self.plan = self._plan()
        self._linked_went_back = False

    def _plan(self) -> ReadPlan:
        return plan_read(
            self.state,
            self.table.entity,
            self.full,
            self.reader.api_url,
            self.reader.way,
            has_future=partial(has_future, self._connection, self.table, self._latest),
        )

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def counts(self) -> Counts:
        return self.storing.counts

    @property
    def is_full_read(self) -> bool:
        """Whether all of its records are read, from the beginning, in this run."""
        return self.full if self.config.filtered else self.plan.kind == "full"

    @property
    def note(self) -> str:
        """What the summary says of it."""
        return self.removal.note

    @property
    def has_gone_back(self) -> bool:
        """Whether the service has shown older versions than those of the rows."""
        return self.removal.went_back or self._linked_went_back

    def go_on_from(self, before: EntitySync) -> None:
        """Count on from an earlier pass of the same run."""
        self.storing.counts = before.counts
        self.reader.requests = before.reader.requests
        self.reader.first_request_at = before.reader.first_request_at

    # The whole of an unfiltered entity

    def sync_unfiltered(self) -> Reads:
        """Read its records, then find what is no longer there."""
        plan = self.plan
        log.info("%s: %s", self.name, plan.why)
        # A table that was emptied since is not fresh: what its bookmark passes must still be found.
        empty = plan.kind == "full" and is_empty(self._connection, self.table)
        fresh = plan.checkpoint.fresh if plan.checkpoint else empty
        resumed = plan.kind == "resume"
        if fresh and self.removal.is_tracked and self.state.delta_link is None and not resumed:
            # Before the first page, so that nothing can change unseen between the two.
            yield from self.removal.take_token()
        fresh = yield from self._read_records(plan, fresh)
        if fresh and not resumed:
            self.removal.save_compared()
        else:
            resumed_full = resumed and plan.since is None
            yield from self.removal.find(self.plan.kind, resumed_full=resumed_full)
        if self.plan.kind == "compare":
            self.save_bookmark()

    def _read_records(self, plan: ReadPlan, fresh: bool) -> Generator[Read, None, bool]:
        """Read the records of the plan; returns whether the table was empty when that began."""
        if plan.kind == "compare":
            return False
        if plan.checkpoint is not None:
            resumed = yield from self._resume(plan.checkpoint)
            if resumed:
                return fresh
            fresh = False
        started = Checkpoint(
            since=plan.since, seen_max=plan.since, fresh=fresh, full_asked=self.full
        )
        if plan.since is None and self.ranges > 1 and self.table.entity.has("createdon"):
            done = yield from self._read_in_ranges(started)
            if done:
                return fresh
        changed = Query(filter=odata.changed_since(plan.since))
        read = ChainRead(self.reader, self._progress(started), [changed])
        try:
            yield read if plan.since is None else self.removal.ask_beside(read)
        except RequestError:
            if plan.since is None or self.reader.way.since:
                raise
            self.state = replace(self.state, checkpoint=None)  # its read cannot be gone on with
            self.plan = self._plan()
            log.warning(
                "%s: the service refuses a filter by modifiedon; keys and versions are compared "
                "for a week, then it is tried again",
                self.name,
            )
            return (yield from self._read_records(self.plan, False))
        return fresh

    def _resume(self, checkpoint: Checkpoint) -> Generator[Read, None, bool]:
        """Go on with a read where it stopped; returns False if it must begin again."""
        progress = self._progress(checkpoint)
        kept = _build_kept_requests(self.name, checkpoint)
        read: Read
        if checkpoint.ranges:
            now = self.storing.now()
            read = RangesRead(self.reader, progress, checkpoint.ranges, self.ranges, now)
        else:
            read = ChainRead(self.reader, progress, kept=kept[0])
        try:
            yield read
        except RequestError as error:
            asked = error.request and error.request.url
            is_kept = any(request.url == asked for request in kept)
            if error.status in _REFUSED_LINK and is_kept and not error.is_outage:
                log.warning(
                    "%s: the service refused the link that an earlier run kept; "
                    "read from the start",
                    self.name,
                )
            elif checkpoint.ranges and error.status in REFUSED_QUERY and not error.is_outage:
                self._log_refused_ranges()
            else:
                raise
            return False
        except DisorderError:
            self._log_disorder()
            return False
        return True

    def _read_in_ranges(self, started: Checkpoint) -> Generator[Read, None, bool]:
        """Read ranges of ``createdon`` at once; returns False if that cannot be done."""
        newest = NewestRead(self.reader)
        try:
            yield newest
            if newest.moment is None:
                return False
            log.info("%s: read in ranges of createdon, %d at most", self.name, self.ranges)
            progress = self._progress(started)
            yield RangesRead(self.reader, progress, WHOLE, self.ranges, newest.moment)
        except RequestError as error:
            if error.is_outage or error.status not in (*REFUSED_QUERY, *TOO_HEAVY):
                raise
            self._log_refused_ranges()
            return False
        except DisorderError:
            self._log_disorder()
            return False
        return True

    def _progress(self, checkpoint: Checkpoint) -> Progress:
        compares = checkpoint.since is None and not checkpoint.fresh
        return Progress(self.storing, checkpoint, self.removal.returned if compares else None)

    def _log_refused_ranges(self) -> None:
        self.ranges = 1
        log.info("%s: ranges are refused; read as one chain of pages", self.name)

    def _log_disorder(self) -> None:
        self.ranges = 1
        log.warning(
            "%s: the service does not keep to the order of createdon; read as one chain", self.name
        )

    # What a filtered entity is linked to

    def sync_linked(
        self, references: References, new: Sequence[str], known: Sequence[str]
    ) -> Reads:
        """Read the records of a filtered entity by id: new ones whole, known ones if they changed.

        The ids are in lower case; known ones that the service does not return are marked so.
        """
        wanted = {*new, *known}

        def fetch(queries: Sequence[Query]) -> FetchRead:
            return FetchRead(self.reader, self.storing, queries, wanted, full=self.full)

        deletions.start_comparison(self._connection, self.name)
        # If its bookmark was forgotten, the rows may be of another environment that has the same
        # versions; a run that was killed before it wrote one is another matter.
        has_none = self.state.bookmark is None and self.table.entity.has("modifiedon")
        is_forgotten = has_none and self.state.has_completed
        if self.full or is_forgotten or self.table.entity.version_column is None:
            read = fetch(self.reader.by_id([*new, *known]))
            yield read
            returned = _lower(read.returned)
        else:
            thin = self.reader.by_id(known, self.reader.keys_and_versions)
            read = fetch([*self.reader.by_id(new), *thin])
            yield read
            bookmark = self.state.bookmark or ""
            now = to_text(self._latest)
            differing = deletions.find_differing(self._connection, self.table, bookmark, now)
            if deletions.has_gone_back(self._connection, self.table, self._began):
                self._linked_went_back = True
            again = fetch(self.reader.by_id(differing))
            yield again
            # What differs may be gone by now.
            returned = _lower(read.returned) - _lower(differing) | _lower(again.returned)
        references.mark_gone(self.name, (key for key in known if key not in returned))

    def save_bookmark(self) -> None:
        """Keep the bookmark of an entity that is not read by it, once its reads have ended."""
        # From the table: a run that was killed may have stored the newest of them.
        newest = sync_state.newest_of(
            (self.state.bookmark, find_newest(self._connection, self.table))
        )
        if self.reader.first_request_at is not None:
            bookmark = sync_state.next_bookmark(newest, self.reader.first_request_at)
            sync_state.set_state(self._connection, self.name, last_timestamp=bookmark)


def _lower(keys: Iterable[str]) -> set[str]:
    return {key.lower() for key in keys}


def _build_kept_requests(name: str, checkpoint: Checkpoint) -> Sequence[PageRequest]:
    """The requests that the links of a checkpoint make."""
    if not checkpoint.ranges:
        return [PageRequest(name, checkpoint.next_link, checkpoint.page)]
    begun = [part for part in checkpoint.ranges if part.next_link]
    return [PageRequest(name, part.next_link or "", part.page) for part in begun]
