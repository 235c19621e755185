"""Tables out of the lock, and the lock file itself."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import raw
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from dataverse_sync.errors import ConfigError
from dataverse_sync.model import Column, ColumnType, Entity
from dataverse_sync.schema.lock import Lock, dump_lock, load_lock, parse_lock, save_lock
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


def ddl(table: EntityTable) -> list[str]:
    """The statements that make the table, a line for each column."""
    indexes = sorted(table.table.indexes, key=lambda index: str(index.name))
    statements = [CreateTable(table.table), *map(CreateIndex, indexes)]
    return [str(each.compile(dialect=sqlite.dialect())).strip() for each in statements]


def names(table: EntityTable) -> list[str]:
    return [column.name for column in table.table.c]


# Tables


def test_table_has_all_columns_and_indexes():
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


def test_dates_are_indexed():
    both = build_table(entity("id", id="TEXT", modifiedon="TEXT", createdon="TEXT"))
    neither = build_table(entity("id", id="TEXT", overriddencreatedon="TEXT"))

    assert ddl(both)[1:] == [
        "CREATE INDEX idx_things_createdon ON things (createdon)",
        "CREATE INDEX idx_things_modifiedon ON things (modifiedon)",
    ]
    assert ddl(neither)[1:] == []


def test_key_is_always_text():
    table = build_table(entity("id", id="INTEGER", name="TEXT"))

    assert "id TEXT NOT NULL" in ddl(table)[0]
    assert table.columns[0] == Column("id", "TEXT")


def test_names_differing_by_case_share_one_column():
    given_one_way = build_table(entity("id", id="TEXT", Name="TEXT", name="INTEGER", NAME="REAL"))
    and_the_other = build_table(entity("id", NAME="REAL", name="INTEGER", Name="TEXT", id="TEXT"))

    assert names(given_one_way)[:-3] == ["id", "NAME"]
    assert given_one_way.left_out == ("Name", "name")
    assert (and_the_other.columns, and_the_other.left_out) == (
        given_one_way.columns,
        given_one_way.left_out,
    )


def test_key_in_other_case_is_left_out():
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

LOCK: Lock = {
    "contacts": Entity(
        "contacts",
        "contactid",
        (Column("name", "TEXT"), Column("contactid", "TEXT"), Column("old", "REAL", gone=True)),
        "sample",
        key_found="'contact' + 'id'",
    ),
    "accounts": ACCOUNT,
}


def test_the_lock_is_sorted_and_has_one_column_a_line():
    text = dump_lock(LOCK)

    assert text.splitlines()[:18] == [
        "{",
        '  "version": 1,',
        '  "entities": {',
        '    "accounts": {',
        '      "logical_name": "account",',
        '      "key": "accountid",',
        '      "key_found": "metadata",',
        '      "source": "metadata",',
        '      "is_intersect": false,',
        '      "change_tracking": true,',
        '      "columns": {',
        '        "_ownerid_value": {"type": "TEXT", "targets": ["systemuser", "team"]},',
        '        "accountid": {"type": "TEXT"},',
        '        "modifiedon": {"type": "TEXT"},',
        '        "name": {"type": "TEXT"},',
        '        "number": {"type": "INTEGER"},',
        '        "revenue": {"type": "REAL"}',
        "      }",
    ]
    assert '        "old": {"type": "REAL", "gone": true}' in text.splitlines()
    assert text.endswith("}\n")
    assert json.loads(text)["version"] == 1


def in_order(lock: Lock) -> Lock:
    """The lock with its columns sorted, as the file has them."""
    return {
        name: Entity(
            name,
            entity.key,
            tuple(sorted(entity.columns, key=lambda column: column.name)),
            entity.source,
            entity.logical_name,
            entity.is_intersect,
            entity.change_tracking,
            entity.key_found,
        )
        for name, entity in lock.items()
    }


_names = st.sampled_from(["id", "name", "Name", "_ownerid_value", "x" * 128, "order", "B2"])


@st.composite
def _entities(draw: Any) -> Entity:
    columns = draw(
        st.lists(
            st.builds(
                Column,
                _names,
                st.sampled_from(["TEXT", "INTEGER", "REAL"]),
                st.sampled_from([(), ("account",), ("team", "systemuser"), ('é"\\',)]),
                st.booleans(),
            ),
            min_size=1,
            max_size=5,
            unique_by=lambda column: column.name,
        )
    )
    return Entity(
        draw(_names),
        draw(st.sampled_from(columns)).name,
        tuple(columns),
        draw(st.sampled_from(["metadata", "sample"])),
        draw(st.none() | st.text(max_size=5)),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.text(max_size=10)),
    )


@settings(max_examples=60, deadline=None)
@given(entities=st.lists(_entities(), max_size=3))
def test_a_lock_survives_its_file(entities):
    lock = {entity.name: entity for entity in entities}

    text = dump_lock(lock)

    assert parse_lock(text, "schema.json") == in_order(lock)
    assert dump_lock(parse_lock(text, "schema.json")) == text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lock: lock.pop("version"), "damaged, 'version' is missing"),
        (lambda lock: lock.update(version=0), "damaged, version is 0"),
        (lambda lock: lock.update(version="1"), "damaged, version is '1'"),
        (lambda lock: lock.update(version=None), "damaged, version is None"),
        (lambda lock: lock.pop("entities"), "damaged, 'entities' is missing"),
        (lambda lock: lock.update(entities=[]), "damaged"),
        (lambda lock: lock["entities"].update(accounts=None), "damaged, entity accounts"),
        (lambda lock: lock["entities"].update({"a b": {}}), "'a b' is not an entity set name"),
    ],
)
def test_a_damaged_lock_is_told_with_the_way_out(change, said):
    document = json.loads(dump_lock(LOCK))
    change(document)

    with pytest.raises(ConfigError, match=said) as caught:
        parse_lock(json.dumps(document), "schema/schema.json")

    assert caught.value.message.startswith("schema/schema.json: damaged")
    assert "Restore the file" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": "id"}, "the key 'id' is not among the columns"),
        ({"key": None}, "the key None is not among the columns"),
        ({"source": "guess"}, "unknown source 'guess'"),
        ({"logical_name": 5}, "the logical name is no text"),
        ({"columns": []}, "has no attribute 'items'"),
        ({"columns": {"a b": {"type": "TEXT"}}}, "'a b' is not a column name"),
        ({"columns": {"x": {"type": "BLOB"}}}, "column x: unknown type 'BLOB'"),
        ({"columns": {"x": {"type": ["TEXT"]}}}, "unknown type"),
        ({"columns": {"x": {}}}, "'type' is missing"),
        ({"columns": {"x": "TEXT"}}, "string indices must be integers"),
        ({"columns": {"x": {"type": "TEXT", "targets": [5]}}}, "column x: a target is no text"),
        ({"columns": {"x": {"type": "TEXT", "targets": None}}}, "not iterable"),
    ],
)
def test_a_damaged_entity_of_a_lock_is_named(change, said):
    document = json.loads(dump_lock(LOCK))
    document["entities"]["accounts"].update(change)

    with pytest.raises(ConfigError, match=said) as caught:
        parse_lock(json.dumps(document), "schema.json")

    assert "entity accounts: " in caught.value.message


@pytest.mark.parametrize("missing", ["key", "key_found", "source", "logical_name", "is_intersect"])
def test_what_is_missing_in_an_entity_is_named(missing):
    document = json.loads(dump_lock(LOCK))
    del document["entities"]["accounts"][missing]

    with pytest.raises(ConfigError, match=f"damaged, entity accounts: '{missing}' is missing"):
        parse_lock(json.dumps(document), "schema.json")


def test_a_lock_of_a_newer_version_asks_for_an_update():
    with pytest.raises(ConfigError, match=r"newer version .* \(lock version 2\)") as caught:
        parse_lock('{"version": 2, "tables": []}', "schema.json")

    assert caught.value.hint == "Update dataverse_sync."


_damage = st.recursive(
    st.sampled_from([None, True, False, 0, 1, -1, 2**70, 0.5, math.inf, "", "id", "é", "\ud800"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_names, inner, max_size=2),
    max_leaves=4,
)
_nearly_a_column = st.fixed_dictionaries(
    {"type": st.sampled_from(["TEXT", "INTEGER", "REAL"]) | _damage},
    optional={"targets": st.lists(st.text(max_size=3) | _damage) | _damage, "gone": _damage},
)
_nearly_an_entity = st.fixed_dictionaries(
    {},
    optional={
        "columns": st.dictionaries(_names | st.text(max_size=3), _nearly_a_column | _damage)
        | st.fixed_dictionaries({"id": _nearly_a_column}),
        "key": st.just("id") | _damage,
        "source": st.sampled_from(["metadata", "sample"]) | _damage,
        "logical_name": st.text(max_size=3) | _damage,
        "is_intersect": st.booleans() | _damage,
        "change_tracking": st.booleans() | _damage,
        "key_found": st.text(max_size=3) | _damage,
    },
)
_nearly_a_lock = st.fixed_dictionaries(
    {"version": st.just(1)},
    optional={
        "entities": st.dictionaries(_names | st.text(max_size=3), _nearly_an_entity | _damage),
        "more": _damage,
    },
)


def parse(text: str) -> None:
    """Holds that the text is a lock or a ConfigError."""
    try:
        lock = parse_lock(text, "schema.json")
    except ConfigError as error:
        assert error.message.startswith("schema.json: ")
    else:
        assert parse_lock(dump_lock(lock), "schema.json") == in_order(lock)


@settings(max_examples=100, deadline=None)
@given(document=_nearly_a_lock | _damage)
def test_any_json_is_a_lock_or_a_config_error(document):
    parse(json.dumps(document))


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(max_size=50),
    at=st.integers(0, len(dump_lock(LOCK))),
    length=st.integers(0, 20),
)
def test_any_text_is_a_lock_or_a_config_error(text, at, length):
    whole = dump_lock(LOCK)

    parse(text)
    parse(whole[:at] + text[:3] + whole[at + length :])


@pytest.mark.parametrize("text", ["", "[" * 100_000, '{"version": ' + "9" * 5000 + "}", "\x00"])
def test_text_that_is_no_json_is_a_damaged_lock(text):
    with pytest.raises(ConfigError, match=r"^schema\.json: damaged, not JSON"):
        parse_lock(text, "schema.json")


def test_a_lock_is_saved_and_loaded(tmp_path):
    path = tmp_path / "new" / "folder" / "schema.json"

    save_lock(path, LOCK)

    assert load_lock(path) == in_order(LOCK)
    assert path.read_bytes() == dump_lock(LOCK).encode()


def test_a_lock_with_a_byte_order_mark_and_windows_lines_is_loaded(tmp_path):
    path = tmp_path / "schema.json"
    path.write_bytes(b"\xef\xbb\xbf" + dump_lock(LOCK).replace("\n", "\r\n").encode())

    assert load_lock(path) == in_order(LOCK)


def test_a_missing_lock_is_none(tmp_path):
    assert load_lock(tmp_path / "schema.json") is None


def test_a_lock_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "latin.json").write_bytes(b'{"\xe9": 1}')

    for path in (tmp_path, tmp_path / "latin.json"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_lock(path)


def test_a_lock_takes_the_place_of_the_one_before_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "schema.json"
    save_lock(path, LOCK)

    save_lock(path, {"accounts": ACCOUNT})

    assert load_lock(path) == in_order({"accounts": ACCOUNT})
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_lock_that_cannot_be_written_leaves_the_one_before_whole(tmp_path, monkeypatch, broken):
    path = tmp_path / "schema.json"
    save_lock(path, LOCK)

    def fail(*_: object) -> None:
        assert load_lock(path) == in_order(LOCK)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if broken == "fsync" else (Path, "replace")), fail)

    with pytest.raises(OSError, match="No space left"):
        save_lock(path, {"accounts": ACCOUNT})

    assert load_lock(path) == in_order(LOCK)
    assert list(tmp_path.iterdir()) == [path]


# Whether a lock fits the tables that are there


def tables_of(lock: Lock) -> dict[str, dict[str, tuple[str, bool]]]:
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


def test_extra_columns_and_lower_case_types_fit():
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
