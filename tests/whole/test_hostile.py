"""Hostile answers: endless bodies, gzip bombs, circular links, names and values of every kind.

``DATAVERSE_SYNC_HOSTILE_MB`` says how large the large ones are; from 1,024 on the program's own
limits hold (``DATAVERSE_SYNC_HOSTILE_MB=1024``), below they are scaled down with them.
"""

from __future__ import annotations

import json
import os
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import CANDIDATES_ONLY, World
from loopback import DATE, JSON_TYPE, Asked, Reply, Service

from dataverse_sync import Config, EntityConfig, SyncReport, run_sync
from dataverse_sync.dataverse import bodies
from dataverse_sync.emulator import Fault
from dataverse_sync.sync import reading as reader

pytestmark = pytest.mark.slow

MEGABYTE = 2**20
SIZE = int(os.environ.get("DATAVERSE_SYNC_HOSTILE_MB", "16")) * MEGABYTE
KEY = "11111111-1111-1111-1111-111111111111"


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> int:
    """Limit the page size to a quarter of the body that is sent."""
    scaled = min(bodies.LARGEST_PAGE, SIZE // 4)
    monkeypatch.setattr(bodies, "LARGEST_PAGE", scaled)
    monkeypatch.setattr(bodies, "LARGEST_RECORD", scaled)
    return scaled


def endless(part: Callable[[int], bytes], headers: str = "") -> Callable[[Asked], Reply]:
    """Send a body of ``SIZE`` in parts of a megabyte, each made when it is sent."""

    def script(asked: Asked) -> Reply:
        def parts() -> Iterator[bytes]:
            head = f"HTTP/1.1 200 OK\r\nDate: {DATE}\r\n{headers}Transfer-Encoding: chunked\r\n\r\n"
            yield head.encode()
            for number in range(SIZE // MEGABYTE):
                data = part(number)
                yield b"%x\r\n%b\r\n" % (len(data), data)
            yield b"0\r\n\r\n"

        if "EntityDefinitions" in asked.target:
            return Reply(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
        return Reply(parts(), "close")

    return script


def sync_from(service: Service, tmp_path: Any) -> tuple[SyncReport, int]:
    """Sync one set from this service; return the report and the peak of memory."""
    config = Config(
        service.api_url,
        "0b6c1f6a-7d2e-4b8f-9a35-c41d2e8f7a60",
        "a-secret-of-nobody",
        tmp_path / "dataverse.db",
        schema_path=tmp_path / "schema.json",
    )
    tracemalloc.start()
    try:
        report = run_sync(config, CANDIDATES_ONLY)
        return report, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_endless_body_fails_in_bounded_memory(tmp_path: Any, limit: int) -> None:
    service = Service()
    service.script = endless(lambda n: (b'{"value":["' if n == 0 else b"") + b"x" * MEGABYTE)

    with service.server:
        report, most = sync_from(service, tmp_path)

    assert f"larger than {limit // MEGABYTE} MiB" in str(report.failed[0].error)
    assert most < 3 * limit + 16 * MEGABYTE


def test_gzip_bomb_fails_in_bounded_memory(tmp_path: Any, limit: int) -> None:
    service = Service()
    packers: dict[int, Any] = {}

    def part(number: int) -> bytes:
        if number == 0:
            packers[0] = zlib.compressobj(9, zlib.DEFLATED, 31)
        return packers[0].compress(bytes(MEGABYTE)) + packers[0].flush(zlib.Z_SYNC_FLUSH)

    service.script = endless(part, "Content-Encoding: gzip\r\n")

    with service.server:
        report, most = sync_from(service, tmp_path)

    assert f"larger than {limit // MEGABYTE} MiB" in str(report.failed[0].error)
    assert most < 3 * limit + 16 * MEGABYTE


def test_endless_empty_pages_fail_entity(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "EMPTY_PAGES", 1000 if SIZE >= 2**30 else 50)
    world.emulator.control.fault(
        Fault("empty_page_with_link", match=r"/vin_candidates\?", times=10**6)
    )

    report = world.sync([*CANDIDATES_ONLY, EntityConfig("vin_products")])

    assert [entity.name for entity in report.failed] == ["vin_candidates"]
    assert "pages in a row held no record" in str(report.failed[0].error)
    assert world.is_mirror("vin_products")


# One record of every kind, through a whole sync

HOSTILE_NAME = 'a"; DROP TABLE vin_candidates; --'


def sync_record(world: World, record: str) -> SyncReport:
    """Sync a set without metadata whose only record is this one."""
    body = f'{{"@odata.context":"#vin_candidates","value":[{record}]}}'.encode()
    world.emulator.control.fault(Fault("status", match="EntityDefinitions", status=403, times=99))
    world.emulator.control.fault(
        Fault("body", match=r"/vin_candidates\?", body=body, headers=dict([JSON_TYPE]), times=99)
    )
    return world.sync(CANDIDATES_ONLY)


@pytest.mark.parametrize(
    ("member", "column", "value"),
    [
        (f'"vin_number":{"9" * 1000}', "vin_number", float("inf")),  # as well as a float can
        (f'"vin_number":-{"9" * 300}.5', "vin_number", -1e300),
        (f'"vin_number":0.{"1" * 1000}', "vin_number", 0.1111111111111111),
        ('"vin_name":"a\\u0000b"', "vin_name", "a\0b"),
        ('"vin_name":"first","vin_name":"second"', "vin_name", "second"),
        (f'"vin_candidateid":"{KEY[:-1]}2"', "vin_candidateid", f"{KEY[:-1]}2"),
    ],
)
def test_value_of_any_kind_stored_unchanged(
    world: World, member: str, column: str, value: object
) -> None:
    record = f'{{"vin_candidateid":"{KEY}",{member}}}'

    first, second = sync_record(world, record), world.sync(CANDIDATES_ONLY)

    assert (first.ok, second.ok) == (True, True), first.failed
    assert world.query(f"SELECT json_response, {column} FROM vin_candidates") == [(record, value)]
    assert world.query("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize(
    "name", [HOSTILE_NAME, 'x"y', "[x]", "x`y':z", "?", "%s", ":a", "", "a\0b", "\U0001f600", "a b"]
)
def test_hostile_member_name_stays_in_json(world: World, name: str) -> None:
    record = f'{{"vin_candidateid":"{KEY}",{json.dumps(name)}:"there","vin_name":"b"}}'

    first, second = sync_record(world, record), world.sync(CANDIDATES_ONLY)

    assert (first.ok, second.ok) == (True, True), first.failed
    assert world.query("SELECT json_response, vin_name FROM vin_candidates") == [(record, "b")]
    columns = {row[1] for row in world.query("PRAGMA table_info(vin_candidates)")}
    assert columns == {
        *("vin_candidateid", "vin_name", "json_response", "sync_time", "valid_from")
    } | ({name} & columns)


@pytest.mark.parametrize(
    "key", ["not a guid", "'; DROP TABLE vin_candidates; --", "1) or (1 eq 1", "é\U0001f600"]
)
def test_id_without_guid_never_in_filter(world: World, key: str) -> None:
    record = json.dumps({"vin_candidateid": key, "vin_name": "a"}, separators=(",", ":"))

    report = sync_record(world, record)
    world.emulator.control.faults.clear()
    later = world.sync(CANDIDATES_ONLY)

    assert report.ok, report.failed
    assert later.ok
    asked = [request.query.get("$filter", "") for request in world.emulator.log]
    assert not any(key in text for text in asked)
    assert world.is_mirror("vin_candidates")


def test_deeply_nested_record_fails_one_entity(world: World) -> None:
    deep = '{"a":' * 10_000 + "1" + "}" * 10_000
    body = f'{{"value":[{{"vin_candidateid":"{KEY}","vin_name":{deep}}}]}}'.encode()
    world.emulator.control.fault(
        Fault("body", match=r"/vin_candidates\?", body=body, headers=dict([JSON_TYPE]), times=99)
    )

    report = world.sync([*CANDIDATES_ONLY, EntityConfig("vin_products")])

    assert [entity.name for entity in report.failed] == ["vin_candidates"]
    assert "nested too deep" in str(report.failed[0].error)
    assert world.is_mirror("vin_products")
    assert world.query("SELECT count(*) FROM vin_candidates") == [(0,)]
