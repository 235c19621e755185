"""Faults: each does to an answer what its name says, to the requests it is aimed at."""

import gzip
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest
import requests
from emulator_caller import ACCOUNTS, CONTACTS, Caller, running

from dataverse_sync.emulator import Emulator, Fault, Limits
from dataverse_sync.emulator.api.answers import ServiceError
from dataverse_sync.emulator.http.limits import Limiter


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


def test_an_unknown_fault_is_an_error():
    with pytest.raises(ValueError, match="no fault is called 'gremlin'"):
        Fault("gremlin")
    assert repr(Fault("reset", "GET")) == "Fault('reset', match='GET', times=1)"


def test_a_fault_strikes_what_it_matches_after_skipping(served):
    emulator, caller = served
    emulator.fault(Fault("status", match=r"GET .*/contacts", status=503, times=2, skip=1))

    accounts = caller.get("accounts").status_code
    contacts = [caller.get("contacts").status_code for _ in range(4)]

    assert accounts == 200
    assert contacts == [200, 503, 503, 200]
    assert [request.fault for request in emulator.log] == [None, None, "status", "status", None]


def test_faults_can_be_cleared(served):
    emulator, caller = served
    emulator.fault(Fault("status", status=500, times=100))
    emulator.clear_faults()

    assert caller.get("contacts").ok


def test_a_429_has_the_services_code_and_a_retry_after(served):
    emulator, caller = served
    emulator.fault(Fault("status", status=429, retry_after=7))
    emulator.fault(Fault("status", status=429, retry_after="Mon, 03 Mar 2025 08:00:09 GMT"))
    emulator.fault(Fault("status", status=429))

    seconds, date, neither = (caller.get("contacts") for _ in range(3))

    assert seconds.headers["Retry-After"] == "7"
    assert seconds.json()["error"]["code"] == "0x80072322"
    assert date.headers["Retry-After"] == "Mon, 03 Mar 2025 08:00:09 GMT"
    assert "Retry-After" not in neither.headers


def test_a_status_can_have_a_code_a_message_or_any_body(served):
    emulator, caller = served
    emulator.fault(Fault("status", status=400, code="", message="No."))
    emulator.fault(Fault("status", status=503, code="0x1"))
    emulator.fault(Fault("status", status=502))
    emulator.fault(Fault("status", status=500, body="oops"))
    emulator.fault(Fault("status", status=299))

    own, coded, gateway, raw, odd = (caller.get("contacts") for _ in range(5))

    assert own.json() == {"error": {"code": "", "message": "No."}}
    assert coded.json()["error"]["code"] == "0x1"
    assert gateway.text.startswith("<!DOCTYPE html>")
    assert raw.content == b"oops"
    assert (odd.status_code, odd.reason) == (299, "Unknown")


def test_the_token_endpoint_can_fail_too(served):
    emulator, caller = served
    emulator.fault(Fault("status", match="POST .*/token", status=503))

    assert caller.token().status_code == 503
    assert caller.token().ok


def test_html_instead_of_json(served):
    emulator, caller = served
    emulator.fault(Fault("html"))

    answer = caller.get("contacts")

    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")


def test_json_that_is_none(served):
    emulator, caller = served
    emulator.fault(Fault("not_json"))

    answer = caller.get("contacts")

    assert "json" in answer.headers["Content-Type"]
    with pytest.raises(ValueError, match=r"JSON|Expecting|control"):
        json.loads(answer.content)


def test_a_redirect(served):
    emulator, caller = served
    emulator.fault(Fault("redirect", location="https://elsewhere.example/"))

    answer = caller.get("contacts")

    assert (answer.status_code, answer.headers["Location"]) == (302, "https://elsewhere.example/")


def test_any_body_status_and_headers(served):
    emulator, caller = served
    emulator.fault(Fault("body", body=b"\x00\x01", status=207,
                         headers={"Content-Type": "a/b", "X-Y": "z"}))  # fmt: skip
    emulator.fault(Fault("body"))

    answer, plain = caller.get("contacts"), caller.get("contacts")

    assert (answer.status_code, answer.content) == (207, b"\x00\x01")
    assert (answer.headers["Content-Type"], answer.headers["X-Y"]) == ("a/b", "z")
    assert (plain.status_code, plain.content) == (200, b"")


