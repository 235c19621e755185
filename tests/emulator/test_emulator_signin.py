"""Sign-in: the challenge, both token endpoints, Entra's own errors, tokens that end."""

import pytest
from emulator_caller import ACCOUNTS, Caller, running

from dataverse_sync.emulator import Clock, Emulator


@pytest.fixture
def served():
    with running(ACCOUNTS) as (emulator, caller):
        yield emulator, caller


def test_without_a_token_the_answer_is_a_challenge_that_names_the_tenant(served):
    emulator, caller = served
    del caller.session.headers["Authorization"]

    answer = caller.get("accounts")

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == (
        f"Bearer authorization_uri={emulator.origin}/{emulator.tenant_id}/oauth2/authorize,"
        f" resource_id={emulator.origin}/"
    )
    assert answer.content == b""


@pytest.mark.parametrize("value", ["Bearer nonsense", "Basic abc", "", "Bearer"])
def test_a_token_that_was_never_issued_is_challenged(served, value):
    _, caller = served

    assert caller.get("accounts", Authorization=value).status_code == 401


def test_the_new_endpoint_answers_with_numbers(served):
    _, caller = served

    grant = caller.token().json()

    assert grant["token_type"] == "Bearer"
    assert grant["expires_in"] == 3599
    assert caller.get("accounts", Authorization=f"Bearer {grant['access_token']}").ok


def test_the_old_endpoint_wants_a_resource_and_answers_with_strings(served):
    emulator, caller = served

    grant = caller.token("/oauth2/token", resource=f"{emulator.origin}/").json()

    assert grant["expires_in"] == "3599"
    assert grant["resource"] == f"{emulator.origin}/"
    assert int(grant["expires_on"]) - emulator.clock.now().timestamp() == 3599
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
        ({"path": "/oauth2/token"}, 400, "invalid_resource", 500011),
    ],
)
def test_a_refused_sign_in_reads_as_entra_writes_it(served, form, status, error, code):
    _, caller = served

    answer = caller.token(**form)
    document = answer.json()

    assert answer.status_code == status
    assert document["error"] == error
    assert document["error_codes"] == [code]
    assert document["error_description"].startswith(f"AADSTS{code}: ")
    assert document["timestamp"] == "2025-03-03 08:00:00Z"
    assert {"trace_id", "correlation_id"} <= set(document)


def test_a_sign_in_without_grant_type_says_what_is_missing(served):
    emulator, caller = served

    answer = caller.session.post(
        f"{emulator.origin}/{emulator.tenant_id}/oauth2/v2.0/token", data={}, timeout=10
    )

    assert answer.json()["error_codes"] == [900144]


def test_a_token_ends_by_the_emulators_clock(served):
    emulator, caller = served

    emulator.clock.advance(3598)
    before = caller.get("accounts").status_code
    emulator.clock.advance(2)
    after = caller.get("accounts")

    assert (before, after.status_code) == (200, 401)
    assert "WWW-Authenticate" in after.headers


def test_all_tokens_can_be_ended_at_once(served):
    emulator, caller = served

    emulator.expire_tokens()
    refused = caller.get("accounts").status_code
    caller.sign_in()

    assert refused == 401
    assert caller.get("accounts").ok


def test_the_secret_and_ids_may_be_chosen():
    emulator = Emulator([ACCOUNTS], client_id="app", client_secret="s3cret", tenant_id="contoso",
                        token_life_s=600, clock=Clock())  # fmt: skip
    with emulator:
        caller = Caller(emulator)
        with caller.session:
            assert caller.token().json()["expires_in"] == 600
            assert emulator.env_lines()[2] == "DATAVERSE_CLIENT_SECRET=s3cret"


def test_sign_in_libraries_find_the_endpoints(served):
    emulator, caller = served
    base = f"{emulator.origin}/{emulator.tenant_id}"

    instance = caller.get(f"{emulator.origin}/common/discovery/instance").json()
    configuration = caller.get(instance["tenant_discovery_endpoint"]).json()

    assert configuration["token_endpoint"] == f"{base}/oauth2/v2.0/token"
    assert caller.get(f"{base}/elsewhere").status_code == 404
    assert caller.session.post(f"{base}/elsewhere", timeout=10).status_code == 404
