"""A page of records is stored and counted; how rows are written is tested in ``tests/store``."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from conftest import raw

from dataverse_sync.errors import PageError
from dataverse_sync.model import Column, Counts, Entity, Page, PageRequest
from dataverse_sync.store.tables import build_table
from dataverse_sync.sync.reading import EntityReader
from dataverse_sync.sync.storing import Storing

THINGS = build_table(Entity("things", "thingid", (Column("size", "INTEGER"),), "metadata"))
GOOD = [json.dumps({"thingid": key, "size": 1}) for key in "ab"]


def page_of(*texts: str) -> Page:
    return Page(PageRequest("things", "https://x/things"), tuple(raw(text) for text in texts))


@pytest.fixture
def storing(connection):
    THINGS.table.create(connection)
    reader = EntityReader(THINGS.entity, "https://x/")
    return Storing(connection, THINGS, reader, 1, lambda: datetime(2026, 11, 23, tzinfo=UTC))


@pytest.mark.parametrize("expected", ["changed", "same", "new"])
def test_unusable_record_leaves_its_page_uncounted(storing, expected):
    with pytest.raises(PageError, match="has no thingid"):
        storing.write(page_of(*GOOD, '{"size": 3}'), expected=expected)

    assert storing.counts == Counts()
    assert storing.sample is None


def test_pages_are_counted_together(storing):
    storing.write(page_of(*GOOD), expected="new")
    storing.write(page_of(*GOOD, '{"thingid":"c"}'), expected="same")

    assert storing.counts == Counts(fetched=5, added=3, unchanged=2)
    assert bytes(storing.sample) == GOOD[0].encode()
