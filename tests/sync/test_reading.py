"""A read: links that lead on, and empty answers that are no circle."""

from __future__ import annotations

import pytest

from dataverse_sync.errors import PageError
from dataverse_sync.model import Page, PageRequest
from dataverse_sync.sync.reading import EMPTY_PAGES, LinkCheck

REQUEST = PageRequest("things", "https://x/things")


def test_empty_answers_without_links_are_accepted() -> None:
    links = LinkCheck()

    for _ in range(2 * EMPTY_PAGES):  # as of ids that no longer exist, 50 a request
        links.check(Page(REQUEST, ()))


def test_empty_pages_with_links_end() -> None:
    links = LinkCheck()

    with pytest.raises(PageError, match="1000 pages in a row held no record"):
        for number in range(2 * EMPTY_PAGES):
            links.check(Page(REQUEST, (), next_link=f"https://x/things?$skiptoken={number}"))
