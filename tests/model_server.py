"""A small, constantly changing Dataverse in memory that replaces the client.

It keeps every state that each record ever had, so that a test can say what a
copy may hold. No sockets and no threads: its clock, its changes and the order
in which requests are answered all come from one ``random.Random``, so that a
schedule can be played again. It behaves as ``DATAVERSE.md`` has it (sections 3,
5 and 6): each page is a fresh query, writes are committed up to two minutes
after they got their ``modifiedon`` and ``versionnumber``, change tracking goes
by the order of commits.
"""

from __future__ import annotations

import json
import queue
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch
from urllib.parse import parse_qsl, unquote, urlsplit

from sqlalchemy import Dialect, Engine

from dataverse_sync.dataverse import odata
from dataverse_sync.dataverse.session import Session
from dataverse_sync.errors import RequestError
from dataverse_sync.model import EntityConfig, Page, PageRequest
from dataverse_sync.schema.discovery import read_metadata
from dataverse_sync.store import sqlite
from dataverse_sync.store import tables as schema_manager
from dataverse_sync.sync.asking_rights import find_depths, find_readable
from dataverse_sync.sync.identity import get_environment

API = "https://model.api.crm.dynamics.com/api/data/v9.2/"
BEGAN_AT = datetime(2026, 5, 1, tzinfo=UTC)
LATEST_COMMIT_S = 120.0
# The service shows whole seconds. A write of 10.5 s that is committed at 130.5 s shows 10, and a
# read that began at 130.2 s may go on after 10: what is told by modifiedon alone has 119 s.
LATEST_SHOWN_S = 119.0


# A run of a few records spends nine tenths of its time on building the text of its statements:
# here all runs share what was built once.
_COMPILED: dict[Any, Any] = {}
_DIALECTS: dict[str, Dialect] = {}
_open_engine = sqlite.open_engine
_build_table = cache(schema_manager.build_table)


class Killed(BaseException):
    """Simulates a killed process: no cleanup of the run is executed."""


# What it holds


@dataclass(frozen=True, slots=True)
class Table:
    """One entity set: its columns, and the ids that its records may have."""

    name: str
    logical_name: str
    ids: Sequence[str]
    lookups: Mapping[str, Sequence[str]] = field(default_factory=dict)  # column → entity sets
    keys_of: Sequence[str] = ()  # a junction's plain columns, named as the keys they hold
    filtered: bool = False
    tracked: bool = False
    dated: bool = True  # has modifiedon and createdon
    versioned: bool = True  # has versionnumber
    keeps_deleted: bool = False  # "deletions": "ignore"

    @property
    def key(self) -> str:
        return f"{self.logical_name}id"

    @property
    def has_open_lookups(self) -> bool:
        """Whether a lookup may point to several tables."""
        return any(len(targets) > 1 for targets in self.lookups.values())

    @property
    def shows_change(self) -> bool:
        """Whether a comparison of keys and versions finds every change."""
        return not self.keeps_deleted and (self.dated or self.versioned or bool(self.keys_of))

    @property
    def config(self) -> EntityConfig:
        deletions = "ignore" if self.keeps_deleted else "sync"
        return EntityConfig(self.name, filtered=self.filtered, deletions=cast(Any, deletions))


@dataclass(frozen=True, slots=True)
class Version:
    """A record's content from one commit to the next."""

    position: int  # among all commits
    is_silent: bool  # no delta tells of it
    values: Mapping[str, Any] | None  # None: deleted
    text: str | None  # its JSON, as every answer sends it


@dataclass(frozen=True, slots=True)
class _Pending:
    """A write that is invisible until its transaction is committed."""

    commit_at: float
    table: Table
    record_id: str
    values: Mapping[str, Any] | None
    is_silent: bool = False


@dataclass(frozen=True, slots=True)
class _Query:
    """A query, with the position that its next link continues from."""

    table: Table
    select: Sequence[str] = ()
    filter: str = ""
    orderby: Sequence[str] = ()
    tracked: bool = False
    since: int | None = None  # a delta: changes after this position
    until: int = 0  # the position that its own token will name
    after: tuple[Any, ...] | None = None  # where the page before it ended
    asked_in: int = 0  # the run that was told the link

    @property
    def reads_records(self) -> bool:
        return not self.select