def test_a_reset_before_any_answer(served):
    emulator, caller = served
    emulator.fault(Fault("reset", match="contacts"))

    with pytest.raises(ConnectionResetError):
        _raw(caller)
    assert caller.get("contacts").ok


def test_a_reset_in_the_middle_of_the_body(served):
    emulator, caller = served
    emulator.fault(Fault("reset_in_body", match="contacts"))

    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="reset"):
        caller.get("contacts")
    assert len(caller.value("contacts")) == 20


def test_a_body_shorter_than_its_content_length(served):
    emulator, caller = served
    whole = _body_of(_raw(caller))
    emulator.fault(Fault("truncate"))

    cut = _raw(caller)

    assert f"Content-Length: {len(whole)}".encode() in cut
    assert 0 < len(_body_of(cut)) < len(whole)


def test_a_chunked_body_without_its_end(served):
    emulator, caller = served
    emulator.fault(Fault("truncate_chunked"))

    cut = _raw(caller)

    assert b"Transfer-Encoding: chunked" in cut
    assert b"Content-Length" not in cut
    assert not cut.endswith(b"0\r\n\r\n")
    emulator.fault(Fault("truncate_chunked"))
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        caller.get("contacts")


def test_a_cut_body_that_ends_with_the_connection(served):
    emulator, caller = served
    emulator.fault(Fault("truncate_close"))

    cut = _raw(caller)

    assert b"Connection: close" in cut
    assert b"Content-Length" not in cut
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(_body_of(cut))


def test_a_stall_before_the_answer(served):
    emulator, caller = served
    emulator.fault(Fault("stall", seconds=0.1))
    began_at = time.monotonic()

    assert caller.get("contacts").ok
    assert time.monotonic() - began_at >= 0.1


@pytest.mark.parametrize("kind", ["stall_in_body", "slow_body"])
def test_a_body_that_takes_its_time_comes_whole(served, kind):
    emulator, caller = served
    emulator.fault(Fault(kind, seconds=0.1))
    began_at = time.monotonic()

    assert len(caller.value("contacts")) == 20
    assert time.monotonic() - began_at >= 0.1


def test_a_stall_ends_when_the_emulator_stops(served):
    emulator, caller = served
    emulator.fault(Fault("stall", seconds=60))
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


def test_gzip_that_does_not_inflate(served):
    emulator, caller = served
    emulator.fault(Fault("bad_gzip"))

    body = _body_of(_raw(caller))

    with pytest.raises((OSError, EOFError, gzip.zlib.error)):
        gzip.decompress(body)
    emulator.fault(Fault("bad_gzip"))
    with pytest.raises(requests.exceptions.ContentDecodingError):
        caller.get("contacts")


def test_a_next_link_to_another_origin(served):
    emulator, caller = served
    emulator.fault(Fault("other_origin_link", location="https://elsewhere.example/api"))

    page = caller.get("contacts").json()

    assert page["@odata.nextLink"] == "https://elsewhere.example/api"


def test_a_next_link_that_repeats_the_one_asked(served):
    emulator, caller = served
    link = caller.get("contacts", "odata.maxpagesize=5").json()["@odata.nextLink"]
    emulator.fault(Fault("repeat_link"))

    assert caller.get(link).json()["@odata.nextLink"] == link


def test_a_page_without_its_last_record(served):
    emulator, caller = served
    emulator.fault(Fault("drop_last_record", match="skiptoken"))

    pages = list(caller.pages("contacts", "odata.maxpagesize=8"))

    assert [len(page["value"]) for page in pages] == [8, 7, 4]
    assert [request.records for request in emulator.log] == [8, 7, 4]


def test_a_page_that_comes_twice(served):
    emulator, caller = served
    emulator.fault(Fault("repeat_page", match="skiptoken"))

    pages = list(caller.pages("contacts", "odata.maxpagesize=8"))

    assert pages[1]["value"] == pages[0]["value"]
    assert len(pages[2]["value"]) == 4


def test_an_empty_page_with_a_link_to_the_records(served):
    emulator, caller = served
    emulator.fault(Fault("empty_page_with_link"))
    emulator.fault(Fault("empty_page_with_link", skip=1))

    pages = list(caller.pages("contacts", "odata.maxpagesize=8"))
    links = [page.get("@odata.nextLink") for page in pages]
    ids = [record["contactid"] for page in pages for record in page["value"]]

    assert [len(page["value"]) for page in pages] == [0, 8, 0, 8, 4]
    assert len(set(links)) == len(links)
    assert sorted(ids) == sorted(emulator.ids("contacts"))


