"""Signing in: where the secret may go, how long a token serves, and what nobody gets to read."""

from __future__ import annotations

import json
import logging
import ssl
import threading
from collections.abc import Callable, Iterator
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
    NETWORK_VARIABLES,
    RESET,
    TENANT,
    Asked,
    FakeTime,
    LoopbackServer,
    Reply,
    http,
    json_reply,
    run_threads,
)
from urllib3.exceptions import MaxRetryError, ProtocolError

from dataverse_sync.config import Config
from dataverse_sync.dataverse.auth import (
    SIGN_IN_HOSTS,
    Auth,
    SignIn,
    Token,
    describe,
    is_allowed_host,
    parse_challenge,
    parse_token,
)
from dataverse_sync.dataverse.throttle import StoppedError, Throttle
from dataverse_sync.dataverse.transport import Transport
from dataverse_sync.errors import AuthError, SyncError, UnreachableError
from dataverse_sync.redaction import MASK, Redactor

CLIENT_ID = "b2a7e4f0-58d3-4f19-8c6e-07d1a93b5e64"
SECRET = "kQ8~vT2xZr.Lw0sNd-Yp5HgJc9Mb3_FuXe7A"
CHALLENGE = SignIn("https://login.microsoftonline.com", TENANT)
ORG = "https://org.crm.dynamics.com/"
AUTHORIZE = f"https://login.microsoftonline.com/{TENANT}/oauth2/authorize"


@pytest.fixture(autouse=True)
def _plain_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NETWORK_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake() -> FakeTime:
    return FakeTime()


class Service:
    """The Web API and its sign-in host on one loopback origin; both can be changed."""

    def __init__(self) -> None:
        self.server = LoopbackServer(self._answer)
        self.challenge: Callable[[], Reply] = lambda: http(
            401, b"", ("WWW-Authenticate", self.bearer())
        )
        self.token: Callable[[Asked], Reply] = lambda _: self.new_token()
        self.tokens = 0

    def _answer(self, asked: Asked) -> Reply:
        return self.challenge() if asked.method == "GET" else self.token(asked)

    def bearer(self, origin: str = "") -> str:
        return (
            f"Bearer authorization_uri={origin or self.server.origin}/{TENANT}/oauth2/authorize, "
            f"resource_id={self.server.origin}/"
        )

    def new_token(self, expires_in: object = 3599) -> Reply:
        self.tokens += 1
        return json_reply(
            {
                "token_type": "Bearer",
                "expires_in": expires_in,
                "access_token": f"opaque-token-number-{self.tokens}",
            }
        )

    @property
    def api_url(self) -> str:
        return f"{self.server.origin}/api/data/v9.2/"


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    with made.server:
        yield made


@pytest.fixture
def make_auth(fake: FakeTime) -> Iterator[Callable[..., Auth]]:
    transports: list[Transport] = []

    def make(api_url: str, workers: int = 50, **settings: Any) -> Auth:
        transports.append(Transport(Throttle(workers, fake.clock, fake.wait), 5, 5))
        config = Config(api_url, CLIENT_ID, SECRET, **settings)
        return Auth(config, transports[-1], Redactor(), fake.clock)

    yield make
    for transport in transports:
        transport.close()


@pytest.fixture
def auth(make_auth: Callable[..., Auth], service: Service) -> Auth:
    return make_auth(service.api_url)


def posts(service: Service) -> list[Asked]:
    return [asked for asked in service.server.asked if asked.method == "POST"]


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
def test_a_challenge_is_understood_in_every_form(headers: list[str]) -> None:
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
def test_a_challenge_that_names_no_sign_in_host_is_none(headers: list[str]) -> None:
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
def test_any_challenge_is_a_host_and_a_tenant_or_nothing(headers: list[str]) -> None:
    sign_in = parse_challenge(headers)

    assert sign_in is None or (
        "://" in sign_in.host and "/" not in sign_in.tenant_id and sign_in.tenant_id
    )


