"""Read records: a page of an entity set, one record, a count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..data.columns import GUID, guid_rank
from .answers import Answer, Page, bad_request, not_found, to_json
from .options import Preferences, check_options
from .paging import Cursor, SortKey, after_clause, parse_orderby, skip_token, sort_values
from .shape import Read, Shape

MAX_COUNT = 5000


def read_set(read: Read) -> Answer:
    """One page of an entity set that is not tracked."""
    table, query, preferences = read.table, read.query, read.preferences
    check_options(query)
    read.refuse_access()
    shape = Shape(read)
    keys = parse_orderby(query.get("$orderby"), table)
    where = read.conditions()
    cursor = read.find_cursor()
    # With a page size preference the service silently drops $top.
    top = query.top if preferences.max_page_size is None else None
    size = read.page_size if top is None else min(read.page_size, top)
    after = [after_clause(keys, cursor.after)] if cursor and cursor.after else []
    with read.env.store.lock:
        rows = shape.rows([*where, *after], keys, size + 1)
        total = read.env.store.count(table, *where) if query.count else -1
    head: dict[str, Any] = {"@odata.context": shape.context}
    head |= _page_annotations(preferences, total)
    if query.count:
        head["@odata.count"] = min(total, MAX_COUNT)
    page = Page(head, [row.text for row in rows[:size]], entity_set=table.spec.entity_set)
    if len(rows) > size and top is None:
        number = 2 if cursor is None else cursor.page + 1
        first, last = rows[0].shown, rows[size - 1].shown
        token = skip_token(number, [key.name for key in keys], first, last)
        page.next_link = read.next_link(token, Cursor(number, sort_values(keys, last, table)))
    return read.answer(page)


def same_place(read: Read) -> str:
    """A new link to where the page that answers ``read`` begins."""
    cursor = read.find_cursor() or Cursor(1, ())
    cursor = replace(cursor, page=cursor.page + 1)
    token = skip_token(cursor.page, [read.table.spec.key], [None], [None])
    return read.next_link(token, cursor)


def read_record(read: Read, id_: str) -> Answer:
    table = read.table
    check_options(read.query, ("$select", "$expand"))
    read.refuse_access()
    id_ = id_.removeprefix(f"{table.spec.key}=").lower()
    if not GUID.fullmatch(id_):
        raise bad_request(f"Error in query syntax: '{id_}' is not a guid.")
    shape = Shape(read)
    rows = shape.rows([table.rank == guid_rank(id_)], [SortKey(table.spec.key, table.rank)], 1)
    if not rows:
        raise not_found(table.spec.logical_name, id_)
    context = to_json({"@odata.context": f"{shape.context}/$entity"})
    return Answer(body=context[:-1] + b"," + rows[0].text[1:], records=1)


def count_set(read: Read) -> Answer:
    """``/$count``: at most 5,000, and behind a byte-order mark, as the service sends it."""
    check_options(read.query, ("$filter",))
    read.refuse_access()
    return count_answer(read.env.store.count(read.table, *read.conditions()))


def count_answer(count: int) -> Answer:
    body = b"\xef\xbb\xbf" + str(min(count, MAX_COUNT)).encode()
    return Answer(body=body, content_type="text/plain; odata.metadata=minimal")


def _page_annotations(preferences: Preferences, total: int) -> dict[str, Any]:
    values = {
        "totalrecordcount": min(total, MAX_COUNT),
        "totalrecordcountlimitexceeded": total > MAX_COUNT,
        "globalmetadataversion": "6012567",
    }
    return {
        f"@Microsoft.Dynamics.CRM.{name}": value
        for name, value in values.items()
        if preferences.wants(f"Microsoft.Dynamics.CRM.{name}")
    }
