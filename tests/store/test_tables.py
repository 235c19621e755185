"""Tables out of the lock, and the lock file itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from conftest import raw
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateTable

from dataverse_sync.model import Column, ColumnType, Entity
from dataverse_sync.schema.lock import SchemaLock
from dataverse_sync.store.tables import EntityTable, build_table, find_misfits
from dataverse_sync.store.upsert import write_records

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


def entity(key: str, **columns: ColumnType) -> Entity:
    made = tuple(Column(name, type) for name, type in columns.items())
    return Entity("things", key, made, "metadata")


def ddl(table: EntityTable) -> str:
    """The statement that makes the table, a line for each column."""
    return str(CreateTable(table.table).compile(dialect=sqlite.dialect())).strip()


def names(table: EntityTable) -> list[str]:
    return [column.name for column in table.table.c]


# Tables


def test_table_has_all_columns():
    locked = entity("thingid", thingid="TEXT", n="INTEGER", x="REAL", modifiedon="TEXT")

    statement = ddl(build_table(locked))

    assert [line.strip() for line in statement.splitlines()] == [
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


def test_key_is_always_text():
    table = build_table(entity("id", id="INTEGER", name="TEXT"))

    assert "id TEXT NOT NULL" in ddl(table)
    assert table.columns[0] == Column("id", "TEXT")


def test_case_variants_share_one_column():
    given_one_way = build_table(entity("id", id="TEXT", Name="TEXT", name="INTEGER", NAME="REAL"))
    and_the_other = build_table(entity("id", NAME="REAL", name="INTEGER", Name="TEXT", id="TEXT"))

    assert names(given_one_way)[:-3] == ["id", "NAME"]
    assert given_one_way.left_out == ("Name", "name")
    assert (and_the_other.columns, and_the_other.left_out) == (
        given_one_way.columns,
        given_one_way.left_out,
    )


def test_key_in_other_case_left_out():
    table = build_table(entity("id", id="TEXT", ID="TEXT"))

    assert (names(table)[:-3], table.left_out) == (["id"], ("ID",))


def test_special_names_are_left_out():
    table = build_table(
        entity("id", id="TEXT", sync_time="TEXT", Valid_From="TEXT", json_response="TEXT")
    )

    assert names(table) == ["id", "sync_time", "valid_from", "json_response"]
    assert table.left_out == ("Valid_From", "json_response", "sync_time")


def test_names_may_be_sql_keywords(connection):
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
    table.table.create(connection)

    write_records(connection, table, [raw('{"group":"g","select":1,"index":2.5}')], NOW)

    found = connection.exec_driver_sql('SELECT "group", "select", "index" FROM "order"').all()
    assert found == [("g", 1, 2.5)]


# The lock file

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


def test_lock_fits_its_own_tables():
    assert find_misfits(LOCK, tables_of(LOCK)) == []


def test_lock_fits_missing_tables():
    assert find_misfits(LOCK, {}) == []


def test_extra_columns_and_lower_types_fit():
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
def test_misfit_is_described(changes, said):
    found = find_misfits(LOCK, change(**changes))

    assert len(found) == 1
    assert found[0].startswith(said)


def test_only_five_missing_columns_are_named():
    found = find_misfits({"accounts": ACCOUNT}, {"accounts": {}})

    assert found == [
        "table accounts lacks accountid, _ownerid_value, modifiedon, name, number and 4 more"
    ]


def test_left_out_columns_are_not_missing():
    locked = entity("id", id="TEXT", A="TEXT", a="TEXT", sync_time="INTEGER")
    lock = {"things": locked}

    assert find_misfits(lock, tables_of(lock)) == []
