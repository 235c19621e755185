"""The client against a service that answers wrongly on order; only the clock is not real."""

from __future__ import annotations

import gzip
import json
import logging
import re
import ssl
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from loopback import (
    CLOSE,
    DATE,
    JSON_TYPE,
    ORIGIN,
    RESET,
    RESPONSES,
    TOKEN,
    Asked,
    FakeTime,
    LoopbackServer,
    Reply,
    Service,
    http,
    in_turn,
    json_reply,
    recorded,
    run_threads,
    zipped,
)

from dataverse.conftest import CLIENT_ID, SECRET, make_auth
from dataverse_sync.config import Config
from dataverse_sync.dataverse import bodies, error_codes, odata
from dataverse_sync.dataverse import client as dataverse_client
from dataverse_sync.dataverse.bodies import PageBudget
from dataverse_sync.dataverse.client import DataverseClient
from dataverse_sync.dataverse.throttle import StoppedError
from dataverse_sync.dataverse.transport import Transport
from dataverse_sync.errors import AuthError, EntityError, PageError, RequestError
from dataverse_sync.model import Page, PageRequest
from dataverse_sync.redaction import Redactor
from dataverse_sync.version import __version__

LOCAL_NOW = datetime(2031, 1, 1, tzinfo=UTC)
SCHEDULE = [1, 2, 4, 8, 16]
EMPTY = json_reply({"value": []})
ONE = b'{"value":[{"accountid":"1"}]}'


@pytest.fixture
def client(service: Service, transport: Transport, fake: FakeTime) -> DataverseClient:
    config, redactor = Config(service.api_url, CLIENT_ID, SECRET), Redactor()
    auth = make_auth(config, transport, redactor, fake.clock)
    auth.get_token()
    return DataverseClient(config, transport, auth, redactor, fake.clock, lambda: LOCAL_NOW)


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n", headers: str = "") -> Reply:
    head = f"HTTP/1.1 200 OK\r\nDate: {DATE}\r\n{headers}Transfer-Encoding: chunked\r\n\r\n"
    parts = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return Reply(head.encode() + parts + end, "keep" if end.endswith(b"0\r\n\r\n") else "close")


# What is sent


def test_read_carries_five_headers_only(client: DataverseClient, service: Service) -> None:
    client.get_page(service.request())

    assert service.data[0].headers == {
        "host": f"127.0.0.1:{service.server.port}",
        "user-agent": f"dataverse-sync/{__version__}",
        "accept-encoding": "gzip",
        "accept": "application/json",
        "odata-maxversion": "4.0",
        "odata-version": "4.0",
        "prefer": "odata.maxpagesize=5000",
        "authorization": f"Bearer {TOKEN}-1",
    }


def test_pages_follow_next_links(client: DataverseClient, service: Service) -> None:
    service.replies(
        recorded("contacts_page1.json", origin=service.server.origin),
        recorded("contacts_last_page.json", origin=service.server.origin),
    )

    first = client.get_page(service.request("contacts"))
    assert first.next_request is not None
    last = client.get_page(first.next_request)

    written = (RESPONSES / "contacts_page1.json").read_text(encoding="utf-8")
    assert len(first.records) == 2
    assert all(bytes(record).decode() in written for record in first.records)
    assert [json.loads(bytes(record))["lastname"] for record in last.records] == ["Raghunathan"]
    assert last.next_link is None
    assert last.request.number == 2
    assert service.data[1].target == json.loads(written)["@odata.nextLink"].removeprefix(ORIGIN)
    assert service.data[1].headers == service.data[0].headers


def test_sample_has_no_page_size(client: DataverseClient, service: Service) -> None:
    service.replies(recorded("accounts_filtered.json"))

    record = client.get_sample("accounts")

    assert record is not None
    assert record["name"] == "Northmoor Clinical Research"
    assert service.data[0].target == "/api/data/v9.2/accounts?$top=1"
    assert "prefer" not in service.data[0].headers


