"""Store a page of records: rows, counts, and the checkpoint or bookmark that belong to them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from dataverse_sync.errors import PageError
from dataverse_sync.model import Counts, Page, PageRequest
from dataverse_sync.moments import parse_timestamp, to_text
from dataverse_sync.store import deletions, sync_state
from dataverse_sync.store.deletions import ReturnedKeys
from dataverse_sync.store.row_checks import check_partitions
from dataverse_sync.store.sync_state import Checkpoint
from dataverse_sync.store.tables import EntityTable
from dataverse_sync.store.upsert import Expected, Written, write_records
from dataverse_sync.sync.reading import EntityReader, Query, QueryRead
from dataverse_sync.sync.repeats import RepeatedPages

log = logging.getLogger(__name__)


class Storing:
    """Writes the records of one entity in one run, and counts that in its row of ``_sync_log``."""

    def __init__(
        self,
        connection: Connection,
        table: EntityTable,
        reader: EntityReader,
        log_id: int,
        now: Callable[[], datetime],
    ) -> None:
        self.connection = connection
        self.table = table
        self.now = now
        self.counts = Counts()
        self.sample: msgspec.Raw | None = None  # the first whole record of this run
        self._reader = reader
        self._log_id = log_id

    @property
    def first_request_at(self) -> datetime | None:
        """When the entity was first asked for in this run, by the server's clock."""
        return self._reader.first_request_at

    def write(
        self,
        page: Page,
        *,
        expected: Expected = "changed",
        wanted: Collection[str] | None = None,
        full: bool = False,
    ) -> Written:
        """Write a page's records; nothing of it if a guessed key does not tell them apart.

        A ``full`` read brings annotations into the rows that lack them, unless it is asked for
        without those that its table needs.
        """
        needs = bool(self.table.entity.open_lookups)
        check_partitions(self.connection, self.table, page.records)
        guessed = expected == "new" and self.table.entity.source == "sample"
        with self.connection.begin_nested() if guessed else nullcontext():
            written = write_records(
                self.connection,
                self.table,
                page.records,
                to_text(self.now()),
                expected=expected,
                wanted=wanted,
                annotates=full and (page.request.names_targets or not needs),
            )
            counts = self.counts + written.counts
            if guessed and counts.added < counts.fetched:
                raise _describe_repeated_key(self.table)
        if page.records:
            self.counts = counts
            if self.sample is None:
                self.sample = msgspec.Raw(bytes(page.records[0]))  # a copy: the page goes
            sync_state.update_log(self.connection, self._log_id, counts, self._reader.requests)
        return written

    def remove_marked(self) -> None:
        removed = deletions.remove_marked(self.connection, self.table, to_text(self.now()))
        self.counts += Counts(deleted=removed)


def _describe_repeated_key(table: EntityTable) -> PageError:
    key, how = table.entity.key, table.entity.key_found
    return PageError(
        f"{table.name}: several records have the same {key}, taken for the key ({how})",
        "Let the app read the metadata (EntityDefinitions), which knows the key, and run: "
        f"python -m dataverse_sync schema accept {table.name}",
    )


VIRTUAL_LIMITS = (1000, 5000)  # records at which providers are known to cut a table off


class Progress:
    """How far the read of an entity's records has come, kept in the transaction of each page.

    ``returned`` is told the keys of each page, if rows that are not among them are to be found.
    """

    def __init__(
        self, storing: Storing, checkpoint: Checkpoint, returned: ReturnedKeys | None
    ) -> None:
        self._storing = storing
        self._checkpoint = checkpoint
        self._returned = returned
        self._records = 0  # of this read, in this run
        self._repeats = RepeatedPages()

    def begin_again(self) -> None:
        """Forget how far the read has come; the rows that it has written stay."""
        self._records = 0
        self._repeats = RepeatedPages()
        self._checkpoint = replace(self._checkpoint, fresh=False)

    def store(self, page: Page) -> None:
        before = self._checkpoint
        again: Expected = "same" if before.since is None else "changed"
        expected: Expected = "new" if before.fresh else again
        written = self._storing.write(page, expected=expected, full=before.full_asked)
        self._repeats.check(page, written.keys)
        self._records += len(page.records)
        if self._returned is not None:
            self._returned.add(written.keys)
        newest = sync_state.newest_of((before.seen_max, written.newest))
        # Of the entity, not of this read: another may have brought what this one finds unchanged.
        began = self._storing.first_request_at or self._storing.now()
        asked_at = before.first_request_at or began.isoformat()
        self._checkpoint = replace(before, seen_max=newest, first_request_at=asked_at)

    def save(self, **went_to: Any) -> None:
        """Keep where the read goes on."""
        storing = self._storing
        self._checkpoint = replace(self._checkpoint, **went_to)
        sync_state.save_checkpoint(storing.connection, storing.table.name, self._checkpoint)

    def complete(self) -> None:
        """Replace the checkpoint by the bookmark: the last page is stored."""
        storing, read = self._storing, self._checkpoint
        if storing.table.entity.kind == "virtual" and self._records in VIRTUAL_LIMITS:
            log.warning(
                "%s: a virtual table that ends at exactly %d records: its provider may have cut "
                "it off, and the rest is not here",
                storing.table.name,
                self._records,
            )
        asked_at = parse_timestamp(read.first_request_at) or storing.now()
        bookmark = None
        if storing.table.entity.has("modifiedon"):
            bookmark = sync_state.next_bookmark(read.seen_max, asked_at)
        sync_state.set_state(
            storing.connection, storing.table.name, last_timestamp=bookmark, checkpoint=None
        )


class ChainRead(QueryRead):
    """The records of one query, page after page, or of the link that an earlier run kept."""

    def __init__(
        self,
        reader: EntityReader,
        progress: Progress,
        queries: Sequence[Query] = (),
        kept: PageRequest | None = None,
    ) -> None:
        super().__init__(reader, queries, kept)
        self._progress = progress

    def begin_again(self) -> None:
        self._progress.begin_again()

    def store(self, page: Page) -> None:
        self._progress.store(page)
        if page.next_link is None:
            self._progress.complete()
        else:
            self._progress.save(next_link=page.next_link, page=page.request.number + 1)


class FetchRead(QueryRead):
    """Records by id, without a checkpoint: whole ones are written, thin ones compared.

    ``wanted`` are the keys, in lower case, of the only records to write; None for all that come.
    ``full`` says that it is part of a full read.
    """

    def __init__(
        self,
        reader: EntityReader,
        storing: Storing,
        queries: Sequence[Query],
        wanted: Collection[str] | None = None,
        *,
        full: bool = False,
    ) -> None:
        super().__init__(reader, queries)
        self._storing = storing
        self._wanted = wanted
        self._full = full
        self.returned: set[str] = set()

    def store(self, page: Page) -> None:
        storing = self._storing
        if page.request.keys_only:
            keys = deletions.add_to_comparison(storing.connection, storing.table, page)
        else:
            keys = storing.write(page, wanted=self._wanted, full=self._full).keys
        self.returned.update(keys)