@dataclass(frozen=True, slots=True)
class Asked:
    """One answered page."""

    table: str
    url: str
    whole: bool  # records, and not their keys and versions alone
    records: int
    goes_on: str | None  # the link to the next page, in a read that can be taken up there


@dataclass(slots=True)
class Moods:
    """Probabilities of each event at each request."""

    change: float = 0.3
    late: float = 0.3  # of the writes
    pass_time: float = 0.3
    fault: float = 0.0
    kill: float = 0.0
    expire: float = 0.05
    full_answer: float = 0.05  # to a delta link
    refuse_link: float = 0.05  # of those kept from an earlier run
    empty_page: float = 0.03
    hide: float = 0.0  # of the deletions in tracked tables: access ended, and no delta tells
    repeat: float = 0.0  # of the next links: they lead to the same page again


class ModelServer:
    """The environment, with the methods that a run calls on ``DataverseClient``."""

    api_url = API
    in_flight = 0
    waited_s = 0.0

    def __init__(self, rng: Random, tables: Sequence[Table], page_size: int) -> None:
        self.rng = rng
        self.tables = {table.name: table for table in tables}
        self.now = 0.0  # seconds since BEGAN_AT
        self.position = 0
        self.moods = Moods()
        self.bytes_read = 0
        self.server_date: datetime | None = None
        self.run = 0
        self.kill_hard = False
        self.asked: list[Asked] = []
        self.first_asked_at: dict[str, datetime] = {}
        self.first_urls: dict[str, str] = {}
        self.held = 0  # pages that were not released
        self._page_size = page_size
        # Whether a delta read leaves out what is changed again while it is paged.
        self.delta_is_bounded = rng.random() < 0.5
        # Where no order can be asked for, pages go by counting: what is deleted meanwhile moves
        # others to the pages before.
        self.counts_pages = {t.name for t in tables if not t.dated and rng.random() < 0.5}
        self.refused: dict[str, int] = {}  # what is refused from now on, and the status
        self.heaviest: tuple[int, int | None] | None = None  # records a page, and the status
        self.was_restored = False
        self.visible: dict[str, set[str]] = {}  # table → the only ids that the app may see
        self.hidden: set[str] = set()  # tables of which it may not see the name
        self.were_limited = False
        self.may_read_whole = False  # a refusal may be taken for one of ids or versions
        self.annotates = rng.random() < 0.5  # tells which table a lookup points to
        self._version = 1000
        self._history: dict[str, dict[str, list[Version]]] = {t.name: {} for t in tables}
        self._pending: list[_Pending] = []
        self._links: dict[str, _Query] = {}

    # What a test may know

    def history(self, name: str, record_id: str) -> Sequence[Version]:
        return self._history[name].get(record_id, ())

    def committed(self, name: str) -> dict[str, Version]:
        """Return the existing records by id."""
        last = {key: versions[-1] for key, versions in self._history[name].items()}
        return {key: version for key, version in last.items() if version.text is not None}

    def seen_since(self, name: str, record_id: str, position: int) -> list[Version | None]:
        """Return the versions of a record since a position; None where it did not exist."""
        before: Version | None = None
        since: list[Version | None] = []
        for version in self.history(name, record_id):
            found = None if version.text is None else version
            if version.position <= position:
                before = found
            else:
                since.append(found)
        return [before, *since]

    def links_of(self, table: Table, version: Version) -> Iterator[tuple[str, str]]:
        """Yield entity set and id of each record that a version links to."""
        assert version.values is not None
        for column, targets in table.lookups.items():
            if (target := version.values[column]) is not None:
                told = self._find_target(target, targets) if self.annotates else None
                yield from ((name, target) for name in targets if told in (None, name))
        for column in table.keys_of:
            for other in self.tables.values():
                if other.key == column:
                    yield other.name, version.values[column]

    # What happens to it

    def live(self, steps: int) -> None:
        for _ in range(steps):
            self._act()
            if self.rng.random() < self.moods.pass_time:
                self.now += self.rng.choice((0.1, 1, 3, 20, 75)) * self.rng.random()
        self._land()

    def rest(self) -> None:
        """Stop all changes, and commit the pending writes."""
        self.now = max([self.now, *(write.commit_at for write in self._pending)])
        self._land()
        self.moods.change = self.moods.fault = self.moods.kill = self.moods.repeat = 0.0

    def _act(self) -> None:
        rng = self.rng
        table = rng.choice(list(self.tables.values()))
        record_id = rng.choice(table.ids)
        if any(write.record_id == record_id for write in self._pending):
            return  # locked by that transaction
        versions = self.history(table.name, record_id)
        old = versions[-1].values if versions else None
        is_silent = False
        if old is not None and rng.random() < (0.8 if table.keys_of else 0.3):
            values = None
            is_silent = table.tracked and rng.random() < self.moods.hide
        else:
            values = self._write(table, record_id, old)
        can_tell = table.versioned and not table.keeps_deleted
        limit = LATEST_COMMIT_S if can_tell else LATEST_SHOWN_S
        late = rng.choice((1, 20, limit)) * rng.random() if rng.random() < self.moods.late else 0
        write = _Pending(self.now + late, table, record_id, values, is_silent)
        self._pending.append(write)
        self._land()

    def _write(self, table: Table, record_id: str, old: Mapping[str, Any] | None) -> dict[str, Any]:
        """Make a version of a record: new, restored, changed, imported, linked or unlinked."""
        rng = self.rng
        self._version += rng.randint(1, 10**6)
        if table.keys_of:
            rng = Random(record_id)  # a pair that is linked anew gets a new id
        values: dict[str, Any] = {
            "@odata.etag": f'W/"{self._version if table.versioned else 1}"',
            table.key: record_id,
            "name": rng.choice(("Ada", "Zoë ✓", 'a "quoted"\r\nname ', None)),
            "amount": f"{rng.randint(0, 99)}.{rng.randint(0, 9)}0",
            "closed": rng.random() < 0.5,
        }
        for column, targets in table.lookups.items():
            ids = [key for name in targets for key in self.tables[name].ids]
            values[column] = rng.choice(ids) if rng.random() < 0.5 else None
            if old is not None and rng.random() < 0.5:
                values[column] = old[column]
        for column in table.keys_of:
            (ids,) = (other.ids for other in self.tables.values() if other.key == column)
            values[column] = rng.choice(ids)
        can_tell = table.versioned and not table.keeps_deleted
        if table.dated:
            before = {
                version.values["modifiedon"]
                for version in self.history(table.name, record_id)
                if version.values is not None
            }
            modified_on = _shown(self.now)
            if not table.keeps_deleted and rng.random() < 0.3:
                modified_on = _shown(rng.random() * self.now)
                if not table.versioned and modified_on in before:
                    modified_on = _shown(self.now)  # nothing would tell the two apart
            elif old is not None and can_tell and rng.random() < 0.1:
                modified_on = old["modifiedon"]  # as where a calculated column changes
            values["createdon"] = _shown(0) if old is None else old["createdon"]
            values["modifiedon"] = modified_on
        if table.versioned:
            values["versionnumber"] = self._version
        return values

    def _land(self) -> None:
        """Commit the writes that are due, in the order of their commit times."""
        due = [write for write in self._pending if write.commit_at <= self.now]
        if not due:
            return
        self._pending = [write for write in self._pending if write.commit_at > self.now]
        for write in sorted(due, key=lambda write: write.commit_at):
            self.position += 1
            text = None if write.values is None else self._text(write.table, write.values)
            versions = self._history[write.table.name].setdefault(write.record_id, [])
            if versions or text is not None:
                versions.append(Version(self.position, write.is_silent, write.values, text))

    def restore(self) -> None:
        """Go back to an earlier state: no delta tells of it, and version numbers are lower."""
        self.rest()
        position = self.rng.randint(0, self.position)
        self.was_restored = True
        for versions in [v for of_table in self._history.values() for v in of_table.values()]:
            then = [version for version in versions if version.position <= position]
            values, text = (then[-1].values, then[-1].text) if then else (None, None)
            if versions[-1].text != text:
                self.position += 1
                versions.append(Version(self.position, True, values, text))
        kept = [v.values["versionnumber"] for v in self._all_versions() if v.values]
        self._version = max(kept, default=1000)

    def _all_versions(self) -> Iterator[Version]:
        for table in self.tables.values():
            if table.versioned:
                yield from self.committed(table.name).values()

    def refuse_more(self) -> None:
        """Refuse one more kind of query, or larger pages, from now on."""
        kinds = ("since", "version", "or", "ids", "paging", "tracked", "targets", "heavy")
        what = self.rng.choice(kinds)
        if what == "heavy":
            self.heaviest = self.rng.choice((1, 7, 900)), self.rng.choice((500, 503, 504, None))
            self.may_read_whole |= self.heaviest[1] == 500
        else:
            self.refused[what] = self.rng.choice((400, 404, 405, 500, 501))
            # Of these, 400 and 501 alone are taken for a refusal of annotations at once.
            is_doubtful = what == "targets" and self.refused[what] not in (400, 501)
            self.may_read_whole |= what in ("version", "or", "ids") or is_doubtful

    def limit(self, name: str) -> None:
        """Let the app see less of a table from now on."""
        self.were_limited = True
        if self.rng.random() < 0.5:
            self.hidden.add(name)
        else:
            ids = self.tables[name].ids
            self.visible[name] = set(self.rng.sample(ids, self.rng.randint(0, len(ids) - 1)))

    def lift(self, name: str) -> None:
        """Let the app see all of a table again."""
        self.hidden.discard(name)
        self.visible.pop(name, None)

    @property
    def limited(self) -> set[str]:
        return self.hidden | self.visible.keys()

    def texts_of(self, table: Table, version: Version) -> set[str | None]:
        """The texts that a version may be stored as, whatever of it may be seen."""
        if version.values is None:
            return {None}
        return {version.text, self._text(table, {**version.values, "name": None})}

    def _text(self, table: Table, values: Mapping[str, Any]) -> str:
        raw = {name: json.dumps(value) for name, value in values.items()}
        raw["amount"] = values["amount"]  # a decimal with its scale, which no float keeps
        for column, targets in table.lookups.items() if self.annotates else ():
            if len(targets) > 1 and values[column] is not None:
                target = self.tables[self._find_target(values[column], targets)].logical_name
                raw[f"{column}@{odata.LOOKUP_TARGET}"] = json.dumps(target)
        filled = [f'"{name}":{text}' for name, text in raw.items() if text != "null"]
        nulls = [f'"{name}":null' for name, text in raw.items() if text == "null"]
        return "{" + ",".join([*filled, *nulls]) + "}"

    def _find_target(self, record_id: str, targets: Sequence[str]) -> str:
        return next(name for name in targets if record_id in self.tables[name].ids)

    # What a run asks it

    def get_page(self, request: PageRequest) -> Page:
        asked_at = BEGAN_AT + timedelta(seconds=int(self.now))
        self._between_requests(request)
        query = self._links.get(request.url) or self._parse(request)
        self._check_refused(request, query)
        self.first_urls.setdefault(request.entity, request.url)
        is_kept = query.asked_in < self.run and query.since is None
        if is_kept and self.rng.random() < self.moods.refuse_link:
            raise self._refusal(request, 400, "0x80041129", "Paging cookie does not match.")
        # Not before: a link that is refused brings nothing, and the read begins after it.
        if query.reads_records or query.table.filtered:
            self.first_asked_at.setdefault(request.entity, asked_at)
        page = odata.parse_page(request, self._answer(request, query))
        by_id = f"{query.table.key} eq" in query.filter
        goes_on = page.next_link if query.reads_records and not by_id else None
        self.asked.append(
            Asked(request.entity, request.url, query.reads_records, len(page.records), goes_on)
        )
        self.held += 1
        return replace(page, asked_at=asked_at)

    def _check_refused(self, request: PageRequest, query: _Query) -> None:
        is_tracked = query.tracked or query.since is not None
        key = query.table.key
        is_asked = {
            "since": "modifiedon gt" in query.filter,
            "version": len(query.select) > 1 and not is_tracked,
            "or": " or " in query.filter,
            "ids": f"{key} eq" in query.filter,
            "tracked": is_tracked,
            "targets": request.names_targets,
            "paging": request.number > 1 and list(query.orderby) == [key],
        }
        if query.reads_records and not self.refused and self.heaviest is None:
            assert request.names_targets == query.table.has_open_lookups
        for what, status in self.refused.items():
            if is_asked[what]:
                raise self._refusal(request, status, "0x80048d0b", f"{what} is not supported.")
        if self.heaviest is not None and (request.size or 5000) > self.heaviest[0]:
            raise self._refusal(request, self.heaviest[1], "0x80044151", "SQL timeout expired.")

    def get_document(self, function: str, path: str, *, retries: int | None = None) -> Any:
        if function == "WhoAmI":
            organization_id = "5d0e1f5c-7a3b-4c7e-9f0a-2b6c8d4e1f3a"
            return {"OrganizationId": organization_id, "UserId": organization_id}
        if function == "RetrievePrincipalAttributePrivileges":
            seen = self.tables.keys() - self.hidden
            return {"AttributePrivileges": [{"AttributeId": name, "CanRead": 4} for name in seen]}
        assert function == "RetrieveUserSetOfPrivilegesByNames"
        asked = json.loads(unquote(path).partition("@p=")[2])
        depths = {
            f"prvRead{name}": "Local" if name in self.visible else "Global" for name in self.tables
        }
        return {
            "RolePrivileges": [
                {"PrivilegeName": name, "Depth": depths[name], "BusinessUnitId": "unit"}
                for name in asked
            ]
        }

    def release(self, _page: Page) -> None:
        self.held -= 1

    def get_sample(self, entity_set: str) -> dict[str, Any] | None:
        raise AssertionError(f"{entity_set}: a sample is asked for, though the metadata knows it")

    def get_definitions(
        self, names: Sequence[str], *, is_trial: bool = False
    ) -> list[dict[str, Any]]:
        return [self._definition(self.tables[name]) for name in names]

    def get_counts(self, logical_names: Sequence[str]) -> dict[str, int]:
        tables = {table.logical_name: table.name for table in self.tables.values()}
        return {name: len(self.committed(tables[name])) for name in logical_names}

    def stop(self) -> None:
        if self.kill_hard:
            raise Killed

    def _definition(self, table: Table) -> dict[str, Any]:
        kinds = {table.key: "Uniqueidentifier", "name": "String", "amount": "Decimal"}
        kinds |= {"closed": "Boolean"} | dict.fromkeys(table.keys_of, "Uniqueidentifier")
        kinds |= {column[1:-6]: "Lookup" for column in table.lookups}
        if table.dated:
            kinds |= {"createdon": "DateTime", "modifiedon": "DateTime"}
        if table.versioned:
            kinds |= {"versionnumber": "BigInt"}
        return {
            "LogicalName": table.logical_name,
            "EntitySetName": table.name,
            "PrimaryIdAttribute": table.key,
            "IsIntersect": bool(table.keys_of),
            "ChangeTrackingEnabled": table.tracked,
            "Privileges": [{"Name": f"prvRead{table.name}", "PrivilegeType": "Read"}],
            "Attributes": [
                {
                    "LogicalName": name,
                    "AttributeType": kind,
                    "IsValidODataAttribute": True,
                    "IsSecured": name == "name",
                    "MetadataId": table.name,
                }
                for name, kind in kinds.items()
            ],
            "ManyToOneRelationships": [
                {
                    "ReferencingAttribute": column[1:-6],
                    "ReferencedEntity": self.tables[target].logical_name,
                }
                for column, targets in table.lookups.items()
                for target in targets
            ],
        }

    def _between_requests(self, request: PageRequest) -> None:
        rng, moods = self.rng, self.moods
        while rng.random() < moods.change:
            self._act()
        if rng.random() < moods.pass_time:
            self.now += rng.choice((0.1, 1, 5, 150)) * rng.random()
        self._land()
        if rng.random() < moods.kill:
            self.kill_hard = rng.random() < 0.5
            raise Killed if self.kill_hard else KeyboardInterrupt
        if rng.random() < moods.fault:
            raise self._refusal(request, 503, "", "The service is unavailable.")

    def _parse(self, request: PageRequest) -> _Query:
        """Parse a query that did not come from a link."""
        parts = urlsplit(request.url)
        assert request.url.startswith(API) and parts.path.startswith(urlsplit(API).path)
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        name = parts.path.removeprefix(urlsplit(API).path)
        query = _Query(
            self.tables[name],
            select=[column for column in options.pop("$select", "").split(",") if column],
            filter=options.pop("$filter", ""),
            orderby=[column for column in options.pop("$orderby", "").split(",") if column],
            tracked=request.track_changes,
            until=self.position,
            asked_in=self.run,
        )
        assert not options, f"{request.url}: not known here"
        assert not (query.tracked and (query.filter or query.orderby))
        assert not query.tracked or query.table.tracked
        if name in self.counts_pages and query.orderby:
            raise self._refusal(request, 400, "0x80060888", "The order is not supported.")
        return query

    def _answer(self, request: PageRequest, query: _Query) -> bytes:
        context = f"{API}$metadata#{query.table.name}"
        if query.since is not None and query.after is None:
            if self.rng.random() < self.moods.expire:
                raise self._refusal(request, 400, "0x80044352", "Version stamp has expired.")
            query = replace(query, until=self.position)
            if self.rng.random() < self.moods.full_answer:
                query = replace(query, since=None)
        if query.since is not None:
            context += "/$delta"
            entries = self._changes(query)
        else:
            entries = self._records(query)
        size = self._page_size
        if entries and self.rng.random() < self.moods.empty_page:
            size = 0
        answer = ['"@odata.context":' + json.dumps(context)]
        if len(entries) > size:
            after = entries[size - 1][0] if size else query.after
            if self.rng.random() < self.moods.repeat:
                after = query.after
            link = self._link(replace(query, after=after or (), asked_in=self.run))
            answer.append('"@odata.nextLink":' + json.dumps(link))
        elif query.tracked:
            answer.append('"@odata.deltaLink":' + json.dumps(self._delta_link(query)))
        answer.append('"value":[' + ",".join(text for _, text in entries[:size]) + "]")
        return ("{" + ",".join(answer) + "}").encode()

    def _records(self, query: _Query) -> list[tuple[tuple[Any, ...], str]]:
        """Return the records after the last page, each with its place in the order."""
        table = query.table
        counted = table.name in self.counts_pages
        order = [*query.orderby, table.key]
        entries = []
        for version in self.committed(table.name).values():
            values = cast(Mapping[str, Any], version.values)
            place = tuple(values[column] for column in order)
            if query.after and not counted and place <= query.after:
                continue
            if query.filter and not _matches(query.filter, values):
                continue
            if values[table.key] not in self.visible.get(table.name, table.ids):
                continue
            entries.append((place, self._shape(query, version)))
        entries.sort()
        if counted:
            start = query.after[0] if query.after else 0
            return [((at + 1,), text) for at, (_, text) in enumerate(entries)][start:]
        return entries

    def _changes(self, query: _Query) -> list[tuple[tuple[Any, ...], str]]:
        """Return the changed records in the order of commits, then the deleted ones."""
        assert query.since is not None
        until = query.until if self.delta_is_bounded else self.position
        entries = []
        for record_id, versions in self._history[query.table.name].items():
            last = versions[-1]
            place = (last.text is None, last.position)
            if last.is_silent or (query.after and place <= query.after):
                continue
            if record_id not in self.visible.get(query.table.name, query.table.ids):
                continue
            if query.since < last.position <= until:
                entries.append((place, self._shape(query, last, record_id)))
        return sorted(entries)

    def _shape(self, query: _Query, version: Version, record_id: str = "") -> str:
        if version.text is None:
            entry = {
                "@odata.context": f"{API}$metadata#{query.table.name}/$deletedEntity",
                "id": record_id,
                "reason": "deleted",
            }
            return json.dumps(entry)
        assert version.values is not None
        if not query.select and query.table.name in self.hidden:
            return self._text(query.table, {**version.values, "name": None})
        if not query.select:
            return version.text
        chosen = ("@odata.etag", query.table.key, *query.select)
        return json.dumps({name: version.values[name] for name in chosen})

    def _link(self, query: _Query) -> str:
        """Make an opaque next link, valid only if sent back unchanged."""
        link = f"{API}{query.table.name}?$skiptoken=%3Ccookie%20n=%22{len(self._links)}%22%20/%3E"
        self._links[link] = query
        return link

    def _delta_link(self, query: _Query) -> str:
        link = f"{API}{query.table.name}?$deltatoken={self._version}%21{len(self._links)}"
        self._links[link] = replace(query, since=query.until, after=None, asked_in=self.run)
        return link

    def _refusal(
        self, request: PageRequest, status: int | None, code: str, text: str
    ) -> RequestError:
        message = f"{request}: {status} {code}: {text}"
        return RequestError(message, status=status, code=code, request=request)

    # In the client's place

    @contextmanager
    def in_place(self, workers: int, pages_per_transaction: int, ids: int) -> Iterator[None]:
        """Direct every run in the block to this server, with workers that are not threads."""
        self.run += 1
        self.asked.clear()
        self.first_asked_at.clear()
        self.first_urls.clear()
        self.held = 0
        self.kill_hard = False
        pool = Workers(self.rng, workers)

        @contextmanager
        def open_session(*_: object) -> Iterator[Session]:
            auth = SimpleNamespace(authority=None, reach_api=lambda: None)
            yield SignedIn(cast(Any, self), cast(Any, pool), cast(Any, auth))

        def open_engine(path: Path) -> Engine:
            engine = _open_engine(path)
            engine.dialect = _DIALECTS.setdefault("sqlite", engine.dialect)  # part of each key
            return engine.execution_options(compiled_cache=_COMPILED)

        arrivals = SimpleNamespace(SimpleQueue=lambda: pool, Empty=queue.Empty)
        with (
            patch("dataverse_sync.sync.run.open_session", open_session),
            patch("dataverse_sync.store.sqlite.open_engine", open_engine),
            patch("dataverse_sync.store.tables.build_table", _build_table),
            patch("dataverse_sync.sync.page_loop.queue", arrivals),
            patch("dataverse_sync.sync.page_loop.PAGES_PER_TRANSACTION", pages_per_transaction),
            patch("dataverse_sync.sync.page_loop.TRANSACTION_S", 3600.0),
            patch("dataverse_sync.dataverse.odata.IDS_PER_REQUEST", ids),
        ):
            yield


