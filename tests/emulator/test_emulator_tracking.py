"""Change tracking: first read, delta links, deletions, late commits, expiry, refusals."""

import datetime as dt
from dataclasses import replace
from urllib.parse import unquote

import pytest
from emulator_caller import ACCOUNTS, CONTACTS, Caller, running

from dataverse_sync.emulator import Column, Emulator

TRACK = "odata.track-changes"
THIN = "accounts?$select=accountid"


@pytest.fixture
def served():
    with running(ACCOUNTS, CONTACTS) as (emulator, caller):
        yield emulator, caller


def _first_read(caller: Caller, path: str = THIN) -> str:
    pages = list(caller.pages(path, f"{TRACK},odata.maxpagesize=2"))
    assert all("@odata.deltaLink" not in page for page in pages[:-1])
    return pages[-1]["@odata.deltaLink"]


def _changes(caller: Caller, link: str, size: int = 2) -> tuple[list[str], list[str], str]:
    """Ids changed, ids deleted, and the next delta link."""
    pages = list(caller.pages(link, f"odata.maxpagesize={size}"))
    assert all(page["@odata.context"].endswith("/$delta") for page in pages)
    entries = [entry for page in pages for entry in page["value"]]
    changed = [entry["accountid"] for entry in entries if "accountid" in entry]
    deleted = [entry["id"] for entry in entries if "reason" in entry]
    assert entries == sorted(entries, key=lambda entry: "reason" in entry)
    return changed, deleted, pages[-1]["@odata.deltaLink"]


def test_tracked_read_ends_in_delta_link(served):
    emulator, caller = served
    ids = emulator.insert_many("accounts", [{"name": f"A{i}"} for i in range(5)])

    pages = list(caller.pages("accounts?$select=name", f"{TRACK},odata.maxpagesize=2"))

    assert [len(page["value"]) for page in pages] == [2, 2, 1]
    assert {r["accountid"] for page in pages for r in page["value"]} == set(ids)
    assert "istracking=%22True%22" in pages[0]["@odata.nextLink"]
    assert [("@odata.deltaLink" in page) for page in pages] == [False, False, True]
    link = pages[-1]["@odata.deltaLink"]
    assert link.startswith(f"{emulator.api_url}accounts?$select=name&$deltatoken=")
    assert link.endswith("%2103%2f03%2f2025%2008%3a00%3a00")


def test_track_changes_said_applied(served):
    _, caller = served

    answer = caller.get(THIN, f"odata.maxpagesize=2, {TRACK}")

    assert answer.headers["Preference-Applied"] == f"odata.maxpagesize=2,{TRACK}"


def test_whole_record_can_be_tracked(served):
    emulator, caller = served
    id_ = emulator.insert("accounts", {"name": "Adatum"})

    answer = caller.get("accounts", TRACK)

    assert emulator.record_bytes("accounts", id_) in answer.content
    assert emulator.log[-1].kind == "data"


def test_delta_brings_changes_then_deletions(served):
    emulator, caller = served
    a, b, c, d = emulator.insert_many("accounts", [{} for _ in range(4)])
    link = _first_read(caller)
    emulator.update("accounts", d, {"name": "first"})
    emulator.update("accounts", a, {"name": "second"})
    new = emulator.insert("accounts", {})
    for id_ in (c, b):
        emulator.delete("accounts", id_)

    changed, deleted, following = _changes(caller, link)

    assert changed == [d, a, new]
    assert deleted == [c, b]
    assert _changes(caller, following)[:2] == ([], [])
    assert _changes(caller, link)[:2] == (changed, deleted)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
def test_delta_paged_at_any_size(served, size):
    emulator, caller = served
    ids = emulator.insert_many("accounts", [{} for _ in range(6)])
    link = _first_read(caller)
    for id_ in ids[:3]:
        emulator.update("accounts", id_, {"name": "x"})
    for id_ in ids[3:]:
        emulator.delete("accounts", id_)

    changed, deleted, _ = _changes(caller, link, size)

    assert changed == ids[:3]
    assert deleted == ids[3:]


def test_deleted_entry_has_id_and_reason(served):
    emulator, caller = served
    id_ = emulator.insert("accounts", {})
    link = _first_read(caller)
    emulator.delete("accounts", id_)

    page = caller.get(link).json()

    assert page["@odata.context"] == f"{emulator.api_url}$metadata#accounts(accountid)/$delta"
    assert page["value"] == [
        {
            "@odata.context": f"{emulator.api_url}$metadata#accounts/$deletedEntity",
            "id": id_,
            "reason": "deleted",
        }
    ]


def test_created_then_deleted_reported_deleted(served):
    emulator, caller = served
    link = _first_read(caller)
    id_ = emulator.insert("accounts", {})
    emulator.delete("accounts", id_)

    assert _changes(caller, link)[:2] == ([], [id_])


def test_restored_record_reported_changed(served):
    emulator, caller = served
    id_ = emulator.insert("accounts", {"name": "Adatum"})
    link = _first_read(caller)
    emulator.delete("accounts", id_)
    emulator.restore("accounts", id_)

    assert _changes(caller, link)[:2] == ([id_], [])
    assert emulator.rows("accounts")[id_]["name"] == "Adatum"