def test_a_long_challenge_takes_no_time() -> None:
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
def test_the_secret_may_go_to_the_sign_in_hosts_of_microsoft(host: str, allowed: bool) -> None:
    assert is_allowed_host(host, "https://org.api.crm.dynamics.com/api/data/v9.2/") is allowed


def test_loopback_may_have_the_secret_where_the_api_is_on_loopback() -> None:
    api_url = "http://127.0.0.1:8080/api/data/v9.2/"

    assert is_allowed_host("http://127.0.0.1:9090", api_url)
    assert is_allowed_host("http://localhost:9090", api_url)
    assert not is_allowed_host("http://10.0.0.5:9090", api_url)


# Signing in


def test_the_sign_in_follows_the_challenge(auth: Auth, service: Service) -> None:
    token = auth.get_token()

    discovery, request = service.server.asked
    assert token == "opaque-token-number-1"
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


def test_the_tenant_of_the_configuration_wins_and_the_host_is_the_challenges(
    make_auth: Any, service: Service
) -> None:
    auth = make_auth(service.api_url, tenant_id="contoso.example", scope="api://org/.default")

    auth.get_token()

    assert posts(service)[0].target == "/contoso.example/oauth2/v2.0/token"
    assert parse_qs(posts(service)[0].body.decode())["scope"] == ["api://org/.default"]
    assert auth.tenant_id == "contoso.example"


def test_the_bearer_challenge_is_found_among_several_headers(auth: Auth, service: Service) -> None:
    service.challenge = lambda: http(
        401,
        b"<html>401</html>",
        ("WWW-Authenticate", "Negotiate"),
        ("WWW-Authenticate", "NTLM"),
        ("WWW-Authenticate", service.bearer()),
    )

    assert auth.get_token() == "opaque-token-number-1"


def test_a_challenge_that_names_another_host_gets_nothing(
    auth: Auth, service: Service, fake: FakeTime
) -> None:
    service.challenge = lambda: http(
        401, b"", ("WWW-Authenticate", service.bearer("https://login.evil.example"))
    )

    with pytest.raises(AuthError, match=r"https://login\.evil\.example, which is no sign-in host"):
        auth.get_token()

    assert posts(service) == []
    assert fake.waits == []


@pytest.mark.parametrize("status", [200, 302, 401, 404])
def test_an_answer_without_a_challenge_says_what_to_check(
    auth: Auth, service: Service, status: int
) -> None:
    service.challenge = lambda: http(status, b"<html>Welcome</html>", date=None)

    with pytest.raises(AuthError, match=rf"answered {status} and did not say where") as caught:
        auth.get_token()

    assert "DATAVERSE_API_URL" in caught.value.hint
    assert auth.server_date is None
    assert auth.tenant_id is None


def test_a_date_that_is_none_is_left_out(auth: Auth, service: Service) -> None:
    service.challenge = lambda: http(
        401, b"", ("WWW-Authenticate", service.bearer()), date="the day before yesterday"
    )

    auth.get_token()

    assert auth.server_date is None


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_of(authority: trustme.CA, host: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return context


@pytest.mark.parametrize("named", ["login.microsoftonline.com", "login.evil.example"])
def test_over_tls_the_secret_reaches_microsoft_and_nobody_else(
    make_auth: Any,
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
        auth = make_auth(f"https://{api}/api/data/v9.2/")
        try:
            auth.get_token()
        except AuthError as error:
            assert named == "login.evil.example"
            assert "the secret was not sent" in error.message

    hosts = [asked.headers["host"] for asked in proxy.asked if SECRET.encode() in asked.body]
    assert hosts == (["login.microsoftonline.com"] if named.endswith(".com") else [])


def test_an_expired_certificate_is_told_as_such_and_nothing_is_sent(
    make_auth: Any,
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
        auth = make_auth(f"{server.origin}/api/data/v9.2/")
        with pytest.raises(UnreachableError, match="certificate has expired"):
            auth.get_token()

    assert server.asked == []
    assert fake.waits == []


# Tokens


@pytest.mark.parametrize("expires_in", [3599, "3599", 3599.0])
def test_the_life_of_a_token_is_a_number_or_text(expires_in: object) -> None:
    body = json.dumps({"access_token": "opaque-token", "expires_in": expires_in}).encode()

    assert parse_token(body, 100.0) == Token("opaque-token", 100.0, 3699.0)


def test_a_token_that_does_not_say_how_long_lives_for_an_hour() -> None:
    assert parse_token(b'{"access_token": "opaque-token"}', 0.0).expires_at == 3599.0


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
def test_an_answer_without_a_usable_token_is_an_error(body: bytes) -> None:
    with pytest.raises(ValueError, match="access_token"):
        parse_token(body, 0.0)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["access_token", "expires_in"]),
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    )
)
def test_any_answer_is_a_token_that_lives_or_an_error(answer: dict[str, object]) -> None:
    try:
        token = parse_token(json.dumps(answer).encode(), 50.0)
    except ValueError:
        return

    assert token.value
    assert token.expires_at > 50.0


