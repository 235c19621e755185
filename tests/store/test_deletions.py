"""Records gone from Dataverse: found by a comparison, removed within the guard, kept whole."""

from __future__ import annotations

import json

import pytest
from conftest import raw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from dataverse_sync.errors import GuardError, PageError
from dataverse_sync.model import Column, Entity, Page, PageRequest
from dataverse_sync.store import deletions
from dataverse_sync.store.tables import build_table
from dataverse_sync.store.upsert import write_records

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
    write_records(connection, PRODUCTS, [raw(text) for text in records], "now")


def take(connection, *records: str, table=PRODUCTS) -> None:
    page = Page(REQUEST, tuple(raw(text) for text in records))
    deletions.add_to_comparison(connection, table, page)


def keys(connection, query) -> list[str]:
    return sorted(connection.execute(query).scalars())


def left(connection) -> list[str]:
    return keys(connection, select(PRODUCTS.table.c.productid))


# Comparing keys and versions


@pytest.mark.parametrize(
    ("entries", "same"),
    [
        ([("a", 1), ("b", 1), ("n", None)], True),
        ([("n", None), ("b", 1), ("a", 1)], True),
        ([("a", 1), ("b", 2), ("n", None)], False),
        ([("a", 1), ("b", None), ("n", None)], False),
        ([("a", 1), ("b", 1)], False),
        ([("a", 1), ("b", 1), ("n", None), ("d", 1)], False),
        ([("a", 1), ("b", 1), ("b", 1)], False),
        ([("a", 1), ("B", 1), ("n", None)], False),
        ([], False),
    ],
)
def test_page_of_all_keys_and_versions(connection, table, entries, same):
    put(connection, record("a"), record("b"), record("n", None))
    page = Page(REQUEST, tuple(raw(record(*entry)) for entry in entries))

    assert deletions.holds_exactly(connection, table, page) is same


def test_comparison_finds_missing_and_differing_rows(connection, table):
    put(connection, record("a"), record("b"), record("c"), record("n", None))
    deletions.start_comparison(connection, "products")

    take(connection, record("b"), record("c", 2))
    take(connection, record("d"), record("n", None))

    assert keys(connection, deletions.missing_from_comparison(table)) == ["a"]
    assert sorted(deletions.find_differing(connection, table)) == ["c", "d"]
    assert deletions.count_changed(connection, "products") == 4


def test_version_that_came_or_went_differs(connection, table):
    put(connection, record("a", None), record("b", 2))

    take(connection, record("a", 5), record("b", None))

    assert sorted(deletions.find_differing(connection, table)) == ["a", "b"]


def test_large_versions_are_compared_exactly(connection, table):
    put(connection, record("a", 2**62 + 1), record("b", 2**62 + 1))

    take(connection, record("a", 2**62 + 1), record("b", 2**62))

    assert deletions.find_differing(connection, table) == ["b"]


def test_without_versions_only_missing_rows_differ(connection):
    VERSIONLESS.table.create(connection)
    write_records(connection, VERSIONLESS, [raw('{"labelid":"a"}')], "now")

    take(connection, '{"labelid":"a"}', '{"labelid":"b"}', table=VERSIONLESS)

    assert deletions.find_differing(connection, VERSIONLESS) == ["b"]


def test_unsettled_modifiedon_counts_as_differing(connection):
    columns = (Column("noteid", "TEXT"), Column("modifiedon", "TEXT"))
    notes = build_table(Entity("notes", "noteid", columns, "metadata"))
    notes.table.create(connection)
    entries = [f'{{"noteid":"{day}","modifiedon":"2024-01-0{day}T00:00:00Z"}}' for day in (1, 2, 3)]
    write_records(connection, notes, [raw(text) for text in entries], "now")

    take(connection, *entries, table=notes)

    assert deletions.find_differing(connection, notes) == []
    assert deletions.find_differing(connection, notes, "2024-01-02T00:00:00Z") == ["3"]


@pytest.mark.parametrize(
    ("stored", "version", "named"),
    [("1", 1, []), ("1", None, ["a"]), ("3", None, []), ("3", 1, [])],
)
def test_what_a_delta_names_has_changed(connection, table, stored, version, named):
    write_records(connection, PRODUCTS, [raw(record("a", version))], stored)

    take(connection, record("a", version))

    assert deletions.find_differing(connection, table) == []
    assert deletions.find_differing(connection, table, began="2") == named