def test_sample_of_empty_set_is_none(client: DataverseClient) -> None:
    assert client.get_sample("accounts") is None


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"[1]", "accounts: the first record is not an object"),
        (b'{"a":"\xff"}', "accounts, the first record: cannot be read"),
        (b'{"a":' + b"7" * 5000 + b"}", "accounts, the first record: cannot be read"),
    ],
)
def test_odd_sample_is_an_error(
    client: DataverseClient, service: Service, record: bytes, reason: str
) -> None:
    service.replies(http(200, b'{"value":[' + record + b"]}"))

    with pytest.raises(PageError, match=reason):
        client.get_sample("accounts")


def test_tracked_read_prefers_tracking(client: DataverseClient, service: Service) -> None:
    client.get_page(service.request(track_changes=True))

    assert service.data[0].headers["prefer"] == "odata.track-changes,odata.maxpagesize=5000"


def test_definitions_are_not_paged(client: DataverseClient, service: Service) -> None:
    service.replies(json_reply({"value": [{"LogicalName": "account"}]}))

    definitions = client.get_definitions(["accounts", "contacts"])

    assert definitions == [{"LogicalName": "account"}]
    assert service.data[0].target == (
        "/api/data/v9.2/EntityDefinitions?$select=LogicalName,EntitySetName,PrimaryIdAttribute,"
        "IsIntersect,ChangeTrackingEnabled,TableType,DataProviderId,Privileges"
        "&$filter=EntitySetName%20eq%20'accounts'%20or%20"
        "EntitySetName%20eq%20'contacts'&$expand=Attributes($select=LogicalName,AttributeType,"
        "AttributeTypeName,AttributeOf,IsValidForRead,IsValidODataAttribute,IsSecured,MetadataId),"
        "ManyToOneRelationships($select=ReferencingAttribute,ReferencedEntity)"
    )
    assert "prefer" not in service.data[0].headers


def test_definitions_come_by_the_hundred(client: DataverseClient, service: Service) -> None:
    service.script = lambda asked: json_reply({"value": [{"n": asked.target.count("%20eq%20")}]})

    definitions = client.get_definitions([f"vin_set{n}" for n in range(250)])

    assert definitions == [{"n": 100}, {"n": 100}, {"n": 50}]


NO_TABLE_TYPE = json_reply(
    {"error": {"code": "0x0", "message": "Could not find a property named 'TableType'"}}, status=400
)


def test_table_type_refused_once_by_older_service(
    client: DataverseClient, service: Service
) -> None:
    def answer(asked: Asked) -> Reply:
        return NO_TABLE_TYPE if "TableType" in asked.target else json_reply({"value": [{}]})

    service.script = answer

    first = client.get_definitions([f"vin_set{n}" for n in range(150)])
    second = client.get_definitions(["accounts"])

    assert (first, second) == ([{}, {}], [{}])
    assert ["TableType" in asked.target for asked in service.data] == [True, False, False, False]
    assert all("DataProviderId" in asked.target for asked in service.data)


@pytest.mark.parametrize(("status", "requests"), [(400, 3), (401, 2), (403, 1), (404, 1), (501, 1)])
def test_refused_definitions_are_an_error(
    client: DataverseClient, service: Service, status: int, requests: int
) -> None:
    service.script = lambda _: http(status)

    with pytest.raises(RequestError) as caught:
        client.get_definitions(["accounts"])

    assert caught.value.status == status
    assert len(service.data) == requests


@pytest.mark.parametrize(
    ("reply", "requests", "waits"),
    [
        (http(500), 2, [1]),
        (http(503), 2, [1]),
        (RESET, 2, [1]),
        (CLOSE, 2, [1]),
        (http(200, b"<html>"), 2, [1]),
        (http(429), 12, [1, 2, 4, 8, *[16] * 7]),
    ],
)
def test_fewer_retries_end_sooner(
    client: DataverseClient,
    service: Service,
    fake: FakeTime,
    reply: Reply,
    requests: int,
    waits: list[int],
) -> None:
    service.script = lambda _: reply

    with pytest.raises((RequestError, PageError)):
        client.get_definitions(["accounts"], is_trial=True)

    assert len(service.data) == requests
    assert fake.waits == waits


