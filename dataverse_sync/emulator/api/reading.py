"""Read records that are not tracked: a page of an entity set, a count."""

from __future__ import annotations

from dataclasses import replace

from .answers import Answer, Page
from .paging import Cursor, after_clause, parse_orderby, skip_token, sort_values
from .query import check_options
from .request import SetRequest
from .shape import Shape

MAX_COUNT = 5000


def read_set(request: SetRequest) -> Answer:
    """One page of an entity set that is not tracked."""
    table, query = request.table, request.query
    check_options(query)
    request.refuse_access()
    shape = Shape(request)
    keys = parse_orderby(query.get("$orderby"), table)
    cursor = request.find_cursor()
    # With a page size preference the service silently drops $top.
    top = query.top if request.preferences.max_page_size is None else None
    size = request.page_size if top is None else min(request.page_size, top)
    where = request.conditions()
    if cursor and cursor.after:
        where.append(after_clause(keys, cursor.after))
    rows = shape.rows(where, keys, size + 1)
    page = Page(shape.context, [row.text for row in rows[:size]], table.spec.entity_set)
    if len(rows) > size and top is None:
        number = 2 if cursor is None else cursor.page + 1
        first, last = rows[0].shown, rows[size - 1].shown
        token = skip_token(number, [key.name for key in keys], first, last)
        page.next_link = request.next_link(token, Cursor(number, sort_values(keys, last, table)))
    return request.answer(page)


def link_to_same_page(request: SetRequest) -> str:
    """A new link to where the page that answers ``request`` begins."""
    cursor = request.find_cursor() or Cursor(1, ())
    cursor = replace(cursor, page=cursor.page + 1)
    token = skip_token(cursor.page, [request.table.spec.key], [None], [None])
    return request.next_link(token, cursor)


def count_set(request: SetRequest) -> Answer:
    """``/$count``: at most 5,000, and behind a byte-order mark, as the service sends it."""
    check_options(request.query, ("$filter",))
    request.refuse_access()
    count = request.backend.store.count(request.table, *request.conditions())
    body = b"\xef\xbb\xbf" + str(min(count, MAX_COUNT)).encode()
    return Answer(body=body, content_type="text/plain; odata.metadata=minimal")
