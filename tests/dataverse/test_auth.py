"""Signing in: where the secret may go, how long a token serves, and what nobody gets to read."""

from __future__ import annotations

import json
import logging
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import (
    CLOSE,
    RESET,
    TENANT,
    TOKEN,
    Asked,
    FakeTime,
    LoopbackServer,
    Reply,
    Service,
    http,
    json_reply,
    run_threads,
)

from dataverse.conftest import CLIENT_ID, SECRET, make_auth
from dataverse_sync.config import Config
from dataverse_sync.dataverse.auth import Auth
from dataverse_sync.dataverse.credentials import (
    SIGN_IN_HOSTS,
    SignInHost,
    Token,
    is_allowed_host,
    parse_challenge,
    parse_token,
)
from dataverse_sync.dataverse.session import open_session
from dataverse_sync.dataverse.throttle import StoppedError, Throttle
from dataverse_sync.dataverse.transport import Transport
from dataverse_sync.errors import AuthError, UnreachableError
from dataverse_sync.logs import configure_logging
from dataverse_sync.redaction import MASK, Redactor

CHALLENGE = SignInHost("https://login.microsoftonline.com", TENANT)
ORG = "https://org.crm.dynamics.com/"
AUTHORIZE = f"https://login.microsoftonline.com/{TENANT}/oauth2/authorize"


@pytest.fixture
def auth(service: Service, transport: Transport, fake: FakeTime) -> Auth:
    return make_auth(config_of(service), transport, Redactor(), fake.clock)


def config_of(service: Service, **settings: Any) -> Config:
    return Config(service.api_url, CLIENT_ID, SECRET, **settings)


# The challenge


@pytest.mark.parametrize(
    "headers",
    [
        [f"Bearer authorization_uri={AUTHORIZE}, resource_id={ORG}"],
        [f"Bearer authorization_uri={AUTHORIZE},resource_id={ORG}"],
        [f"Bearer authorization_uri={AUTHORIZE} , resource_id = {ORG}"],
        [f"Bearer resource_id={ORG}, authorization_uri={AUTHORIZE}"],
        [f"Bearer authorization_uri={AUTHORIZE}"],
        [f'Bearer authorization_uri="{AUTHORIZE}", resource_id="{ORG}"'],
        [f'bearer realm="", AUTHORIZATION_URI = "{AUTHORIZE}", error="invalid_token"'],
        [f"Bearer authorization={AUTHORIZE}, resource={ORG}"],
        ["Negotiate", "NTLM", f"Bearer authorization_uri={AUTHORIZE}, resource_id={ORG}"],
        [f"Bearer authorization_uri={AUTHORIZE}", "Negotiate", 'Basic realm="org"'],
        [f"Negotiate, NTLM, Bearer authorization_uri={AUTHORIZE}, resource_id={ORG}"],
        [f'Basic realm="a, b", Bearer authorization_uri={AUTHORIZE}, NTLM'],
        [f"Negotiate TlRMTVNTUAACAAAA==, Bearer authorization_uri={AUTHORIZE}"],
        ['Bearer realm="on-premises"', f"Bearer authorization_uri={AUTHORIZE}"],
        ["Bearer authorization_uri=https://[half/an/address", f"Bearer authorization={AUTHORIZE}"],
        [f"Bearer authorization_uri=HTTPS://LOGIN.MicrosoftOnline.com/{TENANT}/oauth2/authorize"],
    ],
)
def test_challenge_understood_in_every_form(headers: list[str]) -> None:
    assert parse_challenge(headers) == CHALLENGE


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        ["Negotiate", "NTLM"],
        ["Bearer"],
        ['Bearer realm="org"'],
        [f"Digest authorization_uri={AUTHORIZE}"],
        ["Bearer authorization_uri="],
        ["Bearer authorization_uri=https://login.microsoftonline.com"],
        ["Bearer authorization_uri=https://login.microsoftonline.com/a%2Fb/authorize"],
        ["Bearer authorization_uri=https://login.microsoftonline.com:port/x/authorize"],
        [f"Bearer authorization_uri=https://login.microsoftonline.com@evil.example/{TENANT}/x"],
        [f"Bearer authorization_uri=/{TENANT}/oauth2/authorize"],
    ],
)
def test_challenge_without_host_is_none(headers: list[str]) -> None:
    assert parse_challenge(headers) is None


