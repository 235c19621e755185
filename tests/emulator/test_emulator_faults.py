"""Faults: each does to an answer what its name says, to the requests it is aimed at."""

import http.client
import socket
import threading
import time

import pytest
import requests
from emulator_caller import ACCOUNTS, CONTACTS, running

from dataverse_sync.emulator import Fault, Limits
from dataverse_sync.emulator.api.answers import ServiceError


@pytest.fixture
def served():
    with running(ACCOUNTS, CONTACTS) as (emulator, caller):
        emulator.insert_many("contacts", [{"fullname": "x" * 50} for _ in range(20)])
        yield emulator, caller


def _raw(caller, path: str = "contacts") -> bytes:
    """All bytes of an answer, however it ends."""
    host, port = caller.emulator.origin.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        token = caller.session.headers["Authorization"]
        connection.sendall(
            f"GET /api/data/v9.2/{path} HTTP/1.1\r\nHost: {host}\r\n"
            f"Authorization: {token}\r\nConnection: close\r\n\r\n".encode()
        )
        parts = []
        while part := connection.recv(65_536):
            parts.append(part)
        return b"".join(parts)


def _await(holds) -> None:
    """Wait for what another thread does, 10 s at most."""
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)


def _body_of(whole: bytes) -> bytes:
    return whole.partition(b"\r\n\r\n")[2]


def test_unknown_fault_raises():
    with pytest.raises(ValueError, match="not a fault: 'gremlin'"):
        Fault("gremlin")
    assert repr(Fault("reset", "GET")) == "Fault('reset', match='GET', times=1)"


def test_fault_strikes_matches_after_skip(served):
    emulator, caller = served
    emulator.control.fault(Fault("status", match=r"GET .*/contacts", status=503, times=2, skip=1))

    accounts = caller.get("accounts").status_code
    contacts = [caller.get("contacts").status_code for _ in range(4)]

    assert accounts == 200
    assert contacts == [200, 503, 503, 200]
    assert [request.fault for request in emulator.log] == [None, None, "status", "status", None]


def test_faults_can_be_cleared(served):
    emulator, caller = served
    emulator.control.fault(Fault("status", status=500, times=100))
    emulator.control.faults.clear()

    assert caller.get("contacts").ok


def test_429_has_code_and_retry_after(served):
    emulator, caller = served
    emulator.control.fault(Fault("status", status=429, retry_after=7))
    emulator.control.fault(Fault("status", status=429, retry_after="Mon, 03 Mar 2025 08:00:09 GMT"))
    emulator.control.fault(Fault("status", status=429))

    seconds, date, neither = (caller.get("contacts") for _ in range(3))

    assert seconds.headers["Retry-After"] == "7"
    assert seconds.json()["error"]["code"] == "0x80072322"
    assert date.headers["Retry-After"] == "Mon, 03 Mar 2025 08:00:09 GMT"
    assert "Retry-After" not in neither.headers


def test_status_fault_takes_code_and_body(served):
    emulator, caller = served
    emulator.control.fault(Fault("status", status=400, code="", message="No."))
    emulator.control.fault(Fault("status", status=503, code="0x1"))
    emulator.control.fault(Fault("status", status=502))
    emulator.control.fault(Fault("status", status=500, body="oops"))
    emulator.control.fault(Fault("status", status=299))

    own, coded, gateway, raw, odd = (caller.get("contacts") for _ in range(5))

    assert own.json() == {"error": {"code": "", "message": "No."}}
    assert coded.json()["error"]["code"] == "0x1"
    assert gateway.text.startswith("<!DOCTYPE html>")
    assert raw.content == b"oops"
    assert (odd.status_code, odd.reason) == (299, "Unknown")


def test_fault_strikes_token_endpoint(served):
    emulator, caller = served
    emulator.control.fault(Fault("status", match="POST .*/token", status=503))

    assert caller.token().status_code == 503
    assert caller.token().ok


