"""What tests do to an environment's data: write, backdate, commit late, delete, reshape."""

import datetime as dt
import time
from decimal import Decimal

import pytest
from emulator_caller import ACCOUNTS, CONTACTS, MORNING, running

from dataverse_sync.emulator import Clock, Column, Emulator, Table


@pytest.fixture
def served():
    with running() as (emulator, caller):
        yield emulator, caller


@pytest.fixture
def emulator():
    return Emulator([ACCOUNTS, CONTACTS], clock=Clock(MORNING))


def test_insert_takes_id_and_moments(emulator):
    id_ = emulator.insert(
        "accounts",
        {"name": "x"},
        id="AAAAAAAA-0000-4000-8000-000000000001",
        createdon=dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        modifiedon="2024-02-02T00:00:00Z",
    )

    record = emulator.rows("accounts")[id_]

    assert id_ == "aaaaaaaa-0000-4000-8000-000000000001"
    assert record["createdon"] == "2024-01-01T00:00:00Z"
    assert record["modifiedon"] == "2024-02-02T00:00:00Z"


def test_rows_hold_exact_decimals(emulator):
    id_ = emulator.insert("accounts", {"revenue": "12345678901234567890.1234567890"})

    record = emulator.rows("accounts")[id_]

    assert record["revenue"] == Decimal("12345678901234567890.1234567890")
    assert "@odata.etag" not in record
    assert b'"revenue":12345678901234567890.1234567890' in emulator.record_bytes("accounts", id_)


def test_thousand_digit_decimal_stays_exact(emulator):
    digits = "9" * 1_000

    id_ = emulator.insert("accounts", {"exchangerate": Decimal(digits)})

    assert digits.encode() in emulator.record_bytes("accounts", id_)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("numberofemployees", "5"),
        ("numberofemployees", True),
        ("revenue", "1,000"),
        ("revenue", True),
        ("allowemail", "yes"),
        ("modifiedon", 5),
    ],
)
def test_value_of_wrong_type_raises(emulator, column, value):
    with pytest.raises(TypeError):
        emulator.insert("accounts", {column: value})


def test_unknown_column_or_record_raises(emulator):
    with pytest.raises(KeyError, match="nme"):
        emulator.insert("accounts", {"nme": "x"})
    with pytest.raises(KeyError, match="has no record"):
        emulator.update("accounts", "nothing", {})
    with pytest.raises(KeyError, match="has no record"):
        emulator.record_bytes("accounts", "nothing")


def test_numbers_written_as_python_does(emulator):
    id_ = emulator.insert("accounts", {"score": 1e22, "revenue": 5, "exchangerate": 0.5})

    text = emulator.record_bytes("accounts", id_)

    assert b'"score":1e+22' in text
    assert b'"revenue":5,' in text
    assert b'"exchangerate":0.5' in text


def test_id_need_not_be_guid(emulator):
    id_ = emulator.insert("accounts", {"name": "x"}, id="Robert'); --")

    assert emulator.rows("accounts")[id_]["name"] == "x"


def test_update_moves_modifiedon(emulator):
    id_ = emulator.insert("accounts", {"name": "x", "revenue": "1.50", "allowemail": True})
    before = emulator.rows("accounts")[id_]
    emulator.clock.advance(60)

    emulator.update("accounts", id_, {"name": "y"})
    after = emulator.rows("accounts")[id_]

    assert {name for name in after if after[name] != before[name]} == {
        "name", "modifiedon", "versionnumber",
    }  # fmt: skip
    assert after["modifiedon"] == "2025-03-03T08:01:00Z"


def test_late_insert_keeps_moment_and_version(served):
    emulator, caller = served
    late = emulator.insert("contacts", {"fullname": "late"}, committed=False)
    emulator.clock.advance(90)
    emulator.insert("contacts", {"fullname": "early"})
    before = caller.value("contacts")

    emulator.commit(late)
    after = {record["fullname"]: record for record in caller.value("contacts")}

    assert [record["fullname"] for record in before] == ["early"]
    assert after["late"]["modifiedon"] == "2025-03-03T08:00:00Z"
    assert after["late"]["versionnumber"] < after["early"]["versionnumber"]