def test_fewer_retries_declare_no_outage(
    client: DataverseClient, service: Service, fake: FakeTime
) -> None:
    client.get_definitions(["accounts"])
    service.server.__exit__(None, None, None)
    fake.now += 60

    for trial, said in ((True, "no answer"), (False, "no answer"), (True, "not asked for")):
        with pytest.raises(RequestError, match=said):
            client.get_definitions(["accounts"], is_trial=trial)


def test_unreadable_definition_is_an_error(client: DataverseClient, service: Service) -> None:
    service.replies(http(200, b'{"value":[{"LogicalName":"\xff"}]}'))

    with pytest.raises(PageError, match="EntityDefinitions: cannot be read"):
        client.get_definitions(["accounts"])


# Any answer


def test_get_bytes_reads_any_path(client: DataverseClient, service: Service) -> None:
    service.replies(zipped(b"\xef\xbb\xbf12"))

    answer = client.get_bytes("accounts/$count", "odata.maxpagesize=3")

    assert (answer.status, answer.body) == (200, b"\xef\xbb\xbf12")
    assert service.data[0].target == "/api/data/v9.2/accounts/$count"
    assert service.data[0].headers["prefer"] == "odata.maxpagesize=3"


def test_get_bytes_returns_refusals(client: DataverseClient, service: Service) -> None:
    service.replies(http(401), http(404, b"no such set"))

    answer = client.get_bytes(f"{service.api_url}nothings")

    assert (answer.status, answer.body) == (404, b"no such set")
    assert service.tokens == 2


def test_get_bytes_waits_at_the_gate(
    client: DataverseClient, service: Service, transport: Transport
) -> None:
    seen: list[int] = []
    service.script = lambda _: seen.append(transport.throttle.in_flight) or EMPTY

    client.get_bytes("accounts")

    assert seen == [1]
    assert transport.throttle.in_flight == 0


def test_get_bytes_stays_at_the_origin(client: DataverseClient, service: Service) -> None:
    with pytest.raises(PageError, match="the token is not sent"):
        client.get_bytes("http://127.0.0.1:1/api/data/v9.2/accounts")

    assert service.data == []


# The token


def test_token_renewed_once_on_401(client: DataverseClient, service: Service) -> None:
    service.replies(http(401, b"<html>Unauthorized</html>"), http(200, ONE))

    page = client.get_page(service.request())

    assert len(page.records) == 1
    assert page.requests == 3  # one of them for the token
    assert [asked.headers["authorization"][-2:] for asked in service.data] == ["-1", "-2"]


def test_second_401_is_an_error(client: DataverseClient, service: Service, fake: FakeTime) -> None:
    service.replies(http(401), recorded("error_responses/401.json", status=401))

    with pytest.raises(RequestError) as caught:
        client.get_page(service.request())

    assert caught.value.status == 401
    assert caught.value.code == "0x80072560"
    assert caught.value.message.endswith(
        "401 0x80072560: The user is not a member of the organization"
    )
    assert "application user" in caught.value.hint
    assert service.tokens == 2
    assert len(service.data) == 2
    assert fake.waits == []


def test_refused_threads_share_one_renewal(client: DataverseClient, service: Service) -> None:
    def script(asked: Asked) -> Reply:
        return http(401) if asked.headers["authorization"].endswith("-1") else EMPTY

    service.script = script

    pages = run_threads(8, lambda _: client.get_page(service.request()))

    assert [type(page) for page in pages] == [Page] * 8
    assert service.tokens == 2


def test_renewal_keeps_the_schedule(
    client: DataverseClient, service: Service, fake: FakeTime
) -> None:
    service.replies(http(503), http(503), http(503), http(401), http(503))

    with pytest.raises(RequestError, match="503"):
        client.get_page(service.request())

    assert fake.waits == SCHEDULE
    assert len(service.data) == 7


def test_failed_renewal_gives_place_back(
    client: DataverseClient, service: Service, transport: Transport
) -> None:
    service.replies(http(401))
    service.token = lambda: json_reply({"error_description": "AADSTS7000222: Expired."}, status=401)

    with pytest.raises(AuthError, match="AADSTS7000222"):
        client.get_page(service.request())

    assert transport.throttle.in_flight == 0


