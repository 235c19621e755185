"""Drift between the locked schema and the live one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataverse_sync.model import Column, Entity
from dataverse_sync.schema.lock import accept_entity, diff_entity


def entity(columns: Mapping[str, Any], source: Any = "metadata", name: str = "accounts") -> Entity:
    made = tuple(Column(name, type) for name, type in columns.items())
    return Entity(name, "accountid", made, source)


def test_changed_columns_are_told():
    locked = entity({"accountid": "TEXT", "gone": "REAL", "number": "TEXT"})
    live = entity({"number": "INTEGER", "accountid": "TEXT", "fresh": "INTEGER"})

    found = diff_entity(locked, live)

    assert [str(drift) for drift in found] == [
        "accounts.fresh: new column (INTEGER), kept in json_response",
        "accounts.gone: column (REAL) is gone from Dataverse",
        "accounts.number: type changed from TEXT to INTEGER",
    ]
    assert [drift.severity for drift in found] == ["info", "breaking", "breaking"]


_COLUMNS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]), st.sampled_from(["TEXT", "INTEGER", "REAL"])
)


@settings(max_examples=100, deadline=None)
@given(was=_COLUMNS, now=_COLUMNS, same=st.booleans())
def test_equal_columns_have_no_drift(was, now, same):
    now = dict(reversed(was.items())) if same else now

    found = diff_entity(entity(was), entity(now))

    assert (found == []) == (was == now)
    changed = dict(was)
    for drift in found:
        assert drift.column is not None
        assert changed.pop(drift.column, None) == drift.old_type
        if drift.new_type is not None:
            changed[drift.column] = drift.new_type
    assert changed == now


@settings(max_examples=60, deadline=None)
@given(was=_COLUMNS, now=_COLUMNS, source=st.sampled_from(["metadata", "sample"]))
def test_sample_proves_no_type_change(was, now, source):
    found = diff_entity(entity(was, source), entity(now, "sample"))

    assert {drift.column for drift in found} == was.keys() ^ now.keys()
    assert {drift.change for drift in found} <= {"column_added", "column_removed"}


@settings(max_examples=60, deadline=None)
@given(was=_COLUMNS, now=_COLUMNS)
def test_metadata_proves_guessed_types_wrong(was, now):
    found = diff_entity(entity(was, "sample"), entity(now))

    assert found == diff_entity(entity(was), entity(now))


@pytest.mark.parametrize("guessed_type", ["TEXT", "INTEGER", None])
@pytest.mark.parametrize("source", ["sample", "metadata"])
def test_wrong_key_is_told_by_name(guessed_type, source):
    columns = {"ownid": "TEXT"} | ({"accountid": guessed_type} if guessed_type else {})
    locked = replace(entity(columns, source), key="ownid")
    live = entity({"accountid": "TEXT", "ownid": "TEXT"})

    found = [str(drift) for drift in diff_entity(locked, live)]

    said = "accounts.accountid: is the key, not what the locked schema takes for it"
    others = {
        "TEXT": [],
        "INTEGER": ["accounts.accountid: type changed from INTEGER to TEXT"],
        None: ["accounts.accountid: new column (TEXT), kept in json_response"],
    }
    assert found == [*others[guessed_type], said]
    assert diff_entity(accept_entity(locked, live, drop=False), live) == []


@pytest.mark.parametrize("was", ["standard", "elastic", "virtual"])
@pytest.mark.parametrize("now", ["standard", "elastic", "virtual"])
def test_kind_is_not_drift(was, now):
    locked, live = (replace(entity({"accountid": "TEXT"}), kind=kind) for kind in (was, now))

    assert diff_entity(locked, live) == []
    assert accept_entity(locked, live, drop=False).kind == now


def test_removed_column_is_told_once():
    gone = Column("old", "REAL", gone=True)
    locked = Entity("accounts", "accountid", (Column("accountid", "TEXT"), gone), "metadata")

    away = diff_entity(locked, entity({"accountid": "TEXT"}))
    back = diff_entity(locked, entity({"accountid": "TEXT", "old": "TEXT"}))

    assert away == []
    assert [str(drift) for drift in back] == [
        "accounts.old: new column (TEXT), kept in json_response"
    ]


@settings(max_examples=60, deadline=None)
@given(was=_COLUMNS, now=_COLUMNS, drop=st.booleans())
def test_accepted_schema_equals_live(was, now, drop):
    locked, live = entity(was), entity(now)

    accepted = accept_entity(locked, live, drop)

    assert diff_entity(accepted, live) == []
    kept = {column.name: column.type for column in accepted.columns if column.gone}
    assert kept == ({} if drop else {name: was[name] for name in was.keys() - now.keys()})
    assert accept_entity(accepted, live, drop) == accepted
