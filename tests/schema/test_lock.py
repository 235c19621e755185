"""The lock file: its layout, and what is said of a damaged one."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataverse_sync.errors import ConfigError
from dataverse_sync.model import Column, Entity
from dataverse_sync.schema.lock import SchemaLock, dump_lock, load_lock, parse_lock, save_lock

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

LOCK: SchemaLock = {
    "contacts": Entity(
        "contacts",
        "contactid",
        (Column("name", "TEXT"), Column("contactid", "TEXT"), Column("old", "REAL", gone=True)),
        "sample",
        key_found="'contact' + 'id'",
    ),
    "accounts": ACCOUNT,
}


@pytest.mark.parametrize("kind", ["elastic", "virtual"])
def test_kind_filed_if_not_standard(kind):
    text = dump_lock({"accounts": replace(ACCOUNT, kind=kind), "contacts": LOCK["contacts"]})

    assert text.count('"kind"') == 1
    assert f'      "kind": "{kind}",' in text.splitlines()
    assert parse_lock(text, "schema.json")["accounts"].kind == kind
    assert dump_lock(parse_lock(text, "schema.json")) == text


def test_lock_without_kind_is_standard():
    text = dump_lock(LOCK)

    assert "kind" not in text
    assert {entity.kind for entity in parse_lock(text, "schema.json").values()} == {"standard"}
    assert dump_lock(parse_lock(text, "schema.json")) == text


@pytest.mark.parametrize("kind", ['"Elastic"', "null", "3", '""'])
def test_unknown_kind_is_damage(kind):
    text = dump_lock({"accounts": replace(ACCOUNT, kind="elastic")}).replace('"elastic"', kind)

    with pytest.raises(ConfigError, match=r"schema\.json: damaged, entity accounts: "):
        parse_lock(text, "schema.json")


def test_lock_has_one_column_a_line():
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


def in_order(lock: SchemaLock) -> SchemaLock:
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
def test_lock_survives_its_file(entities):
    lock = {entity.name: entity for entity in entities}

    text = dump_lock(lock)

    assert parse_lock(text, "schema.json") == in_order(lock)
    assert dump_lock(parse_lock(text, "schema.json")) == text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lock: lock.pop("version"), "damaged, Object missing required field `version`"),
        (lambda lock: lock.update(version=0), "damaged, version is 0"),
        (lambda lock: lock.update(version="1"), "damaged, Expected `int`, got `str`"),
        (lambda lock: lock.update(version=None), "damaged, Expected `int`, got `null`"),
        (lambda lock: lock.pop("entities"), "damaged, Object missing required field `entities`"),
        (lambda lock: lock.update(entities=[]), "damaged"),
        (lambda lock: lock["entities"].update(accounts=None), "damaged, entity accounts"),
        (lambda lock: lock["entities"].update({"a b": {}}), "'a b' is not an entity set name"),
    ],
)
def test_damaged_lock_has_a_hint(change, said):
    document = json.loads(dump_lock(LOCK))
    change(document)

    with pytest.raises(ConfigError) as caught:
        parse_lock(json.dumps(document), "schema/schema.json")

    assert said in caught.value.message
    assert caught.value.message.startswith("schema/schema.json: damaged")
    assert "Restore the file" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": "id"}, "the key 'id' is not among the columns"),
        ({"key": None}, "Expected `str`, got `null` - at `$.key`"),
        ({"source": "guess"}, "Invalid enum value 'guess' - at `$.source`"),
        ({"logical_name": 5}, "Expected `str | null`, got `int`"),
        ({"columns": []}, "Expected `object`, got `array`"),
        ({"columns": {"a b": {"type": "TEXT"}}}, "'a b' is not a column name"),
        ({"columns": {"x": {"type": "BLOB"}}}, "Invalid enum value 'BLOB'"),
        ({"columns": {"x": {"type": ["TEXT"]}}}, "Expected `str`, got `array`"),
        ({"columns": {"x": {}}}, "Object missing required field `type`"),
        ({"columns": {"x": "TEXT"}}, "Expected `object`, got `str`"),
        ({"columns": {"x": {"type": "TEXT", "targets": [5]}}}, "Expected `str`, got `int`"),
        ({"columns": {"x": {"type": "TEXT", "targets": None}}}, "Expected `array`, got `null`"),
    ],
)
def test_damaged_entity_is_named(change, said):
    document = json.loads(dump_lock(LOCK))
    document["entities"]["accounts"].update(change)

    with pytest.raises(ConfigError) as caught:
        parse_lock(json.dumps(document), "schema.json")

    assert f"damaged, entity accounts: {said}" in caught.value.message


@pytest.mark.parametrize("missing", ["key", "key_found", "source", "logical_name", "is_intersect"])
def test_missing_member_is_named(missing):
    document = json.loads(dump_lock(LOCK))
    del document["entities"]["accounts"][missing]

    with pytest.raises(ConfigError, match=f"accounts: .* missing required field `{missing}`"):
        parse_lock(json.dumps(document), "schema.json")


def test_newer_lock_asks_for_update():
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
def test_any_json_is_lock_or_error(document):
    parse(json.dumps(document))


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(max_size=50),
    at=st.integers(0, len(dump_lock(LOCK))),
    length=st.integers(0, 20),
)
def test_any_text_is_lock_or_error(text, at, length):
    whole = dump_lock(LOCK)

    parse(text)
    parse(whole[:at] + text[:3] + whole[at + length :])


@pytest.mark.parametrize("text", ["", "[" * 100_000, '{"version": ' + "9" * 5000 + "}", "\x00"])
def test_other_text_is_a_damaged_lock(text):
    with pytest.raises(ConfigError, match=r"^schema\.json: damaged, "):
        parse_lock(text, "schema.json")


def test_lock_is_saved_and_loaded(tmp_path):
    path = tmp_path / "new" / "folder" / "schema.json"

    save_lock(path, LOCK)

    assert load_lock(path) == in_order(LOCK)
    assert path.read_bytes() == dump_lock(LOCK).encode()


def test_lock_saved_by_windows_is_loaded(tmp_path):
    path = tmp_path / "schema.json"
    path.write_bytes(b"\xef\xbb\xbf" + dump_lock(LOCK).replace("\n", "\r\n").encode())

    assert load_lock(path) == in_order(LOCK)


def test_missing_lock_is_none(tmp_path):
    assert load_lock(tmp_path / "schema.json") is None


def test_unreadable_lock_is_told(tmp_path):
    (tmp_path / "latin.json").write_bytes(b'{"\xe9": 1}')

    for path in (tmp_path, tmp_path / "latin.json"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_lock(path)


def test_lock_replaces_the_older_one(tmp_path):
    path = tmp_path / "schema.json"
    save_lock(path, LOCK)

    save_lock(path, {"accounts": ACCOUNT})

    assert load_lock(path) == in_order({"accounts": ACCOUNT})
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_failed_write_leaves_older_lock(tmp_path, monkeypatch, broken):
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
