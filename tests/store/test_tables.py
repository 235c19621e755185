"""Tables out of the lock, and records into rows of them."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from dataverse_sync.errors import PageError
from dataverse_sync.model import Column, ColumnType, Entity
from dataverse_sync.schema.lock import SchemaLock
from dataverse_sync.store import rows as rows_module
from dataverse_sync.store.rows import to_rows
from dataverse_sync.store.tables import EntityTable, build_table, compile_upsert, find_misfits

NOW = "2024-05-01T10:00:00Z"
ACCOUNT = Entity(
    "accounts",
    "accountid",
    (
        Column("accountid", "TEXT"),
        Column("name", "TEXT"),
        Column("modifiedon", "TEXT"),
        Column("number", "INTEGER"),
        Column("revenue", "REAL"),
        Column("_ownerid_value", "TEXT", ("systemuser", "team")),
    ),
    "metadata",
    "account",
    change_tracking=True,
)
ACCOUNTS = build_table(ACCOUNT)
UPSERT = compile_upsert(ACCOUNTS.table)


def entity(key: str, **columns: ColumnType) -> Entity:
    made = tuple(Column(name, type) for name, type in columns.items())
    return Entity("things", key, made, "metadata")


def ddl(table: EntityTable) -> list[str]:
    """The statements that make the table, a line for each column."""
    indexes = sorted(table.table.indexes, key=lambda index: str(index.name))
    statements = [CreateTable(table.table), *map(CreateIndex, indexes)]
    return [str(each.compile(dialect=sqlite.dialect())).strip() for each in statements]


def names(table: EntityTable) -> list[str]:
    return [column.name for column in table.table.c]


def row(text: str | bytes, locked: Entity = ACCOUNT) -> dict[str, Any]:
    """The row that a record becomes: column → value."""
    table = build_table(locked)
    raw = msgspec.Raw(text.encode() if isinstance(text, str) else text)
    return dict(zip(names(table), to_rows(table, [raw], NOW)[0], strict=True))


# Tables


def test_a_table_has_its_key_its_columns_the_special_ones_and_its_indexes():
    locked = entity("thingid", thingid="TEXT", n="INTEGER", x="REAL", modifiedon="TEXT")

    statements = ddl(build_table(locked))

    assert [line.strip() for line in statements[0].splitlines()] == [
        "CREATE TABLE things (",
        "thingid TEXT NOT NULL,",
        "modifiedon TEXT,",
        "n INTEGER,",
        "x REAL,",
        "sync_time TEXT,",
        "valid_from TEXT,",
        "json_response TEXT,",
        "PRIMARY KEY (thingid)",
        ")",
    ]
    assert statements[1:] == ["CREATE INDEX idx_things_modifiedon ON things (modifiedon)"]


def test_both_dates_are_indexed_where_they_exist():
    both = build_table(entity("id", id="TEXT", modifiedon="TEXT", createdon="TEXT"))
    neither = build_table(entity("id", id="TEXT", overriddencreatedon="TEXT"))

    assert ddl(both)[1:] == [
        "CREATE INDEX idx_things_createdon ON things (createdon)",
        "CREATE INDEX idx_things_modifiedon ON things (modifiedon)",
    ]
    assert ddl(neither)[1:] == []


def test_the_key_is_text_whatever_the_lock_says():
    table = build_table(entity("id", id="INTEGER", name="TEXT"))

    assert "id TEXT NOT NULL" in ddl(table)[0]
    assert table.columns[0] == Column("id", "TEXT")


def test_columns_that_differ_only_by_case_get_one_column():
    given_one_way = build_table(entity("id", id="TEXT", Name="TEXT", name="INTEGER", NAME="REAL"))
    and_the_other = build_table(entity("id", NAME="REAL", name="INTEGER", Name="TEXT", id="TEXT"))

    assert names(given_one_way)[:-3] == ["id", "NAME"]
    assert given_one_way.left_out == ("Name", "name")
    assert (and_the_other.columns, and_the_other.left_out) == (
        given_one_way.columns,
        given_one_way.left_out,
    )


def test_a_column_that_differs_from_the_key_only_by_case_is_left_out():
    table = build_table(entity("id", id="TEXT", ID="TEXT"))

    assert (names(table)[:-3], table.left_out) == (["id"], ("ID",))


def test_columns_named_like_special_ones_are_left_out():
    table = build_table(
        entity("id", id="TEXT", sync_time="TEXT", Valid_From="TEXT", json_response="TEXT")
    )

    assert names(table) == ["id", "sync_time", "valid_from", "json_response"]
    assert table.left_out == ("Valid_From", "json_response", "sync_time")


def test_what_is_left_out_of_the_columns_stays_in_the_json():
    locked = entity("id", id="TEXT", A="TEXT", a="TEXT", sync_time="TEXT")
    record = '{"id":"1","A":"upper","a":"lower","sync_time":"theirs"}'

    found = row(record, locked)

    assert (found["A"], found["sync_time"]) == ("upper", NOW)
    assert found["json_response"] == record


def test_tables_and_columns_may_be_named_like_keywords_of_sql():
    locked = Entity(
        "order",
        "group",
        (
            Column("group", "TEXT"),
            Column("select", "INTEGER"),
            Column("modifiedon", "TEXT"),
            Column("index", "REAL"),
        ),
        "metadata",
    )
    table = build_table(locked)
    rows = to_rows(table, [msgspec.Raw(b'{"group":"g","select":1,"index":2.5}')], NOW)

    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in ddl(table):
            connection.execute(statement)
        connection.executemany(compile_upsert(table.table), rows)
        found = connection.execute('SELECT "group", "select", "index" FROM "order"').fetchall()

    assert found == [("g", 1, 2.5)]


# Rows


def test_a_row_carries_every_column_and_the_record_as_it_came():
    record = (
        '{ "@odata.etag":"W/\\"7\\"","number":5,"accountid":"a1","revenue":20000.0000,'
        '"name":"Caf\\u00e9 \U0001f600","modifiedon":"2024-04-01T00:00:00Z","unknown":{"x":[1]}}'
    )

    found = row(record)

    assert found == {
        "accountid": "a1",
        "_ownerid_value": None,
        "modifiedon": "2024-04-01T00:00:00Z",
        "name": "Café \U0001f600",
        "number": 5,
        "revenue": 20000.0,
        "sync_time": NOW,
        "valid_from": "2024-04-01T00:00:00Z",
        "json_response": record,
    }


def test_a_record_with_its_key_alone_has_nulls_in_every_column():
    found = row('{"accountid":"a1"}')

    assert found == {
        **dict.fromkeys(found),
        "accountid": "a1",
        "sync_time": NOW,
        "json_response": '{"accountid":"a1"}',
    }


def test_an_entity_without_modifiedon_has_no_valid_from():
    found = row('{"id":"1","modifiedon":"2024-04-01T00:00:00Z"}', entity("id", id="TEXT"))

    assert found["valid_from"] is None


def test_no_records_make_no_rows():
    assert to_rows(build_table(ACCOUNT), [], NOW) == []


@pytest.mark.parametrize(
    ("member", "column", "expected"),
    [
        ('"name":null', "name", None),
        ('"number":true', "number", True),
        ('"number":false', "number", False),
        ('"number":0', "number", 0),
        ('"number":9223372036854775807', "number", 2**63 - 1),
        ('"number":-9223372036854775808', "number", -(2**63)),
        ('"number":9223372036854775808', "number", "9223372036854775808"),
        ('"number":-9223372036854775809', "number", "-9223372036854775809"),
        ('"number":1' + "0" * 30, "number", "1" + "0" * 30),
        ('"number":' + "9" * 5000, "number", "9" * 5000),
        ('"number":1.5', "number", 1.5),
        ('"number":"five"', "number", "five"),
        ('"number":{"Value":5}', "number", '{"Value":5}'),
        ('"revenue":5', "revenue", 5.0),
        ('"revenue":1.0000000001', "revenue", 1.0000000001),
        ('"revenue":-0.0', "revenue", 0.0),
        ('"revenue":1e999', "revenue", math.inf),
        ('"revenue":"much"', "revenue", "much"),
        ('"revenue":true', "revenue", True),
        ('"name":5', "name", "5"),
        ('"name":12345678901234567890123', "name", "12345678901234567890123"),
        ('"name":1.50', "name", "1.5"),
        ('"name":true', "name", "true"),
        ('"name":false', "name", "false"),
        ('"name":[1, "é"]', "name", '[1,"\\u00e9"]'),
        ('"name":{"Value":true, "x":null}', "name", '{"Value":true,"x":null}'),
        ('"name":"a\\u0000b"', "name", "a\0b"),
        ('"name":"\\r\\n \\ud83d\\ude00"', "name", "\r\n \U0001f600"),
        ('"name":"\\ud800x"', "name", "?x"),
        ('"unknown":"\\udfff","name":"n"', "name", "n"),
        ('"unknown":' + "9" * 5000 + ',"name":5', "name", "5"),
        ('"modifiedon":5', "valid_from", "5"),
    ],
)
def test_a_value_is_stored_whatever_its_type(member, column, expected):
    record = f'{{"accountid":"a1",{member}}}'

    found = row(record)

    assert found[column] == expected
    assert type(found[column]) is type(expected)
    assert found["json_response"] == record


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("{}", "a record has no accountid, the key of the locked schema"),
        ('{"accountid":null}', "a record has no accountid"),
        ('{"accountid":""}', "a record has no accountid"),
        ('{"AccountId":"a1"}', "a record has no accountid"),
        ("[]", "a record is not an object"),
        ("5", "a record is not an object"),
        ("null", "a record is not an object"),
        ('"accountid"', "a record is not an object"),
        ('{"accountid":"a1"', "a record is not JSON"),
        ("", "a record is not JSON"),
        (b'{"accountid":"\xff"}', "a record is not UTF-8 text"),
        (b'{"accountid":"a1","x":"\xed\xa0\x80"}', "a record is not UTF-8 text"),
        ('{"accountid":"a1","x":' + "[" * 10_000 + "]" * 10_000 + "}", "nested too deep"),
    ],
)
def test_what_is_no_record_is_a_page_error(record, said):
    with pytest.raises(PageError, match=f"^accounts: .*{said}"):
        row(record)


def test_a_missing_key_hints_at_the_schema():
    with pytest.raises(PageError) as caught:
        row('{"name":"n"}')

    assert "schema diff" in caught.value.hint


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("x"), inner),
    max_leaves=4,
)
_records = st.fixed_dictionaries(
    {"@odata.etag": st.just('W/"1"')},
    optional={column.name: _json for column in ACCOUNT.columns[1:]},
)


@pytest.fixture(scope="module")
def stored() -> Iterator[sqlite3.Connection]:
    """A database with the table of accounts."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in ddl(ACCOUNTS):
            connection.execute(statement)
        yield connection


