"""The emulator reads as Dataverse does: records, columns, pages, counts, refusals."""

import datetime as dt
import json
import uuid
from decimal import Decimal

import pytest
from emulator_caller import ACCOUNTS, CONTACTS, LINKS, MORNING, Caller, running

from dataverse_sync.emulator import Clock, Column, Emulator, Table

CONTACT = "11111111-0000-4000-8000-000000000001"
OWNER = "22222222-0000-4000-8000-000000000002"
EVERYTHING = {
    "accountid": "AAAAAAAA-0000-4000-8000-00000000000A",
    "name": 'Litware "Zürich" \\ 製薬',
    "description": "two\r\nlines\tand a \u0000",
    "allowemail": True,
    "industrycode": 2,
    "statecode": 0,
    "numberofemployees": 12_345,
    "externalid": 9_007_199_254_740_993,
    "revenue": Decimal("20000.0000"),
    "exchangerate": "1.0000000000",
    "score": 0.1,
    "founded": dt.date(1999, 12, 31),
    "lastcall": dt.datetime(2025, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
    "markets": [1, 3],
    "primarycontactid": CONTACT,
    "_parentcustomerid_value": CONTACT,
    "_ownerid_value": uuid.UUID(OWNER),
    "contract": "33333333-0000-4000-8000-000000000003",
    "contract_name": "contract.pdf",
}


@pytest.fixture
def served():
    with running() as (emulator, caller):
        yield emulator, caller


def test_record_written_as_service_does(served):
    emulator, caller = served
    id_ = emulator.insert("accounts", EVERYTHING)

    text = caller.get("accounts").content
    record = json.loads(text, parse_float=Decimal)["value"][0]

    assert id_ == "aaaaaaaa-0000-4000-8000-00000000000a"
    assert emulator.record_bytes("accounts", id_) in text
    assert text.startswith(
        b'{"@odata.context":"' + emulator.api_url.encode() + b'$metadata#accounts","value":['
        b'{"@odata.etag":"W/\\"'
    )
    assert record["@odata.etag"] == f'W/"{record["versionnumber"]}"'
    assert record["name"] == EVERYTHING["name"]
    assert record["description"] == EVERYTHING["description"]
    assert record["_primarycontactid_value"] == CONTACT
    assert record["_ownerid_value"] == OWNER
    assert record["markets"] == "1,3"
    assert record["founded"] == "1999-12-31"
    assert record["lastcall"] == "2025-01-02T03:04:05Z"
    assert record["createdon"] == record["modifiedon"] == "2025-03-03T08:00:00Z"
    assert record["contract_name"] == "contract.pdf"
    assert b'"revenue":20000.0000,' in text
    assert b'"exchangerate":1.0000000000,' in text
    assert b'"externalid":9007199254740993,' in text
    assert '"name":"Litware \\"Zürich\\"'.encode() in text
    assert "participants" not in record


def test_nulls_come_after_filled_members(served):
    emulator, caller = served
    emulator.insert("accounts", {"name": "Adatum", "statuscode": 1})

    record = caller.value("accounts")[0]
    filled = [name for name, value in record.items() if value is not None]

    assert list(record)[: len(filled)] == filled
    assert set(record) - set(filled) >= {"description", "revenue", "_primarycontactid_value"}


def test_select_adds_key_and_currency(served):
    emulator, caller = served
    emulator.insert("accounts", {"name": "Adatum", "revenue": 5})

    page = caller.get("accounts?$select=revenue,name").json()

    assert page["@odata.context"].endswith("$metadata#accounts(revenue,name)")
    assert list(page["value"][0]) == [
        "@odata.etag", "revenue", "_transactioncurrencyid_value", "name", "accountid",
    ]  # fmt: skip


def test_money_without_currency_comes_alone(served):
    emulator, caller = served
    emulator.insert("contacts", {"annualincome": "1.50"})

    record = caller.value("contacts?$select=annualincome")[0]

    assert list(record) == ["@odata.etag", "annualincome", "contactid"]


@pytest.mark.parametrize(
    ("path", "status", "code", "message"),
    [
        ("accounts?$select=nme", 400, "0x0",
         "Could not find a property named 'nme' on type 'Microsoft.Dynamics.CRM.account'."),
        ("accounts?$select=primarycontactid", 400, "0x0", "Could not find a property named"),
        ("accounts?$filter=nme eq 1", 400, "0x0", "Could not find a property named 'nme'"),
        ("accounts?$orderby=nme", 400, "0x0", "Could not find a property named 'nme'"),
        ("accounts?$orderby=name sideways", 400, "0x80060888", "Syntax error"),
        ("accounts?$skip=5", 400, "0x80060888", "Skip Clause is not supported in CRM"),
        ("accounts?$Filter=name eq 'x'", 400, "0x80060888", "$Filter is not supported"),
        ("accounts?$search=x", 400, "0x80060888", "$search is not supported"),
        ("accounts?nonsense=x", 400, "0x80060888", "nonsense is not supported"),
        ("accounts?$top=-1", 400, "0x0", "requires a non-negative integer"),
        ("accounts?$top=1&$top=2", 400, "0x80060888", "more than once"),
        ("accounts?$expand=primarycontactid", 400, "0x80060888", "$expand is not supported"),
        ("acounts", 404, "0x8006088a", "Resource not found for the segment 'acounts'."),
        ("acounts/$count", 404, "0x8006088a", "Resource not found for the segment"),
        ("acounts(1)", 404, "0x8006088a", "Resource not found for the segment 'acounts'."),
        ("accounts/nothing", 404, "0x8006088a", "segment 'nothing'."),
    ],
)  # fmt: skip
def test_refusals_use_the_services_words(served, path, status, code, message):
    _, caller = served

    refusal = caller.refusal(path)

    assert refusal[:2] == (status, code)
    assert message in refusal[2]


def test_next_link_is_quoted_cookie(served):
    emulator, caller = served
    ids = emulator.insert_many("contacts", [{"fullname": f"C{i}"} for i in range(5)])

    pages = list(caller.pages("contacts?$select=fullname"))

    assert [len(page["value"]) for page in pages] == [2, 2, 1]
    assert {r["contactid"] for page in pages for r in page["value"]} == set(ids)
    first, last = (r["contactid"].upper() for r in pages[0]["value"])
    assert pages[0]["@odata.nextLink"] == (
        f"{emulator.api_url}contacts?$select=fullname&$skiptoken=%3Ccookie%20pagenumber=%222%22"
        "%20pagingcookie=%22%253ccookie%2520page%253d%25221%2522%253e%253ccontactid%2520last"
        f"%253d%2522%257b{last}%257d%2522%2520first%253d%2522%257b{first}%257d%2522%2520%252f"
        "%253e%253c%252fcookie%253e%22%20istracking=%22False%22%20/%3E"
    )


def test_records_sorted_like_sql_server(served):
    emulator, caller = served
    recorded = ["cdcfa450-cb0c-ea11-a813-000d3a1b1223", "9fd4a450-cb0c-ea11-a813-000d3a1b1223"]
    for id_ in reversed(recorded):
        emulator.insert("contacts", {}, id=id_)

    assert [record["contactid"] for record in caller.value("contacts")] == recorded
    assert emulator.ids("contacts") == recorded


def test_changed_skip_token_refused(served):
    emulator, caller = served
    emulator.insert_many("contacts", [{} for _ in range(3)])
    link = caller.get("contacts", "odata.maxpagesize=2").json()["@odata.nextLink"]

    changed = link.replace("%253c", "%253C", 1)
    elsewhere = link.replace("contacts?", "contacts?$select=fullname&")

    assert caller.get(link).status_code == 200
    assert caller.refusal(changed)[:2] == (400, "0x80041129")
    assert caller.refusal(elsewhere)[:2] == (400, "0x80041129")


def test_page_size_holds_for_one_request(served):
    emulator, caller = served
    emulator.insert_many("contacts", [{} for _ in range(9)])

    first = caller.get("contacts", "odata.maxpagesize=2")
    second = caller.get(first.json()["@odata.nextLink"]).json()

    assert first.headers["Preference-Applied"] == "odata.maxpagesize=2"
    assert len(second["value"]) == 7
    assert "@odata.nextLink" not in second


def test_page_size_has_a_maximum():
    with running(CONTACTS, max_page_size=3) as (emulator, caller):
        emulator.insert_many("contacts", [{} for _ in range(4)])

        answer = caller.get("contacts", "odata.maxpagesize=100")

        assert len(answer.json()["value"]) == 3
        assert answer.headers["Preference-Applied"] == "odata.maxpagesize=3"
        assert len(caller.value("contacts", "odata.maxpagesize=0")) == 3


def test_next_link_repeats_the_query(served):
    emulator, caller = served
    emulator.insert_many("contacts", [{"fullname": f"C{i}"} for i in range(3)])
    query = "$select=fullname&$filter=contactid%20ne%20null&$orderby=fullname"

    link = caller.get(f"contacts?{query}", "odata.maxpagesize=2").json()["@odata.nextLink"]

    assert link.startswith(f"{emulator.api_url}contacts?$select=fullname&$filter=")
    assert "&$orderby=fullname&$skiptoken=" in link
    assert len(caller.value(link)) == 1


def test_top_dropped_beside_page_size(served):
    emulator, caller = served
    emulator.insert_many("contacts", [{} for _ in range(4)])

    alone = caller.get("contacts?$top=3").json()
    beside = caller.get("contacts?$top=1", "odata.maxpagesize=3").json()

    assert len(alone["value"]) == 3
    assert "@odata.nextLink" not in alone
    assert len(beside["value"]) == 3
    assert "$top" not in beside["@odata.nextLink"]


@pytest.mark.parametrize("order", ["", " desc"])
@pytest.mark.parametrize(
    "column",
    ["name", "revenue", "numberofemployees", "_primarycontactid_value", "accountid", "lastcall"],
)
def test_every_order_reads_every_record_once(served, column, order):
    emulator, caller = served
    emulator.insert_many(
        "accounts",
        [
            {
                "name": None if i % 5 == 0 else f"n{i % 3}",
                "revenue": None if i % 4 == 0 else f"{i % 3}.50",
                "numberofemployees": None if i % 4 == 0 else i % 3,
                "primarycontactid": None if i % 4 == 0 else str(uuid.UUID(int=i % 3)),
                "lastcall": None if i % 4 == 0 else f"2025-01-0{1 + i % 3}T00:00:00Z",
            }
            for i in range(13)
        ],
    )

    pages = list(caller.pages(f"accounts?$orderby={column}{order}", "odata.maxpagesize=2"))
    found = [record for page in pages for record in page["value"]]

    assert sorted(r["accountid"] for r in found) == sorted(emulator.ids("accounts"))
    if column != "accountid" and not column.startswith("_"):
        filled = [r[column] for r in found if r[column] is not None]
        nulls_first = [r[column] is None for r in found]
        assert filled == sorted(filled, reverse=bool(order))
        assert nulls_first == sorted(nulls_first, reverse=not order)


def test_record_changed_between_pages_moves(served):
    emulator, caller = served
    for minute in range(4):
        moment = f"2025-01-01T00:0{minute}:00Z"
        emulator.insert("contacts", {"fullname": f"C{minute}"}, modifiedon=moment)
    page = caller.get("contacts?$orderby=modifiedon,contactid", "odata.maxpagesize=2").json()

    emulator.update("contacts", page["value"][0]["contactid"], {"fullname": "again"})
    rest = caller.value(page["@odata.nextLink"])

    assert [record["fullname"] for record in rest] == ["C2", "C3", "again"]


def test_counts_stop_at_5000(served):
    emulator, caller = served
    emulator.insert_many("contacts", [{"fullname": f"{i % 2}"} for i in range(5_002)])

    assert len(caller.value("contacts?$filter=fullname ne 'x'")) == 5_000
    assert caller.get("contacts/$count").content == b"\xef\xbb\xbf5000"
    assert caller.get("contacts/$count?$filter=fullname eq '0'").content.endswith(b"2501")


def test_total_record_count_is_daily_snapshot(served):
    emulator, caller = served
    emulator.insert("accounts", {})
    emulator.insert("contacts", {})
    path = 'RetrieveTotalRecordCount(EntityNames=["account","contact"])'
    counted = caller.get(path).json()["EntityRecordCountCollection"]
    emulator.insert("accounts", {})
    path = 'RetrieveTotalRecordCount(EntityNames=["account"])'

    same_day = caller.get(path).json()["EntityRecordCountCollection"]
    emulator.clock.advance(86_401)
    caller.sign_in()
    next_day = caller.get(path).json()["EntityRecordCountCollection"]

    assert counted == {
        "Count": 2, "IsReadOnly": False, "Keys": ["account", "contact"], "Values": [1, 1],
    }  # fmt: skip
    assert same_day["Values"] == [1]
    assert next_day["Values"] == [2]


def test_total_record_count_takes_logical_names(served):
    _, caller = served

    assert caller.refusal('RetrieveTotalRecordCount(EntityNames=["accounts"])')[0] == 400
    assert caller.refusal("RetrieveTotalRecordCount(EntityNames=accounts)")[0] == 400
    assert caller.refusal("RetrieveTotalRecordCount(EntityNames=@p1)")[0] == 400
    assert caller.refusal('RetrieveTotalRecordCount(EntityNames="account")')[0] == 400


def test_missing_privilege_is_named_403():
    secret = Table("vin_secret", "vin_secrets", "vin_secretid", (), privilege_missing=True)
    with running(secret) as (_, caller):
        status, code, message = caller.refusal("vin_secrets")

        assert (status, code) == (403, "0x80040220")
        assert "is missing prvReadvin_secret privilege" in message
        assert caller.refusal("vin_secrets/$count")[0] == 403


def test_unreadable_table_refused():
    table = Table("leads_link", "leadscollection", "leadlinkid", (), readable=False)
    with running(table) as (_, caller):
        assert caller.refusal("leadscollection")[:2] == (400, "0x80040800")


def test_order_refused_by_table():
    table = Table("a", "aset", "aid", (Column("x", "Integer"),), orderable=False,
                  not_orderable=("createdon",))  # fmt: skip
    with running(table) as (emulator, caller):
        emulator.insert_many("aset", [{"x": i} for i in range(3)])

        assert caller.refusal("aset?$orderby=aid")[0] == 400
        assert caller.refusal("aset?$orderby=createdon")[0] == 400
        assert [r["x"] for r in caller.value("aset?$orderby=x")] == [0, 1, 2]
        assert len([r for page in caller.pages("aset") for r in page["value"]]) == 3


def test_junction_has_plain_guids_only(served):
    emulator, caller = served
    emulator.insert("account_contactset", {"accountid": CONTACT, "contactid": OWNER})

    record = caller.value("account_contactset")[0]

    assert set(record) == {
        "@odata.etag", "account_contactid", "accountid", "contactid", "versionnumber",
    }  # fmt: skip
    assert caller.refusal("account_contactset?$filter=modifiedon gt 2025-01-01T00:00:00Z") == (
        400, "0x0",
        "Could not find a property named 'modifiedon' on type "
        "'Microsoft.Dynamics.CRM.account_contact'.",
    )  # fmt: skip


def test_annotations_come_before_their_member(served):
    emulator, caller = served
    contact = emulator.insert("contacts", {"fullname": "Susanna"})
    emulator.insert(
        "accounts",
        EVERYTHING | {"primarycontactid": contact, "parentcustomerid": contact},
    )

    answer = caller.get("accounts", 'odata.include-annotations="*"')
    record = answer.json()["value"][0]
    formatted = {
        name.partition("@")[0]: value
        for name, value in record.items()
        if name.endswith("@OData.Community.Display.V1.FormattedValue")
    }

    assert answer.headers["Preference-Applied"] == 'odata.include-annotations="*"'
    assert formatted["industrycode"] == "Health"
    assert formatted["markets"] == "EU; Asia"
    assert formatted["allowemail"] == "Yes"
    assert formatted["_primarycontactid_value"] == "Susanna"
    assert "_ownerid_value" not in formatted
    names = list(record)
    at = names.index("_parentcustomerid_value")
    assert names[at - 2 : at] == [
        "_parentcustomerid_value@OData.Community.Display.V1.FormattedValue",
        "_parentcustomerid_value@Microsoft.Dynamics.CRM.lookuplogicalname",
    ]
    assert record[names[at - 1]] == "contact"


def test_only_requested_annotations_sent(served):
    emulator, caller = served
    contact = emulator.insert("contacts", {"fullname": "Susanna"})
    emulator.insert("accounts", {"industrycode": 1, "statecode": 7, "parentcustomerid": contact})

    one = caller.value(
        "accounts?$select=industrycode,statecode,_parentcustomerid_value",
        'odata.include-annotations="OData.Community.*,x"',
    )[0]

    assert one["industrycode@OData.Community.Display.V1.FormattedValue"] == "Accounting"
    assert "statecode@OData.Community.Display.V1.FormattedValue" not in one
    assert one["_parentcustomerid_value@OData.Community.Display.V1.FormattedValue"] == "Susanna"
    assert not any("Microsoft" in name for name in one)


def test_lookup_without_name_shows_target():
    plain = Table("plain", "plains", "plainid", ())
    holder = Table("holder", "holders", "holderid", (
        Column("plainid", "Lookup", targets=("gone", "plain")),
        Column("namelessid", "Lookup", targets=("nameless",)),
        Column("createdby", "Lookup", targets=("plain",)),
    ))  # fmt: skip
    nameless = Table("nameless", "namelesses", "namelessid", (Column("x", "String"),))
    with running(plain, holder, nameless) as (emulator, caller):
        target = emulator.insert("namelesses", {})
        user = emulator.insert("namelesses", {"x": "Someone"})
        emulator.insert("holders", {"plainid": user, "namelessid": target, "createdby": user})

        record = caller.value("holders", 'odata.include-annotations="*"')[0]

        assert record["_namelessid_value@Microsoft.Dynamics.CRM.lookuplogicalname"] == "nameless"
        assert "_namelessid_value@OData.Community.Display.V1.FormattedValue" not in record


def test_answers_carry_service_headers(served):
    emulator, caller = served

    answer = caller.get("accounts")
    headers = answer.headers

    assert headers["Date"] == "Mon, 03 Mar 2025 08:00:00 GMT"
    assert headers["OData-Version"] == "4.0"
    assert headers["Content-Type"] == (
        "application/json; odata.metadata=minimal; odata.streaming=true"
    )
    assert headers["x-ms-service-request-id"] == headers["REQ_ID"]
    assert headers["Set-Cookie"].startswith("ARRAffinity=")
    caller.get("accounts")
    assert "ARRAffinity" in emulator.log[-1].headers["cookie"]


def test_compressed_only_when_asked(served):
    emulator, caller = served
    emulator.insert_many("contacts", [{"fullname": "x" * 100} for _ in range(9)])

    zipped = caller.get("contacts")
    plain = caller.get("contacts", **{"Accept-Encoding": "identity"})

    assert zipped.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert zipped.content == plain.content


def test_url_over_32_kb_refused(served):
    _, caller = served

    assert caller.get("accounts?$filter=name eq '" + "x" * 32_760 + "'").status_code == 414


def test_only_get_answered(served):
    emulator, caller = served

    answer = caller.session.post(emulator.api_url + "accounts", json={"name": "x"}, timeout=10)

    assert answer.status_code == 405
    assert answer.json()["error"]["code"] == "0x80060888"
    assert caller.get(emulator.origin + "/elsewhere").status_code == 404


def test_links_name_the_requested_host(served):
    emulator, caller = served
    emulator.insert_many("contacts", [{}, {}])
    port = emulator.origin.rpartition(":")[2]

    page = caller.get("contacts", "odata.maxpagesize=1", Host=f"localhost:{port}").json()

    assert page["@odata.nextLink"].startswith(f"http://localhost:{port}/api/data/v9.2/contacts?")


def test_log_classifies_requests(served):
    emulator, caller = served
    emulator.insert_many("accounts", [{} for _ in range(3)])
    caller.get("accounts", "odata.maxpagesize=2")
    thin = "accounts?$select=accountid,modifiedon,versionnumber"
    for page in caller.pages(thin, "odata.maxpagesize=2"):
        assert page["value"]
    for page in caller.pages(
        "accounts?$select=accountid", "odata.maxpagesize=2,odata.track-changes"
    ):
        link = page.get("@odata.deltaLink")
    caller.get(link)
    caller.get("accounts/$count")
    caller.get("EntityDefinitions?$select=LogicalName")
    caller.get("$metadata")
    caller.get("accounts/nothing")
    caller.get("nowhere")
    caller.session.headers.pop("Authorization")
    caller.get("accounts")
    caller.sign_in()
    caller.session.post(emulator.api_url + "accounts", timeout=10)

    kinds = [request.kind for request in emulator.log]
    first = emulator.log[0]

    assert kinds == [
        "data", "thin", "thin", "delta", "delta", "delta", "count", "metadata", "metadata",
        "data", "other", "challenge", "token", "other",
    ]  # fmt: skip
    assert (first.method, first.status, first.records) == ("GET", 200, 2)
    assert first.target == "/api/data/v9.2/accounts"
    assert first.prefer == "odata.maxpagesize=2"
    assert first.headers["AUTHORIZATION"].startswith("Bearer ")
    assert "user-agent" in first.headers
    assert len(first.headers) == len(list(first.headers))
    assert first.began_at <= first.ended_at
    assert emulator.log[1].query["$select"] == "accountid,modifiedon,versionnumber"
    assert emulator.most_in_flight == 1


def test_repeated_headers_joined(served):
    emulator, caller = served
    emulator.insert_many("contacts", [{} for _ in range(3)])
    caller.session.headers["Prefer"] = "odata.maxpagesize=2"

    answer = caller.get("contacts", prefer='odata.maxpagesize=2, odata.include-annotations="*"')

    assert len(answer.json()["value"]) == 2
    assert "include-annotations" in answer.headers["Preference-Applied"]


def test_hook_runs_before_each_answer(served):
    emulator, caller = served
    emulator.insert("contacts", {"fullname": "before"})
    emulator.control.on_request = lambda request: emulator.insert(
        "contacts", {"fullname": request.method}
    )

    found = {record["fullname"] for record in caller.value("contacts")}

    assert emulator.control.on_request is not None
    assert found == {"before", "GET"}


def test_restart_keeps_port_and_data(served):
    emulator, caller = served
    emulator.insert("contacts", {})
    origin = emulator.origin

    emulator.stop()
    emulator.stop()
    with pytest.raises(ConnectionError):
        _get(caller)
    emulator.start()

    assert emulator.origin == origin
    assert len(_get(caller)) == 1


def _get(caller: Caller) -> list[dict]:
    try:
        return caller.value("contacts")
    except OSError as error:  # requests has a ConnectionError of its own
        raise ConnectionError from error


def test_address_unknown_before_start():
    emulator = Emulator([CONTACTS])

    with pytest.raises(RuntimeError, match="before it is started"):
        _ = emulator.api_url


def test_env_lines_point_here(served):
    emulator, _ = served

    assert emulator.env_lines() == [
        f"DATAVERSE_API_URL={emulator.origin}/api/data/v9.2/",
        f"DATAVERSE_CLIENT_ID={emulator.client_id}",
        f"DATAVERSE_CLIENT_SECRET={emulator.client_secret}",
    ]


def test_clock_follows_real_time():
    clock = Clock()
    before = dt.datetime.now(dt.UTC)
    clock.advance(3600)
    ahead = clock.now() - before
    clock.set(MORNING)

    assert dt.timedelta(hours=1) <= ahead < dt.timedelta(hours=1, seconds=5)
    assert MORNING <= clock.now() < MORNING + dt.timedelta(seconds=5)


def test_clock_with_start_stands_still():
    clock = Clock(MORNING)
    clock.advance(60)
    later = clock.now()
    clock.set(MORNING)

    assert later == MORNING + dt.timedelta(minutes=1)
    assert clock.now() == MORNING


def test_table_columns_without_duplicates():
    table = Table("a", "aset", "aid", (Column("modifiedon", "DateTime"), Column("t", "Memo")))

    assert list(table.members) == ["aid", "modifiedon", "t", "createdon", "versionnumber"]
    assert table.name_column is None
    assert ACCOUNTS.name_column == "name"
    assert LINKS.members["accountid"].edm == "Edm.Guid"
    with pytest.raises(ValueError, match="not a column type: 'Text'"):
        Column("x", "Text")