# Refusals


def test_untrusted_certificate_names_way_out(transport: Transport) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    with LoopbackServer(lambda _: CLOSE, tls=tls) as server:
        url = f"{server.origin}/api/data/v9.2/"
        auth: Any = SimpleNamespace(get_token=lambda: TOKEN)
        client = DataverseClient(Config(url, CLIENT_ID, SECRET), transport, auth, Redactor())
        with pytest.raises(RequestError, match="certificate verify failed") as caught:
            client.get_page(PageRequest("accounts", f"{url}accounts"))

    assert "REQUESTS_CA_BUNDLE" in caught.value.hint


@pytest.mark.parametrize(
    ("status", "code", "said", "hint"),
    [
        (400, "0x0", "Could not find a property named 'vin_dosage'", ""),
        (403, "0x80040220", "is missing prvReadContact privilege", "a role with this privilege"),
        (404, "0x8006088a", "Resource not found for the segment", "entity set name (plural)"),
        (429, "0x80072322", "exceeded the limit of 6000", "fewer --workers"),
        (503, "0x80072324", "The server is busy", "Run again later"),
    ],
)
def test_refusal_tells_code_and_request(
    client: DataverseClient, service: Service, status: int, code: str, said: str, hint: str
) -> None:
    request_id = ("x-ms-service-request-id", "3d1f6c2a-90be-4f7d-8a15-6be2c9d04f71")
    service.replies(recorded(f"error_responses/{status}.json", request_id, status=status))

    with pytest.raises(RequestError) as caught:
        client.get_page(service.request("contacts", number=3))

    error = caught.value
    assert error.message.startswith(f"contacts, page 3: the service answered {status} {code}: ")
    assert said in error.message
    assert error.message.endswith("(request 3d1f6c2a-90be-4f7d-8a15-6be2c9d04f71)")
    assert hint in error.hint
    assert (error.status, error.code) == (status, code)
    assert error.request == service.request("contacts", number=3)
    assert error.requests == len(service.data) == {429: 16, 503: 6}.get(status, 1)


@pytest.mark.parametrize("status", [403, 404, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("code", ["0x8004A113", "0x8004a104", "-2147180269", "-2147180284"])
@pytest.mark.parametrize("is_packed", [False, True])
def test_closed_environment_not_asked_again(
    client: DataverseClient,
    service: Service,
    fake: FakeTime,
    status: int,
    code: str,
    is_packed: bool,
) -> None:
    body = json.dumps({"error": {"code": code, "message": "Come back later."}}).encode()
    packed = (gzip.compress(body), ("Content-Encoding", "gzip"))
    service.replies(http(status, *packed) if is_packed else http(status, body))

    with pytest.raises(RequestError, match=f"{status} {code}: Come back later") as caught:
        client.get_page(service.request())

    assert re.search("administration mode|disabled", caught.value.hint)
    assert "run again once" in caught.value.hint
    assert caught.value.code in (error_codes.ADMINISTRATION_MODE, error_codes.DISABLED)
    assert (len(service.data), fake.waits) == (1, [])


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (
            http(502, b"<html><h2>Our services aren't available</h2>\r\n</html>"),
            "502: Our services aren't available",
        ),
        (http(404), "404"),
        (http(403, b'{"error":{"code":"","message":"No."}}'), "403: No"),
        (http(403, b'{"error":{"code":"-2147220960","message":"No."}}'), "403 -2147220960: No"),
        (http(400, b'{"error":"text"}'), '400: {"error":"text"}'),
        (http(400, b"not gzip", ("Content-Encoding", "gzip")), "400"),
        (http(400, b'{"error', length=99), "400"),
        (http(404, b"", ("REQ_ID", "9c0e")), "404 (request 9c0e)"),
        (http(418, b"teapot"), "418: teapot"),
    ],
)
def test_refusal_may_have_any_body(
    client: DataverseClient, service: Service, reply: Reply, said: str
) -> None:
    service.replies(reply)

    with pytest.raises(RequestError) as caught:
        client.get_page(service.request())

    assert caught.value.message == f"accounts, page 1: the service answered {said}"