@pytest.mark.parametrize("stored", ["1", "3"])
def test_modifiedon_does_not_gainsay_a_delta(connection, stored):
    columns = (Column("noteid", "TEXT"), Column("modifiedon", "TEXT"))
    notes = build_table(Entity("notes", "noteid", columns, "metadata"))
    notes.table.create(connection)
    entry = '{"noteid":"1","modifiedon":"2024-01-01T00:00:00Z"}'
    write_records(connection, notes, [raw(entry)], stored)

    take(connection, entry, table=notes)

    assert deletions.find_differing(connection, notes, began="2") == ["1"] * (stored == "1")


def test_elastic_id_that_comes_twice_is_asked_for(connection):
    columns = (Column("thingid", "TEXT"), Column("versionnumber", "INTEGER"))
    things = build_table(Entity("things", "thingid", columns, "metadata", kind="elastic"))
    things.table.create(connection)
    entries = ['{"thingid":"a","versionnumber":1}', '{"thingid":"b","versionnumber":1}']
    write_records(connection, things, [raw(text) for text in entries], "now")

    take(connection, *entries, entries[0], table=things)

    assert deletions.find_differing(connection, things) == ["a"]


def test_delta_names_deleted_and_changed(connection, table):
    put(connection, record("a"), record("b"), record("c"))

    take(connection, record("b", 2), record("d"), gone("a"), gone("never-seen"))

    assert keys(connection, deletions.deleted_in_comparison(table)) == ["a"]
    assert sorted(deletions.find_differing(connection, table)) == ["b", "d"]
    assert deletions.count_changed(connection, "products") == 2


@pytest.mark.parametrize("order", [(gone("a"), record("a")), (record("a"), gone("a"))])
def test_changed_and_deleted_is_fetched(connection, table, order):
    put(connection, record("a"))

    take(connection, order[0])
    take(connection, order[1])

    assert deletions.find_differing(connection, table) == ["a"]
    assert keys(connection, deletions.deleted_in_comparison(table)) == []


def test_last_of_several_versions_counts(connection, table):
    put(connection, record("a", 2))

    take(connection, record("a", 1), record("a", 2))

    assert deletions.find_differing(connection, table) == []


def test_reason_column_is_not_a_deletion(connection, table):
    put(connection, record("a"))

    take(connection, '{"productid":"a","versionnumber":1,"id":"a","reason":"deleted"}')

    assert keys(connection, deletions.deleted_in_comparison(table)) == []


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
def test_entry_without_key_is_refused(connection, table, entry, message):
    with pytest.raises(PageError, match=f"products, page 3: {message}"):
        take(connection, record("a"), entry)


def test_new_comparison_starts_empty(connection, table):
    put(connection, record("a"))
    take(connection, record("a"), record("b"))
    deletions.mark_ids_for_removal(connection, table, ["a"], "deleted")

    deletions.start_comparison(connection, "products")
    take(connection)

    assert keys(connection, deletions.missing_from_comparison(table)) == ["a"]
    assert deletions.find_differing(connection, table) == []
    assert deletions.list_marked(connection, table) == []


# What a full read returned