class SignedIn(Session):
    """A session that needs no sign-in."""

    def sign_in(self) -> None:
        pass


class Workers:
    """Thread pool and queue of answers on one thread: requests are answered in random order."""

    def __init__(self, rng: Random, workers: int) -> None:
        self._rng = rng
        self._workers = workers
        self._jobs: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self._arrived: deque[Any] = deque()

    def submit(self, job: Callable[..., object], *arguments: object) -> Future[object]:
        """Queue a page request; answer metadata at once."""
        answer: Future[object] = Future()
        if job in (read_metadata, get_environment, find_depths, find_readable):
            answer.set_result(job(*arguments))
            return answer
        self._jobs.append((job, arguments))
        assert len(self._jobs) + len(self._arrived) <= self._workers, "more than was asked for"
        return answer

    def map(self, job: Callable[..., object], *arguments: Iterable[object]) -> Iterator[object]:
        return map(job, *arguments)

    def put(self, arrival: object) -> None:
        self._arrived.append(arrival)

    def get(self, timeout: float | None = None) -> object:
        if not self._arrived:
            assert self._jobs, "waits for what nobody was asked for"
            self._answer_one()
        return self._arrived.popleft()

    def get_nowait(self) -> object:
        while self._jobs and self._rng.random() < 0.5:
            self._answer_one()
        if not self._arrived:
            raise queue.Empty
        return self._arrived.popleft()

    def _answer_one(self) -> None:
        job, arguments = self._jobs.pop(self._rng.randrange(len(self._jobs)))
        job(*arguments)


def make_ids(rng: Random, count: int) -> list[str]:
    return [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(count)]


def _shown(moment: float) -> str:
    return (BEGAN_AT + timedelta(seconds=int(moment))).strftime("%Y-%m-%dT%H:%M:%SZ")


def _matches(filter: str, values: Mapping[str, Any]) -> bool:
    return any(
        all(_holds(term, values) for term in part.split(" and ")) for part in filter.split(" or ")
    )


def _holds(term: str, values: Mapping[str, Any]) -> bool:
    name, operator, literal = term.split(" ")
    value = values[name]
    if value is None:
        return False
    assert len(value) == len(literal), f"{term}: compared with {value}"  # as text
    return {
        "eq": value == literal.lower() or value == literal,
        "gt": value > literal,
        "ge": value >= literal,
        "lt": value < literal,
        "le": value <= literal,
    }[operator]