def test_redirect_is_told_not_followed(client: DataverseClient, service: Service) -> None:
    with LoopbackServer(in_turn(EMPTY)) as elsewhere:
        service.replies(http(302, b"", ("Location", elsewhere.origin + "/login")))

        with pytest.raises(
            RequestError, match=r"answered 302: redirected to http.*/login"
        ) as error:
            client.get_page(service.request())

    assert elsewhere.asked == []
    assert "DATAVERSE_API_URL" in error.value.hint


def test_redirect_to_nowhere_fails_one_request(client: DataverseClient, service: Service) -> None:
    service.replies(http(302, b"", ("Location", "http://[")))

    with pytest.raises(RequestError, match="address of a redirect or of the proxy is not a URL"):
        client.get_page(service.request())


@pytest.mark.parametrize("piece", [slice(None), slice(0, 15), slice(-12, None)])
def test_echoed_token_is_masked(
    client: DataverseClient,
    service: Service,
    piece: slice,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = f"Bearer {TOKEN}-1"[7:][piece] + " " + SECRET[piece]
    service.replies(
        json_reply(
            {"error": {"code": echo, "message": f"You sent {echo}"}},
            ("x-ms-service-request-id", echo),
            status=400,
        )
    )

    with pytest.raises(RequestError) as caught:
        client.get_page(service.request())

    told = f"{caught.value} {caught.value!r} {caught.value.__dict__} {caplog.text}"
    assert "[secret]" in caught.value.message
    for part in echo.split(" "):
        assert not any(part[at : at + 8] in told for at in range(len(part) - 7))


# Bodies that break

PAGE = json.dumps({"value": [{"accountid": str(n), "name": "x" * 40} for n in range(200)]}).encode()
ZIP = ("Content-Encoding", "gzip")
BROKEN = {
    "cut before its length": http(200, PAGE[:5000], length=len(PAGE)),
    "nothing of its length": http(200, b"", length=len(PAGE)),
    "chunks without an end": chunked(PAGE[:3000], PAGE[3000:], end=b""),
    "a chunk cut in two": chunked(PAGE[:3000], end=b"1000\r\nabc"),
    "chunk sizes that are none": chunked(PAGE[:3000], end=b"zz\r\n0\r\n\r\n"),
    "complete but half the JSON": chunked(PAGE[:3000]),
    "cut gzip": http(200, gzip.compress(PAGE)[:-40], ZIP),
    "no gzip": http(200, PAGE, ZIP),
    "gzip damaged inside": http(200, gzip.compress(PAGE)[:60] + b"\0" * 200, ZIP),
    "not JSON": http(200, b'{"value": [}'),
    "an empty body": http(200),
    "HTML with 200": http(200, b"<html>Please log in</html>", ("Content-Type", "text/html")),
    "a reset in the body": Reply(http(200, PAGE).raw[:2000], "reset"),  # type: ignore[index]
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_broken_body_is_retried(
    client: DataverseClient, service: Service, fake: FakeTime, broken: Reply
) -> None:
    service.replies(broken, broken, zipped(PAGE))

    page = client.get_page(service.request())

    assert len(page.records) == 200
    assert page.requests == 3
    assert fake.waits == [1, 2]


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_broken_bodies_end_with_the_schedule(
    client: DataverseClient, service: Service, fake: FakeTime, broken: Reply
) -> None:
    service.replies(broken)

    with pytest.raises(EntityError, match=r"accounts, page 1: the answer (broke off|is not JSON),"):
        client.get_page(service.request())

    assert fake.waits == SCHEDULE
    assert len(service.data) == 6
    assert client._budget._held == 0


@pytest.mark.parametrize(
    ("replies", "requests"),
    [
        ([BROKEN["cut gzip"]], 6),
        ([http(503), BROKEN["not JSON"], http(200, b"[]")], 3),
        ([CLOSE, json_reply({"value": [], "@odata.nextLink": "http://127.0.0.1:1/"})], 2),
    ],
)
def test_page_error_knows_its_requests(
    client: DataverseClient, service: Service, replies: list[Reply], requests: int
) -> None:
    service.replies(*replies)

    with pytest.raises(EntityError) as caught:
        client.get_page(service.request())

    assert caught.value.requests == requests


def test_all_faults_share_one_schedule(
    client: DataverseClient, service: Service, fake: FakeTime
) -> None:
    service.replies(CLOSE, http(503), BROKEN["cut gzip"], RESET, http(500), BROKEN["not JSON"])

    with pytest.raises(PageError, match="is not JSON, after every retry"):
        client.get_page(service.request())

    assert fake.waits == SCHEDULE
    assert len(service.data) == 6


@pytest.mark.parametrize("body", [b"null", b"[]", b"{}", b'{"value": 1}', b'{"error":{}}'])
def test_other_json_is_not_retried(
    client: DataverseClient, service: Service, fake: FakeTime, body: bytes
) -> None:
    service.replies(http(200, body))

    with pytest.raises(PageError, match="has no 'value' array of records"):
        client.get_page(service.request())

    assert fake.waits == []
    assert client._budget._held == 0


def test_deep_record_is_a_page_error(client: DataverseClient, service: Service) -> None:
    service.replies(http(200, b'{"value":[' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"]}"))

    with pytest.raises(PageError, match="nested too deep"):
        client.get_page(service.request())


# Links


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/api/data/v9.2/accounts?$skiptoken=2",
        "http://127.0.0.1:1/api/data/v9.2/accounts",
        "http://127.0.0.1:none/api/data/v9.2/accounts",
        "//evil.example/accounts",
    ],
)
def test_next_link_elsewhere_is_an_error(
    client: DataverseClient, service: Service, link: str
) -> None:
    service.replies(json_reply({"value": [], "@odata.nextLink": link}))

    with pytest.raises(PageError, match="leads to another origin") as caught:
        client.get_page(service.request())

    assert "DATAVERSE_API_URL" in caught.value.hint
    assert client._budget._held == 0


