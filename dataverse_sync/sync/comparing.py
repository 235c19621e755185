"""Reads of keys and versions alone: what is compared, and change tracking's tokens and changes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection

from dataverse_sync.model import Page, PageRequest
from dataverse_sync.store import deletions
from dataverse_sync.store.tables import EntityTable
from dataverse_sync.sync.reading import EntityReader, Query, QueryRead
from dataverse_sync.sync.repeats import RepeatedPages


class ComparisonRead(QueryRead):
    """Puts keys and versions beside the rows: all of them, or what the queries ask for.

    ``wanted`` are the keys, in lower case, of the only records to put there; None for all.
    """

    is_same = False  # nothing differs, and nothing was put there

    def __init__(
        self,
        reader: EntityReader,
        connection: Connection,
        table: EntityTable,
        queries: Sequence[Query] | None = None,
        kept: PageRequest | None = None,
        wanted: Collection[str] | None = None,
    ) -> None:
        whole = [Query(select=reader.keys_and_versions)]
        super().__init__(reader, whole if queries is None else queries, kept)
        self._connection = connection
        self._table = table
        self._wanted = wanted
        self._repeats = RepeatedPages()

    def begin(self) -> Sequence[PageRequest]:
        deletions.start_comparison(self._connection, self._table.name)
        return super().begin()

    def begin_again(self) -> None:
        self._repeats = RepeatedPages()

    def store(self, page: Page) -> None:
        keys = deletions.add_to_comparison(self._connection, self._table, page, self._wanted)
        self._repeats.check(page, keys)


class WholeComparison(ComparisonRead):
    """All keys and versions; one page of them that are those of the rows ends it."""

    def store(self, page: Page) -> None:
        if page.request.number == 1 and page.next_link is None:
            self.is_same = deletions.holds_exactly(self._connection, self._table, page)
        if not self.is_same:
            super().store(page)


class TokenRead(QueryRead):
    """A tracked read of all keys, for the delta link that its last page brings."""

    def __init__(self, reader: EntityReader) -> None:
        super().__init__(reader, [Query(reader.keys_and_versions, track_changes=True)])
        self.delta_link: str | None = None

    def store(self, page: Page) -> None:
        self.delta_link = page.delta_link


class DeltaRead(ComparisonRead):
    """What changed since a token: keys and versions, and the ids of deleted records."""

    def __init__(
        self, reader: EntityReader, connection: Connection, table: EntityTable, link: str
    ) -> None:
        kept = PageRequest(table.name, link, keys_only=True)
        super().__init__(reader, connection, table, [], kept)
        self.link = link
        self.delta_link: str | None = None
        self.changes = 0
        self._contexts: set[str] = set()

    def store(self, page: Page) -> None:
        # A record may come twice, changed and then deleted: that is no paging in a circle.
        deletions.add_to_comparison(self._connection, self._table, page)
        self.delta_link = page.delta_link
        self.changes += len(page.records)
        self._contexts.add(page.context.rpartition("/")[2])

    def is_complete(self, rows: int) -> bool:
        """Whether changes alone came, with a new link, and not the whole table of so many rows.

        An expired token was once answered with all rows and no deletions.
        """
        if self.delta_link is None or self._contexts - {"$delta"}:
            return False
        if self.changes <= deletions.GUARDED_ROWS:
            return True
        return deletions.count_changed(self._connection, self._table.name) < rows