PIECES = st.sampled_from(
    [
        "Bearer",
        "bearer ",
        "NTLM",
        "authorization_uri",
        "=",
        '"',
        "\\",
        ",",
        " ",
        AUTHORIZE,
        "@",
        "[",
    ]
)


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(), st.lists(PIECES).map("".join)), max_size=4))
def test_any_challenge_parses_or_is_none(headers: list[str]) -> None:
    found = parse_challenge(headers)

    assert found is None or (
        "://" in found.origin and "/" not in found.tenant_id and found.tenant_id
    )


def test_long_challenge_parses_quickly() -> None:
    hostile = ["Bearer " + "a" * 60_000, "Bearer a" + " " * 60_000, 'Bearer a="' + "\\" * 60_000]

    assert parse_challenge([*hostile, f"Bearer authorization_uri={AUTHORIZE}"]) == CHALLENGE


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        *((f"https://{host}", True) for host in SIGN_IN_HOSTS),
        ("https://login.microsoftonline.com:443", True),
        ("https://login.microsoftonline.com:8443", False),
        ("http://login.microsoftonline.com", False),
        ("https://login.microsoftonline.com.evil.example", False),
        ("https://evil-login.microsoftonline.com", False),
        ("https://login.microsoftonline.de", False),
        ("https://adfs.contoso.com", False),
        ("https://127.0.0.1", False),
        ("https://localhost", False),
    ],
)
def test_only_microsoft_hosts_may_have_secret(host: str, allowed: bool) -> None:
    assert is_allowed_host(host, "https://org.api.crm.dynamics.com/api/data/v9.2/") is allowed


def test_loopback_allowed_if_api_on_loopback() -> None:
    api_url = "http://127.0.0.1:8080/api/data/v9.2/"

    assert is_allowed_host("http://127.0.0.1:9090", api_url)
    assert is_allowed_host("http://localhost:9090", api_url)
    assert not is_allowed_host("http://10.0.0.5:9090", api_url)


# Signing in


def test_sign_in_follows_the_challenge(auth: Auth, service: Service) -> None:
    token = auth.get_token()

    discovery, request = service.server.asked
    assert token == f"{TOKEN}-1"
    assert (discovery.method, discovery.target) == ("GET", "/api/data/v9.2/")
    assert "authorization" not in discovery.headers
    assert request.target == f"/{TENANT}/oauth2/v2.0/token"
    assert parse_qs(request.body.decode(), strict_parsing=True) == {
        "grant_type": ["client_credentials"],
        "client_id": [CLIENT_ID],
        "client_secret": [SECRET],
        "scope": [f"{service.server.origin}/.default"],
    }
    assert auth.tenant_id == TENANT
    assert auth.server_date == datetime(2024, 5, 1, 10, 0, 0, tzinfo=UTC)


def test_configured_tenant_wins(service: Service, transport: Transport, fake: FakeTime) -> None:
    config = config_of(service, tenant_id="contoso.example", scope="api://org/.default")
    auth = make_auth(config, transport, Redactor(), fake.clock)

    auth.get_token()

    assert service.posts[0].target == "/contoso.example/oauth2/v2.0/token"
    assert parse_qs(service.posts[0].body.decode())["scope"] == ["api://org/.default"]
    assert auth.tenant_id == "contoso.example"


# Where an earlier run was told to sign in


@pytest.fixture
def make_known(service: Service, transport: Transport, fake: FakeTime) -> Callable[..., Auth]:
    """An app that was told where to sign in."""

    def make(tenant: str = TENANT, origin: str | None = None) -> Auth:
        authority = f"{origin or service.server.origin}/{tenant}"
        return make_auth(config_of(service), transport, Redactor(), fake.clock, authority)

    return make