def test_body_fault_takes_status_and_headers(served):
    emulator, caller = served
    emulator.control.fault(Fault("body", body=b"\x00\x01", status=207,
                         headers={"Content-Type": "a/b", "X-Y": "z"}))  # fmt: skip
    emulator.control.fault(Fault("body"))

    answer, plain = caller.get("contacts"), caller.get("contacts")

    assert (answer.status_code, answer.content) == (207, b"\x00\x01")
    assert (answer.headers["Content-Type"], answer.headers["X-Y"]) == ("a/b", "z")
    assert (plain.status_code, plain.content) == (200, b"")


def test_reset_closes_before_answer(served):
    emulator, caller = served
    emulator.control.fault(Fault("reset", match="contacts"))

    with pytest.raises(ConnectionResetError):
        _raw(caller)
    assert caller.get("contacts").ok


def test_truncated_body_shorter_than_declared(served):
    emulator, caller = served
    whole = _body_of(_raw(caller))
    emulator.control.fault(Fault("truncate"))

    cut = _raw(caller)

    assert f"Content-Length: {len(whole)}".encode() in cut
    assert 0 < len(_body_of(cut)) < len(whole)


def test_stall_delays_the_answer(served):
    emulator, caller = served
    emulator.control.fault(Fault("stall", seconds=0.1))
    began_at = time.monotonic()

    assert caller.get("contacts").ok
    assert time.monotonic() - began_at >= 0.1


def test_stall_ends_when_emulator_stops(served):
    emulator, caller = served
    emulator.control.fault(Fault("stall", seconds=60))
    failed: list[Exception] = []

    def ask() -> None:
        try:
            caller.get("contacts")
        except requests.exceptions.ConnectionError as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    _await(lambda: any(request.fault for request in emulator.log))
    emulator.stop()
    thread.join(5)

    assert not thread.is_alive()


def test_next_link_to_other_origin(served):
    emulator, caller = served
    emulator.control.fault(Fault("other_origin_link", location="https://elsewhere.example/api"))

    page = caller.get("contacts").json()

    assert page["@odata.nextLink"] == "https://elsewhere.example/api"


def test_page_without_last_record(served):
    emulator, caller = served
    emulator.control.fault(Fault("drop_last_record", match="skiptoken"))

    pages = list(caller.pages("contacts", "odata.maxpagesize=8"))

    assert [len(page["value"]) for page in pages] == [8, 7, 4]
    assert [request.records for request in emulator.log] == [8, 7, 4]


def test_page_that_comes_twice(served):
    emulator, caller = served
    emulator.control.fault(Fault("repeat_page", match="skiptoken"))

    pages = list(caller.pages("contacts", "odata.maxpagesize=8"))

    assert pages[1]["value"] == pages[0]["value"]
    assert len(pages[2]["value"]) == 4


def test_empty_page_links_to_its_records(served):
    emulator, caller = served
    emulator.control.fault(Fault("empty_page_with_link"))
    emulator.control.fault(Fault("empty_page_with_link", skip=1))

    pages = list(caller.pages("contacts", "odata.maxpagesize=8"))
    links = [page.get("@odata.nextLink") for page in pages]
    ids = [record["contactid"] for page in pages for record in page["value"]]

    assert [len(page["value"]) for page in pages] == [0, 8, 0, 8, 4]
    assert len(set(links)) == len(links)
    assert sorted(ids) == sorted(emulator.ids("contacts"))


def test_empty_tracked_page_links_to_itself(served):
    emulator, caller = served
    emulator.control.fault(Fault("empty_page_with_link"))

    page = caller.get("accounts", "odata.track-changes").json()

    assert page["value"] == []
    assert "@odata.deltaLink" not in page
    assert page["@odata.nextLink"] == f"{emulator.api_url}accounts"


