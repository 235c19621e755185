"""What a request is on the wire: its bytes, its connection, its TLS; and words for its errors."""

from __future__ import annotations

import ssl
import string
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import (
    CLOSE,
    FakeTime,
    LoopbackServer,
    http,
    in_turn,
    run_threads,
    zipped,
)
from urllib3.exceptions import MaxRetryError, ProtocolError, SSLError

from dataverse.conftest import fetch
from dataverse_sync.dataverse.throttle import Throttle
from dataverse_sync.dataverse.transport import Transport, describe, is_untrusted
from dataverse_sync.errors import SyncError
from dataverse_sync.version import __version__

OK = http(200, b"{}")
TOKEN = "a-token-that-goes-to-the-api-alone"

# What goes out

NEXT_LINK = (
    "/api/data/v9.2/contacts?$select=fullname&$skiptoken=%3Ccookie%20pagenumber=%222%22%20"
    "pagingcookie=%22%253ccookie%2520page%253d%25221%2522%253e%2f%2F%252f%22%20/%3E&=&lone="
)


def test_url_goes_out_byte_for_byte(serve: Any, transport: Transport) -> None:
    server = serve(CLOSE, http(503), OK)

    fetch(transport, server.origin + NEXT_LINK)

    assert [asked.head.split(b"\r\n")[0] for asked in server.asked] == [
        f"GET {NEXT_LINK} HTTP/1.1".encode()
    ] * 3


PRINTABLE = string.ascii_letters + string.digits + "%/?:@!$&'()*+,;=-._~[]{}|\\^`\"<>"


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet=PRINTABLE, max_size=40))
def test_printable_url_goes_out_verbatim(text: str) -> None:
    fake = FakeTime()
    transport = Transport(Throttle(1, fake.clock, fake.wait), 5, 5)
    target = "/api/data/v9.2/accounts?" + text

    with LoopbackServer(in_turn(OK)) as server:
        fetch(transport, server.origin + target)
    transport.close()

    assert server.targets() == [target]


@pytest.mark.parametrize("text", ["a b", "é", "a\r\nX-Injected: 1", "a\tb"])
def test_unsafe_characters_are_quoted(serve: Any, transport: Transport, text: str) -> None:
    server = serve(OK)

    fetch(transport, server.origin + "/accounts?name=" + text)

    assert " " not in server.asked[0].target
    assert "x-injected" not in server.asked[0].headers


def test_fragment_is_not_sent(serve: Any, transport: Transport) -> None:
    server = serve(OK)

    fetch(transport, server.origin + "/accounts?a=%2f#part")

    assert server.targets() == ["/accounts?a=%2f"]


def test_request_carries_only_its_headers(serve: Any, transport: Transport) -> None:
    server = serve(OK)

    fetch(transport, server.origin + "/", TOKEN)

    assert server.asked[0].headers == {
        "host": f"127.0.0.1:{server.port}",
        "user-agent": f"dataverse-sync/{__version__}",
        "accept-encoding": "gzip",
        "accept": "application/json",
        "authorization": f"Bearer {TOKEN}",
    }


def test_cookie_is_not_sent_back(serve: Any, transport: Transport) -> None:
    server = serve(http(200, b"", ("Set-Cookie", "ARRAffinity=0a1b2c; Path=/; HttpOnly")))

    fetch(transport, server.origin + "/")
    fetch(transport, server.origin + "/")

    assert "cookie" not in server.asked[1].headers


def test_redirect_gets_no_token(serve: Any, transport: Transport) -> None:
    elsewhere = serve(OK)
    server = serve(http(302, b"", ("Location", elsewhere.origin + "/")))

    status, _ = fetch(transport, server.origin + "/", TOKEN)

    assert status == 302
    assert elsewhere.asked == []