def test_known_authority_needs_no_challenge(make_known: Any, service: Service) -> None:
    auth = make_known()

    assert auth.get_token() == f"{TOKEN}-1"
    assert [one.target for one in service.server.asked] == [f"/{TENANT}/oauth2/v2.0/token"]
    assert auth.authority == f"{service.server.origin}/{TENANT}"
    auth.reach_api()
    auth.reach_api()
    assert [one.target for one in service.server.asked[1:]] == ["/api/data/v9.2/"]


def test_refused_token_is_renewed_where_the_service_says(make_known: Any, service: Service) -> None:
    auth = make_known("moved.example")
    refused = auth.get_token()

    assert auth.renew(refused) == f"{TOKEN}-2"
    assert [one.target for one in service.posts] == [
        "/moved.example/oauth2/v2.0/token",
        f"/{TENANT}/oauth2/v2.0/token",
    ]
    assert auth.tenant_id == TENANT


def test_known_authority_that_refuses_is_left(make_known: Any, service: Service) -> None:
    auth = make_known("gone.example")
    replies = iter([json_reply({}, status=400)])
    service.token = lambda: next(replies, None) or service.new_token()

    assert auth.get_token() == f"{TOKEN}-1"
    assert auth.authority == f"{service.server.origin}/{TENANT}"


def test_refusal_of_the_named_authority_is_told_once(make_known: Any, service: Service) -> None:
    service.token = lambda: json_reply({"error": "invalid_client"}, status=401)

    with pytest.raises(AuthError, match="refused"):
        make_known().get_token()

    assert len(service.posts) == 1


@pytest.mark.parametrize("origin", ["https://login.evil.example", "http://[", "", "x"])
def test_secret_is_not_sent_to_a_changed_authority(
    make_known: Any, service: Service, origin: str
) -> None:
    auth = make_known(origin=origin or "https:/")

    assert auth.get_token() == f"{TOKEN}-1"
    assert service.server.asked[0].target == "/api/data/v9.2/"
    assert auth.authority == f"{service.server.origin}/{TENANT}"


def test_bearer_found_among_other_challenges(auth: Auth, service: Service) -> None:
    service.challenge = lambda: http(
        401,
        b"<html>401</html>",
        ("WWW-Authenticate", "Negotiate"),
        ("WWW-Authenticate", "NTLM"),
        ("WWW-Authenticate", service.bearer()),
    )

    assert auth.get_token() == f"{TOKEN}-1"


def test_foreign_host_gets_no_secret(auth: Auth, service: Service, fake: FakeTime) -> None:
    service.challenge = lambda: http(
        401, b"", ("WWW-Authenticate", service.bearer("https://login.evil.example"))
    )

    with pytest.raises(AuthError, match=r"login\.evil\.example, which is not a sign-in host"):
        auth.get_token()

    assert service.posts == []
    assert fake.waits == []


@pytest.mark.parametrize("status", [200, 302, 401, 404])
def test_missing_challenge_has_a_hint(auth: Auth, service: Service, status: int) -> None:
    service.challenge = lambda: http(status, b"<html>Welcome</html>", date=None)

    with pytest.raises(AuthError, match=rf"answered {status} and did not say where") as caught:
        auth.get_token()

    assert "DATAVERSE_API_URL" in caught.value.hint
    assert auth.server_date is None
    assert auth.tenant_id is None


def test_unreadable_date_is_left_out(auth: Auth, service: Service) -> None:
    service.challenge = lambda: http(
        401, b"", ("WWW-Authenticate", service.bearer()), date="the day before yesterday"
    )

    auth.get_token()

    assert auth.server_date is None


