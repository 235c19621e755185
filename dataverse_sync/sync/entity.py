"""How one entity is read in a run: its records, and what is gone.

Each way is a generator for the page loop, written as it happens: ask, store what
arrives, ask for what follows. Code between two ``yield`` runs in the transaction
of the page that arrived.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, Select

from dataverse_sync.dataverse import odata
from dataverse_sync.errors import PageError, RequestError
from dataverse_sync.model import Counts, EntityConfig, Page, PageRequest, Reason, Segment
from dataverse_sync.moments import parse_timestamp, to_text
from dataverse_sync.store import deletions, sync_state
from dataverse_sync.store.rows import VALID_FROM, Head, to_heads, to_rows
from dataverse_sync.store.sync_state import Checkpoint, EntityState
from dataverse_sync.store.tables import EntityTable
from dataverse_sync.store.upsert import (
    ROWS_PER_CALL,
    count_rows,
    find_newest,
    find_unchanged,
    is_empty,
    upsert,
)
from dataverse_sync.sync.page_loop import Steps, Wanted
from dataverse_sync.sync.reading import REFUSED_QUERY, DisorderError, EntityReader, Query, Store

log = logging.getLogger(__name__)

_REFUSED_LINK = (400, 404, 410)
Expected = Literal["new", "changed", "same"]  # what most records of a page will prove to be
_NOT_TRACKED = (400, 403, 404, 405, 501)


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """How an entity's records are read in this run, and why."""

    kind: Literal["full", "since", "resume"]
    why: str
    since: str | None = None
    checkpoint: Checkpoint | None = None


def plan_read(state: EntityState, has_modifiedon: bool, full: bool, api_url: str) -> ReadPlan:
    """Decide: from a checkpoint, since the bookmark, or in full."""
    checkpoint = state.checkpoint
    if (
        checkpoint is not None
        and all(odata.origin(link) == odata.origin(api_url) for link in checkpoint.links)
        and (checkpoint.full_asked or not full)
    ):
        ranges = f"in {len(checkpoint.segments)} ranges" if checkpoint.segments else ""
        why = f"taken up {ranges or f'at page {checkpoint.page}'}"
        return ReadPlan("resume", why, checkpoint.since, checkpoint)
    if full:
        return ReadPlan("full", "asked for by --full")
    if not has_modifiedon:
        return ReadPlan("full", "it has no modifiedon")
    if state.bookmark is None:
        return ReadPlan("full", "it has no bookmark yet")
    return ReadPlan("since", f"what changed since {state.bookmark}", state.bookmark)


def newest_of(values: Iterable[object]) -> str | None:
    """The latest of many moments of the service, as it was written."""
    texts = {value for value in values if isinstance(value, str)}
    if not texts:
        return None
    last = max(texts)
    alike = len({len(text) for text in texts}) == 1 and last.endswith("Z")
    if alike and parse_timestamp(last) is not None:
        return last
    newest: str | None = None
    for text in sorted(texts):
        if parse_timestamp(text) is not None:
            newest = sync_state.later(newest, text)
    return newest


class _Storing:
    """What is done with each page of records: rows, then checkpoint or bookmark."""

    def __init__(self, run: EntityRun, checkpoint: Checkpoint) -> None:
        self._run = run
        self._checkpoint = checkpoint

    def store_page(self, page: Page) -> None:
        """A page of the one chain."""
        self._store(page)
        if page.next_link is None:
            self._complete()
        else:
            self._save(next_link=page.next_link, page=page.request.number + 1)

    def store_range(self, page: Page, ranges: Sequence[Segment]) -> None:
        """A page of one of several ranges."""
        self._store(page)
        if all(segment.is_done for segment in ranges):
            self._complete()
        else:
            self._save(segments=tuple(ranges))

    def _store(self, page: Page) -> None:
        run, before = self._run, self._checkpoint
        if run.table.entity.source == "sample" and before.fresh:
            with run.connection.begin_nested():  # its check follows its rows
                keys, newest = run.upsert(page, expect="new")
                _check_key(run)
        else:
            again: Expected = "same" if before.since is None else "changed"
            keys, newest = run.upsert(page, expect="new" if before.fresh else again)
        if run.table.entity.has("modifiedon"):
            newest = sync_state.later(before.seen_max, newest)
        if before.since is None and not before.fresh and not run.is_tracked:
            run.note_returned(keys)
        asked_at = before.first_request_at or (page.asked_at or run.now()).isoformat()
        self._checkpoint = replace(before, seen_max=newest, first_request_at=asked_at)

    def _save(self, **went_to: Any) -> None:
        self._checkpoint = replace(self._checkpoint, **went_to)
        sync_state.save_checkpoint(self._run.connection, self._run.name, self._checkpoint)

    def _complete(self) -> None:
        run, read = self._run, self._checkpoint
        asked_at = parse_timestamp(read.first_request_at) or run.now()
        bookmark = None
        if run.table.entity.has("modifiedon"):
            bookmark = sync_state.next_bookmark(read.seen_max, asked_at)
        sync_state.set_state(run.connection, run.name, last_timestamp=bookmark, checkpoint=None)