def test_next_link_to_itself_is_an_error(client: DataverseClient, service: Service) -> None:
    request = service.request()
    service.replies(json_reply({"value": [], "@odata.nextLink": request.url}))

    with pytest.raises(PageError, match="repeats the page itself"):
        client.get_page(request)


def test_request_elsewhere_is_not_sent(client: DataverseClient, service: Service) -> None:
    with (
        LoopbackServer(in_turn(EMPTY)) as elsewhere,
        pytest.raises(PageError, match="the token is not sent"),
    ):
        client.get_page(PageRequest("accounts", elsewhere.origin + "/api/data/v9.2/accounts"))

    assert elsewhere.asked == []
    assert service.data == []


# The moment of asking


def test_asked_at_is_server_date_less_elapsed(
    client: DataverseClient, service: Service, fake: FakeTime
) -> None:
    def script(_: Asked) -> Reply:
        fake.now += 7.5
        return EMPTY

    service.script = script

    page = client.get_page(service.request())

    assert page.asked_at == datetime(2024, 5, 1, 9, 59, 52, 500_000, tzinfo=UTC)


def test_asked_at_is_before_the_retries(client: DataverseClient, service: Service) -> None:
    service.replies(http(503), http(503), EMPTY)

    page = client.get_page(service.request())

    assert page.asked_at == datetime(2024, 5, 1, 9, 59, 57, tzinfo=UTC)


@pytest.mark.parametrize("date", [None, "yesterday", "Fri, 31 Dec 9999 23:59:59 -0200"])
def test_asked_at_by_local_clock_without_date(
    client: DataverseClient, service: Service, date: str | None
) -> None:
    service.replies(http(503), http(200, b'{"value":[]}', date=date))

    page = client.get_page(service.request())

    assert page.asked_at == LOCAL_NOW - timedelta(seconds=1)


def test_date_without_zone_is_utc(client: DataverseClient, service: Service) -> None:
    service.replies(http(200, b'{"value":[]}', date="Wed, 01 May 2024 10:00:00 -0000"))

    assert client.get_page(service.request()).asked_at == datetime(2024, 5, 1, 10, tzinfo=UTC)


