"""Reading one entity: wrong and unusual answers."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest
from conftest import CANDIDATES, CANDIDATES_ONLY, OLD, PRODUCTS, insert

from dataverse_sync import EntityConfig
from dataverse_sync.emulator import Column, Fault, Table
from dataverse_sync.sync import page_loop

PRODUCTS_ONLY = [EntityConfig("vin_products")]


@pytest.fixture
def candidates(make_world):
    world = make_world([CANDIDATES])
    insert(world.emulator, "vin_candidates", [{"vin_name": str(n)} for n in range(13)])
    return world


def test_circular_link_fails_entity(candidates):
    pages = []

    def circle(request):
        if request.kind == "data" and "$skiptoken" in request.query:
            pages.append(request.target)
        if len(pages) == 2:
            link = f"{candidates.emulator.origin}{pages[0]}"
            candidates.emulator.control.fault(
                Fault("other_origin_link", match="skiptoken", location=link)
            )

    candidates.emulator.control.on_request = circle
    report = candidates.sync(CANDIDATES_ONLY)

    assert "leads back to a page already read" in report.failed[0].error
    assert len(candidates.copy("vin_candidates")) == 10


def test_link_to_other_origin_not_followed(candidates):
    link = "https://evil.example/api/data/v9.2/vin_candidates?$skiptoken=x"
    pattern = r"/vin_candidates\?"
    candidates.emulator.control.fault(Fault("other_origin_link", match=pattern, location=link))

    report = candidates.sync(CANDIDATES_ONLY)

    assert "leads to another origin" in report.failed[0].error
    assert report.failed[0].requests == len(candidates.asked("vin_candidates"))
    assert candidates.copy("vin_candidates") == {}


def test_endless_empty_pages_fail_entity(candidates, monkeypatch):
    monkeypatch.setattr("dataverse_sync.sync.reading.EMPTY_PAGES", 20)
    candidates.emulator.control.fault(
        Fault("empty_page_with_link", match=r"/vin_candidates\?", times=99)
    )

    report = candidates.sync(CANDIDATES_ONLY)

    assert "20 pages in a row held no record" in report.failed[0].error
    assert len(candidates.asked()) == 21


def test_empty_pages_are_followed(candidates):
    pattern = r"/vin_candidates\?"
    candidates.emulator.control.fault(Fault("empty_page_with_link", match=pattern, times=3, skip=1))

    report = candidates.sync(CANDIDATES_ONLY)

    assert report.ok
    assert candidates.is_mirror("vin_candidates")


def test_repeated_page_heals_next_run(candidates):
    candidates.emulator.control.fault(Fault("repeat_page", match="skiptoken"))
    candidates.sync(CANDIDATES_ONLY)

    report = candidates.sync(CANDIDATES_ONLY)

    assert report.ok
    assert candidates.is_mirror("vin_candidates")


@pytest.mark.parametrize("entry", ['{"versionnumber":1}', "7"])
def test_entry_without_key_removes_nothing(candidates, entry):
    candidates.sync(CANDIDATES_ONLY)
    before = candidates.copy("vin_candidates")
    body = f'{{"value":[{entry}]}}'.encode()
    candidates.emulator.control.fault(Fault("body", match=r"/vin_candidates\?.*select=", body=body))

    report = candidates.sync(CANDIDATES_ONLY)

    assert "vin_candidates, page 1: an entry" in report.failed[0].error
    assert candidates.copy("vin_candidates") == before


def test_complete_read_stands_when_ids_refused(candidates):
    candidates.sync(CANDIDATES_ONLY)
    candidates.emulator.delete("vin_candidates", min(candidates.copy("vin_candidates")))
    candidates.emulator.control.fault(
        Fault("status", match=r"filter=vin_candidateid", times=9, status=400)
    )

    report = candidates.sync(CANDIDATES_ONLY)

    assert report.ok
    assert candidates.is_mirror("vin_candidates")


def test_forbidden_ids_remove_nothing(candidates):
    candidates.sync(CANDIDATES_ONLY)
    before = candidates.copy("vin_candidates")
    candidates.emulator.delete("vin_candidates", min(before))
    candidates.emulator.control.fault(Fault("status", match=r"filter=vin_candidateid", status=403))

    report = candidates.sync(CANDIDATES_ONLY)

    assert [entity.name for entity in report.failed] == ["vin_candidates"]
    assert candidates.copy("vin_candidates") == before


def test_record_deleted_before_fetch_is_removed(candidates):
    candidates.sync(CANDIDATES_ONLY)
    key = min(candidates.copy("vin_candidates"))
    candidates.emulator.update("vin_candidates", key, {"vin_name": "import"}, modifiedon=OLD)

    def delete(request):
        if request.kind == "data" and " eq " in request.query.get("$filter", ""):
            candidates.emulator.control.on_request = None
            candidates.emulator.delete("vin_candidates", key)

    candidates.emulator.control.on_request = delete
    report = candidates.sync(CANDIDATES_ONLY)

    assert report.ok
    assert list(candidates.removed("vin_candidates")) == [key]
    assert candidates.is_mirror("vin_candidates")


def test_differing_plain_keys_read_in_full(make_world):
    world = make_world([CANDIDATES])
    records = [{"vin_candidateid": f"{n}", "versionnumber": n, "modifiedon": OLD} for n in range(3)]

    def serve(rows, times):
        body = json.dumps({"value": rows}).encode()
        world.emulator.control.fault(
            Fault("body", match=r"/vin_candidates\?", times=times, body=body)
        )

    serve(records, times=1)
    world.sync(CANDIDATES_ONLY)
    serve([], times=1)  # nothing changed by modifiedon; the comparison tells otherwise
    serve([{**records[0], "versionnumber": 9}, *records[1:]], times=2)

    report = world.sync(CANDIDATES_ONLY)

    assert report.ok
    assert len(world.asked()) == 2
    assert world.query("SELECT versionnumber FROM vin_candidates ORDER BY 1") == [(1,), (2,), (9,)]


def test_blob_key_is_mended(candidates):
    candidates.sync(CANDIDATES_ONLY)
    candidates.execute("UPDATE vin_candidates SET vin_candidateid = x'ff' WHERE rowid = 3")

    report = candidates.sync(CANDIDATES_ONLY, full=True)

    assert report.ok
    assert candidates.is_mirror("vin_candidates")


@pytest.mark.parametrize("returned", [(0, 1), (0, 0), (0,)])
def test_repeated_key_hides_no_missing_row(make_world, returned):
    world = make_world([CANDIDATES])
    keys = [f"{n:08d}-1111-1111-1111-111111111111" for n in range(2)]
    records = [{"vin_candidateid": key, "modifiedon": OLD} for key in keys]

    def serve(rows):
        body = json.dumps({"value": rows}).encode()
        world.emulator.control.fault(Fault("body", match=r"/vin_candidates\?", times=1, body=body))

    serve(records)
    world.sync(CANDIDATES_ONLY)
    serve([records[at] for at in returned])

    report = world.sync(CANDIDATES_ONLY, full=True)

    assert report.ok
    assert list(world.copy("vin_candidates")) == [keys[at] for at in sorted(set(returned))]


@pytest.mark.parametrize("status", [400, 501])
def test_last_refusal_told_when_orders_refused(candidates, status):
    pattern = r"/vin_candidates\?|/vin_candidates "
    candidates.emulator.control.fault(Fault("status", match=pattern, times=9, status=status))
    candidates.emulator.control.fault(
        Fault("status", match="/vin_candidates$", times=9, status=status)
    )

    report = candidates.sync(CANDIDATES_ONLY)

    assert f"answered {status}" in report.failed[0].error
    assert report.failed[0].requests == 4


def test_foreign_delta_token_not_sent(make_world):
    world = make_world([PRODUCTS])
    insert(world.emulator, "vin_products", [{"vin_name": "A"}])
    world.sync(PRODUCTS_ONLY)
    world.execute("UPDATE _sync_state SET delta_link = 'https://evil.example/x?$deltatoken=1'")

    report = world.sync(PRODUCTS_ONLY)

    assert report.ok
    assert world.state("vin_products", "delta_link").startswith(world.emulator.origin)


@pytest.mark.parametrize("change", ["change", "recreate", "delete"])
@pytest.mark.parametrize("first", ["changes", "records"])
def test_change_between_the_two_answers(make_world, monkeypatch, caplog, change, first):
    """What was modified and what changed are asked at once, and answered in any order."""
    monkeypatch.setattr("dataverse_sync.sync.plan.SMALL_TABLE", 0)
    world = make_world([PRODUCTS])
    key, other = insert(world.emulator, "vin_products", [{"vin_name": "A"}, {"vin_name": "B"}])
    world.sync(PRODUCTS_ONLY)
    world.wait()
    if change == "recreate":
        world.emulator.delete("vin_products", key)
    else:
        world.emulator.update("vin_products", key, {"vin_name": "C"})
    answered = threading.Event()

    def fetch_in_order(client, name, request, arrived):
        asks_changes = "deltatoken" in request.url
        if "$filter=modifiedon" not in request.url and not asks_changes:
            fetch(client, name, request, arrived)
        elif asks_changes == (first == "changes"):
            fetch(client, name, request, arrived)
            if change == "recreate":
                world.emulator.insert_many("vin_products", [{"vin_productid": key}])
            elif change == "delete":
                world.emulator.delete("vin_products", key)
            else:
                world.emulator.update("vin_products", key, {"vin_name": "D"})
            answered.set()
        else:
            answered.wait(9)
            fetch(client, name, request, arrived)

    fetch = page_loop._fetch
    monkeypatch.setattr(page_loop, "_fetch", fetch_in_order)
    report = world.sync(PRODUCTS_ONLY)

    assert report.ok
    assert answered.is_set()
    assert "versions are older" not in caplog.text
    if (first, change) == ("changes", "recreate"):
        assert world.is_mirror("vin_products")
    monkeypatch.setattr(page_loop, "_fetch", fetch)
    assert world.sync(PRODUCTS_ONLY).ok
    assert world.is_mirror("vin_products")
    assert other in world.copy("vin_products")


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("tracked", [False, True])
def test_lost_access_removes_rows(make_world, full, tracked):
    """Records that are no longer returned, though change tracking does not say so."""
    world = make_world([replace(PRODUCTS, change_tracking=tracked)])
    insert(world.emulator, "vin_products", [{"vin_name": str(n)} for n in range(9)])
    world.sync(PRODUCTS_ONLY)
    world.wait()
    world.execute(
        "INSERT INTO vin_products SELECT '00000000-0000-4000-8000-000000000000', "
        "createdon, modifiedon, versionnumber, vin_name, sync_time, valid_from, json_response "
        "FROM vin_products LIMIT 1"
    )
    assert len(world.copy("vin_products")) == 10

    report = world.sync(PRODUCTS_ONLY, full=full)

    assert report.totals.deleted == 1
    assert world.is_mirror("vin_products")
    removed = world.removed("vin_products")
    assert {reason for reason, _ in removed.values()} == {"not_returned"}


@pytest.mark.parametrize("size", [1, 5000])
def test_changes_alone_keep_the_copy_true(make_world, monkeypatch, size):
    """Changes that no filter by modifiedon brings, records that are changed and then deleted."""
    monkeypatch.setattr("dataverse_sync.sync.plan.SMALL_TABLE", 0)
    world = make_world([PRODUCTS], max_page_size=size)
    keys = insert(world.emulator, "vin_products", [{"vin_name": str(n)} for n in range(9)])
    world.sync(PRODUCTS_ONLY)
    world.wait()
    for key in keys[:5]:
        world.emulator.update("vin_products", key, {"vin_name": "import"}, modifiedon=OLD)
    for key in keys[3:7]:
        world.emulator.delete("vin_products", key)

    report = world.sync(PRODUCTS_ONLY)

    assert report.ok
    assert (report.totals.updated, report.totals.deleted) == (3, 4)
    assert world.is_mirror("vin_products")
    assert world.asked("vin_products", "thin") == []


def test_delta_that_names_ids_twice_is_no_circle(make_world, monkeypatch):
    monkeypatch.setattr("dataverse_sync.sync.plan.SMALL_TABLE", 0)
    world = make_world([PRODUCTS])
    keys = insert(world.emulator, "vin_products", [{"vin_name": str(n)} for n in range(4)])
    world.sync(PRODUCTS_ONLY)
    world.wait()
    rows = {key: json.loads(world.copy("vin_products")[key]) for key in keys}
    changed = [{"vin_productid": key, "versionnumber": rows[key]["versionnumber"]} for key in keys]
    gone = [{"id": key, "reason": "deleted"} for key in keys]
    link = world.state("vin_products", "delta_link")
    entries = [*changed, *gone]
    for at, entry in enumerate(entries):
        page = {"@odata.context": f"{world.emulator.api_url}$metadata#vin_products/$delta"}
        page["value"] = [entry]
        if at + 1 < len(entries):
            page["@odata.nextLink"] = f"{link}&$skiptoken={at}"
        else:
            page["@odata.deltaLink"] = link
        world.emulator.control.fault(
            Fault("body", match="deltatoken", body=json.dumps(page).encode())
        )

    assert world.sync(PRODUCTS_ONLY).ok
    assert world.is_mirror("vin_products")


def test_tables_that_keep_what_is_gone_are_not_compared(make_world):
    world = make_world([PRODUCTS, replace(CANDIDATES, change_tracking=True)])
    for name in ("vin_products", "vin_candidates"):
        insert(world.emulator, name, [{"vin_name": str(n)} for n in range(3)])
    both = [EntityConfig("vin_products"), EntityConfig("vin_candidates", deletions="ignore")]
    world.sync(both)
    world.wait()

    world.sync(both)

    assert len(world.asked("vin_products", "thin")) == 1


def test_large_tracked_table_is_compared_when_due(make_world, monkeypatch):
    monkeypatch.setattr("dataverse_sync.sync.plan.SMALL_TABLE", 0)
    world = make_world([PRODUCTS])
    insert(world.emulator, "vin_products", [{"vin_name": str(n)} for n in range(9)])
    world.sync(PRODUCTS_ONLY)
    world.wait()

    world.sync(PRODUCTS_ONLY)
    assert world.asked("vin_products", "thin") == []
    world.execute("UPDATE _sync_state SET compared_at = '2020-01-01T00:00:00.000Z'")
    world.sync(PRODUCTS_ONLY)
    assert len(world.asked("vin_products", "thin")) == 2
    world.sync(PRODUCTS_ONLY)
    assert world.asked("vin_products", "thin") == []


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("deletions", ["sync", "ignore"])
def test_future_dates_are_read_when_they_change(make_world, tracked, deletions):
    world = make_world([replace(PRODUCTS, change_tracking=tracked)])
    entities = [EntityConfig("vin_products", deletions=deletions)]
    ids = insert(world.emulator, "vin_products", [{"vin_name": str(n)} for n in range(9)])
    for record_id in ids[:4]:
        world.emulator.update(
            "vin_products", record_id, {"vin_name": "x"}, modifiedon="2099-12-31T00:00:00Z"
        )
    world.sync(entities)
    world.wait()

    assert world.sync(entities).totals.fetched == 0
    changed = {"vin_name": "y"}
    world.emulator.update("vin_products", ids[0], changed, modifiedon="2099-12-30T00:00:00Z")
    world.emulator.update("vin_products", ids[7], changed)

    report = world.sync(entities)

    assert (report.totals.fetched, report.totals.updated) == (2, 2)
    assert world.is_mirror("vin_products")


READINGS = Table(
    "new_reading",
    "new_readings",
    "new_readingid",
    [Column("partitionid", "String"), Column("vin_name", "String")],
    table_type="Elastic",
)


@pytest.mark.parametrize("page_size", [1, 2, 10])
def test_id_in_two_partitions_fails_by_name(make_world, page_size):
    world = make_world([READINGS])
    world.page_size = page_size
    first, _ = insert(
        world.emulator, "new_readings", [{"partitionid": name} for name in ("north", "south")]
    )
    world.sync([EntityConfig("new_readings")])
    world.execute("UPDATE new_readings SET partitionid = 'west', json_response = '{}'")

    report = world.sync([EntityConfig("new_readings")], full=True)

    assert "two records have the id" in report.failed[0].error
    assert "'west'" in report.failed[0].error
    assert first in world.copy("new_readings")


@pytest.mark.parametrize(("rows", "is_said"), [(5, True), (4, False), (6, False)])
@pytest.mark.parametrize("table_type", ["Virtual", "Standard"])
def test_virtual_table_cut_off_is_warned_of(
    make_world, monkeypatch, caplog, rows, is_said, table_type
):
    monkeypatch.setattr("dataverse_sync.sync.storing.VIRTUAL_LIMITS", (5, 50))
    world = make_world([replace(CANDIDATES, table_type=table_type)])
    insert(world.emulator, "vin_candidates", [{"vin_name": str(n)} for n in range(rows)])

    assert world.sync(CANDIDATES_ONLY).ok

    assert ("its provider may have cut it off" in caplog.text) == (
        is_said and table_type == "Virtual"
    )
