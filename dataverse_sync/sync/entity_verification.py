"""Compare one table with Dataverse: keys and versions, and if asked for every byte of its records.

What looks different is asked for again by id, and what has changed since the check began is not
called a difference. A row is also held against its own ``json_response``, which needs no network.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec
from sqlalchemy import Connection

from dataverse_sync.dataverse import odata
from dataverse_sync.errors import GuardError, RequestError
from dataverse_sync.model import Page, Reason
from dataverse_sync.moments import parse_timestamp, to_text
from dataverse_sync.store import deletions, sync_state
from dataverse_sync.store.proof import KEYS_AND_VERSIONS, VALUES, Compared, Proof
from dataverse_sync.store.row_checks import (
    choose_sample,
    find_altered,
    find_unlike,
    list_keys,
    load_versions,
)
from dataverse_sync.store.rows import JSON_RESPONSE, SqlRow, to_rows
from dataverse_sync.store.tables import EntityTable
from dataverse_sync.store.upsert import count_rows, rewrite
from dataverse_sync.sync.comparing import ComparisonRead
from dataverse_sync.sync.reading import EntityReader, Query, QueryRead, Read, Reads

IDS_AT_ONCE = 2000  # of records that are asked for again in one read


@dataclass(slots=True)
class EntityFindings:
    """What was found of one entity; the lists hold every id."""

    entity: str
    rows: int = 0
    missing: list[str] = field(default_factory=list)  # in Dataverse, not in the table
    extra: list[str] = field(default_factory=list)  # in the table, not in Dataverse
    stale: list[str] = field(default_factory=list)  # of another version
    altered: list[str] = field(default_factory=list)  # not what its JSON says, or what is sent
    unlinked: list[str] = field(default_factory=list)  # filtered, and nothing links to it
    changed_meanwhile: int = 0  # since the check began: no difference
    dangling: dict[str, int] = field(default_factory=dict)  # "table.column" → ids not there
    repaired: int = 0
    requests: int = 0
    error: str | None = None
    compared: Compared = KEYS_AND_VERSIONS
    sampled_to: str | None = None  # the key at which the next sample goes on

    @property
    def differences(self) -> int:
        found = (self.missing, self.extra, self.stale, self.altered, self.unlinked)
        return sum(len(ids) for ids in found)

    @property
    def ok(self) -> bool:
        return self.error is None and self.repaired >= self.differences

    @property
    def proof(self) -> Proof:
        """What of it is kept."""
        return Proof(
            self.entity,
            self.rows,
            len(self.missing),
            len(self.stale),
            len(self.extra) + len(self.unlinked),
            len(self.altered),
            "failed" if self.error is not None else "same" if self.ok else "differs",
            self.compared,
            self.sampled_to,
        )


class _RowsRead(QueryRead):
    """Records by id, as the rows that they would be; nothing is written.

    ``take`` is handed those of each page that were asked for, since records may be large.
    """

    def __init__(
        self,
        reader: EntityReader,
        table: EntityTable,
        ids: Sequence[str],
        select: tuple[str, ...],
        now: str,
        take: Callable[[dict[str, SqlRow]], None],
    ) -> None:
        super().__init__(reader, reader.by_id(ids, select))
        self._table = table
        self._ids = set(ids)
        self._now = now
        self._take = take
        self.returned: set[str] = set()

    def store(self, page: Page) -> None:
        rows = {row[0]: row for row in to_rows(self._table, page.records, self._now)}
        asked = {key: row for key, row in rows.items() if key in self._ids}
        self._take(asked)
        self.returned.update(asked)


class _ValuesRead(QueryRead):
    """Whole records, held against those that are stored under their keys."""

    def __init__(
        self,
        reader: EntityReader,
        connection: Connection,
        table: EntityTable,
        queries: Sequence[Query],
    ) -> None:
        super().__init__(reader, queries)
        self._connection = connection
        self._table = table
        self.unlike: list[str] = []

    def store(self, page: Page) -> None:
        self.unlike += find_unlike(self._connection, self._table, page.records)


class _RecordComparison(ComparisonRead):
    """Keys and versions beside the rows, out of whole records, which are held against the rows."""

    def __init__(
        self,
        reader: EntityReader,
        connection: Connection,
        table: EntityTable,
        queries: Sequence[Query],
        wanted: set[str] | None,
    ) -> None:
        super().__init__(reader, connection, table, queries, wanted=wanted)
        self.unlike: list[str] = []

    def store(self, page: Page) -> None:
        super().store(page)
        self.unlike += find_unlike(self._connection, self._table, page.records)


@dataclass
class EntityComparison:
    """The comparison of one entity; nothing is ever removed from one that ``keeps``."""

    findings: EntityFindings
    connection: Connection
    table: EntityTable
    reader: EntityReader
    keeps: bool
    repair: bool
    allow_deletes: bool
    now: str = field(default_factory=lambda: to_text(datetime.now(UTC)))

    @property
    def _compares_values(self) -> bool:
        return self.findings.compared == VALUES

    def compare_all(self) -> Reads:
        """Compare all keys and versions of an unfiltered entity; if refused, by whole records."""
        if self.reader.way.versions and not self._compares_values:
            try:
                yield ComparisonRead(self.reader, self.connection, self.table)
            except RequestError:
                if self.reader.way.versions:
                    raise
        unlike: list[str] = []
        if self._compares_values or not self.reader.way.versions:
            unlike = yield from self._compare_records([Query()])
        yield from self._tell_and_mend(self._list_missing(), unlike)

    def compare_linked(self, ids: Sequence[str]) -> Reads:
        """Compare the records of a filtered entity that are linked to."""
        asked = {key.lower() for key in ids}
        unlike: list[str] = []
        if self._compares_values:
            unlike = yield from self._compare_records(self.reader.by_id(ids), asked)
        else:
            queries = self.reader.by_id(ids, self.reader.keys_and_versions)
            yield ComparisonRead(self.reader, self.connection, self.table, queries, wanted=asked)
        missing = [key for key in self._list_missing() if key.lower() in asked]
        yield from self._tell_and_mend(missing, unlike)

    def _compare_records(
        self, queries: Sequence[Query], wanted: set[str] | None = None
    ) -> Generator[Read, None, list[str]]:
        """Compare whole records; returns the keys of those that are stored otherwise."""
        read = _RecordComparison(self.reader, self.connection, self.table, queries, wanted)
        yield read
        return read.unlike if self._compares_values else []

    def compare_sample(self, count: int, after: str | None) -> Reads:
        """Compare the values of so many rows: those after a key, in the order of their keys."""
        left = min(count, count_rows(self.connection, self.table))
        while left > 0:
            keys = choose_sample(self.connection, self.table, min(left, IDS_AT_ONCE), after)
            after, left = keys[-1], left - len(keys)
            by_id = all(odata.is_guid(key) for key in keys)
            queries = self.reader.by_id(keys) if by_id else [Query()]
            read = _ValuesRead(self.reader, self.connection, self.table, queries)
            yield read
            yield from self._tell_altered([], self._leave_known(read.unlike))
            if not by_id or self.reader.way.ids == "none":  # everything was read
                break
        self.findings.sampled_to = after

    def add_unlinked(self, keys: Sequence[str]) -> None:
        """Note the rows of a filtered entity that nothing links to; with ``repair`` remove them."""
        if self.keeps:
            return
        self.findings.unlinked += keys
        self.findings.altered = [key for key in self.findings.altered if key not in {*keys}]
        if self.repair:
            try:
                self._remove(keys, "unlinked")
            except GuardError as error:
                self.findings.error = str(error)

    def _list_missing(self) -> Sequence[str]:
        missing = deletions.missing_from_comparison(self.table)
        return () if self.keeps else list_keys(self.connection, missing)

    def _tell_and_mend(self, missing: Sequence[str], unlike: Sequence[str]) -> Reads:
        """Ask again for what looks different, tell what it is, and mend it if asked to.

        Args:
            missing: Keys of rows that the comparison did not return.
            unlike: Keys of records that are stored otherwise than they came.
        """
        suspects = deletions.find_differing(self.connection, self.table)
        absent = set(missing)
        extra: list[str] = []
        for ids in _batches([*suspects, *missing]):
            extra += yield from self._confirm(ids, absent)
        self.findings.extra += extra
        doubted = set(suspects)
        yield from self._tell_altered(
            find_altered(self.connection, self.table, self._known),
            [key for key in self._leave_known(unlike) if key not in doubted],
        )
        if self.repair:
            self._remove(extra, "not_returned")

    @property
    def _known(self) -> set[str]:
        """Keys of the rows that are known to differ."""
        found = self.findings
        return {*found.missing, *found.stale, *found.extra, *found.altered}

    def _leave_known(self, keys: Sequence[str]) -> Sequence[str]:
        known = self._known
        return [key for key in keys if key not in known]

    def _confirm(
        self, ids: Sequence[str], absent: set[str]
    ) -> Generator[Read, None, Sequence[str]]:
        """Ask for records again that look different; returns those that are not there."""
        found, confirming = self.findings, () if self.repair else self._confirming

        def take(rows: dict[str, SqlRow]) -> None:
            stored = load_versions(self.connection, self.table, list(rows))
            mend = []
            for key, row in rows.items():
                if key in absent:
                    continue
                if self._is_newer(row):
                    found.changed_meanwhile += 1
                elif key not in stored:
                    found.missing.append(key)
                    mend.append(row)
                elif stored[key] != self._find_version(row):
                    found.stale.append(key)
                    mend.append(row)
            if self.repair:
                self._mend(mend)

        confirm = self._read_rows(ids, take, confirming)
        yield confirm
        gone = [key for key in ids if key not in confirm.returned]
        found.changed_meanwhile += sum(key not in absent for key in gone)
        stored = load_versions(self.connection, self.table, gone)
        return [key for key in gone if key in absent and key in stored]

    def _tell_altered(self, altered: Sequence[str], unlike: Sequence[str]) -> Reads:
        """Tell which rows are altered, and mend them if asked to.

        Those that are not what their own JSON says are; those that the service sends otherwise
        are asked for again, since they may have changed.
        """
        found, certain = self.findings, {*altered}
        found.altered += altered

        def take(rows: dict[str, SqlRow]) -> None:
            records = [msgspec.Raw(row[JSON_RESPONSE].encode()) for row in rows.values()]
            differ = {*find_unlike(self.connection, self.table, records)} - certain
            newer = {key for key in differ if self._is_newer(rows[key])}
            found.changed_meanwhile += len(newer)
            found.altered += [key for key in rows if key in differ - newer]
            if self.repair:
                self._mend([row for key, row in rows.items() if key in certain | differ - newer])

        doubtful = [key for key in unlike if key not in certain]
        for ids in _batches([*(altered if self.repair else ()), *doubtful]):
            yield self._read_rows(ids, take)

    def _mend(self, rows: Sequence[SqlRow]) -> None:
        rewrite(self.connection, self.table, rows)
        self.findings.repaired += len(rows)

    def _read_rows(
        self,
        ids: Sequence[str],
        take: Callable[[dict[str, SqlRow]], None],
        select: tuple[str, ...] = (),
    ) -> _RowsRead:
        return _RowsRead(self.reader, self.table, ids, select, self.now, take)

    def _remove(self, keys: Sequence[str], reason: Reason) -> None:
        deletions.mark_ids_for_removal(self.connection, self.table, keys, reason)
        added = len(self.findings.missing)
        deletions.check_guard(self.connection, self.table, self.allow_deletes, added=added)
        removed = deletions.remove_marked(self.connection, self.table, self.now)
        self.findings.repaired += removed
        rows = count_rows(self.connection, self.table)
        sync_state.set_state(self.connection, self.table.name, records_count=rows)

    @property
    def _confirming(self) -> tuple[str, ...]:
        """Keys, versions and the moment of change are enough to tell a difference."""
        more = ("modifiedon",) if self.table.entity.has("modifiedon") else ()
        return tuple(dict.fromkeys((*self.reader.keys_and_versions, *more)))

    def _find_version(self, row: SqlRow) -> str | None:
        value = self.table.value(row, self.table.entity.version_column)
        return None if value is None else str(value)

    def _is_newer(self, row: SqlRow) -> bool:
        """Whether a record changed since the comparison began."""
        changed, began = self.table.value(row, "modifiedon"), self.reader.first_request_at
        moment = parse_timestamp(changed)
        # modifiedon is cut to the second.
        return moment is not None and began is not None and moment >= began.replace(microsecond=0)


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + IDS_AT_ONCE] for start in range(0, len(ids), IDS_AT_ONCE))