def _check_key(run: EntityRun) -> None:
    """See, while a table is filled, that a key that was only guessed tells records apart.

    Raises:
        PageError: Two records had the same one.
    """
    if run.counts.added < run.counts.fetched:
        key, how = run.table.entity.key, run.table.entity.key_found
        raise PageError(
            f"{run.name}: several records have the same {key}, taken for the key ({how})",
            "Let the app read the metadata (EntityDefinitions), which knows the key, and run: "
            f"python -m dataverse_sync schema accept {run.name}",
        )


@dataclass(slots=True)
class EntityRun:
    """One entity in one run: what it works with, and what it has done so far."""

    config: EntityConfig
    table: EntityTable
    state: EntityState
    connection: Connection
    api_url: str
    now: Callable[[], datetime]
    log_id: int
    full: bool = False
    allow_deletes: bool = False
    segments: int = 1  # ranges that a full read is cut into, at most
    counts: Counts = field(default_factory=Counts)
    committed: Counts = field(default_factory=Counts)  # of them, what no break can take back
    note: str = ""
    sample: msgspec.Raw | None = None  # the first whole record of this run
    reader: EntityReader = field(init=False)
    _delta_link: str | None = field(default=None, init=False)
    _contexts: set[str] = field(default_factory=set, init=False)
    _changes: int = field(default=0, init=False)  # entries of the delta read
    _returned: int = field(default=0, init=False)  # by a full read: the sum of its keys
    _is_all_there: bool = field(default=False, init=False)  # its first page had every row

    def __post_init__(self) -> None:
        self.reader = EntityReader(self.table.entity, self.api_url)

    @property
    def requests(self) -> int:
        return self.reader.requests

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def is_tracked(self) -> bool:
        """Whether what is gone is asked of change tracking."""
        entity = self.table.entity
        return (
            entity.change_tracking and entity.has("modifiedon") and self.config.deletions == "sync"
        )

    @property
    def reads_in_full(self) -> bool:
        """Whether its records will be read from the beginning, or are being read in ranges."""
        plan = plan_read(self.state, self.table.entity.has("modifiedon"), self.full, self.api_url)
        return plan.kind == "full" or bool(plan.checkpoint and plan.checkpoint.segments)

    # The whole of an unfiltered entity

    def sync_unfiltered(self) -> Steps:
        """Its records, then what is gone."""
        entity = self.table.entity
        plan = plan_read(self.state, entity.has("modifiedon"), self.full, self.api_url)
        log.info("%s: %s", self.name, plan.why)
        # A table that was emptied since is not fresh: what its bookmark passes must still be found.
        empty = plan.kind == "full" and is_empty(self.connection, self.table)
        fresh = plan.checkpoint.fresh if plan.checkpoint else empty
        if fresh and self.is_tracked and self.state.delta_link is None and plan.kind != "resume":
            # Before the first page, so that nothing can change unseen between the two.
            try:
                yield from self._read_tracked(self._note_token)
                self._save_token()
            except RequestError as error:
                self._note_untracked(error)
        fresh = yield from self._read_records(plan, fresh)
        # What was read before a break may have changed or gone since: nothing shows it but
        # a comparison, also where the table was empty when the read began.
        resumed = plan.kind == "resume"
        if self.config.deletions == "ignore" or (fresh and not resumed):
            return
        if self.is_tracked:
            yield from self._delta_pass()
        elif resumed or plan.kind == "since":
            yield from self._thin_pass()
        elif not self._is_all_there and self._returned != deletions.sum_stored_keys(
            self.connection, self.table
        ):
            yield from self._remove(deletions.missing_from_read(self.table), "not_returned")

    def _read_records(self, plan: ReadPlan, fresh: bool) -> Generator[Wanted, Page, bool]:
        """The records of the plan; returns whether the table was empty when the read began."""
        if plan.checkpoint is not None:
            try:
                yield from self._take_up(plan.checkpoint)
                return fresh
            except RequestError as error:
                if error.status in _REFUSED_LINK and error.request in self._kept(plan.checkpoint):
                    log.warning(
                        "%s: the service refused the link that an earlier run kept; "
                        "read from the start",
                        self.name,
                    )
                elif plan.checkpoint.segments and error.status in REFUSED_QUERY:
                    self._note_refused_ranges()
                else:
                    raise
            except DisorderError:
                self._note_disorder()
            fresh = False
        started = Checkpoint(
            since=plan.since, seen_max=plan.since, fresh=fresh, full_asked=self.full
        )
        if plan.since is None and self.segments > 1 and self.table.entity.has("createdon"):
            done = yield from self._read_segments(started)
            if done:
                return fresh
        storing = _Storing(self, started)
        changed = odata.changed_since(plan.since)
        yield from self.reader.read([Query(storing.store_page, filter=changed)])
        return fresh

    def _take_up(self, checkpoint: Checkpoint) -> Steps:
        """Go on with a read where it stopped.

        Raises:
            RequestError: The service refused.
            DisorderError: It does not send the records of a range in order.
        """
        storing = _Storing(self, checkpoint)
        if checkpoint.segments:
            most = max(1, self.segments)
            yield from self.reader.read_segments(
                checkpoint.segments, most, self.now(), storing.store_range
            )
        else:
            (link,) = self._kept(checkpoint)
            yield from self.reader.follow(link, storing.store_page)

    def _kept(self, checkpoint: Checkpoint) -> list[PageRequest]:
        """The requests that a checkpoint's links make."""
        if not checkpoint.segments:
            return [PageRequest(self.name, checkpoint.next_link, checkpoint.page)]
        return [
            PageRequest(self.name, segment.next_link, segment.page)
            for segment in checkpoint.segments
            if segment.next_link
        ]

    def _read_segments(self, started: Checkpoint) -> Generator[Wanted, Page, bool]:
        """Read ranges of ``createdon`` at once; returns False where that cannot be done."""
        try:
            newest = yield from self.reader.find_newest()
            if newest is None:
                return False
            log.info("%s: read in ranges of createdon, %d at most", self.name, self.segments)
            ranges = [Segment(), Segment(is_null=True)]
            yield from self.reader.read_segments(
                ranges, self.segments, newest, _Storing(self, started).store_range
            )
        except RequestError as error:
            if error.status not in REFUSED_QUERY:
                raise
            self._note_refused_ranges()
            return False
        except DisorderError:
            self._note_disorder()
            return False
        return True

    def _note_refused_ranges(self) -> None:
        self.segments = 1
        log.info("%s: ranges are refused; read as one chain of pages", self.name)

    def _note_disorder(self) -> None:
        self.segments = 1
        log.warning(
            "%s: the service does not keep to the order of createdon; read as one chain", self.name
        )

    # What is gone

    def note_returned(self, keys: Sequence[str]) -> None:
        """Note the keys of a page of a full read, which are rows by now."""
        if not self._returned and len(set(keys)) == count_rows(self.connection, self.table):
            self._is_all_there = True  # what is there later came later
            return
        self._returned += deletions.sum_keys(keys)
        deletions.note_seen(self.connection, self.name, keys)

    def _thin_pass(self) -> Steps:
        """Compare all keys and versions: no change tracking to ask."""
        deletions.start_census(self.connection, self.name)
        yield from self.reader.read([Query(self._census, select=self.reader.thin)])
        yield from self._settle(deletions.missing_from_census(self.table), "not_returned")

    def _delta_pass(self) -> Steps:
        """Ask what changed since the token; compare all keys where the token is no good."""
        link = self.state.delta_link
        if link is not None and odata.origin(link) == odata.origin(self.api_url):
            try:
                yield from self.reader.follow(
                    PageRequest(self.name, link, keys_only=True), self._note_delta
                )
            except RequestError as error:
                if error.status is None or error.status >= 500 or error.status in (401, 429):
                    raise
                log.warning(
                    "%s: the delta token is no good any more (%s); all keys are compared",
                    self.name,
                    error,
                )
            else:
                if self._is_delta():
                    if self._changes:
                        yield from self._settle(deletions.deleted_in_census(self.table), "deleted")
                    self._save_token()
                    return
                log.warning(
                    "%s: the delta read did not answer with changes alone; all keys are compared",
                    self.name,
                )
        # The token first, then the keys: whether a service stamps it with the first page of
        # the tracked read or with the last, nothing can go unseen between the two.
        self._delta_link = None
        try:
            yield from self._read_tracked(self._note_token)
        except RequestError as error:
            self._note_untracked(error)
        yield from self._thin_pass()
        self._save_token()

    def _read_tracked(self, store: Store) -> Steps:
        """A tracked read of all keys; its last page brings a delta link."""
        yield from self.reader.read([Query(store, select=self.reader.thin, track_changes=True)])

    def _note_untracked(self, error: RequestError) -> None:
        """Say that change tracking is of no use here; raises what says nothing of it."""
        if error.status not in _NOT_TRACKED:
            raise error
        self.note = f"change tracking cannot be used ({error.message}); keys are compared"
        log.warning("%s: %s", self.name, self.note)

    def _note_token(self, page: Page) -> None:
        self._delta_link = page.delta_link

    def _note_delta(self, page: Page) -> None:
        self._note_token(page)
        self._contexts.add(page.context.rpartition("/")[2])
        self._changes += len(page.records)
        self._census(page)

    def _census(self, page: Page) -> None:
        deletions.take_census(self.connection, self.table, page)

    def _is_delta(self) -> bool:
        """Whether the answer to a delta link was changes, with a new link, and not the whole table.

        An expired token was once answered with all rows and no deletions.
        """
        if self._delta_link is None or self._contexts - {"$delta"}:
            return False
        if self._changes <= deletions.GUARDED_ROWS:
            return True
        return deletions.count_changed(self.connection, self.name) < self.state.records_count

    def _save_token(self) -> None:
        sync_state.set_state(self.connection, self.name, delta_link=self._delta_link)

    def _settle(self, gone: Select[Any], reason: Reason) -> Steps:
        """Fetch what the census shows to differ, and remove what it shows to be gone."""
        stale = deletions.find_stale(self.connection, self.table)
        if stale:
            log.info("%s: %d records differ and are fetched by id", self.name, len(stale))
            absent = yield from self._fetch(stale)
            deletions.doom_ids(self.connection, self.table, absent, reason)
        yield from self._remove(gone, reason)

    def _remove(self, gone: Select[Any], reason: Reason) -> Steps:
        """Remove rows, within the guard; what a read merely left out is asked for by id first."""
        deletions.doom(self.connection, self.table, gone, reason)
        doomed = deletions.list_doomed(self.connection, self.table)
        if not doomed:
            return
        deletions.check_guard(self.connection, self.table, self.allow_deletes)
        if reason == "not_returned":
            there: set[str] = set()

            def confirm(page: Page) -> None:
                there.update(self.upsert(page)[0])

            try:
                yield from self.reader.read(self.reader.by_id(doomed, confirm))
            except RequestError as error:
                if error.status not in REFUSED_QUERY:
                    raise
                log.info("%s: cannot be asked by id; the complete read stands", self.name)
            if there:
                log.warning(
                    "%s: %d records were left out of a read but are there, and stay",
                    self.name,
                    len(there),
                )
                deletions.spare(self.connection, self.table, there)
        self.remove_doomed()

    def save_bookmark(self) -> None:
        """The bookmark of a filtered entity, whose reads have ended."""
        # From the table: a run that was killed may have stored the newest of them.
        newest = sync_state.later(self.state.bookmark, find_newest(self.connection, self.table))
        if self.reader.first_request_at is not None:
            bookmark = sync_state.next_bookmark(newest, self.reader.first_request_at)
            sync_state.set_state(self.connection, self.name, last_timestamp=bookmark)

    def remove_doomed(self) -> None:
        deleted_at = to_text(self.now())
        removed = deletions.remove_doomed(self.connection, self.table, deleted_at)
        self.counts += Counts(deleted=removed)

    # By id

    def fetch_linked(
        self, new: Sequence[str], known: Sequence[str], gone: Callable[[Iterable[str]], None]
    ) -> Steps:
        """The records of a filtered entity that are linked to: new ones whole, others if changed.

        Args:
            new: Ids to ask for that the table does not have, in lower case.
            known: Ids to ask for that it has.
            gone: Told which of the known ones the service did not return.
        """
        returned: set[str] = set()
        wanted = {*new, *known}

        def census(page: Page) -> None:
            deletions.take_census(self.connection, self.table, page)
            returned.update(key.lower() for key in self._keys(page))

        def take(page: Page) -> None:
            returned.update(key.lower() for key in self.upsert(page, wanted)[0])

        deletions.start_census(self.connection, self.name)
        if self.full or self.table.entity.version_column is None:
            yield from self.reader.read(self.reader.by_id([*new, *known], take))
        else:
            thin = self.reader.by_id(known, census, self.reader.thin)
            yield from self.reader.read([*self.reader.by_id(new, take), *thin])
            settled = self.state.bookmark or ""
            stale = deletions.find_stale(self.connection, self.table, settled)
            returned.difference_update(key.lower() for key in stale)  # it may be gone by now
            yield from self.reader.read(self.reader.by_id(stale, take))
        gone(key for key in known if key not in returned)

    def _fetch(self, ids: Sequence[str]) -> Generator[Wanted, Page, Sequence[str]]:
        """Whole records by id; returns the ids that the service does not have."""
        returned: set[str] = set()

        def take(page: Page) -> None:
            returned.update(self.upsert(page)[0])

        if all(odata.is_guid(key) for key in ids):
            yield from self.reader.read(self.reader.by_id(ids, take))
        else:
            log.info("%s: its keys are no GUIDs; it is read in full", self.name)
            yield from self.reader.read([Query(take)])
        return [key for key in ids if key not in returned]

    # Pages

    def _keys(self, page: Page) -> list[str]:
        return [row[0] for row in to_rows(self.table, page.records, "")]

    def upsert(
        self, page: Page, wanted: Collection[str] | None = None, *, expect: Expected = "changed"
    ) -> tuple[list[str], str | None]:
        """Write a page's records, only the wanted ones where that is said, and count them.

        Args:
            page: What arrived.
            wanted: Keys in lower case.
            expect: What is tried first; it changes the time that it takes, and nothing else.

        Returns:
            The keys that were written or found unchanged, and the newest ``modifiedon``.

        Raises:
            PageError: A record cannot be a row; nothing of the page is written.
        """
        if self.sample is None and page.records:
            self.sample = msgspec.Raw(bytes(page.records[0]))  # a copy: the page goes
        records = page.records
        heads: list[Head] = []
        if expect == "same":
            heads, records = self._leave_unchanged(page)
        rows = to_rows(self.table, records, to_text(self.now()))
        if wanted is not None:
            rows = [row for row in rows if row[0].lower() in wanted]
        self.counts += Counts(fetched=len(heads), unchanged=len(heads))
        for start in range(0, len(rows), ROWS_PER_CALL):
            part = rows[start : start + ROWS_PER_CALL]
            self.counts += upsert(self.connection, self.table, part, fresh=expect == "new")
        if page.records:
            sync_state.update_log(self.connection, self.log_id, self.counts, self.requests)
        keys = [head[0] for head in heads] + [row[0] for row in rows]
        moments = [head[1] for head in heads] + [row[VALID_FROM] for row in rows]
        return keys, newest_of(moments)

    def _leave_unchanged(self, page: Page) -> tuple[list[Head], tuple[msgspec.Raw, ...]]:
        """The heads of records that are as they are stored, and the other records, to be decoded.

        Where a key comes twice the order counts, so all of the page are decoded.
        """
        heads = to_heads(self.table, page.records)
        keys = [key for key, _ in heads]
        if len(set(keys)) < len(keys):
            return [], page.records
        same = find_unchanged(self.connection, self.table, keys, page.records)
        if len(same) == len(heads):
            return heads, ()
        pairs = zip(heads, page.records, strict=True)
        others = tuple(record for head, record in pairs if head[0] not in same)
        return [head for head in heads if head[0] in same], others