@pytest.mark.parametrize(
    ("life_s", "renewed_at_s"),
    [(5400, 3000), (3599, 3000), (3200, 2900), (1000, 700), (600, 300), (400, 200), (60, 30)],
)
def test_a_token_is_renewed_by_age_or_before_its_end(
    auth: Auth, service: Service, fake: FakeTime, life_s: int, renewed_at_s: int
) -> None:
    service.token = lambda _: service.new_token(life_s)
    auth.get_token()

    fake.now += renewed_at_s - 1
    before = auth.get_token()
    fake.now += 1
    after = auth.get_token()

    assert (before, after) == ("opaque-token-number-1", "opaque-token-number-2")
    assert len(service.server.targets("GET")) == 1  # the challenge is asked for once


def test_fifty_threads_with_an_expired_token_cost_one_token_request(
    auth: Auth, service: Service, fake: FakeTime
) -> None:
    auth.get_token()
    fake.now += 3600

    tokens = run_threads(50, lambda _: auth.get_token())

    assert tokens == ["opaque-token-number-2"] * 50
    assert len(posts(service)) == 2


def test_fifty_threads_with_a_refused_token_cost_one_token_request(
    auth: Auth, service: Service
) -> None:
    refused = auth.get_token()

    tokens = run_threads(50, lambda _: auth.renew(refused))

    assert tokens == ["opaque-token-number-2"] * 50
    assert len(posts(service)) == 2


