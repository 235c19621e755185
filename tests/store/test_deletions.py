"""What is gone: found by a census, removed within the guard, kept whole."""

from __future__ import annotations

import json

import pytest
from conftest import raw
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from dataverse_sync.errors import GuardError, PageError
from dataverse_sync.model import Column, Entity, Page, PageRequest
from dataverse_sync.store import deletions
from dataverse_sync.store.rows import to_rows
from dataverse_sync.store.tables import build_table
from dataverse_sync.store.upsert import upsert

PRODUCTS = build_table(
    Entity(
        "products",
        "productid",
        (Column("productid", "TEXT"), Column("name", "TEXT"), Column("versionnumber", "INTEGER")),
        "metadata",
    )
)
VERSIONLESS = build_table(Entity("labels", "labelid", (Column("labelid", "TEXT"),), "metadata"))
REQUEST = PageRequest("products", "https://org.example/api/data/v9.2/products", 3)


@pytest.fixture
def table(connection):
    PRODUCTS.table.create(connection)
    return PRODUCTS


def record(key: str, version: int | None = 1) -> str:
    return json.dumps({"productid": key, "name": f"“{key}”", "versionnumber": version})


def gone(key: str) -> str:
    return json.dumps({"id": key, "reason": "deleted"})


def put(connection, *records: str) -> None:
    upsert(connection, PRODUCTS, to_rows(PRODUCTS, [raw(text) for text in records], "now"))


def take(connection, *records: str, table=PRODUCTS) -> None:
    page = Page(REQUEST, tuple(raw(text) for text in records))
    deletions.take_census(connection, table, page)


def keys(connection, query) -> list[str]:
    return sorted(connection.execute(query).scalars())


def left(connection) -> list[str]:
    return keys(connection, select(PRODUCTS.table.c.productid))


# The census


def test_a_complete_census_tells_what_is_missing_and_what_is_stale(connection, table):
    put(connection, record("a"), record("b"), record("c"), record("n", None))
    deletions.start_census(connection, "products")

    take(connection, record("b"), record("c", 2))
    take(connection, record("d"), record("n", None))

    assert keys(connection, deletions.missing_from_census(table)) == ["a"]
    assert sorted(deletions.find_stale(connection, table)) == ["c", "d"]
    assert deletions.count_changed(connection, "products") == 4


def test_a_version_that_appeared_or_went_is_stale(connection, table):
    put(connection, record("a", None), record("b", 2))

    take(connection, record("a", 5), record("b", None))

    assert sorted(deletions.find_stale(connection, table)) == ["a", "b"]


def test_a_version_beyond_a_float_is_compared_exactly(connection, table):
    put(connection, record("a", 2**62 + 1), record("b", 2**62 + 1))

    take(connection, record("a", 2**62 + 1), record("b", 2**62))

    assert deletions.find_stale(connection, table) == ["b"]


def test_without_versions_only_missing_rows_are_stale(connection):
    VERSIONLESS.table.create(connection)
    rows = to_rows(VERSIONLESS, [raw('{"labelid":"a"}')], "now")
    upsert(connection, VERSIONLESS, rows)

    take(connection, '{"labelid":"a"}', '{"labelid":"b"}', table=VERSIONLESS)

    assert deletions.find_stale(connection, VERSIONLESS) == ["b"]


def test_by_modifiedon_only_what_had_settled_is_taken_for_unchanged(connection):
    columns = (Column("noteid", "TEXT"), Column("modifiedon", "TEXT"))
    notes = build_table(Entity("notes", "noteid", columns, "metadata"))
    notes.table.create(connection)
    entries = [f'{{"noteid":"{day}","modifiedon":"2024-01-0{day}T00:00:00Z"}}' for day in (1, 2, 3)]
    upsert(connection, notes, to_rows(notes, [raw(text) for text in entries], "now"))

    take(connection, *entries, table=notes)

    assert deletions.find_stale(connection, notes) == []
    assert deletions.find_stale(connection, notes, "2024-01-02T00:00:00Z") == ["3"]


def test_a_delta_names_what_is_deleted_and_what_changed(connection, table):
    put(connection, record("a"), record("b"), record("c"))

    take(connection, record("b", 2), record("d"), gone("a"), gone("never-seen"))

    assert keys(connection, deletions.deleted_in_census(table)) == ["a"]
    assert sorted(deletions.find_stale(connection, table)) == ["b", "d"]
    assert deletions.count_changed(connection, "products") == 2


@pytest.mark.parametrize("order", [(gone("a"), record("a")), (record("a"), gone("a"))])
def test_what_a_delta_both_changes_and_deletes_is_asked_for(connection, table, order):
    put(connection, record("a"))

    take(connection, order[0])
    take(connection, order[1])

    assert deletions.find_stale(connection, table) == ["a"]
    assert keys(connection, deletions.deleted_in_census(table)) == []


def test_the_last_of_several_versions_counts(connection, table):
    put(connection, record("a", 2))

    take(connection, record("a", 1), record("a", 2))

    assert deletions.find_stale(connection, table) == []