def tls_of(authority: trustme.CA, host: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return context


@pytest.mark.parametrize("named", ["login.microsoftonline.com", "login.evil.example"])
def test_secret_over_tls_reaches_microsoft_only(
    transport: Transport,
    authority: trustme.CA,
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api = "org.api.crm.dynamics.com"
    challenge = f"Bearer authorization_uri=https://{named}/{TENANT}/oauth2/authorize"

    def script(asked: Asked) -> Reply:
        if asked.headers["host"] == api:
            return http(401, b"", ("WWW-Authenticate", challenge))
        return json_reply({"access_token": "opaque-token", "expires_in": 3599})

    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tunnels = {host: tls_of(authority, host) for host in (api, named)}
    with LoopbackServer(script, tunnels=tunnels) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.origin)
        config = Config(f"https://{api}/api/data/v9.2/", CLIENT_ID, SECRET)
        auth = make_auth(config, transport, Redactor(), time.monotonic)
        try:
            auth.get_token()
        except AuthError as error:
            assert named == "login.evil.example"
            assert "the secret was not sent" in error.message

    hosts = [asked.headers["host"] for asked in proxy.asked if SECRET.encode() in asked.body]
    assert hosts == (["login.microsoftonline.com"] if named.endswith(".com") else [])


def test_expired_certificate_gets_no_request(
    transport: Transport,
    authority: trustme.CA,
    fake: FakeTime,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    end = datetime(2024, 1, 1, tzinfo=UTC)
    authority.issue_cert(
        "127.0.0.1", not_before=end - timedelta(days=90), not_after=end
    ).configure_cert(context)

    with LoopbackServer(lambda _: CLOSE, tls=context) as server:
        config = Config(f"{server.origin}/api/data/v9.2/", CLIENT_ID, SECRET)
        auth = make_auth(config, transport, Redactor(), fake.clock)
        with pytest.raises(UnreachableError, match="certificate has expired") as caught:
            auth.get_token()

    assert "REQUESTS_CA_BUNDLE" not in caught.value.hint  # no authority helps

    assert server.asked == []
    assert fake.waits == []


def untrusted() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_untrusted_api_names_way_out(transport: Transport, fake: FakeTime) -> None:
    with LoopbackServer(lambda _: CLOSE, tls=untrusted()) as server:
        config = Config(f"{server.origin}/api/data/v9.2/", CLIENT_ID, SECRET)
        auth = make_auth(config, transport, Redactor(), fake.clock)
        with pytest.raises(UnreachableError, match="certificate verify failed") as caught:
            auth.get_token()

    assert "certificate is not trusted here" in caught.value.hint
    assert "the system's certificate store" in caught.value.hint
    assert "REQUESTS_CA_BUNDLE" in caught.value.hint
    assert fake.waits == []


def test_untrusted_sign_in_host_names_way_out(auth: Auth, service: Service, fake: FakeTime) -> None:
    with LoopbackServer(lambda _: CLOSE, tls=untrusted()) as server:
        challenge = f"Bearer authorization_uri={server.origin}/tenant/oauth2/authorize"
        service.challenge = lambda: http(401, b"", ("WWW-Authenticate", challenge))
        with pytest.raises(AuthError, match="certificate verify failed") as caught:
            auth.get_token()

    assert "REQUESTS_CA_BUNDLE" in caught.value.hint
    assert server.asked == []
    assert fake.waits == []


# Tokens


@pytest.mark.parametrize("expires_in", [3599, "3599", 3599.0])
def test_token_life_is_number_or_text(expires_in: object) -> None:
    body = json.dumps({"access_token": "opaque-token", "expires_in": expires_in}).encode()

    assert parse_token(body) == Token("opaque-token", 3599.0)


def test_token_lives_one_hour_by_default() -> None:
    assert parse_token(b'{"access_token": "opaque-token"}').life_s == 3599.0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html></html>",
        b"\xff",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"access_token": null}',
        b'{"access_token": ""}',
        b'{"access_token": 17}',
        b'{"access_token": "two words"}',
        b'{"access_token": "two\\r\\nlines"}',
        b'{"access_token": "t", "expires_in": "soon"}',
        b'{"access_token": "t", "expires_in": null}',
        b'{"access_token": "t", "expires_in": 0}',
        b'{"access_token": "t", "expires_in": -5}',
        b'{"access_token": "t", "expires_in": NaN}',
        b'{"access_token": "t", "expires_in": 1' + b"0" * 400 + b"}",
        b"[" * 100_000,
    ],
)
def test_unusable_token_is_an_error(body: bytes) -> None:
    with pytest.raises(ValueError, match="access_token"):
        parse_token(body)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["access_token", "expires_in"]),
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    )
)
def test_any_answer_is_token_or_error(answer: dict[str, object]) -> None:
    try:
        token = parse_token(json.dumps(answer).encode())
    except ValueError:
        return

    assert token.value
    assert token.life_s > 0.0


