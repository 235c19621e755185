"""Paging that does not advance ends; pages that overlap do not."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataverse_sync.errors import PageError
from dataverse_sync.model import Page, PageRequest
from dataverse_sync.sync import repeats
from dataverse_sync.sync.repeats import RepeatedPages


def read(pages: list[list[str]]) -> None:
    """Check pages as a read does, each with a link but the last."""
    repeats = RepeatedPages()
    for number, keys in enumerate(pages, start=1):
        link = f"https://x/{number}" if number < len(pages) else None
        repeats.check(Page(PageRequest("things", "https://x/", number), (), link), keys)


@pytest.mark.parametrize(
    "pages",
    [
        [["a", "b"], ["a", "b"], ["a", "b"]],
        [["a", "b"], ["c", "d"], ["b", "c"], ["a"]],
        [["a", "b"], ["b"], ["a"]],
        [["a"], ["b"], ["a"], ["b"], ["a"]],
    ],
)
def test_two_pages_without_new_keys_end_the_read(pages: list[list[str]]) -> None:
    with pytest.raises(PageError, match="two pages in a row brought only records already read"):
        read(pages)


@pytest.mark.parametrize(
    "pages",
    [
        [["a", "b"], ["a", "b"], ["c"]],
        [["a", "b"], ["b", "c"], ["c", "d"], ["d"]],
        [["a"], ["a"], ["b"], ["b"], ["c"]],
        [[], [], ["a"]],
        [["a", "b"], ["b"], [], ["a"]],
    ],
)
def test_overlapping_pages_go_on(pages: list[list[str]]) -> None:
    read(pages)


def find_end(pages: list[list[str]]) -> int | None:
    """The second of two pages in a row that hold keys of earlier pages alone."""
    repeated = 0
    for number in range(1, len(pages)):
        is_repeated = pages[number] and set(pages[number]) <= {*chain(*pages[:number])}
        repeated = repeated + 1 if is_repeated else 0
        if repeated == 2:
            return number + 1
    return None


@given(st.lists(st.lists(st.integers(0, 200).map(str), max_size=4), max_size=30))
def test_the_second_page_of_known_keys_ends_the_read(pages: list[list[str]]) -> None:
    end = find_end(pages)
    if end is None:
        read(pages)
    else:
        read([*pages[: end - 1], ["new"]])
        with pytest.raises(PageError):
            read([*pages[:end], ["new"]])


def test_a_long_read_ends_by_its_lowest_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "_KEPT", 1000)
    pages = [[f"{page}-{n}" for n in range(500)] for page in range(6)]
    read(pages)
    read([*pages, pages[4], ["new"]])
    with pytest.raises(PageError):
        read([*pages, pages[4], pages[5], ["new"]])
