"""Find and remove what is no longer there: by changes, by keys and versions, by a complete read.

Nothing is removed on the word of an incomplete read, and nothing that a read merely left out: that
is asked for by id first, where its keys are GUIDs.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select

from dataverse_sync.dataverse import odata
from dataverse_sync.dataverse.error_codes import is_state
from dataverse_sync.errors import RequestError
from dataverse_sync.model import EntityConfig, Reason
from dataverse_sync.moments import to_text
from dataverse_sync.store import deletions, sync_state
from dataverse_sync.store.deletions import ReturnedKeys
from dataverse_sync.store.sync_state import Checkpoint, EntityState
from dataverse_sync.sync.comparing import ComparisonRead, DeltaRead, TokenRead, WholeComparison
from dataverse_sync.sync.plan import ReadKind
from dataverse_sync.sync.reading import EntityReader, Query, Read, Reads, SideBySide
from dataverse_sync.sync.storing import ChainRead, FetchRead, Progress, Storing

log = logging.getLogger(__name__)


def _needs_no_tracking(error: RequestError) -> bool:
    """Whether another kind of request may be answered where a tracked one failed so."""
    return not error.is_outage and error.status not in (401, 429) and not is_state(error.code)


class Removal:
    """What is no longer there of one unfiltered entity, in one run."""

    def __init__(
        self,
        config: EntityConfig,
        state: EntityState,
        connection: Connection,
        reader: EntityReader,
        storing: Storing,
        *,
        allow_deletes: bool,
        compares: bool,
        latest: datetime,
        began: str,
    ) -> None:
        self.state = state
        self.note = ""  # what the summary says of it
        self.went_back = False  # versions are older than those of the rows
        self.returned = ReturnedKeys(connection, storing.table)  # by a full read
        self._config = config
        self._connection = connection
        self._reader = reader
        self._storing = storing
        self._table = storing.table
        self._allow_deletes = allow_deletes
        self.compares = compares  # all keys, though change tracking tells what changed
        self._latest = latest  # the last moment that any clock has reached
        self._unsettled: str | None = None  # rows modified later count as changed
        self._began = began  # rows written since are of this run
        self._asked: tuple[SideBySide, DeltaRead] | None = None  # changes, beside another read

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def is_tracked(self) -> bool:
        """Whether change tracking is asked for what was deleted."""
        entity, removes = self._table.entity, self._config.deletions == "sync"
        return entity.change_tracking and entity.has("modifiedon") and removes

    def _build_delta(self) -> DeltaRead | None:
        """A read of what changed since the token, if that can be used."""
        link = self.state.delta_link
        if not self.is_tracked or link is None:
            return None
        if odata.origin(link) != odata.origin(self._reader.api_url):
            return None
        return DeltaRead(self._reader, self._connection, self._table, link)

    def ask_beside(self, read: Read) -> Read:
        """The read of what was modified, and at its side, where that can be asked, what changed.

        Whichever is answered first: what changes after the delta read is told by the next one,
        and a row that is newer than what the delta says of it is asked for by id.
        """
        if (delta := self._build_delta()) is None:
            return read
        both = SideBySide(read, delta)
        self._asked = both, delta
        return both

    def find(self, kind: ReadKind, *, resumed_full: bool) -> Reads:
        """Find what is no longer there, and what no read of records has shown to have changed.

        What was read before a break may have changed or gone since: nothing shows it but a
        comparison, also where the table was empty when the read began.
        """
        if kind == "compare":
            # No filter brings again what changed twice within one second.
            self._unsettled = self.state.bookmark or ""
        if self._config.deletions == "ignore":
            if kind == "compare":
                yield from self._compare_all()
            return
        is_compared = False
        if self.is_tracked:
            if kind == "compare":  # what was asked beside a read that failed was not waited for
                self._asked = None
            is_compared = yield from self._ask_for_changes()
        if kind == "full" and not resumed_full:
            yield from self._remove_missing()
        elif not is_compared and (not self.is_tracked or self.compares or resumed_full):
            yield from self._compare_all()

    def _remove_missing(self) -> Reads:
        """Remove what a complete read did not return."""
        if (missing := self.returned.find_missing()) is not None:
            yield from self._remove(missing, "not_returned")
        self.save_compared()

    def _compare_all(self) -> Reads:
        """Compare all keys and versions; read all records if the service refuses that."""
        whole = ComparisonRead if self._unsettled is not None else WholeComparison
        comparison = whole(self._reader, self._connection, self._table)
        if self._reader.way.versions:
            try:
                yield comparison
            except RequestError:
                if self._reader.way.versions:
                    raise
                log.warning(
                    "%s: the service refuses the version column; the table is read whole "
                    "for a week, then it is tried again",
                    self.name,
                )
        if self._reader.way.versions:
            if not comparison.is_same:
                missing = deletions.missing_from_comparison(self._table)
                yield from self._fetch_and_remove(missing, "not_returned")
            self.save_compared()
        else:
            self.returned = ReturnedKeys(self._connection, self._table)
            progress = Progress(self._storing, Checkpoint(), self.returned)
            yield ChainRead(self._reader, progress, [Query()])
            yield from self._remove_missing()

    def save_compared(self) -> None:
        """Keep when a complete read was last held against the rows."""
        now = to_text(self._storing.now())
        sync_state.set_state(self._connection, self.name, compared_at=now)

    def _ask_for_changes(self) -> Generator[Read, None, bool]:
        """Ask what changed since the token; compare all keys if the token is not usable.

        Returns whether all keys were compared.
        """
        both, delta = self._asked or (None, self._build_delta())
        if delta is not None:
            try:
                if both is None:
                    yield delta
                elif both.failure is not None:
                    raise both.failure
            except RequestError as error:
                if not _needs_no_tracking(error):
                    raise
                if error.status is None or error.status >= 500:  # the token may be good
                    self._log_untracked(error)
                    yield from self._compare_all()
                    return True
                log.warning(
                    "%s: the delta token cannot be used any more (%s); all keys are compared",
                    self.name,
                    error,
                )
            else:
                if delta.is_complete(self.state.records_count):
                    if delta.changes:
                        deleted = deletions.deleted_in_comparison(self._table)
                        yield from self._fetch_and_remove(deleted, "deleted")
                    self._save_token(delta.delta_link)
                    self.went_back |= odata.is_older_token(delta.delta_link, delta.link)
                    return False
                log.warning(
                    "%s: the delta read did not answer with changes alone; all keys are compared",
                    self.name,
                )
        # The token first, then the keys: whether a service stamps it with the first page of
        # the tracked read or with the last, nothing can go unseen between the two.
        token = TokenRead(self._reader)
        try:
            yield token
        except RequestError as error:
            self._log_untracked(error)
        yield from self._compare_all()
        self._save_token(token.delta_link)
        return True

    def take_token(self) -> Reads:
        token = TokenRead(self._reader)
        try:
            yield token
        except RequestError as error:
            self._log_untracked(error)
        else:
            self._save_token(token.delta_link)

    def _log_untracked(self, error: RequestError) -> None:
        """Note that change tracking cannot be used; re-raise errors that mean something else."""
        if not _needs_no_tracking(error):
            raise error
        self.note = f"change tracking cannot be used ({error.message}); keys are compared"
        log.warning("%s: %s", self.name, self.note)

    def _save_token(self, delta_link: str | None) -> None:
        sync_state.set_state(self._connection, self.name, delta_link=delta_link)

    def _fetch_and_remove(self, missing: Select[Any], reason: Reason) -> Reads:
        """Fetch the records that the comparison shows to differ, remove those that are missing."""
        now = to_text(self._latest)
        differing = deletions.find_differing(
            self._connection,
            self._table,
            self._unsettled,
            now,
            began=self._began if reason == "deleted" else None,
        )
        if self._table.entity.kind == "standard":  # others may answer with what was true before
            self.went_back |= deletions.has_gone_back(self._connection, self._table, self._began)
        if differing:
            log.info("%s: %d records differ and are fetched by id", self.name, len(differing))
            fetch = FetchRead(self._reader, self._storing, self._queries_for(differing))
            yield fetch
            self.returned.add_more(fetch.returned)
            absent = [key for key in differing if key not in fetch.returned]
            deletions.mark_ids_for_removal(self._connection, self._table, absent, reason)
        yield from self._remove(missing, reason)

    def _queries_for(self, ids: Sequence[str]) -> Sequence[Query]:
        if all(odata.is_guid(key) for key in ids):
            return self._reader.by_id(ids)
        log.info("%s: its keys are not GUIDs; it is read in full", self.name)
        return [Query()]

    def _remove(self, missing: Select[Any], reason: Reason) -> Reads:
        """Remove rows within the guard; what is in doubt is asked for by id first.

        That is what a read merely left out, and what came at the side of the word that it was
        deleted.
        """
        if self._config.deletions == "ignore":
            return
        deletions.mark_for_removal(self._connection, self._table, missing, reason)
        marked = deletions.list_marked(self._connection, self._table)
        if not marked:
            return
        added = self._storing.counts.added
        deletions.check_guard(self._connection, self._table, self._allow_deletes, added=added)
        if reason == "deleted":
            marked = deletions.list_marked(self._connection, self._table, self._began)
        if marked:
            confirm = FetchRead(self._reader, self._storing, self._reader.by_id(marked))
            yield confirm
            if found := confirm.returned.intersection(marked):
                log.warning(
                    "%s: %d records that seemed to be gone still exist and are kept",
                    self.name,
                    len(found),
                )
                deletions.unmark(self._connection, self._table, found)
        self._storing.remove_marked()
