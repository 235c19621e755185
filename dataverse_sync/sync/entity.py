"""Which reads an entity takes in a run, in which order, as prose.

Each function yields reads for the page loop and goes on when a read has ended; an error that
ends a read is raised where it was yielded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select

from dataverse_sync.dataverse import odata
from dataverse_sync.errors import RequestError
from dataverse_sync.model import Counts, EntityConfig, PageRequest, Reason
from dataverse_sync.store import deletions, sync_state
from dataverse_sync.store.deletions import ReturnedKeys
from dataverse_sync.store.references import References
from dataverse_sync.store.sync_state import Checkpoint, EntityState
from dataverse_sync.store.tables import EntityTable
from dataverse_sync.store.upsert import find_newest, is_empty
from dataverse_sync.sync.comparing import ComparisonRead, DeltaRead, TokenRead
from dataverse_sync.sync.plan import ReadPlan, plan_read
from dataverse_sync.sync.ranges import WHOLE, DisorderError, NewestRead, RangesRead
from dataverse_sync.sync.reading import REFUSED_QUERY, EntityReader, Query, Read, Reads
from dataverse_sync.sync.storing import ChainRead, FetchRead, Progress, Storing

log = logging.getLogger(__name__)

_REFUSED_LINK = (400, 404, 410)
_NOT_TRACKED = (400, 403, 404, 405, 501)


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
    ) -> None:
        self.config = config
        self.table = table
        self.state = state
        self.reader = EntityReader(table.entity, api_url)
        self.storing = Storing(connection, table, self.reader, log_id, now)
        self.plan = plan_read(state, table.entity.has("modifiedon"), full, api_url)
        self.full = full
        self.ranges = 1  # that a read of everything is cut into, at most
        self.note = ""  # what the summary says of it
        self._connection = connection
        self._allow_deletes = allow_deletes
        self._returned = ReturnedKeys(connection, table)  # by a full read

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def counts(self) -> Counts:
        return self.storing.counts

    @property
    def is_tracked(self) -> bool:
        """Whether change tracking is asked for what was deleted."""
        entity, deletions_ = self.table.entity, self.config.deletions
        return entity.change_tracking and entity.has("modifiedon") and deletions_ == "sync"

    # The whole of an unfiltered entity

    def sync_unfiltered(self) -> Reads:
        """Read its records, then find what is no longer there."""
        plan = self.plan
        log.info("%s: %s", self.name, plan.why)
        # A table that was emptied since is not fresh: what its bookmark passes must still be found.
        empty = plan.kind == "full" and is_empty(self._connection, self.table)
        fresh = plan.checkpoint.fresh if plan.checkpoint else empty
        resumed = plan.kind == "resume"
        if fresh and self.is_tracked and self.state.delta_link is None and not resumed:
            # Before the first page, so that nothing can change unseen between the two.
            yield from self._take_token()
        fresh = yield from self._read_records(plan, fresh)
        # What was read before a break may have changed or gone since: nothing shows it but
        # a comparison, also where the table was empty when the read began.
        if self.config.deletions == "ignore" or (fresh and not resumed):
            return
        if self.is_tracked:
            yield from self._ask_for_changes()
        elif plan.kind != "full":
            yield from self._compare_all()
        elif (missing := self._returned.find_missing()) is not None:
            yield from self._remove(missing, "not_returned")

    def _read_records(self, plan: ReadPlan, fresh: bool) -> Generator[Read, None, bool]:
        """Read the records of the plan; returns whether the table was empty when that began."""
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
        yield ChainRead(self.reader, self._progress(started), [changed])
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
            if error.status in _REFUSED_LINK and error.request in kept:
                log.warning(
                    "%s: the service refused the link that an earlier run kept; "
                    "read from the start",
                    self.name,
                )
            elif checkpoint.ranges and error.status in REFUSED_QUERY:
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
            if error.status not in REFUSED_QUERY:
                raise
            self._log_refused_ranges()
            return False
        except DisorderError:
            self._log_disorder()
            return False
        return True

    def _progress(self, checkpoint: Checkpoint) -> Progress:
        compares = checkpoint.since is None and not checkpoint.fresh and not self.is_tracked
        return Progress(self.storing, checkpoint, self._returned if compares else None)

    def _log_refused_ranges(self) -> None:
        self.ranges = 1
        log.info("%s: ranges are refused; read as one chain of pages", self.name)

    def _log_disorder(self) -> None:
        self.ranges = 1
        log.warning(
            "%s: the service does not keep to the order of createdon; read as one chain", self.name
        )

    # What is no longer there

    def _compare_all(self) -> Reads:
        """Compare all keys and versions: there is no change tracking to ask."""
        yield ComparisonRead(self.reader, self._connection, self.table)
        missing = deletions.missing_from_comparison(self.table)
        yield from self._fetch_and_remove(missing, "not_returned")

    def _ask_for_changes(self) -> Reads:
        """Ask what changed since the token; compare all keys if the token is not usable."""
        link = self.state.delta_link
        if link is not None and odata.origin(link) == odata.origin(self.reader.api_url):
            delta = DeltaRead(self.reader, self._connection, self.table, link)
            try:
                yield delta
            except RequestError as error:
                if error.status is None or error.status >= 500 or error.status in (401, 429):
                    raise
                log.warning(
                    "%s: the delta token cannot be used any more (%s); all keys are compared",
                    self.name,
                    error,
                )
            else:
                if delta.is_complete(self.state.records_count):
                    if delta.changes:
                        deleted = deletions.deleted_in_comparison(self.table)
                        yield from self._fetch_and_remove(deleted, "deleted")
                    self._save_token(delta.delta_link)
                    return
                log.warning(
                    "%s: the delta read did not answer with changes alone; all keys are compared",
                    self.name,
                )
        # The token first, then the keys: whether a service stamps it with the first page of
        # the tracked read or with the last, nothing can go unseen between the two.
        token = TokenRead(self.reader)
        try:
            yield token
        except RequestError as error:
            self._log_untracked(error)
        yield from self._compare_all()
        self._save_token(token.delta_link)

    def _take_token(self) -> Reads:
        token = TokenRead(self.reader)
        try:
            yield token
        except RequestError as error:
            self._log_untracked(error)
        else:
            self._save_token(token.delta_link)

    def _log_untracked(self, error: RequestError) -> None:
        """Note that change tracking cannot be used; re-raise errors that mean something else."""
        if error.status not in _NOT_TRACKED:
            raise error
        self.note = f"change tracking cannot be used ({error.message}); keys are compared"
        log.warning("%s: %s", self.name, self.note)

    def _save_token(self, delta_link: str | None) -> None:
        sync_state.set_state(self._connection, self.name, delta_link=delta_link)

    def _fetch_and_remove(self, missing: Select[Any], reason: Reason) -> Reads:
        """Fetch the records that the comparison shows to differ, remove those that are missing."""
        differing = deletions.find_differing(self._connection, self.table)
        if differing:
            log.info("%s: %d records differ and are fetched by id", self.name, len(differing))
            fetch = FetchRead(self.reader, self.storing, self._queries_for(differing))
            yield fetch
            absent = [key for key in differing if key not in fetch.returned]
            deletions.mark_ids_for_removal(self._connection, self.table, absent, reason)
        yield from self._remove(missing, reason)

    def _queries_for(self, ids: Sequence[str]) -> Sequence[Query]:
        if all(odata.is_guid(key) for key in ids):
            return self.reader.by_id(ids)
        log.info("%s: its keys are not GUIDs; it is read in full", self.name)
        return [Query()]

    def _remove(self, missing: Select[Any], reason: Reason) -> Reads:
        """Remove rows within the guard; what a read merely left out is asked for by id first."""
        deletions.mark_for_removal(self._connection, self.table, missing, reason)
        marked = deletions.list_marked(self._connection, self.table)
        if not marked:
            return
        deletions.check_guard(self._connection, self.table, self._allow_deletes)
        if reason == "not_returned":
            confirm = FetchRead(self.reader, self.storing, self.reader.by_id(marked))
            try:
                yield confirm
            except RequestError as error:
                if error.status not in REFUSED_QUERY:
                    raise
                log.info("%s: cannot be asked by id; the complete read stands", self.name)
            if confirm.returned:
                log.warning(
                    "%s: %d records missing from the read still exist and are kept",
                    self.name,
                    len(confirm.returned),
                )
                deletions.unmark(self._connection, self.table, confirm.returned)
        self.storing.remove_marked()

    # What a filtered entity is linked to

    def sync_linked(
        self, references: References, new: Sequence[str], known: Sequence[str]
    ) -> Reads:
        """Read the records of a filtered entity by id: new ones whole, known ones if they changed.

        The ids are in lower case; known ones that the service does not return are marked so.
        """
        wanted = {*new, *known}

        def fetch(queries: Sequence[Query]) -> FetchRead:
            return FetchRead(self.reader, self.storing, queries, wanted)

        deletions.start_comparison(self._connection, self.name)
        if self.full or self.table.entity.version_column is None:
            read = fetch(self.reader.by_id([*new, *known]))
            yield read
            returned = _lower(read.returned)
        else:
            thin = self.reader.by_id(known, self.reader.keys_and_versions)
            read = fetch([*self.reader.by_id(new), *thin])
            yield read
            bookmark = self.state.bookmark or ""
            differing = deletions.find_differing(self._connection, self.table, bookmark)
            again = fetch(self.reader.by_id(differing))
            yield again
            # What differs may be gone by now.
            returned = _lower(read.returned) - _lower(differing) | _lower(again.returned)
        references.mark_gone(self.name, (key for key in known if key not in returned))

    def save_bookmark(self) -> None:
        """Keep the bookmark of a filtered entity, whose reads have ended."""
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