@pytest.mark.parametrize(
    ("life_s", "renewed_at_s"),
    [(5400, 3000), (3599, 3000), (3200, 2900), (1000, 700), (600, 300), (400, 200), (60, 30)],
)
def test_token_renewed_by_age_or_end(
    auth: Auth, service: Service, fake: FakeTime, life_s: int, renewed_at_s: int
) -> None:
    service.token = lambda: service.new_token(life_s)
    auth.get_token()

    fake.now += renewed_at_s - 1
    before = auth.get_token()
    fake.now += 1
    after = auth.get_token()

    assert (before, after) == (f"{TOKEN}-1", f"{TOKEN}-2")
    assert len(service.server.targets("GET")) == 1  # the challenge is asked for once


def test_expired_token_renewed_once_for_all(auth: Auth, service: Service, fake: FakeTime) -> None:
    auth.get_token()
    fake.now += 3600

    tokens = run_threads(50, lambda _: auth.get_token())

    assert tokens == [f"{TOKEN}-2"] * 50
    assert len(service.posts) == 2


def test_refused_token_renewed_once_for_all(auth: Auth, service: Service) -> None:
    refused = auth.get_token()

    run_threads(50, lambda _: auth.renew(refused))
    tokens = run_threads(50, lambda _: auth.get_token())

    assert tokens == [f"{TOKEN}-2"] * 50
    assert len(service.posts) == 2


def test_throttled_sign_in_needs_no_place(
    make_transport: Any, service: Service, fake: FakeTime
) -> None:
    transport = make_transport(workers=4)
    auth, throttle = (
        make_auth(config_of(service), transport, Redactor(), fake.clock),
        transport.throttle,
    )
    auth.get_token()
    fake.now += 3600
    replies = [http(429, b"", ("Retry-After", "7"))] * 2
    service.token = lambda: replies.pop() if replies else service.new_token()

    def work(_: int) -> str:
        throttle.enter()
        try:
            return auth.get_token()
        finally:
            throttle.leave(answered=True)

    tokens = run_threads(4, work)

    assert tokens == [f"{TOKEN}-2"] * 4
    assert fake.waits == [7, 7]
    assert throttle.allowed == 4


# What goes wrong


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("AADSTS7000215", "DATAVERSE_CLIENT_SECRET to the secret's value"),
        ("AADSTS7000222", "expired"),
        ("AADSTS700016", "DATAVERSE_CLIENT_ID"),
        ("AADSTS90002", "DATAVERSE_TENANT_ID"),
        ("AADSTS500011", "DATAVERSE_SCOPE"),
        ("AADSTS50034", "Check DATAVERSE_CLIENT_ID"),
    ],
)
def test_refusal_names_code_and_hint(
    auth: Auth, service: Service, fake: FakeTime, code: str, hint: str
) -> None:
    service.token = lambda: json_reply(
        {
            "error": "invalid_client",
            "error_description": f"{code}: It is not so.\r\nTrace ID: 1f0e\r\nTimestamp: now",
            "error_codes": [int(code.removeprefix("AADSTS"))],
        },
        status=401,
    )

    with pytest.raises(AuthError) as caught:
        auth.get_token()

    assert caught.value.message == f"Sign-in was refused (401): {code}: It is not so."
    assert hint in caught.value.hint
    assert fake.waits == []  # nothing of this is worth a retry


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"error": "invalid_scope"}', "invalid_scope"),
        (b'{"error": "invalid_scope", "error_description": ""}', "invalid_scope"),
        (b"{}", "no reason given"),
        (b"[]", "no reason given"),
        (b"<html>Bad Request</html>", "no reason given"),
        (b"[" * 60_000, "no reason given"),
    ],
)
def test_refusal_may_have_any_body(auth: Auth, service: Service, body: bytes, reason: str) -> None:
    service.token = lambda: http(400, body)

    with pytest.raises(AuthError, match=rf"refused \(400\): {reason}"):
        auth.get_token()


