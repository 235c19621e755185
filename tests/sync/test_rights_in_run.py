"""What the app may not see is said; rights that grow bring values, lost ones change no row."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from conftest import LINK_SET, TABLES, World, fill, insert

from dataverse_sync import EntityConfig, SyncReport
from dataverse_sync.emulator import Column, Fault, Table
from dataverse_sync.model import Event, PageStored

PEOPLE = Table(
    "vin_person",
    "vin_people",
    "vin_personid",
    [
        Column("vin_name", "String"),
        Column("vin_salary", "Money", secured=True),
        Column("vin_bossid", "Lookup", targets=("vin_person",), secured=True),
    ],
    change_tracking=True,
)
SEEN_TABLES = [*TABLES, PEOPLE]
SEEN = [
    *(EntityConfig(table.entity_set) for table in TABLES[:3]),
    EntityConfig("vin_people"),
    EntityConfig("accounts", filtered=True),
    EntityConfig("contacts", filtered=True),
]
DEPTHS = ("RetrieveUserSetOfPrivilegesByNames", "RetrieveUserPrivilegeByPrivilegeName")
SALARY, BOSS = ("vin_people", "vin_salary"), ("vin_people", "vin_bossid")


@pytest.fixture(autouse=True)
def _page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit each page by itself, so that an interrupted run has a known number of them."""
    monkeypatch.setattr("dataverse_sync.sync.page_loop.PAGES_PER_TRANSACTION", 1)


@pytest.fixture
def seen(make_world: Any) -> World:
    """A world with 12 people, each with a salary and a boss, both under column security."""
    world: World = make_world(SEEN_TABLES)
    fill(world.emulator)
    ids = insert(world.emulator, "vin_people", [{"vin_name": f"P {n}"} for n in range(12)])
    for number, key in enumerate(ids):
        changes = {"vin_salary": f"{number}.00", "vin_bossid": ids[0]}
        world.emulator.update("vin_people", key, changes)
    world.wait()
    return world


def sync(world: World, **options: Any) -> SyncReport:
    return world.sync(SEEN, **options)


def limits(world: World) -> list[tuple[str, str | None, str]]:
    return [tuple(row) for row in world.query(
        "SELECT entity_name, column_name, kind FROM _sync_limits ORDER BY 1, 2"
    )]  # fmt: skip


def functions(world: World) -> list[str]:
    """The requests of the last run that ask for rights."""
    targets = [one.target for one in world.emulator.log]
    return [target for target in targets if "Microsoft.Dynamics.CRM" in target]


def read(world: World, name: str) -> int:
    """How many records of a table the last run has read."""
    return sum(one.records or 0 for one in world.asked(name))


def interrupt_at(name: str, page: int) -> Callable[[Event], None]:
    """Interrupt a run when so many whole pages of a table were stored."""
    left = page

    def interrupt(event: Event) -> None:
        nonlocal left
        if isinstance(event, PageStored) and event.entity == name and event.records == 5:
            left -= 1
            if not left:
                raise KeyboardInterrupt

    return interrupt


def own(world: World, name: str, share: float = 0.6) -> set[str]:
    ids = sorted(world.emulator.rows(name))
    return set(ids[: int(len(ids) * share)])


def fetched(report: SyncReport) -> set[str]:
    """The tables with modifiedon of which records were read."""
    return {one.name for one in report.entities if one.counts.fetched} - {LINK_SET}


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    caplog.clear()
    return found


@pytest.mark.parametrize("workers", [1, 4])
def test_what_is_not_seen_is_said_once(
    seen: World, caplog: pytest.LogCaptureFixture, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen, "config", lambda config=seen.config: config(workers=workers))
    seen.emulator.control.depths["vin_candidates"] = "Local", own(seen, "vin_candidates")
    seen.emulator.control.hidden = {SALARY}

    first = sync(seen)

    assert first.ok
    texts = said(caplog)
    assert [text.split(":")[0] for text in texts] == ["vin_candidates", "vin_people.vin_salary"]
    assert "prvReadvin_candidate at depth Local" in texts[0]
    found = [("vin_candidates", None, "depth"), ("vin_people", "vin_salary", "secured")]
    assert limits(seen) == found
    assert len(functions(seen)) == 2
    assert sync(seen).ok
    assert said(caplog) == []
    assert limits(seen) == found
    assert len(functions(seen)) == 2