def test_page_fault_leaves_other_answers(served):
    emulator, caller = served
    emulator.control.fault(Fault("drop_last_record"))

    assert caller.get("EntityDefinitions").ok


def test_latency_delays_every_answer():
    with running(CONTACTS, latency_s=0.05) as (emulator, caller):
        began_at = time.monotonic()
        caller.get("contacts")

        assert time.monotonic() - began_at >= 0.05
        emulator.control.latency_s = 0.0
        assert emulator.control.latency_s == 0.0


def _codes(caller, count: int, path: str = "contacts") -> list[tuple[int, str | None]]:
    found = []
    for _ in range(count):
        answer = caller.get(path)
        code = None if answer.ok else answer.json()["error"]["code"]
        found.append((answer.status_code, code))
    return found


def test_too_many_requests_are_429():
    with running(CONTACTS, limits=Limits(requests=2, window_s=60)) as (_, caller):
        first = caller.get("contacts")
        codes = _codes(caller, 2)
        refused = caller.get("contacts")

        assert first.headers["x-ms-ratelimit-burst-remaining-xrm-requests"] == "1"
        assert "," in first.headers["x-ms-ratelimit-time-remaining-xrm-requests"]
        assert codes == [(200, None), (429, "0x80072322")]
        assert 40 <= int(refused.headers["Retry-After"]) <= 60
        assert caller.token().ok


def test_limit_window_slides():
    limits = Limits(requests=1, window_s=10)
    limits.admit(100.0)

    with pytest.raises(ServiceError) as refused:
        limits.admit(104.0)

    assert refused.value.headers == [("Retry-After", "6")]
    limits.admit(114.5)


def test_too_much_execution_time_is_429():
    limits = Limits(execution_s=0.01, window_s=60)
    with running(CONTACTS, limits=limits, latency_s=0.02) as (_, caller):
        codes = _codes(caller, 2)
        refused = caller.get("contacts")

        assert codes == [(200, None), (429, "0x80072321")]
        assert 40 <= int(refused.headers["Retry-After"]) <= 60


def test_too_many_at_once_are_429():
    with running(CONTACTS, limits=Limits(in_flight=2), latency_s=0.2) as (emulator, caller):
        together = threading.Barrier(4)
        emulator.control.on_request = lambda _request: together.wait(10)
        answers: list[requests.Response] = []
        headers = dict(caller.session.headers)
        threads = [
            threading.Thread(
                target=lambda: answers.append(
                    requests.get(emulator.api_url + "contacts", headers=headers, timeout=10)
                )
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        refused = [answer for answer in answers if answer.status_code == 429]
        assert 1 <= len(refused) <= 2
        assert refused[0].json()["error"]["code"] == "0x80072326"
        assert emulator.most_in_flight == 4
        emulator.log.clear()
        assert emulator.most_in_flight == 0
        for answer in answers:
            answer.close()


def test_error_in_hook_closes_connection(served, capfd):
    emulator, caller = served

    def hook(_request: object) -> None:
        raise LookupError("a test's own mistake")

    emulator.control.on_request = hook
    with pytest.raises(requests.exceptions.ConnectionError):
        caller.get("contacts")
    emulator.control.on_request = None

    assert "a test's own mistake" in capfd.readouterr().err
    assert caller.get("contacts").ok


def test_client_that_leaves_is_ignored(served, capfd):
    emulator, caller = served
    host, port = emulator.origin.removeprefix("http://").split(":")
    emulator.insert_many("contacts", [{"fullname": "x" * 2_000} for _ in range(3_000)])
    for _ in range(3):
        connection = http.client.HTTPConnection(host, int(port), timeout=5)
        token = caller.session.headers["Authorization"]
        connection.request("GET", "/api/data/v9.2/contacts", headers={"Authorization": token})
        connection.sock.close()
        connection.close()
    _await(lambda: all(request.ended_at is not None for request in emulator.log))

    assert caller.get("contacts").ok
    assert capfd.readouterr().err == ""