def test_answer_without_token_fails_sign_in(auth: Auth, service: Service) -> None:
    service.token = lambda: http(200, b"<html>Sign in to the hotel network</html>")

    with pytest.raises(AuthError, match="answered, but there is no access_token in the answer"):
        auth.get_token()


def test_broken_sign_in_answer_is_retried(auth: Auth, service: Service, fake: FakeTime) -> None:
    replies = [CLOSE, http(503), http(200, b'{"access', length=99), RESET]
    service.token = lambda: replies.pop(0) if replies else service.new_token()

    assert auth.get_token() == f"{TOKEN}-1"
    assert fake.waits == [1, 2, 4, 8]


@pytest.mark.parametrize("fault", [CLOSE, http(200, b'{"access', length=99)])
def test_unreachable_sign_in_host_is_auth_error(
    auth: Auth, service: Service, fake: FakeTime, fault: Reply
) -> None:
    service.token = lambda: fault

    with pytest.raises(AuthError, match=r"Sign-in: http://127.*cannot be reached") as caught:
        auth.get_token()

    assert "HTTPS_PROXY" in caught.value.hint
    assert fake.waits == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("fault", [CLOSE, http(401, b"half", length=99)])
def test_unreachable_api_is_another_error(
    auth: Auth, service: Service, fake: FakeTime, fault: Reply
) -> None:
    service.challenge = lambda: fault

    with pytest.raises(UnreachableError, match=r"127.*cannot be reached"):
        auth.get_token()

    assert fake.waits == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_faulty_api_is_unreachable(auth: Auth, service: Service, status: int) -> None:
    service.challenge = lambda: http(status, b"busy")

    with pytest.raises(UnreachableError, match=f"answered {status}, after every retry"):
        auth.get_token()


@pytest.mark.parametrize("status", [403, 429, 503])
def test_closed_environment_is_named_at_sign_in(
    auth: Auth, service: Service, fake: FakeTime, status: int
) -> None:
    error = {"code": "0x8004A104", "message": "It is currently disabled."}
    service.challenge = lambda: json_reply({"error": error}, status=status)

    with pytest.raises(UnreachableError, match=f"{status} 0x8004A104: It is currently") as caught:
        auth.get_token()

    assert "run again once it is enabled" in caught.value.hint
    assert fake.waits == []


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize(
    "address",
    [
        "http://user:pa@ss:word@127.0.0.1:9",
        "user:pa@ss:word@127.0.0.1:9",
        "http://user:pa%40ss%3Aword@127.0.0.1:9",
        "http://user:pa@ss:word@127.0.0.1:port",
        "http://user:pa@ss:word@127.0.0.1:999999",
        "http://user:pa:ss:word",
        "http://127.0.0.1:1234/pa@ss:word@127.0.0.1:9",
        "http://127.0.0.1:pass/word@127.0.0.1:9",
        "http:/user:pa@ss:word@127.0.0.1:9",
        "socks5://user:pa@ss:word@127.0.0.1:9",
        "http://user:pa@ss:word[@127.0.0.1:9",
    ],
)
def test_password_of_proxy_appears_nowhere(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path, address: str, name: str
) -> None:
    monkeypatch.setenv(name, address)
    monkeypatch.setattr(Throttle, "sleep", lambda *_: None)
    redactor = Redactor()
    configure_logging(2, tmp_path / "log", redactor)
    config = Config("https://org.invalid/api/data/v9.2/", CLIENT_ID, SECRET, workers=2)

    with (
        pytest.raises(UnreachableError, match="cannot be reached") as caught,
        open_session(config, redactor) as session,
    ):
        session.sign_in()

    logged = (tmp_path / "log").read_text(encoding="utf-8") + capsys.readouterr().err
    for part in ("pa@ss", "ss:word", "pa%40ss", "1234", "pass/", ":pass", "/word"):
        assert part not in logged + str(caught.value)


def test_waiting_threads_share_the_failure(auth: Auth, service: Service, fake: FakeTime) -> None:
    refused = auth.get_token()
    service.token = lambda: CLOSE

    results = run_threads(20, lambda _: auth.renew(refused))

    assert [type(result) for result in results] == [AuthError] * 20
    assert len(service.posts) == 1 + 6
    assert fake.waits == [1, 2, 4, 8, 16]