def test_a_throttled_sign_in_does_not_wait_for_places_that_wait_for_it(
    make_auth: Any, service: Service, fake: FakeTime
) -> None:
    auth = make_auth(service.api_url, workers=4)
    throttle = auth._transport.throttle
    auth.get_token()
    fake.now += 3600
    replies = [http(429, b"", ("Retry-After", "7"))] * 2
    service.token = lambda _: replies.pop() if replies else service.new_token()

    def work(_: int) -> str:
        throttle.enter()
        try:
            return auth.get_token()
        finally:
            throttle.leave(answered=True)

    tokens = run_threads(4, work)

    assert tokens == ["opaque-token-number-2"] * 4
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
def test_a_refusal_names_its_code_and_the_way_out(
    auth: Auth, service: Service, fake: FakeTime, code: str, hint: str
) -> None:
    service.token = lambda _: json_reply(
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
def test_a_refusal_may_have_any_body(
    auth: Auth, service: Service, body: bytes, reason: str
) -> None:
    service.token = lambda _: http(400, body)

    with pytest.raises(AuthError, match=rf"refused \(400\): {reason}"):
        auth.get_token()


def test_an_answer_without_a_token_is_an_error_of_the_sign_in(auth: Auth, service: Service) -> None:
    service.token = lambda _: http(200, b"<html>Sign in to the hotel network</html>")

    with pytest.raises(AuthError, match="answered, but there is no access_token in the answer"):
        auth.get_token()


def test_a_broken_answer_of_the_sign_in_host_is_asked_for_again(
    auth: Auth, service: Service, fake: FakeTime
) -> None:
    replies = [CLOSE, http(503), http(200, b'{"access', length=99), RESET]
    service.token = lambda _: replies.pop(0) if replies else service.new_token()

    assert auth.get_token() == "opaque-token-number-1"
    assert fake.waits == [1, 2, 4, 8]


@pytest.mark.parametrize("fault", [CLOSE, http(200, b'{"access', length=99)])
def test_a_sign_in_host_that_cannot_be_reached_ends_the_sign_in(
    auth: Auth, service: Service, fake: FakeTime, fault: Reply
) -> None:
    service.token = lambda _: fault

    with pytest.raises(AuthError, match=r"Sign-in: http://127.*cannot be reached") as caught:
        auth.get_token()

    assert "HTTPS_PROXY" in caught.value.hint
    assert fake.waits == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("fault", [CLOSE, http(401, b"half", length=99)])
def test_an_api_that_cannot_be_reached_is_another_error(
    auth: Auth, service: Service, fake: FakeTime, fault: Reply
) -> None:
    service.challenge = lambda: fault

    with pytest.raises(UnreachableError, match=r"127.*cannot be reached"):
        auth.get_token()

    assert fake.waits == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_api_that_answers_only_with_faults_is_unreachable(
    auth: Auth, service: Service, status: int
) -> None:
    service.challenge = lambda: http(status, b"busy")

    with pytest.raises(UnreachableError, match=f"answered {status}, after every retry"):
        auth.get_token()


def test_threads_behind_a_failed_sign_in_fail_with_it(
    auth: Auth, service: Service, fake: FakeTime
) -> None:
    refused = auth.get_token()
    service.token = lambda _: CLOSE

    results = run_threads(20, lambda _: auth.renew(refused))

    assert [type(result) for result in results] == [AuthError] * 20
    assert len(posts(service)) == 1 + 6
    assert fake.waits == [1, 2, 4, 8, 16]


def test_a_stop_reaches_a_sign_in_between_its_retries(auth: Auth, service: Service) -> None:
    stop = auth._transport.throttle.stop

    def refuse(_: Asked) -> Reply:
        stop()
        return CLOSE

    service.token = refuse

    with pytest.raises(StoppedError):
        auth.get_token()
    assert len(posts(service)) == 1


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
def test_an_echoed_secret_stays_secret(
    auth: Auth, service: Service, caplog: pytest.LogCaptureFixture, echo: str
) -> None:
    caplog.set_level(logging.DEBUG)
    service.token = lambda _: json_reply({"error": echo, "error_description": echo}, status=400)

    with pytest.raises(AuthError) as caught:
        auth.get_token()

    told = f"{caught.value} {caught.value!r} {caught.value.__dict__} {caplog.text}"
    assert MASK[:2] in told
    assert leaks(told, SECRET) == []


def test_the_beginning_of_a_secret_at_the_end_of_a_long_message_stays_secret(
    auth: Auth, service: Service
) -> None:
    echo = "x" * 495 + SECRET
    service.token = lambda _: json_reply({"error_description": echo}, status=400)

    with pytest.raises(AuthError) as caught:
        auth.get_token()

    assert caught.value.message.endswith("x[secr")


def test_a_whole_sign_in_logs_no_secret_and_no_token(
    auth: Auth, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)  # urllib3's own lines too
    replies = [CLOSE, http(503)]
    service.token = lambda _: replies.pop() if replies else service.new_token()

    token = auth.get_token()

    config = auth._config
    assert "POST /" in caplog.text
    assert leaks(caplog.text + repr(auth) + repr(config) + repr(auth._token), SECRET, token) == []


def test_the_redactor_learns_the_secret_and_every_token(auth: Auth, service: Service) -> None:
    first = auth.get_token()
    second = auth.renew(first)

    redacted = auth._redactor.redact(f"{SECRET} {first} {second}")

    assert leaks(redacted, SECRET, first[-8:], second[-8:]) == []


# Words for errors


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
def test_a_network_error_is_told_by_its_heart(error: Exception, text: str) -> None:
    assert describe(error) == text


def test_get_token_can_be_called_while_another_thread_signs_in(
    auth: Auth, service: Service
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(_: Asked) -> Reply:
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
    assert results == ["opaque-token-number-1"] * 3