def test_uncommitted_update_not_seen(emulator):
    id_ = emulator.insert("contacts", {"fullname": "old"})
    emulator.update("contacts", id_, {"fullname": "new"}, committed=False)
    before = emulator.rows("contacts")[id_]["fullname"]

    emulator.commit(id_)

    assert before == "old"
    assert emulator.rows("contacts")[id_]["fullname"] == "new"


def test_deleted_record_restored_with_moment(emulator):
    id_ = emulator.insert("contacts", {"fullname": "x"})
    version = emulator.rows("contacts")[id_]["versionnumber"]
    emulator.delete("contacts", id_)
    gone = emulator.rows("contacts")

    emulator.restore("contacts", id_, modifiedon="2020-01-01T00:00:00Z")
    record = emulator.rows("contacts")[id_]

    assert gone == {}
    assert record["modifiedon"] == "2020-01-01T00:00:00Z"
    assert record["versionnumber"] > version
    with pytest.raises(KeyError):
        emulator.restore("contacts", id_)


def test_waiting_records_outlive_column_changes(emulator):
    gone = emulator.insert("contacts", {"fullname": "gone", "annualincome": "1.50"})
    late = emulator.insert("contacts", {"fullname": "late"}, committed=False)
    emulator.delete("contacts", gone)
    emulator.add_column("contacts", Column("tier", "String"))
    emulator.drop_column("contacts", "annualincome")

    emulator.restore("contacts", gone)
    emulator.commit(late)

    assert {row["fullname"]: row["tier"] for row in emulator.rows("contacts").values()} == {
        "gone": None, "late": None,
    }  # fmt: skip


def test_columns_added_dropped_and_retyped(served):
    emulator, caller = served
    id_ = emulator.insert("accounts", {"name": "Adatum", "numberofemployees": 5, "score": 0.5})
    version = emulator.rows("accounts")[id_]["versionnumber"]

    emulator.add_column("accounts", Column("tier", "Picklist", options={1: "Gold"}))
    emulator.drop_column("accounts", "description")
    emulator.retype_column("accounts", "numberofemployees", "String")
    emulator.retype_column("accounts", "name", "Integer")
    record = caller.value("accounts")[0]

    assert record["tier"] is None
    assert "description" not in record
    assert record["numberofemployees"] == "5"
    assert record["name"] is None
    assert record["versionnumber"] == version
    labels = caller.value("stringmaps?$filter=attributename eq 'tier'")
    assert [label["value"] for label in labels] == ["Gold"]
    assert caller.refusal("accounts?$select=description")[1] == "0x0"
    types = {
        a["LogicalName"]: a["AttributeType"]
        for a in caller.value("EntityDefinitions?$expand=Attributes")[0]["Attributes"]
    }
    assert types["numberofemployees"] == "String"


def test_tables_added_and_removed_while_running(served):
    emulator, caller = served
    emulator.add_table(Table("new", "news", "newid", (Column("kind", "State"),)))
    emulator.insert("news", {"kind": 0})

    present = caller.value("news")
    emulator.remove_table("news")

    assert present[0]["kind"] == 0
    assert caller.refusal("news")[0] == 404
    assert "news" not in emulator.tables
    with pytest.raises(ValueError, match="already a table accounts"):
        emulator.add_table(ACCOUNTS)


def test_ten_thousand_records_inserted_quickly():
    emulator = Emulator([CONTACTS])
    began_at = time.process_time()

    ids = emulator.insert_many("contacts", ({"fullname": f"C{i}"} for i in range(10_000)))

    assert len(set(ids)) == 10_000
    assert time.process_time() - began_at < 5
