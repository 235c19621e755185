"""Change tracking: a tracked read ends in a delta link; the link brings what changed since.

The version a delta link names is taken before its read's first page, and stays below every
write that still waits for its commit: what changes during the read comes again, nothing is
left out.

https://learn.microsoft.com/power-apps/developer/data-platform/use-change-tracking-synchronize-data-external-systems
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from .answers import Answer, Page, bad_request, missing_privilege, to_json
from .paging import Cursor, DeltaToken, SortKey, after_clause, skip_token, sort_values
from .query import Preferences, Query, check_options
from .request import SetRequest
from .shape import Row, Shape

_TOKEN = re.compile(r"\d+!\d\d/\d\d/\d{4} \d\d:\d\d:\d\d")
_TOKEN_LIFE_S = 7 * 86_400


def is_tracked(query: Query, preferences: Preferences) -> bool:
    """Whether this is a tracked read, a delta read, or a later page of one."""
    later = 'istracking="True"' in (query.get("$skiptoken") or "")
    return preferences.track_changes or "$deltatoken" in query.options or later


def read_tracked(request: SetRequest) -> Answer:
    _refuse(request)
    cursor = request.find_cursor()
    store, spec = request.backend.store, request.table.spec
    with store.lock:
        if cursor is None:
            cursor = Cursor(1, (), safe_version=store.safe_version, since=_since(request))
        shape = Shape(request)
        finder = _everything if cursor.since is None else _changes
        found = finder(request, shape, cursor)
    ending = "" if cursor.since is None else "/$delta"
    records = [text for _, text in found.entries]
    page = Page(shape.context + ending, records, spec.entity_set)
    if found.following is None:
        page.delta_link = f"{request.link}$deltatoken={_new_token(request, cursor.safe_version)}"
    else:
        since = "" if cursor.since is None else f' since="{cursor.since}"'
        about = f' version="{cursor.safe_version}"{since}'
        ids = [id_ for id_, _ in found.entries] or [None]
        token = skip_token(found.following.page, [spec.key], ids[:1], ids[-1:], about)
        page.next_link = request.next_link(token, found.following)
    return request.answer(page)


def _refuse(request: SetRequest) -> None:
    for name in ("$filter", "$orderby", "$top", "$expand"):
        if name in request.query.options:
            raise bad_request(
                f'The "{name}" query parameter isn\'t supported when Change Tracking is enabled.'
            )
    check_options(request.query, ("$select", "$skiptoken", "$deltatoken"))
    request.refuse_access()
    spec = request.table.spec
    if not spec.change_tracking:
        raise bad_request(
            f"Change tracking is not enabled for entity '{spec.logical_name}'.", "0x80072491"
        )
    if spec.entity_set in request.backend.control.tracking_denied:
        raise missing_privilege(spec.logical_name)


@dataclass(frozen=True, slots=True)
class _Found:
    entries: list[tuple[Any, bytes]]  # id and text
    following: Cursor | None


def _everything(request: SetRequest, shape: Shape, cursor: Cursor) -> _Found:
    keys = [SortKey(request.table.spec.key, request.table.rank)]
    where = [after_clause(keys, cursor.after)] if cursor.after else []
    size = request.page_size
    rows = shape.rows(where, keys, size + 1)
    following = None
    if len(rows) > size:
        after = sort_values(keys, rows[size - 1].shown, request.table)
        following = replace(cursor, page=cursor.page + 1, after=after)
    return _Found([(row.shown[0], row.text) for row in rows[:size]], following)


def _changes(request: SetRequest, shape: Shape, cursor: Cursor) -> _Found:
    """Changed records in the order of their versions, then the deleted ones."""
    table, size = request.table, request.page_size
    since = cursor.since or 0
    above: int = cursor.after[0] if cursor.after else since
    rows: list[Row] = []
    if not cursor.deletions:
        keys = [SortKey(table.spec.key, table.version)]
        rows = shape.rows([table.version > above], keys, size + 1)
        above = since
    entries = [(row.shown[0], row.text) for row in rows[:size]]
    following = replace(cursor, page=cursor.page + 1)
    if len(rows) > size:
        return _Found(entries, replace(following, after=(rows[size - 1].version,)))
    room = size - len(rows)
    gone = request.backend.store.deleted_since(table.spec.entity_set, above, room + 1)
    context = f"{request.base}$metadata#{table.spec.entity_set}/$deletedEntity"
    entries += [
        (id_, to_json({"@odata.context": context, "id": id_, "reason": "deleted"}))
        for id_, _ in gone[:room]
    ]
    if len(gone) <= room:
        return _Found(entries, None)
    sent = gone[room - 1][1] if room else above
    return _Found(entries, replace(following, after=(sent,), deletions=True))


def _since(request: SetRequest) -> int | None:
    """The version that a delta token names; None if everything is to be read."""
    text = request.query.get("$deltatoken")
    if text is None:
        return None
    if not _TOKEN.fullmatch(text):
        raise bad_request("The delta token is not valid.")
    control, table = request.backend.control, request.table
    token = control.delta_tokens.get((table.spec.entity_set, request.query.get("$select"), text))
    oldest = request.backend.store.clock.now().timestamp() - _TOKEN_LIFE_S
    if token and token.schema_version == table.schema_version and token.sent_at >= oldest:
        return token.version
    if control.full_read_on_expiry:
        return None
    message = "Version stamp associated with the client has expired. Please perform a full sync."
    raise bad_request(message, "0x80044352")


def _new_token(request: SetRequest, version: int) -> str:
    now = request.backend.store.clock.now()
    text = f"{version}!{now:%m/%d/%Y %H:%M:%S}"
    token = DeltaToken(version, request.table.schema_version, now.timestamp())
    key = (request.table.spec.entity_set, request.query.get("$select"), text)
    request.backend.control.delta_tokens[key] = token
    return re.sub(r"%[0-9A-F]{2}", lambda m: m[0].lower(), quote(text, safe=""))
