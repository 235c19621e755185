"""The next plainer way after each kind of refusal, and how a way is kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dataverse_sync.errors import RequestError
from dataverse_sync.model import PageRequest
from dataverse_sync.sync.ways import BEST, Way, format_way, next_way, parse_way

NOW = datetime(2026, 11, 23, 2, tzinfo=UTC)
LAST = Way(order=2)


def refusal(status: int | None, number: int = 1, code: str = "", **more: bool) -> RequestError:
    request = PageRequest("things", "https://x/things", number)
    return RequestError("refused", status=status, code=code, request=request, **more)


def choose(
    way: Way, kind: str, error: RequestError, size: int = 5000, proven: bool = True
) -> object:
    return next_way(way, kind, error, orders=3, size=size, is_proven=proven)  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [400, 404, 405, 500, 501])
@pytest.mark.parametrize(
    ("way", "kind", "expected"),
    [
        (BEST, "since", Way(since=False)),
        (BEST, "thin", Way(versions=False)),
        (BEST, "ids", Way(ids="single")),
        (Way(ids="single"), "ids", Way(ids="none")),
        (Way(order=1), "since", Way(order=1, since=False)),
    ],
)
def test_first_page_asked_plainer(status: int, way: Way, kind: str, expected: Way) -> None:
    assert choose(way, kind, refusal(status)) == expected


@pytest.mark.parametrize("status", [400, 404, 405, 500, 501])
@pytest.mark.parametrize("kind", ["since", "thin", "ids", "whole"])
def test_unproven_order_is_replaced_first(status: int, kind: str) -> None:
    assert choose(BEST, kind, refusal(status), proven=False) == Way(order=1)
    assert choose(Way(order=1), kind, refusal(status), proven=False) == LAST


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("since", Way(since=False)), ("thin", Way(versions=False)), ("ids", Way(ids="single"))],
)
def test_orders_tried_in_vain_are_forgiven(kind: str, expected: Way) -> None:
    assert choose(LAST, kind, refusal(400), proven=False) == expected


@pytest.mark.parametrize(
    ("status", "way", "kind", "expected"),
    [
        (400, BEST, "since", Way(targets=False)),
        (501, BEST, "whole", Way(targets=False)),
        (500, Way(order=2, page_size=1), "whole", Way(targets=False)),  # nothing else is left
        (400, Way(targets=False), "whole", Way(order=1)),
        (400, Way(order=2, targets=False), "since", Way(since=False)),
        (400, Way(order=2, targets=False), "whole", None),
    ],
)
def test_targets_are_left_out_unless_in_vain(
    status: int, way: Way, kind: str, expected: Way | None
) -> None:
    error = refusal(status)
    assert error.request is not None
    error.request = replace(error.request, names_targets=way.targets)

    assert choose(way, kind, error, way.page_size or 5000, proven=False) == expected


@pytest.mark.parametrize("status", [400, 404, 405, 501])
def test_refused_paging_tries_next_order(status: int) -> None:
    assert choose(BEST, "since", refusal(status, number=2)) == Way(order=1)
    assert choose(LAST, "since", refusal(status, number=2)) is None


@pytest.mark.parametrize("status", [500, 502, 503, 504, None])
@pytest.mark.parametrize("kind", ["since", "thin", "whole", "tracked", "kept"])
def test_heavy_next_page_is_halved(status: int | None, kind: str) -> None:
    error = refusal(status, number=7)

    assert choose(BEST, kind, error) == Way(page_size=2500)
    assert choose(Way(page_size=3), kind, error, size=3) == Way(page_size=1)
    last = choose(Way(page_size=1), kind, error, size=1)
    may_reorder = status == 500 and kind not in ("tracked", "kept")
    assert last == (Way(order=1) if may_reorder else None)


def test_plainer_query_comes_before_smaller_page() -> None:
    error, way, ways = refusal(500), BEST, []
    while (found := choose(way, "whole", error, way.page_size or 4, proven=False)) is not None:
        way = found  # type: ignore[assignment]
        ways.append(way)

    assert ways[:2] == [Way(order=1), Way(order=2)]
    assert [way.page_size for way in ways[2:]] == [2, 1]


@pytest.mark.parametrize("kind", ["since", "thin", "ids", "whole", "tracked", "kept"])
@pytest.mark.parametrize(
    "error",
    [
        refusal(401),
        refusal(403),
        refusal(429),
        refusal(None, is_outage=True),
        refusal(404, code="0x8006088a"),
        refusal(404, code="0x80060888"),
        refusal(503, code="0x8004a113"),
        refusal(404, code="0x8004a104"),
    ],
)
def test_other_refusals_change_nothing(kind: str, error: RequestError) -> None:
    assert choose(BEST, kind, error, proven=False) is None


@pytest.mark.parametrize("kind", ["tracked", "kept"])
@pytest.mark.parametrize("status", [400, 404, 405, 501])
def test_link_and_token_are_not_asked_plainer(kind: str, status: int) -> None:
    assert choose(BEST, kind, refusal(status), proven=False) is None


@pytest.mark.parametrize(
    "way",
    [
        Way(targets=False),
        Way(since=False),
        Way(ids="single", order=2),
        Way(versions=False, page_size=1),
    ],
)
def test_way_is_kept_for_a_week(way: Way) -> None:
    text = format_way(way, None, NOW)

    assert parse_way(text, NOW + timedelta(days=6)) == way
    assert parse_way(text, NOW + timedelta(days=7)) == BEST
    assert parse_way(text, NOW - timedelta(days=1)) == BEST
    assert format_way(way, text, NOW + timedelta(days=6)) == text
    assert way.describe()


@pytest.mark.parametrize("text", [None, "", "{", "[]", "7", '{"order":1}', '{"found_at":3}'])
def test_unreadable_way_is_the_best(text: str | None) -> None:
    assert parse_way(text, NOW) == BEST


def test_best_way_is_not_kept() -> None:
    assert format_way(BEST, "whatever", NOW) is None
    assert BEST.describe() == []