@settings(max_examples=100, deadline=None)
@given(record=_records, key=st.text("0123456789abcdef-", min_size=1, max_size=36))
def test_any_object_with_a_key_becomes_a_row_that_sqlite_holds(stored, record, key):
    text = json.dumps({**record, "accountid": key}, ensure_ascii=True)

    rows = to_rows(ACCOUNTS, [msgspec.Raw(text.encode())], NOW)
    stored.executemany(UPSERT, rows)

    select = "SELECT json_response, sync_time FROM accounts WHERE accountid = ?"
    assert stored.execute(select, [key]).fetchall() == [(text, NOW)]


@settings(max_examples=100, deadline=None)
@given(
    name=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    number=st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1),
    revenue=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
def test_values_of_the_right_type_are_stored_as_they_are(name, number, revenue):
    record = {"accountid": "a1", "name": name, "number": number, "revenue": revenue}

    text = json.dumps(record)
    quick = to_rows(ACCOUNTS, [msgspec.Raw(text.encode())], NOW)[0]
    slow = rows_module._decode_slowly(ACCOUNTS, text)

    assert dict(zip(names(ACCOUNTS), quick, strict=True)).items() >= record.items()
    assert slow == quick[:-3]


# Statements


def test_an_upsert_writes_every_column_and_replaces_all_but_the_key():
    table = build_table(entity("id", id="TEXT", x="REAL"))

    assert compile_upsert(table.table) == (
        "INSERT INTO things (id, x, sync_time, valid_from, json_response) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET x = excluded.x, sync_time = excluded.sync_time, "
        "valid_from = excluded.valid_from, json_response = excluded.json_response"
    )