# An outage


def test_outage_fails_other_requests_at_once(
    client: DataverseClient, service: Service, fake: FakeTime
) -> None:
    client.get_page(service.request())
    service.server.__exit__(None, None, None)

    with pytest.raises(RequestError, match="no answer from the service") as first:
        client.get_page(service.request())
    with pytest.raises(RequestError, match="contacts, page 1: not asked for, since the") as second:
        client.get_page(service.request("contacts"))

    assert fake.waits == SCHEDULE
    assert second.value.requests == 0
    assert (first.value.status, second.value.status) == (None, None)
    assert "last committed page" in first.value.hint


def test_broken_connections_are_no_outage(
    client: DataverseClient, service: Service, fake: FakeTime
) -> None:
    service.script = lambda asked: CLOSE if asked.target.endswith("accounts") else EMPTY

    with pytest.raises(RequestError, match="no answer from the service") as broken:
        client.get_page(service.request())

    assert fake.waits == SCHEDULE
    assert broken.value.requests == 6
    assert client.get_page(service.request("contacts")).records == ()


def test_failure_beside_answers_is_no_outage(client: DataverseClient, service: Service) -> None:
    def script(asked: Asked) -> Reply:
        if asked.target.endswith("accounts"):
            return EMPTY
        if len(service.data) == 3:  # somebody else asks meanwhile
            client.get_page(service.request("accounts"))
        return CLOSE

    service.script = script

    with pytest.raises(RequestError, match="contacts"):
        client.get_page(service.request("contacts"))

    assert client.get_page(service.request("accounts")).records == ()


def test_short_outage_is_waited_for(
    client: DataverseClient, service: Service, fake: FakeTime
) -> None:
    service.replies(CLOSE, RESET, CLOSE, CLOSE, CLOSE, http(200, ONE))

    assert len(client.get_page(service.request()).records) == 1
    assert fake.waits == SCHEDULE


def test_stop_ends_waiting_reads(client: DataverseClient, service: Service) -> None:
    client.stop()

    with pytest.raises(StoppedError):
        client.get_page(service.request())
    assert service.data == []


# How much is held


def test_bytes_and_waits_are_counted(
    client: DataverseClient, service: Service, transport: Transport
) -> None:
    service.replies(http(429, b"", ("Retry-After", "9")), zipped(PAGE))

    client.release(client.get_page(service.request()))

    assert client.bytes_read == len(PAGE)
    assert client.waited_s == 9
    assert transport.throttle.in_flight == 0
    assert client._budget._held == 0


