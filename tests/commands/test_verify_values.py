"""``verify --values`` compares every byte, and ``verify`` says what the app could not see."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import CANDIDATES, World, insert, raw
from test_verify import ALL, KEYS, a_key, check_of
from test_verify import verify as verify_world

from dataverse_sync import EntityConfig
from dataverse_sync.cli import main
from dataverse_sync.commands.verify import format_verification, parse_share, to_document
from dataverse_sync.emulator import Column, LoggedRequest, Table
from dataverse_sync.model import Column as LockedColumn
from dataverse_sync.model import Entity, EntityStarted, EntityVerified, Event, PageStored
from dataverse_sync.store.row_checks import choose_sample, find_unlike
from dataverse_sync.store.tables import build_table
from dataverse_sync.store.upsert import write_records
from dataverse_sync.sync.verification import Verification

PEOPLE = Table(
    "vin_person",
    "vin_people",
    "vin_personid",
    [Column("vin_name", "String"), Column("vin_salary", "Money", secured=True)],
)
SEEN = [EntityConfig("vin_candidates"), EntityConfig("vin_people")]


def verify(world: World, *only: str, **options: Any) -> Verification:
    return verify_world(world, *only, **{"values": True, **options})


def alter(world: World, name: str, key: str) -> None:
    """Change one byte of a record, alike in its column and in its JSON."""
    column = {"vin_vin_candidate_accountset": "vin_candidateid"}.get(name, "createdon")
    value = json.loads(world.copy(name)[key])[column]
    other = ("1" if value[0] != "1" else "2") + value[1:]
    world.execute(
        f"UPDATE {name} SET {column} = ?, json_response = replace(json_response, ?, ?) "
        f"WHERE {KEYS[name]} = ?",
        *(other, f'"{column}":"{value}"', f'"{column}":"{other}"', key),
    )


@pytest.mark.parametrize("name", ALL)
def test_one_byte_is_found_and_mended(world: World, name: str) -> None:
    world.sync()
    before = world.rows()
    key = a_key(world, name)
    alter(world, name, key)
    if name != "vin_vin_candidate_accountset":  # else it links to another record
        assert verify(world, values=False).ok

    found = verify(world)

    assert [one.entity for one in found.entities if one.altered] == [name]
    assert check_of(found, name).altered == [key]
    assert verify(world, repair=True).ok
    assert verify(world).ok
    assert {k: [row[:-3] for row in rows] for k, rows in world.rows().items()} == {
        k: [row[:-3] for row in rows] for k, rows in before.items()
    }


def test_values_are_read_in_pages_once(world: World) -> None:
    world.sync()

    found = verify(world)

    assert found.ok
    assert {one.compared for one in found.entities} == {"values"}
    assert [one.records for one in world.asked("vin_candidates")] == [5, 5, 2]
    assert world.asked("vin_candidates", kind="thin") == []
    proofs = world.query("SELECT DISTINCT compared, status FROM _sync_verify")
    assert proofs == [("values", "same")]


def test_differences_are_mended_in_batches(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataverse_sync.sync.entity_verification.IDS_AT_ONCE", 5)
    world.sync()
    keys = sorted(world.copy("vin_candidates"))
    for key in keys[:7]:
        alter(world, "vin_candidates", key)
    for key in keys[7:10]:
        world.execute("DELETE FROM vin_candidates WHERE vin_candidateid = ?", key)
    world.execute("UPDATE vin_candidates SET versionnumber = 1 WHERE vin_candidateid = ?", keys[11])

    found = check_of(verify(world, repair=True), "vin_candidates")

    assert sorted(found.altered) == keys[:7]
    assert sorted(found.missing) == keys[7:10]
    assert found.stale == [keys[11]]
    assert found.repaired == 11
    assert world.is_mirror("vin_candidates")
    assert verify(world).ok


@pytest.mark.parametrize("column", ["json_response", "vin_name"])
@pytest.mark.parametrize("values", [False, True])
def test_byte_that_is_no_text_is_found_and_mended(world: World, column: str, values: bool) -> None:
    world.sync()
    key = a_key(world, "vin_candidates")
    world.execute(
        f"UPDATE vin_candidates SET {column} = CAST(replace(CAST({column} AS BLOB), 'Candid', "
        "'Can' || x'ff' || 'id') AS TEXT) WHERE vin_candidateid = ?",
        key,
    )

    assert check_of(verify(world, values=values), "vin_candidates").altered == [key]
    assert verify(world, values=values, repair=True).ok
    assert world.is_mirror("vin_candidates")
    assert verify(world).ok


def test_annotations_are_no_difference(world: World) -> None:
    world.sync()
    world.execute(
        "UPDATE vin_candidates SET json_response = "
        "json_insert(json_response, '$.\"vin_name@some.annotation\"', 'of another time')"
    )
    world.execute("UPDATE vin_products SET json_response = replace(json_response, 'W/', 'w/')")

    assert verify(world).ok


def test_what_changes_meanwhile_is_no_difference(world: World) -> None:
    world.sync()
    world.wait()
    emulator = world.emulator
    key = emulator.ids("vin_candidates")[-1]

    def change(request: LoggedRequest) -> None:
        if request.kind == "data" and request.entity_set == "vin_candidates":
            emulator.control.on_request = None
            emulator.clock.advance(2)
            emulator.update("vin_candidates", key, {"vin_name": "!"})

    emulator.control.on_request = change

    found = check_of(verify(world), "vin_candidates")

    assert (found.differences, found.changed_meanwhile) == (0, 1)


def test_samples_cover_all_rows_in_turn(world: World) -> None:
    world.sync()
    seen: list[set[str]] = []
    for _ in range(5):
        found = verify(world, sample=25.0)
        assert found.ok
        assert [one.records for one in world.asked("vin_candidates")] == [3]
        asked = "".join(one.target for one in world.asked("vin_candidates"))
        seen.append({key for key in world.copy("vin_candidates") if key in asked})

    assert {one.compared for one in found.entities} == {"values of 25 %"}
    assert set().union(*seen[:4]) == set(world.copy("vin_candidates"))
    assert seen[4] == seen[0]
    assert world.asked("accounts")
    assert len(world.asked("vin_candidates", kind="thin")) == 3  # keys and versions of all


def test_sample_finds_and_mends_what_is_in_it(world: World) -> None:
    world.sync()
    key = sorted(world.copy("vin_candidates"))[4]
    alter(world, "vin_candidates", key)

    first, second = (verify(world, sample=25.0, repair=True) for _ in range(2))

    assert check_of(first, "vin_candidates").differences == 0
    assert check_of(second, "vin_candidates").altered == [key]
    assert second.ok
    assert world.is_mirror("vin_candidates")


def test_progress_is_told(world: World) -> None:
    world.sync()
    events: list[Event] = []

    verify(world, on_event=events.append)

    assert {one.entity for one in events if isinstance(one, EntityStarted)} == set(ALL)
    assert {one.entity for one in events if isinstance(one, EntityVerified)} == set(ALL)
    pages = [one.records for one in events if isinstance(one, PageStored)]
    assert sum(pages) == 12 + 8 + 1 + 2 + 1


# How records are held against rows

THING = Entity("things", "thingid", (LockedColumn("thingid", "TEXT"),), "metadata")


@pytest.mark.parametrize(
    ("stored", "came", "is_same"),
    [
        ('{"thingid":"1","a":1}', '{"thingid":"1","a":1}', True),
        ('{"thingid":"1","a":1}', '{"thingid":"1","a":1.0}', False),
        ('{"thingid":"1","a":1}', '{"thingid":"1","a": 1}', False),
        ('{"thingid":"1","a":[1]}', '{"thingid":"1","a":[1 ]}', False),
        ('{"thingid":"1","a":1}', '{"a":1,"thingid":"1"}', False),
        ('{"thingid":"1","a":1}', '{"thingid":"1"}', False),
        ('{"@odata.etag":"x","thingid":"1"}', '{"thingid":"1"}', True),
        ('{"thingid":"1","a@b":"x","a":1}', '{"thingid":"1","a":1}', True),
        ('{"thingid":"1","a":"\\ud800"}', '{"thingid":"1","a":"\\ud800"}', True),
        ('{"thingid":"1","a":"\\ud800"}', '{"thingid":"1","a":"\\ud801"}', False),
    ],
)
def test_records_are_held_against_rows(
    connection: Any, stored: str, came: str, is_same: bool
) -> None:
    table = build_table(THING)
    with connection.begin():
        table.table.create(connection)
        write_records(connection, table, [raw(stored)], "")

        unlike = find_unlike(connection, table, [raw(came), raw('{"thingid":"2"}')])

    assert unlike == ([] if is_same else ["1"])


@pytest.mark.parametrize(
    ("count", "after", "expected"),
    [
        (2, None, "ab"),
        (2, "b", "cd"),
        (3, "d", "eab"),
        (2, "e", "ab"),
        (2, "zz", "ab"),
        (5, "c", "deabc"),
        (9, "c", "deabc"),
    ],
)
def test_sample_goes_round(connection: Any, count: int, after: str | None, expected: str) -> None:
    table = build_table(THING)
    with connection.begin():
        table.table.create(connection)
        write_records(connection, table, [raw(f'{{"thingid":"{key}"}}') for key in "abcde"], "")

        assert "".join(choose_sample(connection, table, count, after)) == expected


# What the app could not see


@pytest.fixture
def seen(make_world: Any) -> World:
    world: World = make_world([CANDIDATES, PEOPLE])
    insert(world.emulator, "vin_candidates", [{"vin_name": f"C {n}"} for n in range(8)])
    people = [{"vin_name": f"P {n}", "vin_salary": f"{n}.00"} for n in range(8)]
    insert(world.emulator, "vin_people", people)
    world.wait()
    return world


def hide(world: World) -> None:
    world.emulator.control.hidden = {("vin_people", "vin_salary")}


def show_half(world: World) -> None:
    ids = sorted(world.emulator.rows("vin_candidates"))[:4]
    world.emulator.control.depths["vin_candidates"] = "Local", set(ids)


def test_end_says_what_was_not_seen(seen: World) -> None:
    hide(seen)
    show_half(seen)
    seen.sync(SEEN)

    found = verify(seen, entities=SEEN, values=False)

    assert found.ok
    lines = format_verification(found)
    at = lines.index("the same, as far as this app may see:")
    assert lines[at + 1].startswith(
        "  vin_candidates: this app may read only the records of its bus"
    )
    assert lines[at + 2].startswith("  vin_people.vin_salary: a secured column")
    assert lines[at + 3 :] == ["2 tables agree, 0 do not"]
    limits = to_document(found)["limits"]
    assert [(one["entity"], one["column"], one["kind"]) for one in limits] == [
        ("vin_candidates", None, "depth"),
        ("vin_people", "vin_salary", "secured"),
    ]
    seen.emulator.control.hidden, seen.emulator.control.depths = set(), {}
    seen.sync(SEEN)
    lines = format_verification(verify(seen, entities=SEEN))
    assert "the same, as far as this app may see: all of it" in lines
    seen.emulator.control.organization_id = None
    lines = format_verification(verify(seen, entities=SEEN))
    assert any("cannot be asked for: how deep it may read (" in line for line in lines)


@pytest.mark.parametrize("take", [hide, show_half])
@pytest.mark.parametrize("values", [False, True])
def test_nothing_is_mended_by_less_than_was_copied(seen: World, take: Any, values: bool) -> None:
    seen.sync(SEEN)
    before = seen.rows()
    take(seen)

    found = verify(seen, entities=SEEN, values=values, repair=True)

    assert not found.ok
    (failed,) = (one for one in found.entities if one.error)
    assert "the right to read it became less" in str(failed.error)
    assert seen.rows() == before
    assert seen.query("SELECT status FROM _sync_verify WHERE entity_name = ?", failed.entity) == [
        ("failed",)
    ]
    assert not verify(seen, entities=SEEN, repair=True, allow_deletes=True).ok
    assert seen.rows() == before


def test_copy_of_less_than_may_be_read_is_not_proven(seen: World) -> None:
    hide(seen)
    seen.sync(SEEN)
    seen.emulator.control.hidden = set()

    found = verify(seen, entities=SEEN, values=False)

    assert "may read more of it than was copied" in str(check_of(found, "vin_people").error)
    assert check_of(verify(seen, entities=SEEN), "vin_people").differences == 8
    assert verify(seen, entities=SEEN, repair=True).ok
    assert seen.is_mirror("vin_people")


# The command


@pytest.mark.parametrize("text", ["5", "0%", "101%", "%", "five%", "-1%", "1e1%"])
def test_other_shares_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a share such as 5%"):
        parse_share(text)


def test_share_is_in_percent() -> None:
    assert (parse_share("5%"), parse_share("0.25%"), parse_share("100%")) == (5, 0.25, 100)


def test_command_takes_values_and_sample(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in world.settings().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(world.folder)
    world.write_entity_list()
    world.sync()

    assert main(["verify", "--schema", str(world.schema_path), "--sample", "5%"]) == 2
    assert "Give --values too" in capsys.readouterr().err
    arguments = ["verify", "--schema", str(world.schema_path), "--values", "--sample", "5%"]
    assert main(arguments) == 0
    assert "the same, as far as this app may see: all of it" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {one["compared"] for one in document["entities"]} == {"values of 5 %"}
