"""Queries as they are sent, answers taken apart byte for byte, links, errors, moments."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataverse_sync import moments
from dataverse_sync.dataverse import odata
from dataverse_sync.dataverse.odata import NotJsonError, is_older_token, parse_page
from dataverse_sync.errors import PageError
from dataverse_sync.model import Column, Entity, Page, PageRequest

API = "https://contoso.api.crm.dynamics.com/api/data/v9.2/"
REQUEST = PageRequest("accounts", f"{API}accounts?$select=name", 3)
PAGE = Page(REQUEST, ())
ID = "5b7c2f1e-0000-4000-8000-c0ffee000001"

SAMPLES = Path(__file__).parents[3] / "shared" / "samples"
needs_samples = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason="a tenant's recorded answers are not published"
)
quickly = settings(max_examples=100, deadline=None)


def records(page: Page) -> list[bytes]:
    return [bytes(record) for record in page.records]


# Queries


def test_url_without_options_is_the_path():
    assert odata.build_url(API, "accounts") == f"{API}accounts"


def test_url_options_are_encoded():
    url = odata.build_url(
        API,
        "accounts",
        select=["accountid", "name"],
        filter="modifiedon gt 2024-05-01T10:00:00Z and name eq 'A & B + C#'",
        orderby="accountid",
        top=1,
        expand="Attributes($select=LogicalName)",
    )

    assert url == (
        f"{API}accounts?$select=accountid,name"
        "&$filter=modifiedon%20gt%202024-05-01T10:00:00Z%20and%20name%20eq%20'A%20%26%20B%20%2B%20C%23'"
        "&$orderby=accountid&$top=1&$expand=Attributes($select=LogicalName)"
    )


def test_top_of_zero_is_sent():
    assert odata.build_url(API, "accounts", top=0) == f"{API}accounts?$top=0"


@quickly
@given(value=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_any_filter_arrives_unchanged(value):
    url = odata.build_url(API, "accounts", filter=value, orderby="accountid")

    assert parse_qs(urlsplit(url).query, strict_parsing=True) == {
        "$filter": [value],
        "$orderby": ["accountid"],
    }


def test_incremental_read_filters_by_bookmark():
    assert odata.changed_since("2024-05-01T10:00:00Z") == "modifiedon gt 2024-05-01T10:00:00Z"


@pytest.mark.parametrize("bookmark", [None, ""])
def test_full_read_has_no_filter(bookmark):
    assert odata.changed_since(bookmark) == ""


def test_ids_are_bare_guids():
    upper = ID.upper()

    assert odata.any_of("accountid", [ID, upper]) == f"accountid eq {ID} or accountid eq {upper}"


@pytest.mark.parametrize(
    "intruder",
    [
        "",
        "null",
        ID[:-1],
        ID + "0",
        ID + "\n",
        f"{{{ID}}}",
        ID.replace("-", ""),
        f"{ID} or 1 eq 1",
        "5b7c2f1e-0000-4000-8000-c0ffee00000g",
        "\uff15b7c2f1e-0000-4000-8000-c0ffee000001",
    ],
)
def test_only_guids_enter_a_filter(intruder):
    assert not odata.is_guid(intruder)
    assert odata.any_of("accountid", [intruder]) == ""
    assert odata.any_of("accountid", [intruder, ID, intruder]) == f"accountid eq {ID}"


def test_ids_come_in_batches_of_fifty():
    ids = [str(number) for number in range(101)]

    batches = [list(batch) for batch in odata.iter_batches(ids)]

    assert [len(batch) for batch in batches] == [50, 50, 1]
    assert [each for batch in batches for each in batch] == ids
    assert list(odata.iter_batches([])) == []


def test_fifty_ids_fit_into_a_url():
    key = "k" * 128

    url = odata.build_url(API, "e" * 128, filter=odata.any_of(key, [ID] * odata.IDS_PER_REQUEST))

    assert len(url) < 32 * 1024


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["accountid", "modifiedon", "createdon"], ("accountid", "createdon", "modifiedon", "")),
        (["accountid", "modifiedon"], ("accountid", "modifiedon", "")),
        (["accountid"], ("accountid", "")),
    ],
)
def test_key_is_the_first_order(columns, expected):
    entity = Entity("accounts", "accountid", tuple(Column(c, "TEXT") for c in columns), "metadata")

    assert odata.orders(entity) == expected


# Pages


def test_page_is_split_into_records():
    body = (
        b'{"@odata.context":"ctx",'
        b'"value":[ {"b" :1.0000,"a": "\\u00e9\xc3\xa9"}\r\n, {} ,\t{"a":[1, 2]}],'
        b'"@odata.nextLink":"https://x/?a=%3Cb","@odata.deltaLink":"https://x/?d","other":[{}]}'
    )

    page = parse_page(REQUEST, body)

    assert records(page) == [
        b'{"b" :1.0000,"a": "\\u00e9\xc3\xa9"}',
        b"{}",
        b'{"a":[1, 2]}',
    ]
    assert (page.next_link, page.delta_link) == ("https://x/?a=%3Cb", "https://x/?d")
    assert (page.context, page.size, page.request) == ("ctx", len(body), REQUEST)


def test_empty_last_page_has_no_links():
    page = parse_page(REQUEST, b'{"value":[]}')

    assert page == Page(REQUEST, (), size=12)
    assert page.next_request is None


def test_page_with_byte_order_mark_is_read():
    assert records(parse_page(REQUEST, b'\xef\xbb\xbf{"value":[{"a":1}]}')) == [b'{"a":1}']


def test_page_with_lone_surrogate_is_split():
    body = (
        b' {"@odata.context":"ctx", "n" : {"value":[0]} ,"value" : [ {"a":"\\ud800"} , '
        b'{"b":"\xc3\xa9"} ] ,"@odata.nextLink":"https://x/2","@odata.deltaLink":"https://x/d"} '
    )

    page = parse_page(REQUEST, body)

    assert records(page) == [b'{"a":"\\ud800"}', b'{"b":"\xc3\xa9"}']
    assert (page.next_link, page.delta_link) == ("https://x/2", "https://x/d")
    assert page.context == "ctx"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"<html>502</html>",
        b'{"value":[{"a":1},{"a":',
        b'{"value":[{"a":1}]',
        b'{"value":[{"a":1}]}]',
        b'{"value":[{"a":"\\ud800"}]',
        b'{"value":["\xff',
        '{"value":[]}'.encode("utf-16"),
    ],
)
def test_cut_body_raises_not_json(body):
    with pytest.raises(NotJsonError):
        parse_page(REQUEST, body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"code":"0x80040216","message":"An error occurred."}}',
        # An error that comes when the answer has begun: what is there of it is no whole page.
        b'{"value":[{"a":1}],"error":{"code":"0x80040216","message":"An error occurred."}}',
    ],
)
@pytest.mark.parametrize("surrogate", [False, True])
def test_error_under_200_is_told(body, surrogate):
    if surrogate:
        body = b'{"x":"\\ud800",' + body[1:]

    with pytest.raises(PageError) as caught:
        odata.parse_page(REQUEST, body)

    assert str(caught.value) == (
        "accounts, page 3: the service answered 200 and an error in it "
        "(0x80040216: An error occurred). "
        "Run again later; it goes on from the last committed page."
    )


def test_null_error_is_none():
    page = odata.parse_page(REQUEST, b'{"value":[{"a":1}],"error":null}')

    assert len(page.records) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"5",
        b"null",
        b'"value"',
        b"{}",
        b'{"error":{}}',
        b'{"value":[{"error":{"code":"0x0"}}],"@odata.nextLink":5}',
        b'{"value":null}',
        b'{"value":{"a":1}}',
        b'{"value":"text"}',
        b'{"value":[],"@odata.nextLink":5}',
        b'{"value":[],"@odata.deltaLink":["x"]}',
        b'{"value":[],"@odata.context":null}',
    ],
)
@pytest.mark.parametrize("surrogate", [False, True])
def test_other_json_is_refused_with_hint(body, surrogate):
    if surrogate and body.startswith(b"{"):
        body = b'{"x":"\\ud800"' + (b"," if len(body) > 2 else b"") + body[1:]

    with pytest.raises(PageError, match="accounts, page 3: the answer has no 'value'") as caught:
        parse_page(REQUEST, body)

    assert "/api/data/v9.2/" in caught.value.hint


@pytest.mark.parametrize("before", [b"", b'"\\ud800",'])
def test_deep_record_is_refused(before):
    body = b'{"value":[' + before + b"[" * 10_000 + b"]" * 10_000 + b"]}"

    with pytest.raises(PageError, match="nested too deep"):
        parse_page(REQUEST, body)


def test_next_request_takes_link_verbatim():
    link = f"{API}accounts?$skiptoken=%3Ccookie%20page=%222%22%20/%3E"

    page = parse_page(REQUEST, json.dumps({"value": [], "@odata.nextLink": link}).encode())

    assert page.next_request == PageRequest("accounts", link, 4)


# Any page at all: JSON with its whitespace, escapes and numbers drawn at random.

PLAIN = ["a", "value", "]}", "[{", ",:", "é", "\u2028", "😀", "\x7f", "'", " "]
ESCAPES = [r"\"", r"\\", r"\/", r"\b", r"\n", r"\u0000", r"\u00e9", r"\uD83D\uDE00"]
LONE = [r"\ud800", r"\uDFFF", r"\udc00\ud800"]
ATOMS = ["null", "true", "false", "0", "-0", "-0.0", "1.0000", "2e5", "1E-7", "9" * 40, "1e999"]


class Writer:
    """Writes random JSON in random spelling."""

    def __init__(self, random: Random, strings: list[str]) -> None:
        self.random = random
        self.strings = strings

    def space(self) -> str:
        return self.random.choice(["", "", " ", "\n", "\t ", "\r\n"])

    def text(self) -> str:
        return f'"{"".join(self.random.choices(self.strings, k=self.random.randrange(4)))}"'

    def join(self, parts: list[str]) -> str:
        spaced = (self.space() + part + self.space() for part in parts)
        return ",".join(spaced) or self.space()

    def member(self, name: str, value: str) -> str:
        return f"{name}{self.space()}:{self.space()}{value}"

    def value(self, depth: int = 3) -> str:
        kind = self.random.randrange(4 if depth else 2)
        if kind == 0:
            return self.random.choice(ATOMS)
        if kind == 1:
            return self.text()
        values = [self.value(depth - 1) for _ in range(self.random.randrange(4))]
        if kind == 2:
            return f"[{self.join(values)}]"
        return "{" + self.join([self.member(self.text(), value) for value in values]) + "}"

    def page(self) -> tuple[bytes, list[bytes]]:
        """A page, and its records."""
        records = [self.value() for _ in range(self.random.randrange(5))]
        members = [
            self.member(name, self.value())
            for name in ('"@a.b"', '"values"', '"Value"', '"n"')
            if self.random.randrange(2)
        ]
        members.append(self.member('"@odata.context"', '"ctx"'))
        name = self.random.choice(['"value"', r'"v\u0061lue"'])
        members.append(self.member(name, f"[{self.join(records)}]"))
        self.random.shuffle(members)
        page = f"{self.space()}{{{self.join(members)}}}{self.space()}"
        return page.encode(), [record.encode() for record in records]


randoms = st.randoms(use_true_random=True)


@quickly
@given(random=randoms)
def test_record_is_its_exact_bytes(random):
    body, expected = Writer(random, PLAIN + ESCAPES).page()

    quick = parse_page(REQUEST, body)
    slow = odata._decode_masked(body)

    assert records(quick) == expected
    assert [bytes(record) for record in slow.value] == expected
    assert quick.context == slow.context == "ctx"


@quickly
@given(random=randoms, mark=st.sampled_from([b"", b"\xef\xbb\xbf"]))
def test_record_bytes_exact_with_lone_surrogates(random, mark):
    body, expected = Writer(random, PLAIN + ESCAPES + LONE).page()

    page = parse_page(REQUEST, mark + body)

    assert records(page) == expected
    joined = b"[" + b",".join(records(page)) + b"]"
    assert json.loads(joined.decode()) == json.loads(body.decode())["value"]


@quickly
@given(random=randoms)
def test_cut_page_is_never_whole(random):
    body = Writer(random, PLAIN + ESCAPES + LONE).page()[0].strip()

    with pytest.raises((NotJsonError, PageError)):
        parse_page(REQUEST, body[: random.randrange(len(body))])


@quickly
@given(
    body=st.binary(max_size=60) | st.binary(max_size=30).map(lambda b: b'{"value":[' + b + b"]}")
)
def test_any_bytes_are_page_or_error(body):
    try:
        page = parse_page(REQUEST, body)
    except (NotJsonError, PageError):
        return
    assert page.size == len(body)


@pytest.mark.parametrize("text", [b"a", b"\\ud800"])
def test_repeated_value_member_is_found(text):
    twice = b'{"a":"' + text + b'","value":[{"a":1}],"value":[{"b":1}]}'

    assert records(parse_page(REQUEST, twice)) == [b'{"b":1}']


@pytest.mark.parametrize("text", [rb"\ud8", rb"\ud8zz", rb"\ud800\ud8", rb"\\\x"])
def test_broken_escape_is_not_json(text):
    with pytest.raises(NotJsonError):
        parse_page(REQUEST, b'{"value":["' + text + b'"]}')


# Links


@pytest.mark.parametrize(
    ("token", "than", "older"),
    [
        ("919001!11/28/2026 17:45:43", "919002!11/28/2026 17:45:43", True),
        ("919002!11/28/2026 17:45:43", "919002!11/28/2026 17:45:43", False),
        ("919010!11/28/2026 17:45:43", "91999!11/28/2026 17:45:43", False),
        ("opaque", "919002!11/28/2026 17:45:43", False),
        ("919001!11/28/2026 17:45:43", "opaque", False),
    ],
)
def test_versions_of_tokens_are_compared(token, than, older):
    links = [f"https://x/things?$deltatoken={quote(text)}" for text in (token, than)]

    assert is_older_token(*links) is older
    assert not is_older_token(None, links[1])


def test_link_to_same_origin_is_followed():
    link = f"{API}accounts?$skiptoken=%3Ccookie%20a=%22%253c%22%20/%3E"

    assert odata.follow(PAGE, link) == link


@pytest.mark.parametrize(
    "link",
    [
        "https://CONTOSO.api.crm.dynamics.com/api/data/v9.2/accounts?x",
        "https://contoso.api.crm.dynamics.com:443/api/data/v9.2/accounts?x",
        "HTTPS://contoso.api.crm.dynamics.com/accounts?x",
    ],
)
def test_same_origin_spelt_otherwise_is_followed(link):
    assert odata.follow(PAGE, link) == link


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("accounts?$skiptoken=2", f"{API}accounts?$skiptoken=2"),
        ("/api/data/v9.2/accounts?$skiptoken=2", f"{API}accounts?$skiptoken=2"),
        ("?$skiptoken=%3C2", f"{API}accounts?$skiptoken=%3C2"),
        ("//contoso.api.crm.dynamics.com/x", "https://contoso.api.crm.dynamics.com/x"),
    ],
)
def test_relative_link_is_completed(link, expected):
    assert odata.follow(PAGE, link) == expected


@pytest.mark.parametrize(
    "link",
    [
        "https://contoso.crm.dynamics.com/api/data/v9.2/accounts",
        "https://evil.example/api/data/v9.2/accounts",
        "//evil.example/accounts",
        "http://contoso.api.crm.dynamics.com/api/data/v9.2/accounts",
        "https://contoso.api.crm.dynamics.com:444/accounts",
        "https://contoso.api.crm.dynamics.com@evil.example/accounts",
        "https://contoso.api.crm.dynamics.com.evil.example/accounts",
        "ftp://contoso.api.crm.dynamics.com/accounts",
        "https://contoso.api.crm.dynamics.com:port/accounts",
        "https://contoso.api.crm.dynamics.com:99999/accounts",
        "https://[contoso/accounts",
        "//[contoso/accounts",
        "https:///accounts",
        "https://ⓒontoso℀.api.crm.dynamics.com/",
    ],
)
def test_link_to_another_origin_is_refused(link):
    with pytest.raises(PageError, match="page 3: the next link leads to another origin") as caught:
        odata.follow(PAGE, link + "?$skiptoken=cookie")

    assert "The token is not sent there" in caught.value.hint
    assert "cookie" not in caught.value.message


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (
            "https://org.crm4.dynamics.com/api/data/v9.2/accounts?$skiptoken=cookie",
            "https://org.crm4.dynamics.com/api/data/v9.2/",
        ),
        (
            "https://ORG.example:444/a/api/data/v9.2/accounts",
            "https://ORG.example:444/a/api/data/v9.2/",
        ),
        (
            "https://org.example/api/data/v9.2/$metadata#accounts",
            "https://org.example/api/data/v9.2/",
        ),
        ("http://localhost:8080/api/data/v9.2/accounts", "http://localhost:8080/api/data/v9.2/"),
        ("https://user:word@org.example/api/accounts", "https://org.example/api/"),
        ("http://org.example/api/data/v9.2/accounts", None),  # the secret is not sent over http
        ("https://contoso.api.crm.dynamics.com:443/api/data/v9.2/contacts", None),
        ("https://org.example:port/api/accounts", None),
        ("https://[contoso/accounts", None),
        ("$metadata#accounts", None),
        ("", None),
    ],
)
def test_other_api_url_found_in_address(address, expected):
    assert odata.find_other_api_url(address, PAGE.request.url) == expected
    hint = odata.suggest_api_url(address, PAGE.request.url)
    assert hint.endswith(f"set DATAVERSE_API_URL to {expected}" if expected else "own links.")


@pytest.mark.parametrize("link", [REQUEST.url, "?$select=name", "accounts?$select=name"])
def test_link_to_the_page_itself_is_refused(link):
    with pytest.raises(PageError, match="the next link repeats the page itself"):
        odata.follow(PAGE, link)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://Contoso.Example/x", ("https", "contoso.example", 443)),
        ("http://127.0.0.1:8080/x", ("http", "127.0.0.1", 8080)),
        ("http://localhost", ("http", "localhost", 80)),
        ("accounts", ("", "", None)),
    ],
)
def test_origin_is_scheme_host_port(url, expected):
    assert odata.origin(url) == expected


# Errors


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            b'{"error":{"code":"0x80040217","message":" gone \\r\\n"}}',
            ("0x80040217", "gone"),
        ),
        (b'\xef\xbb\xbf{"error":{"code":"0x0","message":"m"}}', ("0x0", "m")),
        (b'{"error":{"code":"","message":"m"}}', ("", "m")),
        (b'{"error":{"code":null,"message":null}}', ("", "")),
        (b'{"error":{"code":-2147015902}}', ("-2147015902", "")),
        (b'{"error":{}}', ("", "")),
        (b"", ("", "")),
        (
            b"<html><head><title>502</title></head>\n<body>Bad <b>gateway</b></body></html>",
            ("", "502 Bad gateway"),
        ),
        (b'{"error":"invalid_request"}', ("", '{"error":"invalid_request"}')),
        (b'{"Message":"no"}', ("", '{"Message":"no"}')),
        (b"[1]", ("", "[1]")),
        (b"\xff plain", ("", "\ufffd plain")),
        (b"x" * 3000, ("", "x" * 200)),
        (b"[" * 100_000, ("", "[" * 200)),
    ],
)
def test_error_code_found_in_any_body(body, expected):
    assert odata.parse_error(body) == expected


@quickly
@given(body=st.binary(max_size=80))
def test_any_error_body_gives_two_texts(body):
    code, message = odata.parse_error(body)

    assert isinstance(code, str)
    assert isinstance(message, str)


# Moments


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-01T10:00:00Z", datetime(2024, 5, 1, 10, tzinfo=UTC)),
        ("2024-05-01T10:00:00.1234567Z", datetime(2024, 5, 1, 10, 0, 0, 123456, tzinfo=UTC)),
        ("2024-05-01T12:00:00+02:00", datetime(2024, 5, 1, 10, tzinfo=UTC)),
        ("2024-05-01T10:00:00", datetime(2024, 5, 1, 10, tzinfo=UTC)),
        ("2024-05-01", datetime(2024, 5, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59Z", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("9999-12-31T23:59:59-01:00", None),
        ("0001-01-01T00:00:00+01:00", None),
        ("", None),
        ("yesterday", None),
        ("2024-13-01T10:00:00Z", None),
        (None, None),
        (1714557600, None),
    ],
)
def test_moment_is_aware_utc_or_none(text, expected):
    found = moments.parse_timestamp(text)

    assert found == expected
    assert found is None or found.tzinfo is UTC


# Recorded answers


@needs_samples
@pytest.mark.parametrize(
    ("name", "count", "delta"),
    [
        ("webapi-recorded/contacts-page1-annotated.json", 2, False),
        ("webapi-recorded/contact-metadata-attributes.json", 17, False),
        ("webapi-msdocs/contacts-maxpagesize2-page1.json", 2, False),
        ("webapi-msdocs/contacts-maxpagesize2-page2.json", 2, False),
        ("webapi-msdocs/account-expand-primarycontact-createdby.json", 1, False),
        ("webapi-msdocs/account-formatted-values-money.json", 1, False),
        ("webapi-msdocs/change-tracking-initial.json", 1, True),
        ("webapi-msdocs/change-tracking-delta-with-deletion.json", 2, True),
        ("webapi-msdocs/service-document-head.json", 3, False),
        ("entity-list/powerfx-connector-651-tables.json", 651, False),
    ],
)
def test_recorded_answer_is_split_exactly(name, count, delta):
    body = (SAMPLES / name).read_bytes()

    page = parse_page(REQUEST, body)

    decoded = json.loads(body.decode("utf-8-sig"))
    assert len(page.records) == count
    assert [json.loads(record) for record in records(page)] == decoded["value"]
    assert all(record in body for record in records(page))
    assert page.next_link == decoded.get("@odata.nextLink")
    assert page.delta_link == decoded.get("@odata.deltaLink")
    assert (page.delta_link is not None) == delta
    assert page.context == decoded.get("@odata.context", "")
    slow = odata._decode_masked(body.removeprefix(b"\xef\xbb\xbf"))
    assert [bytes(record) for record in slow.value] == records(page)


@needs_samples
def test_recorded_decimal_keeps_zeros():
    body = (SAMPLES / "webapi-msdocs" / "account-formatted-values-money.json").read_bytes()

    page = parse_page(REQUEST, body)

    assert b'"revenue": 20000.0000,' in records(page)[0]


@needs_samples
def test_recorded_next_link_is_followed():
    body = (SAMPLES / "webapi-msdocs" / "contacts-maxpagesize2-page1.json").read_bytes()
    body = body.replace(b"[Organization URI]", b"https://contoso.api.crm.dynamics.com")

    page = parse_page(REQUEST, body)

    assert page.next_link is not None
    assert odata.follow(page, page.next_link) == page.next_link
    assert "%253ccookie%2520page%253d%25221%2522%253e" in page.next_link


@needs_samples
@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("400-unknown-property-0x0-2022.json", "0x0", "Could not find a property named 'fullname'"),
        ("403-0x80040220-missing-privilege.json", "0x80040220", "Principal user (Id=526"),
        ("404-0x8006088a-unknown-segment.json", "0x8006088a", "Resource not found for the segment"),
        ("400-0x80040265-plugin-all-annotations.txt", "", "Example Error Message"),
        ("token-endpoint-400-AADSTS90011.json", "", "AADSTS90011"),
    ],
)
def test_recorded_error_gives_code_and_message(name, code, said):
    found_code, message = odata.parse_error((SAMPLES / "errors" / name).read_bytes())

    assert found_code == code
    assert said in message


def test_bare_nan_is_not_json() -> None:
    with pytest.raises(odata.NotJsonError, match="malformed"):
        odata.parse_page(PageRequest("accounts", "u"), b'{"value":[{"a":NaN}]}')


def test_long_number_beside_lone_surrogate() -> None:
    body = b'{"value":[{"a":' + b"1" * 6000 + b'},{"b":"\\ud800"}]}'

    page = odata.parse_page(PageRequest("accounts", "u"), body)

    assert [len(bytes(record)) for record in page.records] == [6006, 14]
