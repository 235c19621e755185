"""Reading one entity: wrong and unusual answers."""

from __future__ import annotations

import json

import pytest
from conftest import CANDIDATES, CANDIDATES_ONLY, OLD, PRODUCTS, insert

from dataverse_sync import EntityConfig
from dataverse_sync.emulator import Fault

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