def test_a_record_that_has_a_reason_column_is_no_deletion(connection, table):
    put(connection, record("a"))

    take(connection, '{"productid":"a","versionnumber":1,"id":"a","reason":"deleted"}')

    assert keys(connection, deletions.deleted_in_census(table)) == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('{"versionnumber":1}', "an entry has no productid"),
        ('{"productid":null}', "an entry has no productid"),
        ('{"productid":""}', "an entry has no productid"),
        ('{"reason":"deleted"}', "an entry has no productid"),
        ('{"id":"a","reason":"changed"}', "an entry has no productid"),
        ("7", "an entry cannot be read"),
        ("[" * 5000 + "]" * 5000, "an entry cannot be read"),
    ],
)
def test_an_entry_without_a_key_is_no_census(connection, table, entry, message):
    with pytest.raises(PageError, match=f"products, page 3: {message}"):
        take(connection, record("a"), entry)


def test_a_new_census_starts_from_nothing(connection, table):
    put(connection, record("a"))
    take(connection, record("a"), record("b"))
    deletions.doom_ids(connection, table, ["a"], "deleted")

    deletions.start_census(connection, "products")
    take(connection)

    assert keys(connection, deletions.missing_from_census(table)) == ["a"]
    assert deletions.find_stale(connection, table) == []
    assert deletions.list_doomed(connection, table) == []


# What a full read returned


def test_what_no_page_of_a_full_read_returned_is_missing(connection, table):
    put(connection, record("a"), record("b"), record("c"))

    deletions.note_seen(connection, "products", ["a"])
    deletions.note_seen(connection, "products", ["c", "d"])
    deletions.note_seen(connection, "others", ["b"])

    assert keys(connection, deletions.missing_from_read(table)) == ["b"]


# Removing


def test_a_removed_row_is_kept_whole_with_its_reason(connection, table):
    put(connection, record("a"), record("b"), record("c"))
    deletions.doom_ids(connection, table, ["a", "unknown"], "deleted")
    take(connection, record("c"))
    deletions.doom(connection, table, deletions.missing_from_census(table), "unlinked")

    removed = deletions.remove_doomed(connection, table, "2026-11-23T02:00:00.000Z")

    kept = connection.execute(select(deletions.DELETED).order_by(deletions.DELETED.c.record_id))
    assert removed == 2
    assert left(connection) == ["c"]
    assert [tuple(row)[1:] for row in kept] == [
        ("products", "a", "2026-11-23T02:00:00.000Z", "deleted", record("a")),
        ("products", "b", "2026-11-23T02:00:00.000Z", "unlinked", record("b")),
    ]
    assert deletions.list_doomed(connection, table) == []


def test_a_record_removed_twice_is_kept_twice(connection, table):
    for at in ("one", "two"):
        put(connection, record("a"))
        deletions.doom_ids(connection, table, ["a"], "deleted")
        deletions.remove_doomed(connection, table, at)

    query = select(deletions.DELETED.c.deleted_at)
    assert keys(connection, query) == ["one", "two"]


def test_what_is_there_after_all_is_spared(connection, table):
    put(connection, record("a"), record("b"), record("c"))
    deletions.doom_ids(connection, table, ["a", "b", "c"], "not_returned")

    deletions.spare(connection, table, [])
    deletions.spare(connection, table, ["a", "b"])
    deletions.remove_doomed(connection, table, "now")

    assert left(connection) == ["a", "b"]


def test_all_of_a_table_can_be_spared(connection, table):
    put(connection, record("a"))
    deletions.doom_ids(connection, table, ["a"], "unlinked")

    deletions.spare_all(connection, table)

    assert deletions.remove_doomed(connection, table, "now") == 0
    assert left(connection) == ["a"]


# The guard


@pytest.mark.parametrize(("rows", "doomed"), [(102, 51), (101, 50), (100, 100), (1, 1), (101, 0)])
def test_half_of_a_table_and_all_of_a_small_one_may_go(connection, table, rows, doomed):
    put(connection, *(record(f"{n:03}") for n in range(rows)))
    deletions.doom_ids(connection, table, [f"{n:03}" for n in range(doomed)], "deleted")

    deletions.check_guard(connection, table, allow_deletes=False)

    assert deletions.remove_doomed(connection, table, "now") == doomed


@pytest.mark.parametrize(("rows", "doomed"), [(102, 52), (101, 51), (101, 101)])
def test_one_more_than_half_may_not_go_unless_allowed(connection, table, rows, doomed):
    put(connection, *(record(f"{n:03}") for n in range(rows)))
    deletions.doom_ids(connection, table, [f"{n:03}" for n in range(doomed)], "deleted")

    with pytest.raises(GuardError, match=f"{doomed} of {rows} rows") as caught:
        deletions.check_guard(connection, table, allow_deletes=False)
    deletions.check_guard(connection, table, allow_deletes=True)

    assert "--allow-deletes" in caught.value.hint


KEYS = st.lists(st.sampled_from(["a", "b", "c", "A", "ä", "aa"]), max_size=8)


@given(KEYS, KEYS)
def test_sums_are_the_same_for_the_same_keys_alone_each_as_often(one, other):
    same = sorted(one) == sorted(other)

    assert (deletions.sum_keys(one) == deletions.sum_keys(other)) == same


def test_the_sum_of_a_table_is_that_of_its_keys(connection, table):
    rows = to_rows(table, [raw(record(key)) for key in ("a", "b", "C", "ä", "e")], "now")
    upsert(connection, table, rows)

    assert deletions.sum_stored_keys(connection, table) == deletions.sum_keys("abCäe")
