"""What a webhook is told of a run, over real sockets, and that the run never suffers for it."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from loopback import CLOSE, NETWORK_VARIABLES, RESET, LoopbackServer, Reply, http, in_turn

from dataverse_sync.model import Counts, Drift, EntityReport, SyncReport
from dataverse_sync.show import notify
from dataverse_sync.show.notify import build_summary, find_url_problem, send_notification

STARTED = datetime(2026, 11, 23, 2, tzinfo=UTC)
REASON = "contacts, page 3: the service answered 403"
REPORT = SyncReport(
    run_id="4f2a",
    started_at=STARTED,
    finished_at=STARTED + timedelta(seconds=41.25),
    entities=(
        EntityReport("accounts", "completed", Counts(12, 5, 3, 4, 1), 4, 1.23456),
        EntityReport("contacts", "failed", Counts(7, 7), 3, 0.5, REASON),
    ),
    drift=(Drift("accounts", "type_changed", "rating", "INTEGER", "TEXT"),),
    requests=9,
    bytes_read=2048,
    waited_s=2.0,
    notes={"accounts": "read in full"},
)
COMPLETED = SyncReport("4f2b", STARTED, STARTED, (EntityReport("accounts", "completed"),))
OK = http(200)
SECRET = "T0SECRET0PATH"


@pytest.fixture(autouse=True)
def no_network_settings(monkeypatch):
    for name in NETWORK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(notify, "RETRY_AFTER_S", 0.05)


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.DEBUG)
    return caplog


def hook(server: LoopbackServer) -> str:
    return f"{server.origin}/services/{SECRET}?code={SECRET}"


def warnings(log) -> list[str]:
    return [record.getMessage() for record in log.records if record.levelno >= logging.WARNING]


# The document


def test_summary_by_entity():
    document = build_summary(REPORT, None)

    assert document["ok"] is False
    assert document["run_id"] == "4f2a"
    assert document["started_at"] == "2026-11-23T02:00:00.000Z"
    assert document["finished_at"] == "2026-11-23T02:00:41.250Z"
    assert document["duration_s"] == 41.25
    assert document["totals"] == {
        "fetched": 19,
        "added": 12,
        "updated": 3,
        "unchanged": 4,
        "deleted": 1,
    }
    assert (document["requests"], document["bytes_read"], document["waited_s"]) == (9, 2048, 2.0)
    assert document["entities"] == [
        {
            "name": "accounts",
            "state": "completed",
            "fetched": 12,
            "added": 5,
            "updated": 3,
            "unchanged": 4,
            "deleted": 1,
            "requests": 4,
            "duration_s": 1.235,
            "error": None,
        },
        {
            "name": "contacts",
            "state": "failed",
            "fetched": 7,
            "added": 7,
            "updated": 0,
            "unchanged": 0,
            "deleted": 0,
            "requests": 3,
            "duration_s": 0.5,
            "error": REASON,
        },
    ]
    assert document["drift"] == [
        {
            "entity": "accounts",
            "change": "type_changed",
            "column": "rating",
            "old_type": "INTEGER",
            "new_type": "TEXT",
            "is_new": False,
            "severity": "breaking",
            "text": "accounts.rating: type changed from INTEGER to TEXT",
        }
    ]
    assert document["notes"] == {"accounts": "read in full"}
    assert document["error"] is None


def test_text_for_a_chat():
    failed = build_summary(REPORT, None)["text"].splitlines()
    done = build_summary(COMPLETED, None)["text"].splitlines()

    assert failed[0] == "dataverse_sync failed"
    assert failed[1].startswith("1 of 2 entities completed, 1 failed: 19 fetched, 12 added")
    assert failed[2] == REASON
    assert done[0] == "dataverse_sync completed"
    assert len(done) == 2


def test_same_shape_if_ended_early():
    early = build_summary(None, "the sign-in was refused")

    assert early.keys() == build_summary(REPORT, None).keys()
    assert early["ok"] is False
    assert early["error"] == "the sign-in was refused"
    assert early["text"] == "dataverse_sync failed\nthe sign-in was refused"
    assert early["entities"] == []
    assert set(early["totals"].values()) == {0}
    assert early["run_id"] is early["started_at"] is early["finished_at"] is None


@pytest.mark.parametrize(
    ("report", "error", "ok"),
    [(COMPLETED, None, True), (COMPLETED, "the disk is full", False), (None, None, False)],
)
def test_ok_only_without_error(report, error, ok):
    assert build_summary(report, error)["ok"] is ok


# Sending


def test_summary_posted_once(log):
    with LoopbackServer(in_turn(OK)) as server:
        send_notification(hook(server), REPORT, None)

    (asked,) = server.asked
    assert (asked.method, asked.target) == ("POST", f"/services/{SECRET}?code={SECRET}")
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["user-agent"].startswith("dataverse_sync/")
    assert json.loads(asked.body) == build_summary(REPORT, None)
    assert warnings(log) == []


@pytest.mark.parametrize("reply", [RESET, CLOSE, http(503), http(429), http(500)])
def test_busy_receiver_asked_again(log, reply):
    with LoopbackServer(in_turn(reply, OK)) as server:
        send_notification(hook(server), REPORT, None)

    assert len(server.asked) == 2
    assert server.asked[0].body == server.asked[1].body
    assert warnings(log) == []


@pytest.mark.parametrize(("status", "times"), [(503, 2), (400, 1), (404, 1), (410, 1)])
def test_refusal_named_without_path(log, status, times):
    with LoopbackServer(in_turn(http(status))) as server:
        send_notification(hook(server), REPORT, None)

    assert len(server.asked) == times
    assert warnings(log) == [
        f"the notification to http://127.0.0.1 was not sent: it answered {status}"
    ]


def test_unreachable_receiver_warned_of(log):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    send_notification(f"http://127.0.0.1:{port}/{SECRET}", REPORT, None)

    assert warnings(log) == [
        "the notification to http://127.0.0.1 was not sent: it cannot be reached"
    ]


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_redirect_not_followed(log, status):
    with LoopbackServer(in_turn(OK)) as other:
        away = http(status, b"", ("Location", f"{other.origin}/elsewhere"))
        with LoopbackServer(in_turn(away)) as server:
            send_notification(hook(server), REPORT, None)

    assert (len(server.asked), other.asked) == (1, [])
    assert warnings(log) == [
        "the notification to http://127.0.0.1 was not sent: "
        f"it answered {status}, and redirects are not followed"
    ]


def test_silent_receiver_left_in_time(log, monkeypatch):
    monkeypatch.setattr(notify, "TIMEOUT_S", 0.5)
    released = threading.Event()

    def hang(_):
        released.wait(10)
        return CLOSE

    with LoopbackServer(hang) as server:
        began = time.monotonic()
        send_notification(hook(server), REPORT, None)
        took = time.monotonic() - began
        released.set()

    assert took < 1.5
    assert len(server.asked) == 1  # it may have been heard: not sent twice
    assert warnings(log) == [
        "the notification to http://127.0.0.1 was not sent: it did not answer in time"
    ]


def test_slow_receiver_left_in_time(log, monkeypatch):
    monkeypatch.setattr(notify, "TIMEOUT_S", 0.4)

    def drip() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nX: "
        for _ in range(40):
            time.sleep(0.05)
            yield b"x"

    with LoopbackServer(lambda _: Reply(drip(), "close")) as server:
        began = time.monotonic()
        send_notification(hook(server), REPORT, None)
        took = time.monotonic() - began

    assert took < 1.2
    assert warnings(log) == [
        "the notification to http://127.0.0.1 was not sent: it took longer than 0.4 s"
    ]


def test_long_answer_not_waited_for(log, monkeypatch):
    monkeypatch.setattr(notify, "TIMEOUT_S", 1.5)

    def endless() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
        for _ in range(40):
            time.sleep(0.05)
            yield b"x"

    with LoopbackServer(lambda _: Reply(endless(), "close")) as server:
        send_notification(hook(server), REPORT, None)

    assert warnings(log) == []


def test_no_second_attempt_too_late(log, monkeypatch):
    monkeypatch.setattr(notify, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(notify, "RETRY_AFTER_S", 5.0)

    with LoopbackServer(in_turn(http(503))) as server:
        send_notification(hook(server), REPORT, None)

    assert len(server.asked) == 1
    assert warnings(log) == ["the notification to http://127.0.0.1 was not sent: it answered 503"]


def test_address_never_logged(log):
    with LoopbackServer(in_turn(http(500))) as server:
        send_notification(hook(server), REPORT, None)
        logging.getLogger("urllib3.connectionpool").debug("of another request")

    assert SECRET not in log.text
    assert "of another request" in log.text


def test_address_never_logged_for_odd_headers(log):
    odd = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nno header at all\r\n\r\n"

    with LoopbackServer(in_turn(Reply([odd], "close"))) as server:
        send_notification(hook(server), REPORT, None)

    assert len(server.asked) == 1
    assert SECRET not in log.text


def test_log_filter_removed_afterwards():
    with LoopbackServer(in_turn(OK)) as server:
        send_notification(hook(server), REPORT, None)

    assert logging.getLogger("urllib3.connectionpool").filters == []
    assert logging.getLogger("urllib3.util.retry").filters == []


def test_unexpected_error_only_warned_of(log, monkeypatch):
    def fail(*_):
        raise RuntimeError(SECRET)

    monkeypatch.setattr(notify, "_post", fail)

    send_notification("https://hooks.example/x", REPORT, None)

    assert warnings(log) == ["the notification to https://hooks.example was not sent: RuntimeError"]


def test_loopback_without_proxy(log, monkeypatch):
    with LoopbackServer(in_turn(http(502))) as proxy, LoopbackServer(in_turn(OK)) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.origin)
        monkeypatch.setenv("ALL_PROXY", proxy.origin)
        send_notification(hook(server), REPORT, None)

    assert (len(server.asked), proxy.asked) == (1, [])
    assert warnings(log) == []


def test_netrc_ignored(monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(netrc))

    with LoopbackServer(in_turn(OK)) as server:
        send_notification(hook(server), REPORT, None)

    assert "authorization" not in server.asked[0].headers


def test_password_in_address_sent():
    with LoopbackServer(in_turn(OK)) as server:
        send_notification(server.origin.replace("//", "//me:my%20own@") + "/x", REPORT, None)

    assert server.asked[0].headers["authorization"] == "Basic " + b64encode(b"me:my own").decode()
    assert server.asked[0].target == "/x"


# TLS


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def tls(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "hooks.example").configure_cert(context)
    return context


def test_untrusted_certificate_refused(log, tls):
    with LoopbackServer(in_turn(OK), tls) as server:
        send_notification(hook(server), REPORT, None)

    assert server.asked == []
    assert warnings(log) == [
        "the notification to https://127.0.0.1 was not sent: its certificate was not accepted"
    ]


def test_configured_authority_accepted(log, tls, authority, monkeypatch, tmp_path):
    bundle = tmp_path / "bundle.pem"
    authority.cert_pem.write_to_path(bundle)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))

    with LoopbackServer(in_turn(OK), tls) as server:
        send_notification(hook(server), REPORT, None)

    assert len(server.asked) == 1
    assert warnings(log) == []


def test_receiver_reached_through_proxy(log, tls, authority, monkeypatch, tmp_path):
    bundle = tmp_path / "bundle.pem"
    authority.cert_pem.write_to_path(bundle)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))

    with LoopbackServer(in_turn(OK), tunnels={"hooks.example": tls}) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.origin)
        send_notification("https://hooks.example/x", REPORT, None)

    assert proxy.targets("CONNECT") == ["hooks.example:443"]
    assert proxy.targets("POST") == ["/x"]
    assert warnings(log) == []


# Addresses


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example/x",
        "https://hooks.example:8443/x?y=z",
        "http://localhost/x",
        "http://127.0.0.1:9/x",
        "http://[::1]:9/x",
    ],
)
def test_usable_address(url):
    assert find_url_problem(url) is None


@pytest.mark.parametrize(
    ("url", "problem", "shown"),
    [
        (
            f"http://hooks.example/{SECRET}",
            "accepted only for this machine",
            "http://hooks.example",
        ),
        (f"ftp://hooks.example/{SECRET}", "does not begin with https://", "ftp://hooks.example"),
        (f"/{SECRET}", "does not begin with https://", "that address"),
        (f"https:///{SECRET}", "does not begin with https://", "that address"),
        (f"https://hooks.example:port/{SECRET}", "is not a URL", "https://hooks.example"),
        (f"https://[::1/{SECRET}", "is not a URL", "that address"),
        (f"https://me:{SECRET}@/", "does not begin with https://", "that address"),
    ],
)
def test_unusable_address_not_shown(log, url, problem, shown):
    send_notification(url, REPORT, None)

    (warning,) = warnings(log)
    assert problem in (find_url_problem(url) or "")
    assert warning.startswith(f"the notification to {shown} was not sent: the address")
    assert SECRET not in warning


def test_password_in_address_not_shown(log):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    send_notification(f"http://me:{SECRET}@127.0.0.1:{port}/", REPORT, None)

    assert SECRET not in log.text
    assert len(warnings(log)) == 1
