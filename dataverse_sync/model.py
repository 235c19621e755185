"""The nouns: entities and their columns, pages and requests, what a run reports.

Frozen dataclasses, no behaviour beyond what can be read off their own fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from datetime import datetime
from operator import add
from typing import Literal

import msgspec

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
OWNER = "_ownerid_value"
# What tells whether an owner is a user or a team, where a table has both.
OWNERS = {"_owninguser_value": "systemuser", "_owningteam_value": "team"}

ColumnType = Literal["TEXT", "INTEGER", "REAL"]
Source = Literal["metadata", "sample"]
Kind = Literal["standard", "elastic", "virtual"]
LimitKind = Literal["depth", "secured", "elastic", "virtual"]
State = Literal["pending", "in_progress", "completed", "failed"]
Reason = Literal["deleted", "not_returned", "unlinked"]


@dataclass(frozen=True, slots=True)
class EntityConfig:
    """One entry of ``entities_config.json``."""

    name: str  # the entity set name of the API, and the table's name
    filtered: bool = False  # only the records that the synced tables link to
    description: str = ""
    deletions: Literal["sync", "ignore"] = "sync"


@dataclass(frozen=True, slots=True)
class Column:
    """A column under its JSON name, such as ``name`` or ``_ownerid_value``."""

    name: str
    type: ColumnType
    targets: tuple[str, ...] = ()  # logical names that a lookup may point to
    gone: bool = False  # no longer in Dataverse; kept for the values it has


@dataclass(frozen=True, slots=True)
class Entity:
    """What the schema lock knows of one entity set."""

    name: str
    key: str
    columns: tuple[Column, ...]
    source: Source
    logical_name: str | None = None
    is_intersect: bool = False  # the junction table of an N:N relationship
    change_tracking: bool = False
    key_found: str = "metadata"  # how the key was found, as the log says it
    kind: Kind = "standard"  # where its records are kept; not part of drift

    def has(self, name: str) -> bool:
        """Whether Dataverse has the column, not only our table."""
        return any(column.name == name and not column.gone for column in self.columns)

    @property
    def tells_owner(self) -> bool:
        """Whether a record itself says what kind of owner it has."""
        return self.has(OWNER) and all(map(self.has, OWNERS))

    @property
    def open_lookups(self) -> tuple[Column, ...]:
        """The lookups with several possible targets, if a record does not say which it is."""
        told = (OWNER,) if self.tells_owner else ()
        lookups = (column for column in self.columns if len(column.targets) > 1)
        return tuple(one for one in lookups if not one.gone and one.name not in told)

    @property
    def version_column(self) -> str | None:
        """The column that tells two versions of a record apart, if there is one."""
        return next(filter(self.has, ("versionnumber", "modifiedon")), None)


@dataclass(frozen=True, slots=True)
class PageRequest:
    """One page to ask for: a new query, or a next link sent back as it came."""

    entity: str
    url: str  # absolute
    number: int = 1  # 0: of an answer that has no pages
    top: bool = False  # carries $top: sent without the page-size preference, which would drop it
    track_changes: bool = False
    keys_only: bool = False  # for keys and versions, not for whole records
    names_targets: bool = False  # asks for the table that each lookup points to
    size: int | None = None  # records at most; None: as many as the run asks for
    retries: int | None = None  # at most, of another way of asking; None: as many as help

    def __str__(self) -> str:
        return f"{self.entity}, page {self.number}" if self.number else self.entity


@dataclass(frozen=True, slots=True)
class Range:
    """A part of a table by ``createdon``, and how far its read has come."""

    since: str | None = None  # the first moment in it; None: from the oldest record on
    until: str | None = None  # the first moment after it; None: to the newest record
    is_null: bool = False  # instead: the records that have no createdon
    next_link: str | None = None  # where its read goes on; None: at its beginning
    page: int = 1  # the number of the page behind the link
    is_done: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it is all that has a createdon."""
        return not self.is_null and self.since is None and self.until is None

    @property
    def filter(self) -> str:
        if self.is_null:
            return "createdon eq null"
        if self.is_whole:
            return "createdon ne null"
        parts = [f"createdon ge {self.since}"] if self.since else []
        parts += [f"createdon lt {self.until}"] if self.until else []
        return " and ".join(parts)


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of the Web API: the unit of retry, transaction and progress."""

    request: PageRequest
    records: tuple[msgspec.Raw, ...]  # each the very bytes that the server sent
    next_link: str | None = None  # opaque: sent back as it came
    delta_link: str | None = None  # only on the last page, and only if tracked
    context: str = ""
    asked_at: datetime | None = None  # by the server's clock, never later than the true moment
    size: int = 0  # bytes of JSON
    took_s: float = 0.0  # from its request to its last byte
    requests: int = 1  # HTTP requests that it took

    @property
    def next_request(self) -> PageRequest | None:
        if self.next_link is None:
            return None
        asked = self.request
        return PageRequest(
            asked.entity,
            self.next_link,
            asked.number + 1,
            keys_only=asked.keys_only,
            names_targets=asked.names_targets,
            size=asked.size,
        )


@dataclass(frozen=True, slots=True)
class Counts:
    """What a page, an entity or a run did to its rows."""

    fetched: int = 0
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(add, astuple(self), astuple(other)))


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference between the locked schema and the live one."""

    entity: str
    change: Literal[
        "entity_added", "entity_removed", "column_added", "column_removed", "type_changed"
    ]
    column: str | None = None
    old_type: ColumnType | None = None
    new_type: ColumnType | None = None
    is_new: bool = field(default=False, compare=False)  # first found by this run

    @property
    def severity(self) -> Literal["info", "breaking"]:
        return "info" if self.change in ("entity_added", "column_added") else "breaking"

    def __str__(self) -> str:
        what = f"{self.entity}.{self.column}" if self.column else self.entity
        match self.change:
            case "entity_added":
                return f"{what}: new in the configuration"
            case "entity_removed":
                return f"{what}: no longer configured or no longer in Dataverse; its table stays"
            case "column_added":
                return f"{what}: new column ({self.new_type}), kept in json_response"
            case "column_removed":
                return f"{what}: column ({self.old_type}) is gone from Dataverse"
            case "type_changed" if self.old_type == self.new_type:
                return f"{what}: is the key, not what the locked schema takes for it"
            case "type_changed":
                return f"{what}: type changed from {self.old_type} to {self.new_type}"


