"""What rights mean for a copy: compared with those it was made with, and with what may be read."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from dataverse_sync.dataverse.definitions import Security
from dataverse_sync.model import Column, Entity
from dataverse_sync.store.limits import Rights, dump_rights, parse_rights
from dataverse_sync.sync.rights import AccessRights, Change, combine_rights, compare_rights

UNIT, OTHER = "unit", "other"
SECURED = Security("prvReadThing", "", {"pay": "1", "gone": "2"})


def thing(*columns: str) -> Entity:
    return Entity("things", "thingid", tuple(Column(name, "REAL") for name in columns), "metadata")


def compare(before: Rights | None, now: Rights) -> Change:
    """Compare the rights to a table that was locked with two columns, one of which is gone."""
    locked, live = thing("pay", "gone"), thing("pay", "new")
    return compare_rights(before, now, SECURED, locked=locked, live=live)


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        ({UNIT: 3}, {UNIT: 3}, "same"),
        ({UNIT: 3}, {OTHER: 3}, "same"),
        ({UNIT: 1}, {UNIT: 3}, "gained"),
        ({UNIT: 3}, {UNIT: 2}, "lost"),
        ({UNIT: 0}, {}, "lost"),
        ({}, {UNIT: 0}, "gained"),
        ({UNIT: 1}, {OTHER: 1}, "lost"),  # moved to another business unit
        ({UNIT: 1}, {UNIT: 1, OTHER: 0}, "gained"),
        ({UNIT: 1, OTHER: 1}, {UNIT: 2}, "lost"),
        (None, {UNIT: 0}, "same"),
        ({UNIT: 3}, None, "same"),
    ],
)
def test_depths_are_compared(
    before: Mapping[str, int] | None, now: Mapping[str, int] | None, verdict: str
) -> None:
    rights = [Rights(None if one is None else dict(one), ()) for one in (before, now)]

    change = compare(*rights)

    assert verdict == ("lost" if change.lost else "gained" if change.gained else "same")


def test_columns_are_compared() -> None:
    one, both = Rights(None, ("pay",)), Rights(None, ("gone", "pay"))

    assert compare(None, both) == Change()
    assert compare(Rights(), both) == Change()
    # What nobody could ask for may have been hidden.
    assert compare(Rights(), one) == Change()
    assert compare(Rights(), Rights(None, ())).gained == ("column pay",)
    assert compare(one, both).lost == ("secured column gone",)
    # A column that Dataverse does not have any more brings no value, a new one was never copied.
    assert compare(both, one) == Change()
    assert compare(one, Rights(None, ("new", "pay"))) == Change()
    assert compare(both, Rights(None, ())).gained == ("column pay",)


def test_moved_user_is_told_so() -> None:
    (text,) = compare(Rights({UNIT: 1}), Rights({OTHER: 1})).lost

    assert text == "prvReadThing reaches depth Local, but in other business units than before"


def test_what_is_not_told_keeps_what_was_known() -> None:
    known = dump_rights(None, Rights({UNIT: 1}, ("pay",)))

    assert parse_rights(dump_rights(parse_rights(known), Rights())) == Rights({UNIT: 1}, ("pay",))
    assert parse_rights("damaged") is parse_rights(None) is None


@pytest.mark.parametrize(
    ("security", "depths", "readable", "expected"),
    [
        (SECURED, {"prvreadthing": {UNIT: 1}}, {"2"}, Rights({UNIT: 1}, ("pay",))),
        (SECURED, {}, None, Rights(None, None)),
        (SECURED, None, set(), Rights(None, ("gone", "pay"))),
        (Security("prvReadThing", "", {}), None, None, Rights(None, ())),
        (Security(None, "", {}), None, None, Rights({"": 3}, ())),  # its parents decide
        (Security(), {}, set(), Rights()),  # an older service
    ],
)
def test_rights_are_what_was_told(
    security: Security,
    depths: Mapping[str, Mapping[str, int]] | None,
    readable: set[str] | None,
    expected: Rights,
) -> None:
    assert combine_rights(security, depths, readable) == expected


def test_limits_are_found_of_what_is_known() -> None:
    rights = {"things": Rights({UNIT: 0}, ("pay",)), "others": Rights()}
    access = AccessRights({}, {"things": SECURED}, rights)
    other = Entity("others", "otherid", (), "metadata")

    limits = access.find_limits([thing("pay"), other])

    assert [str(limit) for limit in limits] == [
        "things: this app may read only its own records and those shared with it "
        "(prvReadThing at depth Basic)",
        "things.pay: a secured column that this app may not read: its values come as null",
    ]
    assert access.list_settled() == {("things", "depth"), ("things", "secured")}
