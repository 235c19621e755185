"""Secrets in text: masked whole, in parts, and as a server may echo them."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from urllib.parse import quote, quote_plus, unquote

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dataverse_sync.redaction import MASK, Redactor, find_login

SECRET = "Zq3~8Q.ab+cD/eF-gh_IjKl=mN"
PIECE = 8


@pytest.fixture
def redactor() -> Redactor:
    made = Redactor()
    made.add(SECRET)
    return made


def pieces(secret: str) -> list[str]:
    return [secret[at : at + PIECE] for at in range(len(secret) - PIECE + 1)]


def test_secret_is_masked_once(redactor):
    said = redactor.redact(f"client_secret={SECRET}&grant_type=client_credentials")

    assert said == f"client_secret={MASK}&grant_type=client_credentials"


def test_text_without_secret_is_unchanged(redactor):
    said = "accounts, page 3: the service answered 503 äöü 😀\n"

    assert redactor.redact(said) == said


@pytest.mark.parametrize("length", [PIECE, 12, len(SECRET) - 1])
def test_part_of_secret_is_masked(redactor, length):
    for at in range(len(SECRET) - length + 1):
        assert redactor.redact(f"<{SECRET[at : at + length]}>") == f"<{MASK}>"


def test_pieces_of_secret_are_masked(redactor):
    said = redactor.redact(f"{SECRET[:10]} ... {SECRET[10:18]}\n{SECRET[18:]}")

    assert said == f"{MASK} ... {MASK}\n{MASK}"


def test_short_piece_is_left(redactor):
    assert redactor.redact(f"<{SECRET[:7]}>") == f"<{SECRET[:7]}>"


@pytest.mark.parametrize(
    "form",
    [
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        quote(SECRET, safe="").replace("~", "%7E"),
        quote(SECRET, safe="").replace("%2B", "%2b").replace("%2F", "%2f").replace("%3D", "%3d"),
        "Zq3%7e8Q.ab%2bcD%2feF-gh_IjKl%3dmN",  # as .NET writes it
    ],
)
def test_percent_encoded_secret_is_masked(redactor, form):
    assert redactor.redact(f"body: secret={form}&x=1") == f"body: secret={MASK}&x=1"


def test_form_encoded_secret_is_masked():
    redactor = Redactor()
    redactor.add("one two three four")

    assert redactor.redact("s=one+two+three+four&") == f"s={MASK}&"


def test_secret_inside_json_is_masked():
    redactor = Redactor()
    secret = 'a"b\\c"d\\e"f\\g"h'
    redactor.add(secret)

    assert redactor.redact(json.dumps({"x": secret})) == json.dumps({"x": MASK})


def test_short_secret_is_masked_everywhere():
    redactor = Redactor()
    redactor.add("k3y")
    redactor.add("p/w")

    assert redactor.redact("k3y, xk3yx, p/w, p%2Fw, p%2fw") == (
        f"{MASK}, x{MASK}x, {MASK}, {MASK}, {MASK}"
    )


def test_empty_secret_masks_nothing():
    redactor = Redactor()
    redactor.add("")

    assert redactor.redact("nothing to hide") == "nothing to hide"


def test_several_secrets_are_masked(redactor):
    redactor.add("another-secret-0815")

    assert redactor.redact(f"{SECRET} another-secret-0815") == f"{MASK} {MASK}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.DEF-123_~+/==", f"Authorization: Bearer {MASK}"),
        ("authorization:  dG9rZW4tdG9rZW4=", f"authorization: {MASK}"),
        ("{'Authorization': 'bearer 0123456789'}", f"{{'Authorization': 'bearer {MASK}'}}"),
        ("the bearer of news", "the bearer of news"),
        ("bearer short", "bearer short"),
    ],
)
def test_unknown_bearer_token_is_masked(text, expected):
    assert Redactor().redact(text) == expected


@pytest.mark.parametrize(
    "token",
    [
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJodHRwczovL2NvbnRvc28ifQ.c2ln-bmF0_dXJl",
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJhdWQi",
        "eyJ0eXAiOiJKV1Qi",
    ],
)
def test_json_web_token_is_masked(token):
    assert Redactor().redact(f'{{"access_token":"{token}"}}') == f'{{"access_token":"{MASK}"}}'


def test_secrets_added_while_redacting(redactor):
    def add() -> None:
        for number in range(200):
            redactor.add(f"secret-number-{number:06}")

    adder = threading.Thread(target=add)
    adder.start()
    said = {redactor.redact(SECRET) for _ in range(200)}
    adder.join()

    assert said == {MASK}
    assert redactor.redact("secret-number-000199") == MASK


_SECRETS = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=PIECE, max_size=48
)


@settings(max_examples=100, deadline=None)
@given(secret=_SECRETS, around=st.text(max_size=20), data=st.data())
def test_no_piece_of_secret_survives(secret, around, data):
    assume(not any(piece in around or piece in MASK * 3 for piece in pieces(secret)))
    form = data.draw(
        st.sampled_from([secret, quote(secret, safe=""), json.dumps(secret)[1:-1], secret * 2])
    )
    start = data.draw(st.integers(0, len(form)))
    end = data.draw(st.integers(start, len(form)))
    redactor = Redactor()
    redactor.add(secret)

    said = redactor.redact(f"{around}{form[start:end]}{around}{form}{around}")

    left = said.replace(MASK, "\0")
    assert not [piece for piece in pieces(secret) if piece in left]
    assert not [piece for piece in pieces(quote(secret, safe="")) if piece in left]


@pytest.mark.parametrize("before", ["", "u:", "client-id:", "abc:"])
def test_secret_in_base64_is_masked(before: str) -> None:
    redactor = Redactor()
    redactor.add("s3cr3t-of-the-app-registration~Q")
    text = b64encode(f"{before}s3cr3t-of-the-app-registration~Q".encode()).decode()

    left = redactor.redact(f"echo: {text}")

    assert not any(text[at : at + 8] in left for at in range(len(before) + 4, len(text) - 11))


# Proxies


@pytest.mark.parametrize(
    ("address", "login"),
    [
        ("http://user:secret-word@proxy.example:3128", "user:secret-word"),
        ("http://user:pa@ss:word@proxy.example:3128", "user:pa@ss:word"),
        ("user:secret-word@proxy.example", "user:secret-word"),
        ("//user:secret-word@proxy.example", "user:secret-word"),
        ("http:/user:secret-word@proxy.example", "user:secret-word"),
        ("socks5h://user:secret-word@proxy.example:port", "user:secret-word"),
        ("http://user:pass/word#and?more@proxy.example", "user:pass/word#and?more"),
        ("http://us%40er:p%40ss%2Fword@proxy.example:3128", "us%40er:p%40ss%2Fword"),
        ("http://DOMAIN\\user:secret-word@proxy.example", "DOMAIN\\user:secret-word"),
        ("http://user:secret-word", "user:secret-word"),
        ("http://:secret-word@[::1]:3128", ":secret-word"),
        ("http://user:%zz%@", "user:%zz%"),
        ("http://user:x@proxy.example", "user:x"),
        ("http://user@proxy.example:3128", None),
        ("http://proxy.example:3128/", None),
        ("proxy.example:3128", None),
        ("[::1]:3128", None),
        ("", None),
    ],
)
def test_password_of_proxy_masked(address: str, login: str | None) -> None:
    redactor = Redactor()
    redactor.add_proxies([address])
    ordinary = "accounts, page 1: the service answered 503 (proxy.example:3128), tried x times"

    assert find_login(address) == login
    assert redactor.redact(ordinary) == ordinary
    if login is None:
        assert redactor.redact(address) == address
        return
    password = login.partition(":")[2]
    sent = b64encode(unquote(login).encode()).decode()
    for text in (address, unquote(address), f"Basic {sent}", f"Failed to parse: '{login}'"):
        shown = redactor.redact(text)
        assert MASK in shown
        assert f":{password}" not in shown
        assert f":{unquote(password)}" not in shown
        assert sent not in shown
    if len(password) > 3:
        assert password not in redactor.redact(f"host='user', port={password}")


def test_first_part_of_cut_password_masked() -> None:
    redactor = Redactor()
    redactor.add_proxies(["http://user:1234/56#789@proxy.example", "http://me:p#word@host"])

    assert redactor.redact("host='user', port=1234") == f"host='user', port={MASK}"
    assert redactor.redact("'me:p' is not a valid host or port").startswith(f"'{MASK}'")