def test_stop_ends_sign_in_between_retries(
    auth: Auth, service: Service, transport: Transport
) -> None:
    def refuse() -> Reply:
        transport.throttle.stop()
        return CLOSE

    service.token = refuse

    with pytest.raises(StoppedError):
        auth.get_token()
    assert len(service.posts) == 1


# Secrets


def leaks(text: str, *secrets: str, piece: int = 8) -> list[str]:
    """Every piece of a secret that the text holds."""
    return [
        secret[at : at + piece]
        for secret in secrets
        for at in range(len(secret) - piece + 1)
        if secret[at : at + piece] in text
    ]


@pytest.mark.parametrize(
    "echo",
    [
        f"AADSTS7000215: Invalid client secret provided: {SECRET}",
        f"AADSTS7000215: Invalid secret {SECRET[:12]}... ending in ...{SECRET[-10:]}",
        f"client_secret={SECRET.replace('~', '%7E')}&scope=x",
        "x" * 495 + SECRET,
        f"'{SECRET}' \"{SECRET}\" {SECRET}{SECRET}",
    ],
)
def test_echoed_secret_is_masked(
    auth: Auth, service: Service, caplog: pytest.LogCaptureFixture, echo: str
) -> None:
    caplog.set_level(logging.DEBUG)
    service.token = lambda: json_reply({"error": echo, "error_description": echo}, status=400)

    with pytest.raises(AuthError) as caught:
        auth.get_token()

    told = f"{caught.value} {caught.value!r} {caught.value.__dict__} {caplog.text}"
    assert MASK[:2] in told
    assert leaks(told, SECRET) == []


def test_cut_message_shows_no_secret(auth: Auth, service: Service) -> None:
    echo = "x" * 495 + SECRET
    service.token = lambda: json_reply({"error_description": echo}, status=400)

    with pytest.raises(AuthError) as caught:
        auth.get_token()

    assert caught.value.message.endswith("x[secr")


def test_sign_in_logs_no_secret(
    auth: Auth, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)  # urllib3's own lines too
    replies = [CLOSE, http(503)]
    service.token = lambda: replies.pop() if replies else service.new_token()

    token = auth.get_token()

    shown = [caplog.text, *map(repr, (auth, config_of(service), auth._token, auth._credential))]
    assert "POST /" in caplog.text
    assert leaks("".join(shown), SECRET, token) == []


def test_redactor_learns_secret_and_tokens(
    service: Service, transport: Transport, fake: FakeTime
) -> None:
    redactor = Redactor()
    auth = make_auth(config_of(service), transport, redactor, fake.clock)
    first = auth.get_token()
    auth.renew(first)
    second = auth.get_token()

    redacted = redactor.redact(f"{SECRET} {first} {second}")

    assert leaks(redacted, SECRET, first[-8:], second[-8:]) == []


def test_threads_wait_for_one_sign_in(auth: Auth, service: Service) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow() -> Reply:
        asked.set()
        go_on.wait(5)
        return service.new_token()

    service.token = slow
    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(auth.get_token())) for _ in range(3)]

    for thread in threads:
        thread.start()
    asked.wait(5)
    waiting = list(results)
    go_on.set()
    for thread in threads:
        thread.join(5)

    assert waiting == []
    assert results == [f"{TOKEN}-1"] * 3


def test_any_credential_is_kept_fresh(fake: FakeTime) -> None:
    class Numbers:
        """A credential that needs no challenge and no tenant."""

        asked: list[str] = []  # noqa: RUF012

        def get_token(self, scope: str) -> Token:
            self.asked.append(scope)
            return Token(f"token-{len(self.asked)}", 1000.0)

    auth = Auth(Numbers(), "api://org/.default", Redactor(), fake.clock)

    first, again = auth.get_token(), auth.get_token()
    fake.now += 700
    later = auth.get_token()

    assert (first, again, later) == ("token-1", "token-1", "token-2")
    assert Numbers.asked == ["api://org/.default"] * 2
    assert (auth.tenant_id, auth.server_date) == (None, None)