def test_change_during_tracked_read_comes_again(served):
    emulator, caller = served
    emulator.insert_many("accounts", [{} for _ in range(4)])
    first = caller.get(THIN, f"{TRACK},odata.maxpagesize=2").json()
    changed = first["value"][0]["accountid"]
    emulator.update("accounts", changed, {"name": "late"})

    link = list(caller.pages(first["@odata.nextLink"]))[-1]["@odata.deltaLink"]

    assert _changes(caller, link)[0] == [changed]


def test_late_commit_in_next_delta(served):
    emulator, caller = served
    id_ = emulator.insert("accounts", {"name": "late"}, committed=False)
    emulator.insert("accounts", {"name": "early"})
    link = _first_read(caller)
    emulator.commit(id_)

    assert id_ in _changes(caller, link)[0]


def test_backdated_change_in_next_delta(served):
    emulator, caller = served
    id_ = emulator.insert("accounts", {})
    link = _first_read(caller)
    emulator.update("accounts", id_, {"name": "x"}, modifiedon="2001-01-01T00:00:00Z")

    assert _changes(caller, link)[0] == [id_]
    assert emulator.rows("accounts")[id_]["modifiedon"] == "2001-01-01T00:00:00Z"


@pytest.mark.parametrize("option", ["$filter=name eq 'x'", "$orderby=name", "$top=1",
                                    "$expand=primarycontactid"])  # fmt: skip
def test_tracking_refuses_other_options(served, option):
    _, caller = served

    status, _, message = caller.refusal(f"accounts?{option}", TRACK)

    assert status == 400
    assert message == (
        f'The "{option.partition("=")[0]}" query parameter isn\'t supported when Change Tracking'
        " is enabled."
    )
    assert caller.refusal("accounts?$count=true", TRACK)[0] == 400


def test_untracked_table_refuses_tracking(served):
    _, caller = served

    assert caller.refusal("contacts", TRACK)[:2] == (400, "0x80072491")


def test_tracked_read_can_be_denied(served):
    emulator, caller = served
    emulator.control.tracking_denied.add("accounts")

    assert caller.refusal("accounts", TRACK)[:2] == (403, "0x80040220")
    assert caller.value("accounts") == []


def _expire_on_order(emulator: Emulator) -> None:
    emulator.control.expire_delta_tokens()


def _expire_by_age(emulator: Emulator) -> None:
    emulator.clock.advance(7 * 86_400 + 1)


def _expire_by_a_column(emulator: Emulator) -> None:
    emulator.add_column("accounts", Column("added", "String"))


@pytest.mark.parametrize("expire", [_expire_on_order, _expire_by_age, _expire_by_a_column])
def test_expired_delta_token_refused(served, expire):
    emulator, caller = served
    link = _first_read(caller)

    expire(emulator)
    caller.sign_in()

    assert caller.refusal(link) == (
        400, "0x80044352",
        "Version stamp associated with the client has expired. Please perform a full sync.",
    )  # fmt: skip
    assert _changes(caller, _first_read(caller))[:2] == ([], [])


def test_expired_delta_token_brings_everything():
    with running(ACCOUNTS, full_read_on_expiry=True) as (emulator, caller):
        kept, gone = emulator.insert_many("accounts", [{}, {}])
        link = _first_read(caller)
        emulator.delete("accounts", gone)
        emulator.control.expire_delta_tokens()

        page = caller.get(link).json()

        assert page["@odata.context"].endswith("#accounts(accountid)")
        assert [record["accountid"] for record in page["value"]] == [kept]
        assert "@odata.deltaLink" in page


def test_unknown_delta_token_refused(served):
    _, caller = served

    assert caller.refusal("accounts?$deltatoken=nonsense")[:2] == (400, "0x80060888")
    assert caller.refusal("accounts?$deltatoken=5%2103%2f03%2f2025%2008%3a00%3a00")[:2] == (
        400,
        "0x80044352",
    )


def test_versions_rise_across_tables(served):
    emulator, caller = served
    account = emulator.insert("accounts", {})
    emulator.insert("contacts", {})
    emulator.update("accounts", account, {"name": "x"})

    contact = caller.value("contacts")[0]["versionnumber"]
    updated = caller.value("accounts")[0]["versionnumber"]

    assert updated == contact + 1


def test_table_without_modifiedon_updated():
    table = replace(CONTACTS, modifiedon=False, versionnumber=False)
    with running(table) as (emulator, caller):
        id_ = emulator.insert("contacts", {"fullname": "x"})
        before = caller.value("contacts")[0]
        emulator.update("contacts", id_, {"fullname": "y"})
        after = caller.value("contacts")[0]

        assert set(after) == {"@odata.etag", "contactid", "fullname", "annualincome", "createdon"}
        assert after["@odata.etag"] != before["@odata.etag"]


def test_delta_token_holds_version_and_moment(served):
    emulator, caller = served
    emulator.clock.set(dt.datetime(2017, 8, 22, 8, 10, 44, tzinfo=dt.UTC))
    caller.sign_in()

    token = unquote(_first_read(caller).partition("$deltatoken=")[2])

    assert token.partition("!")[2] == "08/22/2017 08:10:44"