def test_took_s_leaves_out_the_budget(
    client: DataverseClient, service: Service, fake: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire, parse = PageBudget.acquire, odata.parse_page

    def answer(asked: Asked) -> Reply:
        fake.now += 2
        return json_reply({"value": []})

    def wait_for_room(budget: PageBudget, size: int) -> None:
        fake.now += 100
        acquire(budget, size)

    def read_slowly(*args: Any) -> Page:
        fake.now += 0.5
        return parse(*args)

    service.script = answer
    monkeypatch.setattr(PageBudget, "acquire", wait_for_room)
    monkeypatch.setattr(odata, "parse_page", read_slowly)

    assert client.get_page(service.request()).took_s == 2.5


@pytest.mark.parametrize("give_back", [lambda one: one.release(50), lambda one: one.adjust(-50)])
def test_budget_holds_back_until_released(
    give_back: Callable[[PageBudget], None],
) -> None:
    budget = PageBudget(100)
    budget.acquire(50)
    budget.acquire(50)
    acquired = threading.Event()
    thread = threading.Thread(target=lambda: (budget.acquire(40), acquired.set()))

    thread.start()
    early = acquired.wait(0.05)
    give_back(budget)
    thread.join(5)

    assert not early
    assert acquired.is_set()


def test_two_pages_always_fit() -> None:
    budget = PageBudget(100)

    budget.acquire(5000)
    budget.acquire(5000)
    budget.release(5000)
    budget.acquire(5000)

    assert budget._held == 10_000


def test_threads_never_exceed_the_budget() -> None:
    budget = PageBudget(100)
    lock = threading.Lock()
    held, most = 0, 0

    def work(number: int) -> None:
        nonlocal held, most
        for _ in range(5):
            size = 10 + number
            budget.acquire(size)
            with lock:
                held += size
                most = max(most, held)
            time.sleep(0.0005)
            with lock:
                held -= size
            budget.release(size)

    results = run_threads(30, work)

    assert results == [None] * 30
    assert 50 < most <= 100


def test_stop_wakes_budget_waiters() -> None:
    budget = PageBudget(100)
    budget.acquire(60)
    budget.acquire(40)
    stopper = threading.Timer(0.05, budget.stop)

    stopper.start()
    with pytest.raises(StoppedError):
        budget.acquire(1)
    stopper.join()


def test_page_waits_for_released_room(client: DataverseClient, service: Service) -> None:
    client._budget = PageBudget(int(len(PAGE) * 2.5))
    service.replies(http(200, PAGE))
    first = client.get_page(service.request())
    client.get_page(service.request())
    third: list[Page] = []
    thread = threading.Thread(target=lambda: third.append(client.get_page(service.request())))

    thread.start()
    thread.join(0.1)
    waited = thread.is_alive()
    client.release(first)
    thread.join(5)

    assert waited
    assert len(third[0].records) == 200


def test_reserved_size_by_header_or_last_page(client: DataverseClient, service: Service) -> None:
    claims: list[int] = []

    class Noting(PageBudget):
        def acquire(self, size: int) -> None:
            claims.append(size)
            super().acquire(size)

    client._budget = Noting()
    # What keys alone take, or one record, says nothing of whole pages.
    whole = service.request()
    kinds = [whole, replace(whole, keys_only=True), replace(whole, top=True)]
    kinds += [replace(whole, entity="contacts")]
    service.replies(http(200, PAGE), *[zipped(PAGE)] * 5)

    for request in (*kinds, *kinds[:2]):
        client.release(client.get_page(request))

    announced, known, unknown = len(PAGE), max(len(PAGE), 2**16), dataverse_client._WIDE_PAGE
    assert claims == [announced, unknown, unknown, unknown, known, known]
    assert client._budget._held == 0


def test_page_larger_than_expected_is_whole(
    client: DataverseClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "_CHUNK", 1000)
    monkeypatch.setattr(dataverse_client, "_WIDE_PAGE", 10)
    service.replies(zipped(PAGE))

    page = client.get_page(service.request())

    assert len(PAGE) > 3000
    assert [bytes(record) for record in page.records] == [
        bytes(record) for record in odata.parse_page(service.request(), PAGE).records
    ]


def test_too_large_page_is_not_retried(
    client: DataverseClient,
    service: Service,
    fake: FakeTime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bodies, "LARGEST_PAGE", 2 * 2**20)
    service.replies(http(200, b'{"value":["' + b"x" * 3 * 2**20 + b'"]}'), EMPTY)

    with pytest.raises(RequestError, match="the answer is larger than 2 MiB"):
        client.get_page(service.request())

    assert fake.waits == []
    assert client._budget._held == 0
    assert client.get_page(service.request()).records == ()  # the others go on


def test_endless_body_is_cut_off(
    client: DataverseClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "LARGEST_PAGE", 2 * 2**20)

    def endless(_: Asked) -> Reply:
        def parts() -> Iterator[bytes]:
            yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            while True:
                yield b"10000\r\n" + b" " * 2**16 + b"\r\n"

        return Reply(parts())

    service.script = endless

    with pytest.raises(RequestError, match="larger than 2 MiB"):
        client.get_page(service.request())


def test_compression_bomb_uses_bounded_memory(
    client: DataverseClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "LARGEST_PAGE", 4 * 2**20)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    megabyte = bytes(2**20)
    bomb = b"".join(packer.compress(megabyte) for _ in range(60)) + packer.flush()
    service.replies(http(200, bomb, JSON_TYPE, ZIP))

    tracemalloc.start()
    with pytest.raises(RequestError, match="larger than 4 MiB"):
        client.get_page(service.request())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < 24 * 2**20
