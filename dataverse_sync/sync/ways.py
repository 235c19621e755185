"""How an entity is asked, and the next plainer way after a refusal; pure.

Every kind of refusal goes through ``next_way``. A plainer query comes before a smaller page. What
is known to have been answered is not what is to blame: if the order of a query was answered before,
its filter is what the service refuses. What was found holds for a week, then all is tried again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from dataverse_sync.dataverse.error_codes import is_state
from dataverse_sync.errors import RequestError
from dataverse_sync.moments import parse_timestamp, to_text

REFUSED_TARGETS = (400, 501)  # of the preference; another error is more likely to be of the query
REFUSED_QUERY = (400, 404, 405, 500, 501)  # of this very query; another may be answered
TOO_HEAVY = (500, 502, 503, 504, None)  # after every retry: a page may be what is too much
TRIED_AGAIN = timedelta(days=7)
_UNKNOWN_SET = ("0x8006088a", "0x80060888")  # no query of it would be answered

Kind = Literal["since", "thin", "ids", "whole", "tracked", "kept"]
Ids = Literal["many", "single", "none"]


@dataclass(frozen=True, slots=True)
class Way:
    """How an entity is asked: the best way first, then what is left of it after refusals."""

    since: bool = True  # what changed since a moment, by a filter on modifiedon
    versions: bool = True  # keys and versions alone, by their columns
    ids: Ids = "many"  # records by id: many in one filter, one in each, or not at all
    order: int = 0  # which of the entity's orders, the best first
    page_size: int | None = None  # records at most; None: as many as the run asks for
    targets: bool = True  # with the table that each lookup points to, where that is needed

    def describe(self) -> list[str]:
        """What the service refuses, in words for a person."""
        found = []
        if not self.since:
            found.append("refuses a filter by modifiedon: keys and versions are compared")
        if not self.versions:
            found.append("refuses the version column: the table is read whole")
        if self.ids == "single":
            found.append("refuses 'or' between ids: records are asked for one by one")
        if self.ids == "none":
            found.append("refuses filters by id: the table is read whole")
        if self.order:
            found.append("refuses the order by key")
        if self.page_size:
            found.append(f"cannot give larger pages than {self.page_size} records")
        if not self.targets:
            found.append("refuses to name the tables that lookups point to")
        return found


BEST = Way()


def parse_way(text: str | None, now: datetime) -> Way:
    """What an earlier run found out; the best way if that is a week ago, or unknown."""
    try:
        values = json.loads(text or "")
        found_at = parse_timestamp(values.pop("found_at"))
        if found_at is None or not timedelta() <= now - found_at < TRIED_AGAIN:
            return BEST
        return Way(**values)
    except (ValueError, TypeError, AttributeError, KeyError):
        return BEST


def format_way(way: Way, before: str | None, now: datetime) -> str | None:
    """A way as it is kept, with the moment it was first found; None for the best one."""
    if way == BEST:
        return None
    if before is not None and parse_way(before, now) == way:
        return before
    return json.dumps({**asdict(way), "found_at": to_text(now)})


def next_way(
    way: Way,
    kind: Kind,
    error: RequestError,
    *,
    orders: int,
    size: int,
    is_proven: bool = False,
) -> Way | None:
    """The next plainer way after a request that failed for good; None if there is none.

    Args:
        way: By which the request was asked.
        kind: Of the query that was refused.
        error: Why.
        orders: How many orders the entity has.
        size: Records a page, of the request.
        is_proven: Whether the order of this way was answered before.
    """
    is_unknown = error.status == 404 and error.code.lower() in _UNKNOWN_SET
    if error.is_outage or is_unknown or is_state(error.code) or error.request is None:
        return None
    is_first = error.request.number <= 1
    names_targets = error.request.names_targets and way.targets and is_first
    if error.status in REFUSED_TARGETS and names_targets:
        return replace(way, targets=False)
    if error.status in REFUSED_QUERY and kind not in ("tracked", "kept"):
        may_reorder = way.order + 1 < orders and not (is_proven and is_first)
        if may_reorder and (is_first or error.status not in TOO_HEAVY):
            return replace(way, order=way.order + 1, targets=True)
        plainer = _ask_plainer(way, kind) if is_first else None
        if plainer is not None:
            # What was tried in vain was not to blame.
            return replace(plainer, order=way.order if is_proven else 0, targets=True)
    if error.status in TOO_HEAVY and size > 1:
        return replace(way, page_size=size // 2)
    may_reorder = kind not in ("tracked", "kept") and way.order + 1 < orders
    if error.status in REFUSED_QUERY and not is_first and may_reorder:
        return replace(way, order=way.order + 1, page_size=None)  # paging in this order
    if error.status in REFUSED_QUERY and names_targets:
        return replace(way, order=0, page_size=None, targets=False)
    return None


def _ask_plainer(way: Way, kind: Kind) -> Way | None:
    if kind == "since":
        return replace(way, since=False)
    if kind == "thin":
        return replace(way, versions=False)
    if kind == "ids" and way.ids != "none":
        return replace(way, ids="single" if way.ids == "many" else "none")
    return None
