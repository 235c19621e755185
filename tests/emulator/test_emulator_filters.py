"""``$filter`` finds what the service finds, and is refused where the service refuses it."""

import uuid

import pytest
from emulator_caller import ACCOUNTS, CONTACTS, Caller, running

from dataverse_sync.emulator import Column, Emulator, Table

CONTACT = "11111111-0000-4000-8000-00000000000f"
OTHER = "11111111-0000-4000-8000-0000000000ff"


@pytest.fixture(scope="module")
def caller():
    with running() as (emulator, caller):
        _fill(emulator)
        yield caller


def _fill(emulator: Emulator) -> None:
    contact = {"primarycontactid": CONTACT}
    emulator.insert("accounts", {
        "name": "Adatum", "description": "50% off_now", "allowemail": True, "industrycode": 1,
        "revenue": "10.5000", "score": 0.25, "founded": "1999-12-31", **contact,
    }, modifiedon="2025-01-01T00:00:00Z", id=CONTACT)  # fmt: skip
    emulator.insert("accounts", {
        "name": "Bläuler's", "description": "[x]", "allowemail": False, "industrycode": 2,
        "revenue": "9.0000", "score": 3.5, "founded": "2001-01-01", "markets": "1,3",
    }, modifiedon="2025-01-01T00:00:01Z")  # fmt: skip
    emulator.insert("accounts", {"name": "Contoso"}, modifiedon="2025-01-02T00:00:00Z")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("name eq 'Adatum'", "A"),
        ("name eq 'aDATUM'", "A"),
        ("name eq 'BLÄULER''S'", "B"),
        ("name ne 'Adatum'", "BC"),
        ("name gt 'adatum' and name lt 'contoso'", "B"),
        ("description ne '[x]'", "A"),  # nulls are not unequal
        ("description eq null", "C"),
        ("description ne null", "AB"),
        ("industrycode gt null", ""),
        ("industrycode eq 1", "A"),
        ("industrycode ge 1", "AB"),
        ("revenue gt 9", "A"),
        ("revenue gt 9.5 and revenue le 10.5", "A"),
        ("revenue lt 10", "B"),
        ("score eq 0.25", "A"),
        ("allowemail eq true", "A"),
        ("allowemail ne true", "B"),
        ("not(allowemail eq true)", "B"),
        ("name eq 'Adatum' or name eq 'Contoso'", "AC"),
        ("name eq 'x' or (name ne 'Contoso' and allowemail eq false)", "B"),
        (f"accountid eq {CONTACT}", "A"),
        (f"accountid eq {CONTACT.upper()}", "A"),
        (f"accountid ne {CONTACT}", "BC"),
        (f"_primarycontactid_value eq {CONTACT}", "A"),
        ("_primarycontactid_value eq null", "BC"),
        (f"_primarycontactid_value lt {OTHER}", "A"),
        (f"_primarycontactid_value eq {OTHER}", ""),
        ("modifiedon gt 2025-01-01T00:00:00Z", "BC"),
        ("modifiedon ge 2025-01-01T00:00:00Z and modifiedon lt 2025-01-02", "AB"),
        ("modifiedon gt 2025-01-01T00:00:00.500Z", "BC"),
        ("modifiedon lt 2025-01-01T00:00:00.500Z", "A"),
        ("modifiedon eq 2025-01-01T01:00:00-01:00", ""),
        ("modifiedon ge 2025-01-02T00:00:00", "C"),
        ("founded eq 1999-12-31", "A"),
        ("founded gt 2000-01-01", "B"),
        ("markets eq '1,3'", "B"),
    ],
)
def test_filter_finds_what_service_finds(caller: Caller, text, found):
    initials = "".join(name[0] for name in caller.names(text))

    assert initials == found


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (f"accountid eq '{CONTACT}'", "0x0", "'Edm.Guid' and 'Edm.String' for operator kind"),
        ("name eq 5", "0x0", "'Edm.String' and 'Edm.Int32'"),
        ("industrycode eq '1'", "0x0", "'Edm.Int32' and 'Edm.String'"),
        ("modifiedon gt 'yesterday'", "0x0", "'Edm.DateTimeOffset' and 'Edm.String'"),
        ("founded gt 2000-01-01T00:00:00Z", "0x0", "'Edm.Date' and 'Edm.DateTimeOffset'"),
        ("name eq duration'P1D'", "0x0", "Edm.Untyped"),
        ("nme eq 'x'", "0x0", "Could not find a property named 'nme'"),
        ("primarycontactid eq null", "0x0", "Could not find a property named 'primarycontactid'"),
        ("primarycontactid/fullname eq 'x'", "0x80060888", "not supported here"),
        ("name", "0x0", "single boolean value"),
        ("5", "0x0", "single boolean value"),
        ("name eqq 'x'", "0x80060888", "Syntax error"),
        ("name eq 'x", "0x80060888", "Syntax error"),
        (f"accountid eq guid'{CONTACT}'", "0x80060888", "Syntax error"),
        ("modifiedon gt 2025-02-31T00:00:00Z", "0x80060888", "Syntax error"),
        ("", "0x80060888", "Syntax error"),
        ("tolower(name) eq 'x'", "0x80060888", "not supported"),
        ("length(name)", "0x80060888", "function 'length' is not supported"),
        ("contains(name,'x')", "0x80060888", "function 'contains' is not supported"),
        ("'Adatum' eq name", "0x80060888", "not supported here"),
        ("allowemail", "0x0", "single boolean value"),
        ("name in ('a','b')", "0x80060888", "not supported here"),
        ("not(" * 1500 + "name eq 'x'" + ")" * 1500, "0x80060888", "nested too deeply"),
    ],
)  # fmt: skip
def test_wrong_filter_is_400(caller: Caller, text, code, message):
    refusal = caller.refusal(f"accounts?$filter={text}")

    assert refusal[:2] == (400, code)
    assert message in refusal[2]


def test_more_than_500_conditions_refused(caller: Caller):
    def conditions(count: int) -> str:
        return " or ".join(f"industrycode eq {i}" for i in range(count))

    assert len(caller.value(f"accounts?$filter={conditions(500)}")) == 2
    assert caller.refusal(f"accounts?$filter={conditions(501)}")[:2] == (400, "0x8004430C")


def test_fifty_ids_in_one_filter(caller: Caller):
    ids = [str(uuid.uuid4()) for _ in range(49)] + [CONTACT]

    found = caller.value("accounts?$filter=" + " or ".join(f"accountid eq {id_}" for id_ in ids))

    assert [record["accountid"] for record in found] == [CONTACT]


def test_column_named_like_keyword_filtered():
    names = ["order", "group", "select", "allocation", "nullable", "trueness", "anything", "Order",
             'a"; drop table t1; --']  # fmt: skip
    table = Table("odd", "odds", "oddid", [Column(name, "String") for name in names])
    with running(table) as (emulator, caller):
        emulator.insert("odds", {name: name for name in names})

        record = caller.value("odds?$filter=allocation eq 'allocation' and order eq 'order'")[0]

        assert {name: record[name] for name in names} == {name: name for name in names}
        assert len(caller.value("odds?$filter=nullable ne null and trueness ne 'x'")) == 1
        assert len(caller.value("odds?$filter=Order eq 'Order' and anything eq 'anything'")) == 1


def test_wildcards_compared_as_plain_text():
    with running(ACCOUNTS, CONTACTS) as (emulator, caller):
        emulator.insert("accounts", {"name": "a\r\nb", "description": "100%"})

        assert caller.names("description eq '100%'") == ["a\r\nb"]
        assert caller.names("description eq '100_'") == []