def test_an_empty_tracked_page_asks_for_itself_again(served):
    emulator, caller = served
    emulator.fault(Fault("empty_page_with_link"))

    page = caller.get("accounts", "odata.track-changes").json()

    assert page["value"] == []
    assert "@odata.deltaLink" not in page
    assert page["@odata.nextLink"] == f"{emulator.api_url}accounts"


def test_a_page_fault_leaves_other_answers_alone(served):
    emulator, caller = served
    emulator.fault(Fault("drop_last_record"))

    assert caller.get("WhoAmI").ok


def test_latency_delays_every_answer():
    with running(CONTACTS, latency_s=0.05) as (emulator, caller):
        began_at = time.monotonic()
        caller.get("contacts")

        assert time.monotonic() - began_at >= 0.05
        emulator.latency_s = 0.0
        assert emulator.latency_s == 0.0


def _codes(caller, count: int, path: str = "contacts") -> list[tuple[int, str | None]]:
    found = []
    for _ in range(count):
        answer = caller.get(path)
        code = None if answer.ok else answer.json()["error"]["code"]
        found.append((answer.status_code, code))
    return found


def test_more_requests_than_the_window_allows_are_429():
    with running(CONTACTS, limits=Limits(requests=2, window_s=60)) as (_, caller):
        first = caller.get("contacts")
        codes = _codes(caller, 2)
        refused = caller.get("contacts")

        assert first.headers["x-ms-ratelimit-burst-remaining-xrm-requests"] == "1"
        assert "," in first.headers["x-ms-ratelimit-time-remaining-xrm-requests"]
        assert codes == [(200, None), (429, "0x80072322")]
        assert 40 <= int(refused.headers["Retry-After"]) <= 60
        assert caller.token().ok


def test_the_window_slides():
    limiter = Limiter(Limits(requests=1, window_s=10))
    limiter.admit(100.0)

    with pytest.raises(ServiceError) as refused:
        limiter.admit(104.0)

    assert refused.value.headers == [("Retry-After", "6")]
    limiter.admit(114.5)


def test_more_execution_time_than_the_window_allows_is_429():
    limits = Limits(execution_s=0.01, window_s=60)
    with running(CONTACTS, limits=limits, latency_s=0.02) as (_, caller):
        codes = _codes(caller, 2)
        refused = caller.get("contacts")

        assert codes == [(200, None), (429, "0x80072321")]
        assert 40 <= int(refused.headers["Retry-After"]) <= 60


def test_too_many_at_once_are_429_and_the_most_is_known():
    with running(CONTACTS, limits=Limits(in_flight=2), latency_s=0.2) as (emulator, caller):
        together = threading.Barrier(4)
        emulator.on_request = lambda _request: together.wait(10)
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
        emulator.clear_log()
        assert emulator.most_in_flight == 0
        for answer in answers:
            answer.close()


def test_an_error_in_a_hook_is_shown_and_the_connection_closed(served, capfd):
    emulator, caller = served

    def hook(_request: object) -> None:
        raise LookupError("a test's own mistake")

    emulator.on_request = hook
    with pytest.raises(requests.exceptions.ConnectionError):
        caller.get("contacts")
    emulator.on_request = None

    assert "a test's own mistake" in capfd.readouterr().err
    assert caller.get("contacts").ok


def test_a_client_that_goes_away_is_no_news(served, capfd):
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


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl for a certificate")
def test_it_can_be_served_over_tls(tmp_path):
    certificate, key = str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key,
         "-out", certificate, "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    emulator = Emulator([CONTACTS], ssl_context=context)
    emulator.insert_many("contacts", [{} for _ in range(3)])
    with emulator:
        caller = Caller(emulator)
        with caller.session:
            with pytest.raises(requests.exceptions.SSLError):
                caller.token()
            caller.session.verify = certificate
            caller.sign_in()
            pages = list(caller.pages("contacts"))

    assert emulator.origin.startswith("https://127.0.0.1:")
    assert [len(page["value"]) for page in pages] == [2, 1]