def test_netrc_file_is_not_used(
    serve: Any, transport: Transport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1\nlogin someone\npassword something\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    server = serve(OK)

    assert requests.get(server.origin, timeout=5).ok  # requests itself does use it
    fetch(transport, server.origin + "/")

    assert "authorization" in server.asked[0].headers
    assert "authorization" not in server.asked[1].headers


def test_credentials_in_link_are_not_sent(serve: Any, transport: Transport) -> None:
    server = serve(OK)
    link = server.origin.replace("://", "://me:word@") + "/"

    fetch(transport, link)
    fetch(transport, link, "token")

    assert [asked.headers.get("authorization") for asked in server.asked] == [None, "Bearer token"]


def test_proxies_are_looked_up_once(
    serve: Any, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    look = requests.Session.merge_environment_settings

    def count(session: requests.Session, url: str, *args: Any) -> Any:
        asked.append(url)
        return look(session, url, *args)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(requests.Session, "merge_environment_settings", count)
    server = serve(OK)

    for _ in range(3):
        thread = threading.Thread(target=fetch, args=(transport, server.origin + "/"))
        thread.start()
        thread.join(5)

    assert len(server.asked) == 3
    assert len(asked) == 1


def test_proxy_not_used_for_loopback(
    serve: Any, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = serve(OK), serve(OK)
    monkeypatch.setenv("HTTP_PROXY", proxy.origin)
    monkeypatch.setenv("http_proxy", proxy.origin)

    fetch(transport, server.origin + "/")

    assert proxy.asked == []
    assert len(server.asked) == 1


def test_zipped_answer_is_unzipped(serve: Any, transport: Transport) -> None:
    server = serve(zipped(b'{"value":[]}'))

    _, body = fetch(transport, server.origin + "/")

    assert body == b'{"value":[]}'


def test_thread_keeps_its_own_connection(serve: Any, transport: Transport) -> None:
    server = serve(OK)

    run_threads(3, lambda n: [fetch(transport, f"{server.origin}/{n}") for _ in range(4)])

    used = {(asked.target, asked.connection) for asked in server.asked}
    assert len(server.asked) == 12
    assert len(used) == 3


# TLS


def tls_of(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def trust(authority: trustme.CA, variable: str, monkeypatch: pytest.MonkeyPatch, at: Path) -> None:
    authority.cert_pem.write_to_path(str(at / "ca.pem"))
    monkeypatch.setenv(variable, str(at / "ca.pem"))


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_own_authority_trusted_by_environment(
    serve: Any,
    transport: Transport,
    authority: trustme.CA,
    variable: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trust(authority, variable, monkeypatch, tmp_path)
    server = serve(OK, tls=tls_of(authority.issue_cert("127.0.0.1")))

    answers = [fetch(transport, server.origin + NEXT_LINK) for _ in range(2)]

    assert answers == [(200, b"{}")] * 2
    assert server.targets() == [NEXT_LINK] * 2


def test_threads_share_the_trust_store(
    serve: Any,
    transport: Transport,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trust(authority, "SSL_CERT_FILE", monkeypatch, tmp_path)
    server = serve(OK, tls=tls_of(authority.issue_cert("127.0.0.1")))

    answers = run_threads(4, lambda _: fetch(transport, server.origin + "/"))

    assert answers == [(200, b"{}")] * 4
    assert {asked.connection for asked in server.asked} == {1, 2, 3, 4}


def issue(authority: trustme.CA, fault: str) -> ssl.SSLContext:
    if fault == "expired":
        past = datetime.now(UTC) - timedelta(days=1)
        return tls_of(
            authority.issue_cert("127.0.0.1", not_before=past - timedelta(days=30), not_after=past)
        )
    if fault == "wrong name":
        return tls_of(authority.issue_cert("org.api.crm.dynamics.com", "10.0.0.1"))
    return tls_of(trustme.CA().issue_cert("127.0.0.1"))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("expired", "certificate has expired"),
        ("wrong name", "IP address mismatch"),
        ("unknown authority", "unable to get local issuer"),
    ],
)
def test_bad_certificate_is_refused_at_once(
    serve: Any,
    transport: Transport,
    fake: FakeTime,
    authority: trustme.CA,
    fault: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trust(authority, "SSL_CERT_FILE", monkeypatch, tmp_path)
    server = serve(OK, tls=issue(authority, fault))

    with pytest.raises(requests.exceptions.SSLError, match=reason):
        fetch(transport, server.origin + "/", TOKEN)

    assert fake.waits == []
    assert server.asked == []


def test_self_signed_certificate_is_refused(
    serve: Any, transport: Transport, fake: FakeTime, tmp_path: Path
) -> None:
    nobody = trustme.CA()
    pem = tmp_path / "self.pem"
    pem.write_bytes(nobody.private_key_pem.bytes() + nobody.cert_pem.bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = serve(OK, tls=context)

    with pytest.raises(requests.exceptions.SSLError, match="self-signed certificate"):
        fetch(transport, server.origin + "/", TOKEN)

    assert fake.waits == []
    assert server.asked == []


def test_proxy_keeps_url_and_verification(
    serve: Any,
    transport: Transport,
    fake: FakeTime,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trust(authority, "SSL_CERT_FILE", monkeypatch, tmp_path)
    right, wrong = "org.api.crm.dynamics.com", "other.api.crm.dynamics.com"
    tls = tls_of(authority.issue_cert(right))
    proxy, here = serve(OK, tunnels={right: tls, wrong: tls}), serve(OK)
    monkeypatch.setenv("HTTPS_PROXY", proxy.origin)

    fetch(transport, here.origin + "/")
    answer = fetch(transport, f"https://{right}{NEXT_LINK}", TOKEN)
    with pytest.raises(requests.RequestException, match=r"[Cc]ertificate.*other"):
        fetch(transport, f"https://{wrong}/", TOKEN)

    assert answer == (200, b"{}")
    assert fake.waits == []
    assert [(asked.method, asked.target) for asked in proxy.asked] == [
        ("CONNECT", f"{right}:443"),
        ("GET", NEXT_LINK),
        ("CONNECT", f"{wrong}:443"),
    ]
    assert "authorization" not in proxy.asked[0].headers


# Words for errors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("certificate verify failed: self-signed certificate (_ssl.c:1000)", True),
        ("certificate verify failed: unable to get local issuer certificate", True),
        (
            "A certificate chain ended in a root certificate which is not trusted "
            "by the trust provider.",
            True,
        ),  # Windows
        ("\u201corg\u201d certificate is not trusted", True),  # macOS
        ("certificate verify failed: certificate has expired", False),
        ("certificate verify failed: certificate is not yet valid", False),
        ("Hostname mismatch, certificate is not valid for 'org'", False),
        ("The certificate's CN name does not match the passed value.", False),
        ("A required certificate is not within its validity period when verifying", False),
    ],
)
def test_untrusted_told_from_other_flaws(text: str, expected: bool) -> None:
    inner = ssl.SSLCertVerificationError(text)
    wrapped = requests.exceptions.SSLError(MaxRetryError(None, "/", SSLError(inner)))  # type: ignore[arg-type]

    assert is_untrusted(inner) is is_untrusted(wrapped) is expected
    assert not is_untrusted(OSError(text))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(OSError("the heart of it.")), "the heart of it"),
        (ProtocolError("Connection aborted.", OSError("reset by peer")), "reset by peer"),
        (MaxRetryError(None, "/", OSError("no route to host")), "no route to host"),  # type: ignore[arg-type]
        (OSError(OSError(OSError(OSError(OSError(OSError(OSError("deep"))))))), "deep"),
        (OSError(), "OSError"),
        (SyncError("what"), "what"),
        (OSError("<urllib3.connection.HTTPConnection object at 0x7f>: refused"), "refused"),
        (OSError("HTTPSConnectionPool(host='org', port=443): Read timed out."), "Read timed out"),
    ],
)
def test_network_error_described_by_its_cause(error: Exception, text: str) -> None:
    assert describe(error) == text
