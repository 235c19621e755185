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

from .answers import Answer, Page, ServiceError, bad_request, missing_privilege, to_json
from .environment import DeltaToken, privilege_id
from .options import Preferences, Query, check_options, refuse_with_tracking
from .paging import Cursor, SortKey, after_clause, skip_token, sort_values
from .reading import MAX_COUNT, count_answer
from .shape import Read, Row, Shape

_TOKEN = re.compile(r"\d+!\d\d/\d\d/\d{4} \d\d:\d\d:\d\d")


def is_tracked(query: Query, preferences: Preferences) -> bool:
    """A tracked read or its next link, a delta read or its next link."""
    token = query.get("$skiptoken") or ""
    return (
        preferences.track_changes
        or "$deltatoken" in query.options
        or ('istracking="True"' in token)
    )


def read_tracked(read: Read) -> Answer:
    _refuse(read)
    cursor = read.find_cursor()
    with read.env.store.lock:
        if cursor is None:
            cursor = Cursor(1, (), safe_version=read.env.store.safe_version, since=_since(read))
        shape = Shape(read)
        finder = _everything if cursor.since is None else _changes
        found = finder(read, shape, cursor)
    ending = "" if cursor.since is None else "/$delta"
    page = Page(
        {"@odata.context": shape.context + ending},
        [text for _, text in found.entries],
        entity_set=read.table.spec.entity_set,
    )
    if found.following is None:
        page.delta_link = f"{read.link}$deltatoken={_new_token(read, cursor.safe_version)}"
    else:
        since = "" if cursor.since is None else f' since="{cursor.since}"'
        about = f' version="{cursor.safe_version}"{since}'
        ids = [id_ for id_, _ in found.entries] or [None]
        names = [read.table.spec.key]
        token = skip_token(found.following.page, names, ids[:1], ids[-1:], about)
        page.next_link = read.next_link(token, found.following)
    return read.answer(page)


def count_changes(read: Read) -> Answer:
    """``/$count`` on a delta link."""
    _refuse(read)
    since = _since(read) or 0
    changed = read.env.store.count(read.table, read.table.version > since)
    deleted = read.env.store.deleted_since(read.table.spec.entity_set, since, MAX_COUNT)
    return count_answer(changed + len(deleted))


def _refuse(read: Read) -> None:
    refuse_with_tracking(read.query)
    check_options(read.query, ("$select", "$skiptoken", "$deltatoken"))
    read.refuse_access()
    spec = read.table.spec
    name = spec.logical_name
    if not spec.change_tracking:
        raise bad_request(f"Change tracking is not enabled for entity '{name}'.", "0x80072491")
    if spec.entity_set in read.env.tracking_denied:
        raise missing_privilege(name, read.env.user_id, privilege_id(name))


@dataclass(frozen=True, slots=True)
class _Found:
    entries: list[tuple[Any, bytes]]  # id and text
    following: Cursor | None


def _everything(read: Read, shape: Shape, cursor: Cursor) -> _Found:
    keys = [SortKey(read.table.spec.key, read.table.rank)]
    where = [after_clause(keys, cursor.after)] if cursor.after else []
    size = read.page_size
    rows = shape.rows(where, keys, size + 1)
    following = None
    if len(rows) > size:
        after = sort_values(keys, rows[size - 1].shown, read.table)
        following = replace(cursor, page=cursor.page + 1, after=after)
    return _Found([(row.shown[0], row.text) for row in rows[:size]], following)


def _changes(read: Read, shape: Shape, cursor: Cursor) -> _Found:
    """Changed records in the order of their versions, then the deleted ones."""
    table, store, size = read.table, read.env.store, read.page_size
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
        version = store.version_of(table, str(entries[-1][0]))
        return _Found(entries, replace(following, after=(version,)))
    room = size - len(rows)
    gone = store.deleted_since(table.spec.entity_set, above, room + 1)
    context = f"{read.base}$metadata#{table.spec.entity_set}/$deletedEntity"
    entries += [
        (id_, to_json({"@odata.context": context, "id": id_, "reason": "deleted"}))
        for id_, _ in gone[:room]
    ]
    if len(gone) <= room:
        return _Found(entries, None)
    sent = gone[room - 1][1] if room else above
    return _Found(entries, replace(following, after=(sent,), deletions=True))


def _since(read: Read) -> int | None:
    """The version that a delta token names; None where everything is to be read."""
    text = read.query.get("$deltatoken")
    if text is None:
        return None
    if not _TOKEN.fullmatch(text):
        raise bad_request("The delta token is not valid.")
    env, table = read.env, read.table
    token = env.delta_tokens.get((table.spec.entity_set, read.query.get("$select"), text))
    age_s = env.clock.now().timestamp() - (token.sent_at if token else 0)
    if (
        token is None
        or token.schema_version != table.schema_version
        or age_s > env.delta_token_life_s
    ):
        if env.full_read_on_expiry:
            return None
        raise ServiceError(
            400,
            "0x80044352",
            "Version stamp associated with the client has expired. Please perform a full sync.",
        )
    return token.version


def _new_token(read: Read, version: int) -> str:
    now = read.env.clock.now()
    text = f"{version}!{now:%m/%d/%Y %H:%M:%S}"
    token = DeltaToken(version, read.table.schema_version, now.timestamp())
    key = (read.table.spec.entity_set, read.query.get("$select"), text)
    read.env.delta_tokens[key] = token
    return re.sub(r"%[0-9A-F]{2}", lambda m: m[0].lower(), quote(text, safe=""))