def test_a_second_version_of_a_record_takes_the_place_of_the_first(stored):
    versions = ['{"accountid":"twice","name":"old","number":1}', '{"accountid":"twice","number":2}']

    for version in versions:
        stored.executemany(UPSERT, to_rows(ACCOUNTS, [msgspec.Raw(version.encode())], NOW))

    select = "SELECT name, number, json_response FROM accounts WHERE accountid = 'twice'"
    assert stored.execute(select).fetchall() == [(None, 2, versions[1])]


# Whether a lock fits the tables that are there

LOCK = {
    "accounts": ACCOUNT,
    "contacts": Entity(
        "contacts",
        "contactid",
        (Column("name", "TEXT"), Column("contactid", "TEXT"), Column("old", "REAL", gone=True)),
        "sample",
    ),
}


def tables_of(lock: SchemaLock) -> dict[str, dict[str, tuple[str, bool]]]:
    return {
        name: {
            column.name: (str(column.type), column.primary_key)
            for column in build_table(entity).table.c
        }
        for name, entity in lock.items()
    }


def change(**columns: Any) -> Mapping[str, Mapping[str, tuple[str, bool]]]:
    """The tables of the lock, with columns of accounts changed, or removed where None."""
    tables = tables_of(LOCK)
    merged = {**tables["accounts"], **columns}
    return {**tables, "accounts": {name: about for name, about in merged.items() if about}}