def test_right_to_a_column_brings_its_values_once(
    seen: World, caplog: pytest.LogCaptureFixture
) -> None:
    seen.emulator.control.hidden = {SALARY, BOSS}
    sync(seen)
    assert set(seen.query("SELECT vin_salary, _vin_bossid_value FROM vin_people")) == {(None, None)}
    said(caplog)
    seen.emulator.control.hidden = set()

    report = sync(seen)

    assert report.ok
    assert seen.is_mirror("vin_people")
    assert read(seen, "vin_people") == 12
    assert fetched(report) == {"vin_people"}
    (text,) = said(caplog)
    assert "vin_people" in text and "column vin_salary" in text and "_vin_bossid_value" in text
    assert limits(seen) == []
    again = sync(seen)
    assert again.ok and fetched(again) == set()
    assert said(caplog) == []


@pytest.mark.parametrize("name", ["vin_candidates", LINK_SET, "accounts"])
def test_right_to_more_records_brings_them(
    seen: World, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    tables = {table.entity_set: table for table in SEEN_TABLES}
    about = tables[name]
    if about.intersect:  # whose rights come from its parents
        seen.emulator.tables[name].spec = replace(about, intersect=False)
    linked = find_linked(seen) if name == "accounts" else None
    seen.emulator.control.depths[name] = "Deep", own(seen, name, 0.34)
    sync(seen)
    before = len(seen.copy(name))
    said(caplog)
    del seen.emulator.control.depths[name]

    report = sync(seen)

    assert report.ok
    expected = seen.source(name)
    if linked is not None:
        expected = {key: text for key, text in expected.items() if key in linked}
    assert seen.copy(name) == expected
    assert before < len(expected)
    assert any(name in text and "Global, was depth Deep" in text for text in said(caplog))
    assert limits(seen) == []
    assert fetched(sync(seen)) == set()


def find_linked(world: World) -> set[str]:
    candidates = world.emulator.rows("vin_candidates").values()
    pairs = world.emulator.rows(LINK_SET).values()
    linked = {one["_vin_developerid_value"] for one in candidates}
    return (linked | {one["accountid"] for one in pairs}) - {None}


def take_column(world: World) -> None:
    world.emulator.control.hidden = {SALARY}


def take_records(world: World) -> None:
    world.emulator.control.depths["vin_people"] = "Basic", own(world, "vin_people")


def take_everything(world: World) -> None:
    world.emulator.control.depths["vin_people"] = "", set()


def secure_column(world: World) -> None:
    """The name was open to all; now it needs a right that the app does not have."""
    columns = [replace(one, secured=True) for one in PEOPLE.columns]
    world.emulator.tables["vin_people"].spec = replace(PEOPLE, columns=columns)
    world.emulator.control.hidden = {("vin_people", "vin_name")}


TAKEN = [take_column, take_records, take_everything, secure_column]


@pytest.mark.parametrize("take", TAKEN)
@pytest.mark.parametrize("full", [False, True])
def test_right_taken_away_changes_no_row(
    seen: World, take: Callable[[World], None], full: bool, caplog: pytest.LogCaptureFixture
) -> None:
    sync(seen)
    before, bookmark = seen.rows(), seen.state("vin_people", "last_timestamp")
    seen.emulator.control.hidden.clear()
    take(seen)
    changed = sorted(own(seen, "vin_people"))[0]
    seen.emulator.update("vin_people", changed, {"vin_salary": "77.00"})
    seen.wait()
    said(caplog)

    report = sync(seen, full=full)

    assert [one.name for one in report.failed] == ["vin_people"]
    error = str(report.failed[0].error)
    assert "prvReadvin_person" in error or "column vin_" in error
    assert "--allow-deletes" in error
    assert seen.rows() == before
    assert seen.removed("vin_people") == {}
    assert seen.state("vin_people", "last_timestamp") == bookmark
    assert sync(seen, full=full).failed[0].error == error
    seen.emulator.control.hidden, seen.emulator.control.depths = set(), {}
    report = sync(seen)
    assert report.ok
    assert seen.is_mirror("vin_people")
    assert report.totals.updated == 1
    assert limits(seen) == []


@pytest.mark.parametrize("take", TAKEN)
def test_right_taken_away_is_followed_where_that_is_allowed(
    seen: World, take: Callable[[World], None]
) -> None:
    sync(seen)
    take(seen)

    report = sync(seen, allow_deletes=True)

    assert report.ok
    control = seen.emulator.control
    _, ids = control.depths.get("vin_people", ("", set(seen.source("vin_people"))))
    assert seen.copy("vin_people").keys() == ids
    for key, text in seen.copy("vin_people").items():
        values = json.loads(text)
        hidden = {name: values[name] for _, name in control.hidden}
        assert set(hidden.values()) <= {None}
        expected = json.loads(seen.source("vin_people")[key])
        assert values == {**expected, **hidden}
    assert sync(seen).ok
    assert len(limits(seen)) == 1


def test_filtered_table_keeps_its_rows_too(seen: World) -> None:
    sync(seen)
    before = seen.copy("accounts")
    assert len(before) == 2
    seen.emulator.control.depths["accounts"] = "Local", {min(before)}

    report = sync(seen)

    assert [one.name for one in report.failed] == ["accounts"]
    assert seen.copy("accounts") == before
    assert sync(seen, allow_deletes=True).ok
    assert set(seen.copy("accounts")) == {min(before)}


def test_read_that_a_grown_right_asks_for_is_gone_on_with(seen: World) -> None:
    seen.emulator.control.hidden = {SALARY}
    sync(seen)
    seen.emulator.control.hidden = set()

    with pytest.raises(KeyboardInterrupt):
        sync(seen, on_event=interrupt_at("vin_people", 2))
    report = sync(seen)

    assert report.ok
    assert seen.is_mirror("vin_people")
    (people,) = (one for one in report.entities if one.name == "vin_people")
    assert 0 < people.counts.fetched < 12
    assert fetched(sync(seen)) == set()


def test_read_that_began_with_less_is_read_anew(seen: World) -> None:
    """A first read is interrupted, and goes on when the app may read more."""
    seen.emulator.control.hidden = {SALARY}
    seen.emulator.control.depths["accounts"] = "Local", set()

    with pytest.raises(KeyboardInterrupt):
        sync(seen, on_event=interrupt_at("vin_people", 2))
    seen.emulator.control.hidden, seen.emulator.control.depths = set(), {}

    assert sync(seen).ok
    assert seen.is_mirror("vin_people")
    assert len(seen.copy("accounts")) == 2


def test_rights_that_cannot_be_asked_for_are_said_once(
    seen: World, caplog: pytest.LogCaptureFixture
) -> None:
    control = seen.emulator.control
    control.hidden = {SALARY}
    control.unknown_functions = {*DEPTHS, "RetrievePrincipalAttributePrivileges"}

    assert sync(seen).ok
    (text,) = said(caplog)
    assert "how deep it may read (" in text and "secured columns (" in text
    assert limits(seen) == []
    assert len(functions(seen)) == 3
    assert sync(seen).ok
    assert said(caplog) == []
    control.unknown_functions = set()
    assert sync(seen).ok
    # The other secured column, which may be read, may have been null before.
    assert [text.split(":")[0] for text in said(caplog)] == ["vin_people", "vin_people.vin_salary"]
    control.hidden, control.unknown_functions = set(), {"RetrievePrincipalAttributePrivileges"}
    assert sync(seen).ok
    assert limits(seen) == [("vin_people", "vin_salary", "secured")]  # nothing says otherwise
    control.unknown_functions = set(DEPTHS)
    assert sync(seen).ok  # reads anew, and says even so what it does not know
    assert seen.is_mirror("vin_people")
    assert any("cannot be asked for: how deep" in text for text in said(caplog))


@pytest.mark.parametrize("what", ["EntityDefinitions", "WhoAmI", r"Microsoft\.Dynamics"])
@pytest.mark.parametrize("status", [403, 500])
def test_nothing_fails_where_nobody_tells(
    seen: World, what: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert sync(seen).ok
    said(caplog)
    seen.emulator.control.fault(Fault("status", what, times=99, status=status))

    assert sync(seen).ok

    assert any("what this app may not see cannot be asked for" in text for text in said(caplog))
    assert sync(seen).ok
    assert not any("may not see" in text for text in said(caplog))
    assert seen.is_mirror("vin_people")


def test_user_that_is_not_told_is_no_failure(
    seen: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataverse_sync.emulator.api.service.USER_ID", None)

    assert sync(seen).ok

    assert any("WhoAmI does not tell the user" in text for text in said(caplog))


def test_passing_failure_is_no_lost_right(seen: World) -> None:
    sync(seen)
    match = "RetrieveUserSetOfPrivilegesByNames"
    seen.emulator.control.fault(Fault("status", match, times=2, status=503))

    assert sync(seen).ok
    assert len(functions(seen)) == 2  # no other call in its place, which may say less


def test_older_service_tells_nothing(make_world: Any, caplog: pytest.LogCaptureFixture) -> None:
    world: World = make_world(SEEN_TABLES, unknown_properties=("Privileges",))
    fill(world.emulator)
    insert(world.emulator, "vin_people", [{"vin_name": "P", "vin_salary": "1.00"}])
    world.emulator.control.hidden = {SALARY}

    assert sync(world).ok

    assert any("an older service" in text for text in said(caplog))
    assert limits(world) == []
    assert set(world.query("SELECT rights FROM _sync_state")) == {
        ('{"depths":null,"hidden":null}',)
    }


def test_depths_are_asked_for_one_by_one(seen: World) -> None:
    control = seen.emulator.control
    control.unknown_functions = {"RetrieveUserSetOfPrivilegesByNames"}
    control.depths["vin_candidates"] = "Local", own(seen, "vin_candidates")
    entities = [EntityConfig("vin_candidates"), EntityConfig("vin_products")]

    assert seen.sync(entities).ok
    assert limits(seen) == [("vin_candidates", None, "depth")]
    assert len(functions(seen)) == 3
    assert sync(seen).ok
    assert len(functions(seen)) <= 3


def test_new_secured_column_is_no_lost_right(seen: World) -> None:
    sync(seen)
    columns = [*PEOPLE.columns, Column("vin_bonus", "Money", secured=True)]
    seen.emulator.add_column("vin_people", columns[-1])
    seen.emulator.control.hidden = {("vin_people", "vin_bonus")}

    assert sync(seen).ok
    assert limits(seen) == [("vin_people", "vin_bonus", "secured")]
    seen.emulator.control.hidden = set()
    key = min(seen.emulator.rows("vin_people"))
    seen.emulator.update("vin_people", key, {"vin_bonus": "5.00"})
    assert sync(seen).ok
    assert seen.is_mirror("vin_people")


def test_lost_right_is_seen_at_another_address(seen: World) -> None:
    sync(seen)
    before = seen.rows()
    seen.execute("UPDATE _sync_environment SET api_url = 'https://a.example/api/data/v9.2/'")
    seen.execute("UPDATE _sync_environment SET organization_id = NULL")
    take_records(seen)

    assert [one.name for one in sync(seen).failed] == ["vin_people"]
    assert seen.copy("vin_people").keys() == {row[0] for row in before["vin_people"]}
    assert sync(seen, new_environment=True).ok  # whose rights are others


def test_limits_of_a_table_that_is_not_configured_end(seen: World) -> None:
    seen.emulator.control.hidden = {SALARY}
    sync(seen)

    assert seen.sync([one for one in SEEN if one.name != "vin_people"]).ok

    assert limits(seen) == []


def test_no_answer_is_taken_before_the_rights(seen: World) -> None:
    """The rights come late, and pages wait for them; that is told, and nothing is open."""
    sync(seen)
    before = seen.rows()
    take_column(seen)
    waited: list[Event] = []
    seen.emulator.control.fault(Fault("stall", "RetrievePrincipalAttribute", seconds=0.8))

    report = sync(seen, full=True, on_event=waited.append)

    assert [one.name for one in report.failed] == ["vin_people"]
    assert seen.rows() == before
    told = [type(event).__name__ for event in waited]
    assert "StillWaiting" in told[: told.index("PageStored")]


def test_database_of_an_earlier_version_is_no_reason_to_read_again(seen: World) -> None:
    seen.emulator.control.hidden = {SALARY}
    sync(seen)
    seen.execute("UPDATE _sync_state SET rights = NULL")
    seen.execute("DROP TABLE _sync_limits")

    report = sync(seen)

    assert report.ok and fetched(report) == set()
    assert limits(seen) == [("vin_people", "vin_salary", "secured")]


def test_columns_that_nobody_told_of_are_read_once_they_are_told(seen: World) -> None:
    control = seen.emulator.control
    control.hidden = {SALARY}
    control.unknown_functions = {"RetrievePrincipalAttributePrivileges"}
    sync(seen)
    control.hidden, control.unknown_functions = set(), set()

    assert sync(seen).ok

    assert seen.is_mirror("vin_people")
    assert fetched(sync(seen)) == set()


@pytest.mark.parametrize("status", [403, 500, 503])
def test_functions_that_fail_cost_three_requests(seen: World, status: int) -> None:
    seen.emulator.control.fault(Fault("status", r"Microsoft\.Dynamics", times=99, status=status))

    assert sync(seen).ok
    assert len(functions(seen)) <= 3
