"""Sign-in: the challenge, the token endpoint, Entra's own errors, tokens that end."""

import pytest
from emulator_caller import ACCOUNTS, running

from dataverse_sync.emulator.http.signin import TENANT_ID


@pytest.fixture
def served():
    with running(ACCOUNTS) as (emulator, caller):
        yield emulator, caller


def test_challenge_names_the_tenant(served):
    emulator, caller = served
    del caller.session.headers["Authorization"]

    answer = caller.get("accounts")

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == (
        f"Bearer authorization_uri={emulator.origin}/{TENANT_ID}/oauth2/authorize,"
        f" resource_id={emulator.origin}/"
    )
    assert answer.content == b""


@pytest.mark.parametrize("value", ["Bearer nonsense", "Basic abc", "", "Bearer"])
def test_unknown_token_challenged(served, value):
    _, caller = served

    assert caller.get("accounts", Authorization=value).status_code == 401


def test_token_endpoint_answers_with_numbers(served):
    _, caller = served

    grant = caller.token().json()

    assert grant["token_type"] == "Bearer"
    assert grant["expires_in"] == 3599
    assert caller.get("accounts", Authorization=f"Bearer {grant['access_token']}").ok


@pytest.mark.parametrize(
    ("form", "status", "error", "code"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client", 7000215),
        ({"client_id": "someone-else"}, 400, "unauthorized_client", 700016),
        ({"tenant": "elsewhere"}, 400, "invalid_request", 90002),
        ({"grant_type": "password"}, 400, "unsupported_grant_type", 70003),
        ({"scope": "https://other.crm.dynamics.com/.default"}, 400, "invalid_resource", 500011),
        ({"scope": "https://org/user_impersonation"}, 400, "invalid_scope", 1002012),
    ],
)
def test_refused_sign_in_worded_as_entra(served, form, status, error, code):
    _, caller = served

    answer = caller.token(**form)
    document = answer.json()

    assert answer.status_code == status
    assert document["error"] == error
    assert document["error_codes"] == [code]
    assert document["error_description"].startswith(f"AADSTS{code}: ")
    assert document["timestamp"] == "2025-03-03 08:00:00Z"
    assert {"trace_id", "correlation_id"} <= set(document)


def test_missing_grant_type_named(served):
    emulator, caller = served

    answer = caller.session.post(
        f"{emulator.origin}/{TENANT_ID}/oauth2/v2.0/token", data={}, timeout=10
    )

    assert answer.json()["error_codes"] == [900144]


def test_token_ends_by_emulator_clock(served):
    emulator, caller = served

    emulator.clock.advance(3598)
    before = caller.get("accounts").status_code
    emulator.clock.advance(2)
    after = caller.get("accounts")

    assert (before, after.status_code) == (200, 401)
    assert "WWW-Authenticate" in after.headers


def test_expire_tokens_ends_all(served):
    emulator, caller = served

    emulator.control.expire_tokens()
    refused = caller.get("accounts").status_code
    caller.sign_in()

    assert refused == 401
    assert caller.get("accounts").ok


def test_other_sign_in_paths_are_404(served):
    emulator, caller = served
    base = f"{emulator.origin}/{TENANT_ID}"

    assert caller.get(f"{base}/elsewhere").status_code == 404
    assert caller.session.post(f"{base}/elsewhere", timeout=10).status_code == 404