@dataclass(frozen=True, slots=True)
class Limit:
    """What this app does not see of a table, or of a column; or what is odd about the table."""

    entity: str
    column: str | None
    kind: LimitKind
    detail: str

    def __str__(self) -> str:
        return f"{self.entity}{f'.{self.column}' if self.column else ''}: {self.detail}"


@dataclass(frozen=True, slots=True)
class EntityReport:
    """What one run did for one entity."""

    name: str
    state: State
    counts: Counts = Counts()
    requests: int = 0
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What one run did: returned by ``run_sync``, printed by the command line."""

    run_id: str
    started_at: datetime
    finished_at: datetime
    entities: tuple[EntityReport, ...]
    drift: tuple[Drift, ...] = ()
    requests: int = 0
    bytes_read: int = 0
    waited_s: float = 0.0  # for throttling, while the gate was closed
    notes: Mapping[str, str] = field(default_factory=dict)  # entity → what to know of it

    @property
    def failed(self) -> tuple[EntityReport, ...]:
        return tuple(entity for entity in self.entities if entity.state == "failed")

    @property
    def ok(self) -> bool:
        """Whether every selected entity completed."""
        return not self.failed

    @property
    def totals(self) -> Counts:
        return sum((entity.counts for entity in self.entities), Counts())


# Events: what a run tells while it goes on.


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    number: int
    text: str


@dataclass(frozen=True, slots=True)
class EntityStarted:
    entity: str


@dataclass(frozen=True, slots=True)
class ReadExpected:
    """About how much of an entity will be read in this run; told again if more is known."""

    entity: str
    records: int | None = None  # None: nobody knows
    keys: int | None = None  # of a comparison of keys, should there be one


@dataclass(frozen=True, slots=True)
class PageStored:
    entity: str
    records: int
    size: int  # bytes of JSON
    in_flight: int
    waited_s: float = 0.0  # for throttling, in the run so far
    keys_only: bool = False


@dataclass(frozen=True, slots=True)
class StillWaiting:
    """No page came for a while; told again and again until one does."""

    in_flight: int
    waited_s: float


@dataclass(frozen=True, slots=True)
class EntityFinished:
    report: EntityReport


@dataclass(frozen=True, slots=True)
class EntityVerified:
    """An entity was compared; it is told again where more of it is compared later."""

    entity: str


@dataclass(frozen=True, slots=True)
class EntityExported:
    """The file of an entity was written, or cannot be."""

    entity: str


Event = (
    PhaseStarted
    | EntityStarted
    | ReadExpected
    | PageStored
    | StillWaiting
    | EntityFinished
    | EntityVerified
    | EntityExported
)
