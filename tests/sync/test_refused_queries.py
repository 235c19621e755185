"""A service that refuses a way of asking: the same table is read another way, and true."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import pytest
from conftest import CANDIDATES, CANDIDATES_ONLY, ENTITIES, LINK_SET, OLD, PRODUCTS, insert

from dataverse_sync import EntityConfig
from dataverse_sync.emulator import Fault
from dataverse_sync.redaction import Redactor
from dataverse_sync.sync.verification import VerifyOptions, run_verify

STATUSES = [400, 404, 405, 500, 501]
PRODUCTS_ONLY = [EntityConfig("vin_products")]


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dataverse_sync.dataverse.transport.Retries.get_backoff_time", lambda _: 0.0
    )


@pytest.fixture
def candidates(make_world: Any) -> Any:
    world = make_world([CANDIDATES, PRODUCTS])
    insert(world.emulator, "vin_candidates", [{"vin_name": str(n)} for n in range(13)])
    insert(world.emulator, "vin_products", [{"vin_name": str(n)} for n in range(13)])
    return world


def refuse(world: Any, status: int, is_refused: Callable[[str, str], bool]) -> None:
    """Answer so to each request for records whose query and ``Prefer`` are refused."""

    def look(request: Any) -> None:
        target, prefer = request.target, request.headers.get("Prefer", "")
        if request.entity_set is not None and is_refused(unquote(target), prefer):
            match = re.escape(target) + "$"
            fault = Fault("status", match=match, status=status, code="0x80048d0b", message="No.")
            world.emulator.control.fault(fault)

    world.emulator.control.on_request = look


def filters(world: Any, name: str) -> list[str]:
    return [request.query.get("$filter", "") for request in world.asked(name)]


def change(world: Any, name: str = "vin_candidates") -> str:
    world.wait()
    record_id = sorted(world.emulator.rows(name))[3]
    world.emulator.update(name, record_id, {"vin_name": "changed"})
    return record_id


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("name", ["vin_candidates", "vin_products"])
def test_refused_filter_by_modifiedon_compares(candidates: Any, status: int, name: str) -> None:
    entities = [EntityConfig(name)]
    assert candidates.sync(entities).ok
    change(candidates, name)
    candidates.emulator.delete(name, sorted(candidates.emulator.rows(name))[0])
    refuse(candidates, status, lambda target, _: "modifiedon gt" in target)

    report = candidates.sync(entities)

    assert report.ok
    assert candidates.is_mirror(name)
    assert (report.totals.updated, report.totals.deleted) == (1, 1)
    assert json.loads(candidates.state(name, "asked_how"))["since"] is False

    report = candidates.sync(entities)

    assert report.totals.fetched == 0
    assert not any("modifiedon" in text for text in filters(candidates, name))


def test_refused_filter_is_tried_again_after_a_week(candidates: Any) -> None:
    candidates.sync(CANDIDATES_ONLY)
    refuse(candidates, 400, lambda target, _: "modifiedon gt" in target)
    candidates.sync(CANDIDATES_ONLY)
    kept = json.loads(candidates.state("vin_candidates", "asked_how"))
    candidates.execute(
        "UPDATE _sync_state SET asked_how = ?",
        json.dumps({**kept, "found_at": "2026-01-01T00:00:00.000Z"}),
    )
    candidates.emulator.control.on_request = None
    change(candidates)

    assert candidates.sync(CANDIDATES_ONLY).totals.updated == 1
    assert any("modifiedon gt" in text for text in filters(candidates, "vin_candidates"))
    assert candidates.state("vin_candidates", "asked_how") is None


@pytest.mark.parametrize("status", [404, 500])
def test_refused_version_column_reads_whole(candidates: Any, status: int) -> None:
    candidates.sync(CANDIDATES_ONLY)
    change(candidates)
    candidates.emulator.delete(
        "vin_candidates", sorted(candidates.emulator.rows("vin_candidates"))[0]
    )
    refuse(
        candidates,
        status,
        lambda target, _: "versionnumber" in target or "modifiedon gt" in target,
    )

    for _ in range(2):
        report = candidates.sync(CANDIDATES_ONLY)

        assert report.ok
        assert candidates.is_mirror("vin_candidates")
        found = json.loads(candidates.state("vin_candidates", "asked_how"))
        assert (found["since"], found["versions"]) == (False, False)


@pytest.mark.parametrize("status", [404, 500])
@pytest.mark.parametrize("all_ids", [False, True])
def test_refused_ids_are_asked_singly_or_whole(world: Any, status: int, all_ids: bool) -> None:
    pattern = r"accountid eq \S+" if all_ids else "accountid eq .* or "
    refuse(world, status, lambda target, _: re.search(pattern, target) is not None)

    assert world.sync().ok
    first = world.copy("accounts")
    world.wait()
    world.emulator.update("accounts", min(first), {"name": "changed"})
    assert world.sync().ok

    assert {key: world.source("accounts")[key] for key in first} == world.copy("accounts")
    assert json.loads(world.state("accounts", "asked_how"))["ids"] == (
        "none" if all_ids else "single"
    )


def sort_keys(world: Any, name: str) -> None:
    """Insert records whose keys rise as their ``createdon`` does, as sequential ones do."""
    key = {"vin_candidates": "vin_candidateid", "vin_products": "vin_productid"}[name]
    for record_id in list(world.emulator.rows(name)):
        world.emulator.delete(name, record_id)
    records = [
        {key: f"00000000-0000-4000-8000-{n:012}", "createdon": f"2024-01-01T00:00:{n:02}Z"}
        for n in range(50)
    ]
    insert(world.emulator, name, records)


@pytest.mark.parametrize("status", [400, 501])
@pytest.mark.parametrize("how", ["first", "full", "compared"])
def test_refused_paging_takes_next_order(candidates: Any, status: int, how: str) -> None:
    sort_keys(candidates, "vin_candidates")
    if how != "first":
        candidates.sync(CANDIDATES_ONLY)

    pages: list[str] = []

    def is_refused(target: str, _: str) -> bool:
        is_later = "$skiptoken" in target and "$orderby=vin_candidateid" in target
        pages.extend([target] * is_later)
        return is_later and len(pages) > 2

    refuse(candidates, status, is_refused)

    assert candidates.sync(CANDIDATES_ONLY, full=how == "full").ok
    assert candidates.is_mirror("vin_candidates")


@pytest.mark.parametrize("status", [500, 503, 504])
def test_rows_in_doubt_are_not_removed_while_ids_fail(candidates: Any, status: int) -> None:
    candidates.sync(CANDIDATES_ONLY)
    before = candidates.copy("vin_candidates")
    missing = min(before)
    body = json.dumps(
        {"value": [json.loads(text) for key, text in before.items() if key != missing]}
    )
    left_out = Fault("body", match="select=vin_candidateid,versionnumber", body=body.encode())
    candidates.emulator.control.fault(left_out)
    refuse(
        candidates, status, lambda target, _: "vin_candidateid eq" in target or "?$order" in target
    )

    report = candidates.sync(CANDIDATES_ONLY)

    assert not report.ok
    assert candidates.copy("vin_candidates") == before


@pytest.mark.parametrize("status", [400, 500, 504])
@pytest.mark.parametrize("later", [False, True])
def test_refused_tracking_compares_keys(candidates: Any, status: int, later: bool) -> None:
    if later:
        candidates.sync(PRODUCTS_ONLY)
        change(candidates, "vin_products")
        candidates.emulator.delete("vin_products", min(candidates.emulator.rows("vin_products")))
    refuse(
        candidates,
        status,
        lambda target, prefer: "track-changes" in prefer or "deltatoken" in target,
    )

    for _ in range(2):
        assert candidates.sync(PRODUCTS_ONLY).ok
        assert candidates.is_mirror("vin_products")


def test_refusals_are_kept_though_the_delta_is_refused(candidates: Any) -> None:
    candidates.sync(PRODUCTS_ONLY)
    refuse(candidates, 400, lambda target, _: "modifiedon gt" in target or "deltatoken" in target)

    assert candidates.sync(PRODUCTS_ONLY).ok
    assert json.loads(candidates.state("vin_products", "asked_how"))["since"] is False


@pytest.mark.parametrize("status", [400, 500, 504])
def test_refused_createdon_reads_one_chain(candidates: Any, monkeypatch: Any, status: int) -> None:
    monkeypatch.setattr("dataverse_sync.sync.ranges.ROWS_PER_RANGE", 2)
    refuse(candidates, status, lambda target, _: "createdon" in target)

    assert candidates.sync(CANDIDATES_ONLY).ok
    assert candidates.is_mirror("vin_candidates")
    assert any("createdon" in one.target for one in candidates.asked("vin_candidates"))


@pytest.mark.parametrize("status", [500, 504])
@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("from_page", [1, 2])
def test_heavy_page_is_halved_in_place(
    candidates: Any, status: int, limit: int, from_page: int
) -> None:
    def is_refused(target: str, prefer: str) -> bool:
        size = re.search(r"maxpagesize=(\d+)", prefer)
        started = from_page == 1 or "$skiptoken" in target
        return started and size is not None and int(size[1]) > limit and "$select" not in target

    refuse(candidates, status, is_refused)

    report = candidates.sync(CANDIDATES_ONLY)

    assert report.ok
    assert report.totals.fetched == 13
    assert candidates.is_mirror("vin_candidates")
    assert json.loads(candidates.state("vin_candidates", "asked_how"))["page_size"] == limit
    assert candidates.sync(CANDIDATES_ONLY, full=True).requests < report.requests


def test_outage_is_not_taken_for_a_refusal(candidates: Any) -> None:
    candidates.sync(CANDIDATES_ONLY)
    refuse(candidates, 503, lambda *_: True)

    report = candidates.sync(CANDIDATES_ONLY)

    assert not report.ok
    assert candidates.state("vin_candidates", "asked_how") is None


def test_links_table_needs_no_order(world: Any) -> None:
    refuse(world, 400, lambda target, _: LINK_SET in target and "$orderby" in target)

    assert world.sync().ok
    assert world.is_mirror(LINK_SET)
    world.sync()
    assert not any("$orderby" in request.query for request in world.asked(LINK_SET))


def test_null_versions_are_fetched_when_compared(candidates: Any) -> None:
    candidates.sync(CANDIDATES_ONLY)
    candidates.execute("UPDATE vin_candidates SET versionnumber = NULL")
    change(candidates)
    refuse(candidates, 400, lambda target, _: "modifiedon gt" in target)

    assert candidates.sync(CANDIDATES_ONLY).ok
    assert candidates.is_mirror("vin_candidates")


def test_refused_filter_of_interrupted_read_ends(candidates: Any) -> None:
    candidates.sync(CANDIDATES_ONLY)
    change(candidates)
    since = candidates.state("vin_candidates", "last_timestamp")
    link = f"{candidates.emulator.api_url}vin_candidates?$skiptoken=x"
    checkpoint = {"next_link": link, "page": 2, "since": since}
    candidates.execute("UPDATE _sync_state SET checkpoint = ?", json.dumps(checkpoint))
    refuse(candidates, 400, lambda target, _: "modifiedon gt" in target or "skiptoken=x" in target)

    assert candidates.sync(CANDIDATES_ONLY).ok
    assert candidates.is_mirror("vin_candidates")


@pytest.mark.parametrize("pattern", ["versionnumber", "accountid eq ", " or "])
@pytest.mark.parametrize("since", ["first run", "verify"])
def test_verify_asks_differently_too(world: Any, pattern: str, since: str) -> None:
    if since == "verify":
        world.sync()
    refuse(world, 400, lambda target, _: pattern in target)
    if since == "first run":
        world.sync()
    rows = {name: world.copy(name) for name in ("vin_candidates", "vin_products", "accounts")}
    assert len(world.source("accounts")) > len(rows["accounts"])

    found = run_verify(
        world.config(), ENTITIES, VerifyOptions(repair=True), only=(), redactor=Redactor()
    )

    assert [(one.differences, one.error) for one in found.entities] == [(0, None)] * 5
    assert {name: world.copy(name) for name in rows} == rows


def test_verify_finds_differences_without_the_version_column(world: Any) -> None:
    world.sync()
    refuse(world, 400, lambda target, _: "versionnumber" in target)
    stale, extra, missing = sorted(world.copy("vin_candidates"))[:3]
    world.emulator.update("vin_candidates", stale, {"vin_name": "changed"}, modifiedon=OLD)
    world.emulator.delete("vin_candidates", extra)
    world.execute("DELETE FROM vin_candidates WHERE vin_candidateid = ?", missing)

    found = run_verify(
        world.config(), ENTITIES, VerifyOptions(repair=True), only=(), redactor=Redactor()
    )

    (one,) = [one for one in found.entities if one.entity == "vin_candidates"]
    assert (one.stale, one.extra, one.missing) == ([stale], [extra], [missing])
    assert world.is_mirror("vin_candidates")