PAGES = st.lists(
    st.lists(st.sampled_from(["a", "b", "C", "c", "ä", "é,"]), max_size=4), min_size=1, max_size=4
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(there=st.sets(st.sampled_from(["a", "b", "C", "x", "ä"])), pages=PAGES)
def test_missing_keys_are_those_never_returned(connection, there, pages):
    PRODUCTS.table.create(connection, checkfirst=True)
    connection.execute(PRODUCTS.table.delete())
    put(connection, *map(record, there))
    returned = deletions.ReturnedKeys(connection, PRODUCTS)

    for page in pages:
        put(connection, *map(record, page))
        returned.add(page)

    missing = returned.find_missing()
    found = [] if missing is None else keys(connection, missing)
    assert found == sorted(there - set().union(*pages))


def test_key_with_zero_character_is_not_missing(connection, table):
    put(connection, *(record(key) for key in ("a", "a\0b", "a\0", "\0", "b", "gone", "gone\0x")))
    returned = deletions.ReturnedKeys(connection, table)
    returned.add(["a", "a\0b"])
    returned.add(["a\0", "\0", "b"])

    missing = connection.execute(returned.find_missing()).scalars().all()

    assert sorted(missing) == ["gone", "gone\0x"]


@pytest.mark.parametrize("pages", [["baC"], ["C", "b", "a"], ["abC", "d"], []])
def test_complete_read_misses_no_key(connection, table, pages):
    put(connection, *map(record, "abC"))
    returned = deletions.ReturnedKeys(connection, table)

    for page in pages:
        put(connection, *map(record, page))
        returned.add(list(page))

    assert returned.find_missing() is None


def test_each_table_has_its_own_keys(connection, table):
    VERSIONLESS.table.create(connection)
    put(connection, *map(record, "abc"))
    returned, others = (deletions.ReturnedKeys(connection, of) for of in (table, VERSIONLESS))

    others.add(["b"])
    returned.add(["a"])
    others.add(["b"])
    returned.add(["c"])

    assert keys(connection, returned.find_missing()) == ["b"]


def test_new_read_forgets_returned_keys(connection, table):
    put(connection, *map(record, "abc"))
    deletions.ReturnedKeys(connection, table).add(["b"])
    again = deletions.ReturnedKeys(connection, table)

    again.add(["a"])
    again.add(["c"])

    assert keys(connection, again.find_missing()) == ["b"]


# Removing


def test_removed_row_is_kept_whole(connection, table):
    put(connection, record("a"), record("b"), record("c"))
    deletions.mark_ids_for_removal(connection, table, ["a", "unknown"], "deleted")
    take(connection, record("c"))
    missing = deletions.missing_from_comparison(table)
    deletions.mark_for_removal(connection, table, missing, "unlinked")

    removed = deletions.remove_marked(connection, table, "2026-11-23T02:00:00.000Z")

    kept = connection.execute(select(deletions.DELETED).order_by(deletions.DELETED.c.record_id))
    assert removed == 2
    assert left(connection) == ["c"]
    assert [tuple(row)[1:] for row in kept] == [
        ("products", "a", "2026-11-23T02:00:00.000Z", "deleted", record("a")),
        ("products", "b", "2026-11-23T02:00:00.000Z", "unlinked", record("b")),
    ]
    assert deletions.list_marked(connection, table) == []


def test_record_removed_twice_is_kept_twice(connection, table):
    for at in ("one", "two"):
        put(connection, record("a"))
        deletions.mark_ids_for_removal(connection, table, ["a"], "deleted")
        deletions.remove_marked(connection, table, at)

    query = select(deletions.DELETED.c.deleted_at)
    assert keys(connection, query) == ["one", "two"]


def test_unmarked_rows_stay(connection, table):
    put(connection, record("a"), record("b"), record("c"))
    deletions.mark_ids_for_removal(connection, table, ["a", "b", "c"], "not_returned")

    deletions.unmark(connection, table, [])
    deletions.unmark(connection, table, ["a", "b"])
    deletions.remove_marked(connection, table, "now")

    assert left(connection) == ["a", "b"]


def test_whole_table_can_be_unmarked(connection, table):
    put(connection, record("a"))
    deletions.mark_ids_for_removal(connection, table, ["a"], "unlinked")

    deletions.unmark_all(connection, table)

    assert deletions.remove_marked(connection, table, "now") == 0
    assert left(connection) == ["a"]


# The guard


@pytest.mark.parametrize(
    ("rows", "marked"), [(102, 51), (101, 50), (100, 99), (11, 10), (10, 10), (1, 1), (101, 0)]
)
def test_half_or_small_table_may_go(connection, table, rows, marked):
    put(connection, *(record(f"{n:03}") for n in range(rows)))
    deletions.mark_ids_for_removal(connection, table, [f"{n:03}" for n in range(marked)], "deleted")

    deletions.check_guard(connection, table, allow_deletes=False, added=0)

    assert deletions.remove_marked(connection, table, "now") == marked


@pytest.mark.parametrize(
    ("rows", "marked"), [(102, 52), (101, 51), (101, 101), (100, 100), (11, 11)]
)
def test_more_than_half_needs_permission(connection, table, rows, marked):
    put(connection, *(record(f"{n:03}") for n in range(rows)))
    deletions.mark_ids_for_removal(connection, table, [f"{n:03}" for n in range(marked)], "deleted")

    with pytest.raises(GuardError, match=f"{marked} of {rows} rows") as caught:
        deletions.check_guard(connection, table, allow_deletes=False, added=0)
    deletions.check_guard(connection, table, allow_deletes=True, added=0)

    assert "--allow-deletes" in caught.value.hint


@pytest.mark.parametrize(("rows", "marked", "added"), [(22, 11, 11), (202, 51, 101), (30, 20, 15)])
def test_rows_added_meanwhile_do_not_count(connection, table, rows, marked, added):
    put(connection, *(record(f"{n:03}") for n in range(rows)))
    deletions.mark_ids_for_removal(connection, table, [f"{n:03}" for n in range(marked)], "deleted")

    with pytest.raises(GuardError, match=f"{marked} of {rows - added} rows"):
        deletions.check_guard(connection, table, allow_deletes=False, added=added)
