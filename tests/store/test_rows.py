"""Records turned into rows: every column of the table, whatever the record holds."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from conftest import raw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataverse_sync.errors import PageError
from dataverse_sync.model import Column, ColumnType, Entity
from dataverse_sync.store import rows as rows_module
from dataverse_sync.store.rows import to_rows
from dataverse_sync.store.tables import EntityTable, build_table
from dataverse_sync.store.upsert import rewrite

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
    ),
    "metadata",
)
ACCOUNTS = build_table(ACCOUNT)


def entity(key: str, **columns: ColumnType) -> Entity:
    made = tuple(Column(name, type) for name, type in columns.items())
    return Entity("things", key, made, "metadata")


def names(table: EntityTable) -> list[str]:
    return [column.name for column in table.table.c]


def row(text: str | bytes, locked: Entity = ACCOUNT) -> dict[str, Any]:
    """The row that a record becomes: column → value."""
    table = build_table(locked)
    return dict(zip(names(table), to_rows(table, [raw(text)], NOW)[0], strict=True))


def test_left_out_columns_stay_in_json():
    locked = entity("id", id="TEXT", A="TEXT", a="TEXT", sync_time="TEXT")
    record = '{"id":"1","A":"upper","a":"lower","sync_time":"theirs"}'

    found = row(record, locked)

    assert (found["A"], found["sync_time"]) == ("upper", NOW)
    assert found["json_response"] == record


def test_row_has_every_column_and_record():
    record = (
        '{ "@odata.etag":"W/\\"7\\"","number":5,"accountid":"a1","revenue":20000.0000,'
        '"name":"Caf\\u00e9 \U0001f600","modifiedon":"2024-04-01T00:00:00Z","unknown":{"x":[1]}}'
    )

    found = row(record)

    assert found == {
        "accountid": "a1",
        "modifiedon": "2024-04-01T00:00:00Z",
        "name": "Café \U0001f600",
        "number": 5,
        "revenue": 20000.0,
        "sync_time": NOW,
        "valid_from": "2024-04-01T00:00:00Z",
        "json_response": record,
    }


def test_missing_members_are_null():
    found = row('{"accountid":"a1"}')

    assert found == {
        **dict.fromkeys(found),
        "accountid": "a1",
        "sync_time": NOW,
        "json_response": '{"accountid":"a1"}',
    }


def test_valid_from_needs_modifiedon():
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
def test_value_of_any_type_is_kept(member, column, expected):
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
def test_non_record_is_page_error(record, said):
    with pytest.raises(PageError, match=f"^accounts: .*{said}"):
        row(record)


def test_missing_key_hints_at_schema():
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


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(record=_records, key=st.text("0123456789abcdef-", min_size=1, max_size=36))
def test_any_object_with_key_is_stored(connection, record, key):
    ACCOUNTS.table.create(connection, checkfirst=True)
    text = json.dumps({**record, "accountid": key}, ensure_ascii=True)

    rewrite(connection, ACCOUNTS, to_rows(ACCOUNTS, [raw(text)], NOW))

    query = "SELECT json_response, sync_time FROM accounts WHERE accountid = ?"
    assert connection.exec_driver_sql(query, (key,)).all() == [(text, NOW)]


@settings(max_examples=100, deadline=None)
@given(
    name=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    number=st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1),
    revenue=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
def test_expected_types_are_kept_unchanged(name, number, revenue):
    record = {"accountid": "a1", "name": name, "number": number, "revenue": revenue}

    text = json.dumps(record)
    quick = to_rows(ACCOUNTS, [raw(text)], NOW)[0]
    slow = rows_module._decode_slowly(ACCOUNTS, text)

    assert dict(zip(names(ACCOUNTS), quick, strict=True)).items() >= record.items()
    assert slow == quick[:-3]
