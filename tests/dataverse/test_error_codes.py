"""A refused access is explained by the service's code, or by its words."""

from __future__ import annotations

import pytest

from dataverse_sync.dataverse.error_codes import (
    HINTS,
    drop_repeated_hint,
    find_access_hint,
    is_state,
    normalize_code,
)

HINT_WORDS = {
    "0x80040220": "role with this privilege",
    "0x80072560": "make the application user in the Power Platform admin center",
    "0x80042f09": "give it any role",
    "0x80095ffc": "ask its administrator",
    "0x80095ffe": "ask its administrator",
    "0x80040225": "disabled: enable it",
    "0x8004A113": "administration mode",
    "0x8004A104": "environment is disabled",
}


def spellings(code: str) -> list[str]:
    number = int(code, 16)
    return [code, code.lower(), code.upper(), f" {code} ", str(number - 2**32)]


@pytest.mark.parametrize("code", HINT_WORDS)
@pytest.mark.parametrize("status", [401, 403, 404, 503])
def test_hint_goes_by_code_in_any_spelling(code: str, status: int) -> None:
    for spelling in spellings(code):
        assert HINT_WORDS[code] in find_access_hint(status, spelling, "whatever it says")


@pytest.mark.parametrize(
    ("status", "code", "message", "words"),
    [
        (403, "", "Principal user is missing prvReadAccount privilege", "with this privilege"),
        (403, "0x0", "SecLib::CheckPrivilege failed.", "with this privilege"),
        (403, "", "No.", "Ask the administrator"),
        (403, "0x12345678", "", "Ask the administrator"),
        (403, "", "Access from IP address 203.0.113.9 is not allowed", "IP firewall"),
        (403, "0x80095ffe", "this IP address is not in the list", "IP firewall"),
        (403, "0x80095ffc", "restricted for this application Id", "access control"),
        (403, "0x80040220", "is missing prvReadIPAddress", "with this privilege"),
        (400, "0x0", "Could not find a property named 'privilege'", ""),
        (400, "", "the column IP address is unknown", ""),
        (404, "0x8006088a", "Resource not found", ""),
        (503, "", "busy", ""),
    ],
)
def test_hint_goes_by_words_without_code(status: int, code: str, message: str, words: str) -> None:
    hint = find_access_hint(status, code, message)

    assert words in hint
    assert bool(words) == bool(hint)


@pytest.mark.parametrize("code", HINT_WORDS)
def test_only_states_of_environment_are_waited_out(code: str) -> None:
    assert {is_state(spelling) for spelling in spellings(code)} == {code.startswith("0x8004A1")}


@pytest.mark.parametrize("code", ["", "-", "0x", "-99999999999999", "0.5", "throttled", "١٢"])
def test_strange_code_stays(code: str) -> None:
    assert normalize_code(code) == code
    assert not is_state(code)


def test_repeated_hint_dropped_others_stay() -> None:
    said: set[str] = set()
    texts = [f"{name}: refused. {hint}" for hint in HINTS for name in ("accounts", "contacts")]
    texts.append("contacts: no answer. Check the network.")

    shown = [drop_repeated_hint(text, said) for text in texts]

    assert shown[::2] == texts[::2]
    assert shown[1:-1:2] == ["contacts: refused."] * len(HINTS)
    assert said == set(HINTS)