def test_a_lock_fits_the_tables_that_were_made_from_it():
    assert find_misfits(LOCK, tables_of(LOCK)) == []


def test_a_lock_fits_where_there_is_no_table_yet():
    assert find_misfits(LOCK, {}) == []


def test_a_table_may_have_more_columns_and_types_in_lower_case():
    assert find_misfits(LOCK, change(more=("BLOB", False), name=("text", False))) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": None, "number": None}, "table accounts lacks name, number"),
        ({"json_response": None}, "table accounts lacks json_response"),
        ({"number": ("TEXT", False)}, "table accounts has another type for number"),
        ({"name": ("TEXT", True)}, "table accounts has the key ['accountid', 'name'], "),
        ({"accountid": ("TEXT", False)}, "table accounts has the key [], not accountid"),
    ],
)
def test_a_table_that_does_not_fit_is_told(changes, said):
    found = find_misfits(LOCK, change(**changes))

    assert len(found) == 1
    assert found[0].startswith(said)


def test_of_many_missing_columns_five_are_named():
    found = find_misfits({"accounts": ACCOUNT}, {"accounts": {}})

    assert found == [
        "table accounts lacks accountid, _ownerid_value, modifiedon, name, number and 4 more"
    ]


def test_columns_that_got_no_column_of_their_own_are_not_missed():
    locked = entity("id", id="TEXT", A="TEXT", a="TEXT", sync_time="INTEGER")
    lock = {"things": locked}

    assert find_misfits(lock, tables_of(lock)) == []
