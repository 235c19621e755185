"""Incremental syncs over real HTTP: changes and deletions are copied, nothing else is read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from conftest import (
    CANDIDATES,
    CANDIDATES_ONLY,
    ENTITIES,
    LINK_SET,
    LINKS,
    OLD,
    PRODUCTS,
    TABLES,
    fill,
    insert,
)

from dataverse_sync import EntityConfig
from dataverse_sync.emulator import Fault, Table
from dataverse_sync.model import Counts

TABLE_NAMES = ("vin_candidates", "vin_products", "vin_vin_candidate_accountset")


@pytest.fixture
def synced(world):
    """A world ten minutes after its first sync."""
    assert world.sync().ok
    world.wait()
    return world


def any_of(world, name: str, nth: int = 0) -> str:
    return sorted(world.emulator.rows(name))[nth]


def counts(report, name: str) -> Counts:
    return next(entity.counts for entity in report.entities if entity.name == name)


def key_of(world, name: str, column: str, value: str) -> str:
    return next(key for key, row in world.emulator.rows(name).items() if row[column] == value)


# Nothing changed


def test_unchanged_tables_not_read_or_rewritten(synced):
    before = synced.rows()

    report = synced.sync()

    assert report.ok
    assert synced.rows() == before
    read = {request.entity_set: request.records for request in synced.asked() if request.records}
    assert read == {LINK_SET: 1}  # it has no modifiedon
    totals = {entity.name: entity.counts for entity in report.entities}
    assert totals.pop(LINK_SET) == Counts(fetched=1, unchanged=1)
    assert set(totals.values()) == {Counts()}


def test_bookmark_kept_without_changes(synced):
    before = synced.query("SELECT entity_name, last_timestamp FROM _sync_state")

    synced.sync()

    assert synced.query("SELECT entity_name, last_timestamp FROM _sync_state") == before


def test_last_two_minutes_read_again(world):
    world.emulator.insert("vin_candidates", {"vin_name": "just now"})
    world.sync()
    before = world.rows()

    report = world.sync()

    assert counts(report, "vin_candidates") == Counts(fetched=1, unchanged=1)
    assert world.rows() == before


# Changed and created


def test_only_changed_and_created_records_read(synced):
    key = any_of(synced, "vin_candidates")
    synced.emulator.update("vin_candidates", key, {"vin_name": "changed"})
    synced.emulator.insert("vin_candidates", {"vin_name": "created"})

    report = synced.sync()

    assert counts(report, "vin_candidates") == Counts(fetched=2, added=1, updated=1)
    assert synced.is_mirror(*TABLE_NAMES)
    assert sum(request.records for request in synced.asked("vin_candidates")) == 2


def test_only_changed_row_gets_sync_time(synced):
    key = any_of(synced, "vin_candidates")
    before = dict(synced.query("SELECT vin_candidateid, sync_time FROM vin_candidates"))
    synced.emulator.update("vin_candidates", key, {"vin_name": "changed"})

    synced.sync()

    after = dict(synced.query("SELECT vin_candidateid, sync_time FROM vin_candidates"))
    assert [one for one in after if after[one] != before[one]] == [key]


@pytest.mark.parametrize("name", ["vin_candidates", "vin_products"])
def test_a_backdated_change_comes_too(synced, name):
    key = any_of(synced, name)
    synced.emulator.update(name, key, {"vin_name": "import"}, modifiedon="2020-01-01T00:00:00Z")
    synced.emulator.insert(name, {"vin_name": "old"}, modifiedon="2019-01-01T00:00:00Z")

    report = synced.sync()

    assert counts(report, name) == Counts(fetched=2, added=1, updated=1)
    assert synced.is_mirror(name)


@pytest.mark.parametrize("name", ["vin_candidates", "vin_products"])
def test_late_commit_read_by_next_sync(synced, name):
    late = synced.emulator.insert(name, {"vin_name": "late"}, committed=False)
    synced.emulator.insert(name, {"vin_name": "in time"})
    synced.sync()
    synced.emulator.commit(late)

    synced.sync()

    assert late in synced.copy(name)
    assert synced.is_mirror(name)


def test_change_during_paging_read_next_sync(synced):
    first, *_ = sorted(synced.emulator.rows("vin_candidates"))
    for key in synced.emulator.rows("vin_candidates"):
        synced.emulator.update("vin_candidates", key, {"vin_name": "all changed"})
    changed = []

    def change(request) -> None:
        if request.entity_set == "vin_candidates" and "$skiptoken" in request.query and not changed:
            changed.append(request)
            synced.emulator.update("vin_candidates", first, {"vin_name": "while paging"})

    synced.emulator.control.on_request = change
    synced.sync()
    synced.emulator.control.on_request = None

    synced.sync()

    assert changed
    assert synced.is_mirror("vin_candidates")


# Gone


@pytest.mark.parametrize(
    ("name", "reason"),
    [("vin_candidates", "not_returned"), ("vin_products", "deleted"), (LINK_SET, "not_returned")],
)
def test_deleted_record_removed_and_kept_whole(synced, name, reason):
    key = any_of(synced, name)
    text = synced.source(name)[key]
    synced.emulator.delete(name, key)

    report = synced.sync()

    assert counts(report, name).deleted == 1
    assert synced.is_mirror(name)
    assert synced.removed(name) == {key: (reason, text)}
    assert synced.state(name, "records_count") == len(synced.source(name))


@pytest.mark.parametrize("name", TABLE_NAMES)
def test_a_restored_record_comes_back(synced, name):
    key = any_of(synced, name)
    synced.emulator.delete(name, key)
    synced.sync()
    synced.emulator.restore(name, key, modifiedon=OLD if name != LINK_SET else None)

    report = synced.sync()

    assert counts(report, name).added == 1
    assert synced.is_mirror(name)


@pytest.mark.parametrize("name", TABLE_NAMES)
def test_deletion_of_unknown_record_ignored(synced, name):
    key = synced.emulator.insert(name, {})
    synced.emulator.delete(name, key)

    report = synced.sync()

    assert report.ok
    assert synced.is_mirror(name)
    assert synced.removed(name) == {}


def test_equal_deletions_and_insertions_noticed(synced):
    synced.emulator.delete("vin_candidates", any_of(synced, "vin_candidates"))
    synced.emulator.insert("vin_candidates", {"vin_name": "new"}, modifiedon=OLD)

    report = synced.sync()

    assert counts(report, "vin_candidates") == Counts(fetched=1, added=1, deleted=1)
    assert synced.is_mirror("vin_candidates")


@pytest.mark.parametrize("name", TABLE_NAMES)
def test_ignored_deletions_remove_nothing(synced, name):
    entities = [replace(entity, deletions="ignore") for entity in ENTITIES]
    key = any_of(synced, name)
    synced.emulator.delete(name, key)

    report = synced.sync(entities)

    assert report.ok
    assert key in synced.copy(name)
    compared = [*synced.asked(kind="thin"), *synced.asked(kind="delta")]
    assert not {request.entity_set for request in compared} & set(TABLE_NAMES)


def test_record_missing_from_page_not_removed(synced):
    synced.emulator.control.fault(
        Fault("drop_last_record", match=r"select=vin_candidateid", times=1)
    )

    report = synced.sync()

    assert report.ok
    assert counts(report, "vin_candidates") == Counts(fetched=1, unchanged=1)  # asked for by id
    assert synced.is_mirror("vin_candidates")


def test_interrupted_comparison_removes_nothing(synced):
    synced.emulator.delete("vin_candidates", any_of(synced, "vin_candidates"))
    before = synced.copy("vin_candidates")
    synced.emulator.control.fault(
        Fault("status", match=r"select=vin_candidateid.*skiptoken", status=403)
    )

    report = synced.sync()

    assert [entity.name for entity in report.failed] == ["vin_candidates"]
    assert synced.copy("vin_candidates") == before


# The guard


@pytest.fixture
def large(make_world):
    """120 candidates, 120 products and 120 linked accounts, synced."""
    world = make_world(TABLES)
    world.page_size = 50
    accounts = insert(world.emulator, "accounts", [{"name": str(n)} for n in range(120)])
    candidates = insert(world.emulator, "vin_candidates", [{"vin_name": "A"} for _ in range(120)])
    insert(world.emulator, "vin_products", [{"vin_name": str(n)} for n in range(120)])
    pairs = zip(candidates, accounts, strict=True)
    world.emulator.insert_many(
        LINK_SET, [{"vin_candidateid": one, "accountid": other} for one, other in pairs]
    )
    assert world.sync().ok
    world.wait()
    return world


@pytest.mark.parametrize("name", [*TABLE_NAMES, "accounts"])
def test_guard_refuses_removing_over_half(large, name):
    before = large.copy(name)
    for key in list(large.emulator.rows(name))[:61]:
        large.emulator.delete(name, key)

    refused = large.sync()
    kept = large.copy(name)
    allowed = large.sync(allow_deletes=True)

    assert [entity.name for entity in refused.failed][:1] == [name]
    assert "61 of 120 rows would be removed" in refused.failed[0].error
    assert "--allow-deletes" in refused.failed[0].error
    assert kept == before
    assert allowed.ok
    assert large.is_mirror(name)


@pytest.mark.parametrize("name", TABLE_NAMES)
def test_guard_allows_removing_exactly_half(large, name):
    for key in list(large.emulator.rows(name))[:60]:
        large.emulator.delete(name, key)

    report = large.sync()

    assert report.ok
    assert counts(report, name).deleted == 60


def test_guard_counts_unlinked_records(large):
    for key in list(large.emulator.rows(LINK_SET))[:60]:
        large.emulator.delete(LINK_SET, key)
    linked = {row["accountid"] for row in large.emulator.rows(LINK_SET).values()}
    large.emulator.delete("accounts", min(linked))

    report = large.sync()

    assert [entity.name for entity in report.failed] == ["accounts"]
    assert "61 of 120 rows would be removed" in report.failed[0].error
    assert len(large.copy("accounts")) == 120


def test_guarded_table_still_updated_and_added(large):
    for key in list(large.emulator.rows("vin_candidates"))[:61]:
        large.emulator.delete("vin_candidates", key)
    new = large.emulator.insert("vin_candidates", {"vin_name": "new"})
    kept = any_of(large, "vin_candidates")
    large.emulator.update("vin_candidates", kept, {"vin_name": "changed"})

    report = large.sync()

    assert not report.ok
    assert new in large.copy("vin_candidates")
    assert b"changed" in large.copy("vin_candidates")[kept]


# Filtered tables


def test_newly_linked_old_record_read(synced):
    nobodys = key_of(synced, "accounts", "name", "Nobody's")
    key = any_of(synced, "vin_candidates")
    synced.emulator.update("vin_candidates", key, {"vin_developerid": nobodys})

    synced.sync()

    assert synced.copy("accounts")[nobodys] == synced.source("accounts")[nobodys]


@pytest.mark.parametrize("modifiedon", [None, "2020-01-01T00:00:00Z"])
def test_a_changed_linked_record_comes(synced, modifiedon):
    key = key_of(synced, "contacts", "fullname", "Nancy")
    synced.emulator.update("contacts", key, {"fullname": "Nancy D."}, modifiedon=modifiedon)

    report = synced.sync()

    assert counts(report, "contacts") == Counts(fetched=1, updated=1)
    assert synced.copy("contacts")[key] == synced.source("contacts")[key]


def test_deletion_unlinks_records_behind_it(synced):
    litware = key_of(synced, "accounts", "name", "Litware")
    nancy = key_of(synced, "contacts", "fullname", "Nancy")
    before = synced.copy("accounts")[litware], synced.copy("contacts")[nancy]
    synced.emulator.delete("accounts", litware)

    report = synced.sync()

    assert report.ok
    assert synced.removed("accounts") == {litware: ("not_returned", before[0])}
    assert synced.removed("contacts") == {nancy: ("unlinked", before[1])}
    assert synced.copy("contacts") == {}


def test_record_removed_unlinked_returns_linked_again(synced):
    fabrikam = key_of(synced, "accounts", "name", "Fabrikam")
    text = synced.copy("accounts")[fabrikam]
    link = any_of(synced, LINK_SET)
    synced.emulator.delete(LINK_SET, link)
    synced.sync()
    unlinked = synced.copy("accounts"), synced.removed("accounts")
    synced.emulator.restore(LINK_SET, link)

    synced.sync()

    assert fabrikam not in unlinked[0]
    assert unlinked[1] == {fabrikam: ("unlinked", text)}
    assert synced.copy("accounts")[fabrikam] == text


def test_records_linking_only_each_other_removed(synced):
    litware = key_of(synced, "accounts", "name", "Litware")
    nancy = key_of(synced, "contacts", "fullname", "Nancy")
    synced.emulator.update("contacts", nancy, {"parentcustomerid": litware})
    synced.sync()
    synced.wait()
    for key in synced.emulator.rows("vin_candidates"):
        synced.emulator.update("vin_candidates", key, {"vin_developerid": None})

    synced.sync()

    assert synced.removed("accounts")[litware][0] == "unlinked"
    assert synced.removed("contacts")[nancy][0] == "unlinked"


def test_ignored_deletions_keep_unlinked_records(synced):
    entities = [*ENTITIES[:3], replace(ENTITIES[3], deletions="ignore"), ENTITIES[4]]
    litware = key_of(synced, "accounts", "name", "Litware")
    synced.emulator.delete("accounts", litware)
    for key in synced.emulator.rows("vin_candidates"):
        synced.emulator.update("vin_candidates", key, {"vin_developerid": None})

    report = synced.sync(entities)

    assert report.ok
    assert litware in synced.copy("accounts")


def test_failed_entity_still_links(synced):
    before = synced.copy("accounts")
    for key in synced.emulator.rows("vin_candidates"):
        synced.emulator.update("vin_candidates", key, {"vin_developerid": None})
    synced.emulator.control.fault(Fault("status", match=r"/vin_candidates\?", status=403))

    report = synced.sync()

    assert [entity.name for entity in report.failed] == ["vin_candidates"]
    assert synced.copy("accounts") == before


def test_failed_filtered_entity_still_links(synced):
    before = synced.copy("accounts"), synced.copy("contacts")
    synced.emulator.control.fault(Fault("status", match=r"/accounts\?", times=9, status=403))

    report = synced.sync()

    assert [entity.name for entity in report.failed] == ["accounts"]
    assert (synced.copy("accounts"), synced.copy("contacts")) == before


# Only some, and all again


def test_partial_run_reads_no_other_entity(synced):
    synced.emulator.insert("vin_candidates", {"vin_name": "new"})
    synced.emulator.insert("vin_products", {"vin_name": "new"})

    report = synced.sync(only=["vin_products"])

    assert [entity.name for entity in report.entities] == ["vin_products"]
    assert synced.is_mirror("vin_products")
    assert {request.entity_set for request in synced.asked()} == {"vin_products"}


def test_run_of_some_entities_unlinks_nothing(synced):
    litware = key_of(synced, "accounts", "name", "Litware")
    nancy = key_of(synced, "contacts", "fullname", "Nancy")
    for key in synced.emulator.rows("vin_candidates"):
        synced.emulator.update("vin_candidates", key, {"vin_developerid": None})
    synced.emulator.delete("contacts", nancy)

    partial = synced.sync(only=["vin_candidates", "accounts", "contacts"])
    kept = litware in synced.copy("accounts")
    synced.sync()

    assert partial.ok
    assert kept
    assert synced.removed("accounts")[litware][0] == "unlinked"


def test_record_deleted_before_fetch_removed(synced):
    litware = next(iter(synced.copy("accounts")))
    synced.emulator.update("accounts", litware, {"name": "Changed"})

    asked = []

    def after_the_versions(request):
        if request.kind == "thin" and request.entity_set == "accounts":
            asked.append(request)
        elif request.kind == "data" and request.entity_set == "accounts" and asked:
            synced.emulator.control.on_request = None
            synced.emulator.delete("accounts", litware)

    synced.emulator.control.on_request = after_the_versions
    report = synced.sync()

    assert report.ok
    assert litware not in synced.copy("accounts")
    assert synced.removed("accounts")[litware][0] == "not_returned"


def test_full_read_rewrites_only_differences(synced):
    synced.execute("UPDATE vin_candidates SET json_response = '{}' WHERE vin_number = 3")
    before = synced.rows()["vin_products"]

    report = synced.sync(full=True)

    assert counts(report, "vin_candidates") == Counts(fetched=12, updated=1, unchanged=11)
    assert counts(report, "vin_products") == Counts(fetched=8, unchanged=8)
    assert counts(report, "accounts") == Counts(fetched=2, unchanged=2)
    assert synced.is_mirror(*TABLE_NAMES)
    assert synced.rows()["vin_products"] == before


def test_full_removes_what_is_gone_too(synced):
    for name in TABLE_NAMES:
        synced.emulator.delete(name, any_of(synced, name))

    synced.emulator.log.clear()

    synced.sync(full=True)

    assert synced.is_mirror(*TABLE_NAMES)
    # Its keys are compared with what it returned: they are not read once more.
    assert synced.asked("vin_candidates", "data")
    assert not synced.asked("vin_candidates", "thin")


# Taken up after a fault


def break_after(world, name: str, pages: int) -> None:
    """Refuse one page of a table, the one after this number of pages."""
    pattern = rf"/{name}\?(?!.*select=)"
    world.emulator.control.fault(Fault("status", match=pattern, skip=pages, status=403))


@pytest.mark.parametrize("name", ["vin_candidates", "vin_products"])
def test_first_read_resumes_at_uncommitted_page(make_world, name):
    world = make_world()
    fill(world.emulator, candidates=23, products=23)
    break_after(world, name, pages=2)
    broken = world.sync()
    committed = [request.target for request in world.asked(name) if request.status == 200]
    state = json.loads(world.state(name, "checkpoint"))

    resumed = world.sync()

    assert [entity.name for entity in broken.failed] == [name]
    assert broken.failed[0].counts == Counts(fetched=10, added=10)
    assert state["page"] == 3
    assert resumed.ok
    assert counts(resumed, name) == Counts(fetched=13, added=13)
    assert not {request.target for request in world.asked(name)} & set(committed)
    assert world.is_mirror(name)
    assert world.state(name, "last_timestamp") == OLD


def test_resumed_read_moves_bookmark_at_end(synced):
    for key in synced.emulator.rows("vin_candidates"):
        synced.emulator.update("vin_candidates", key, {"vin_name": "changed"})
    synced.wait()
    break_after(synced, "vin_candidates", pages=1)
    synced.sync()
    committed = [one.target for one in synced.asked("vin_candidates") if one.status == 200]
    bookmark = synced.state("vin_candidates", "last_timestamp")

    report = synced.sync()

    assert bookmark == OLD
    assert counts(report, "vin_candidates") == Counts(fetched=7, updated=7)
    assert not {one.target for one in synced.asked("vin_candidates")} & set(committed)
    assert synced.is_mirror("vin_candidates")
    assert synced.state("vin_candidates", "last_timestamp") > OLD


@pytest.mark.parametrize("name", TABLE_NAMES)
@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_changes_before_resume_are_read(make_world, name, first):
    world = make_world()
    fill(world.emulator, candidates=23, products=23)
    links = [{"vin_candidateid": key} for key in world.emulator.rows("vin_candidates")]
    world.emulator.insert_many(LINK_SET, links)
    if not first:
        world.sync()
        world.wait()
        for key in world.emulator.rows(name):
            world.emulator.update(name, key, {})
    break_after(world, name, pages=2)
    world.sync()
    world.wait()
    committed = sorted(world.copy(name)) if first else sorted(world.emulator.rows(name))
    world.emulator.delete(name, committed[0])
    column = "accountid" if name == LINK_SET else "vin_name"
    world.emulator.update(name, committed[1], {column: committed[1]}, modifiedon=OLD)
    world.emulator.insert(name, {}, id="00000000-0000-4000-8000-000000000000")

    report = world.sync()

    assert report.ok
    assert world.is_mirror(name)


def test_full_read_resumes_under_full(synced):
    break_after(synced, "vin_candidates", pages=1)
    synced.sync(full=True)
    state = json.loads(synced.state("vin_candidates", "checkpoint"))

    report = synced.sync(full=True)

    assert (state["page"], state["full_asked"], state["since"]) == (2, True, None)
    assert counts(report, "vin_candidates") == Counts(fetched=7, unchanged=7)


def test_full_does_not_resume_other_read(make_world):
    world = make_world()
    fill(world.emulator)
    break_after(world, "vin_candidates", pages=1)
    world.sync()

    report = world.sync(full=True)

    assert counts(report, "vin_candidates") == Counts(fetched=12, added=7, unchanged=5)


@pytest.mark.parametrize("status", [400, 404, 410])
def test_refused_stored_link_restarts_read(make_world, status, caplog):
    world = make_world()
    fill(world.emulator)
    break_after(world, "vin_candidates", pages=1)
    world.sync()
    gone = any_of(world, "vin_candidates")
    world.emulator.delete("vin_candidates", gone)
    pattern = r"/vin_candidates\?(?!.*select=).*skiptoken"
    world.emulator.control.fault(Fault("status", match=pattern, status=status))

    report = world.sync()

    assert report.ok
    assert "refused the link that an earlier run kept" in caplog.text
    assert world.is_mirror("vin_candidates")
    assert gone not in world.copy("vin_candidates")


def test_forbidden_stored_link_fails_and_stays(make_world):
    world = make_world()
    fill(world.emulator)
    break_after(world, "vin_candidates", pages=1)
    world.sync()
    link = world.state("vin_candidates", "checkpoint")
    break_after(world, "vin_candidates", pages=0)

    report = world.sync()

    assert [entity.name for entity in report.failed] == ["vin_candidates"]
    assert world.state("vin_candidates", "checkpoint") == link


def test_refused_later_page_keeps_read(make_world):
    world = make_world()
    fill(world.emulator, candidates=23)
    break_after(world, "vin_candidates", pages=1)
    world.sync()
    pattern = r"/vin_candidates\?(?!.*select=)"
    world.emulator.control.fault(Fault("status", match=pattern, skip=1, status=400))

    report = world.sync()

    assert [entity.name for entity in report.failed] == ["vin_candidates"]
    assert len(world.copy("vin_candidates")) == 10
    assert json.loads(world.state("vin_candidates", "checkpoint"))["page"] == 3


# Change tracking


def delta_link(world) -> str:
    return world.state("vin_products", "delta_link")


def test_tracked_table_read_with_one_request(synced):
    before = delta_link(synced)

    synced.sync()

    (request,) = synced.asked("vin_products", "delta")
    assert "$deltatoken" in request.query
    assert request.records == 0
    assert delta_link(synced) != before


def test_expired_token_compares_keys_once(synced, caplog):
    gone = any_of(synced, "vin_products")
    synced.emulator.delete("vin_products", gone)
    synced.emulator.control.expire_delta_tokens()

    report = synced.sync()
    removed = synced.removed("vin_products")
    synced.sync()

    assert report.ok
    assert "0x80044352" in caplog.text
    assert removed[gone][0] == "not_returned"
    assert synced.is_mirror("vin_products")
    assert len(synced.asked("vin_products", "delta")) == 1  # the new token is good


@pytest.mark.parametrize("status", [403, 404, 410])
def test_refused_delta_read_compares_keys(synced, status):
    synced.emulator.delete("vin_products", any_of(synced, "vin_products"))
    synced.emulator.control.fault(Fault("status", match="deltatoken", status=status))

    report = synced.sync()

    assert report.ok
    assert synced.is_mirror("vin_products")


@pytest.mark.parametrize("status", [500, 503, 504])
def test_changes_that_cannot_be_had_compare_keys(synced, monkeypatch, status):
    monkeypatch.setattr(
        "dataverse_sync.dataverse.transport.Retries.get_backoff_time", lambda _: 0.0
    )
    before = delta_link(synced)
    synced.emulator.delete("vin_products", min(synced.copy("vin_products")))
    synced.emulator.control.fault(Fault("status", match="deltatoken", times=999, status=status))

    report = synced.sync()

    assert report.ok
    assert synced.is_mirror("vin_products")
    assert delta_link(synced) == before
    assert f"answered {status}" in report.notes["vin_products"]
    assert synced.state("vin_products", "asked_how") is None


def test_full_answer_to_delta_removes_missing(make_world, caplog):
    world = make_world(TABLES, full_read_on_expiry=True)
    fill(world.emulator)
    world.sync()
    world.emulator.control.expire_delta_tokens()
    gone = any_of(world, "vin_products")
    world.emulator.delete("vin_products", gone)

    report = world.sync()

    assert report.ok
    assert "did not answer with changes alone" in caplog.text
    assert world.removed("vin_products")[gone][0] == "not_returned"
    assert world.is_mirror("vin_products")


def test_forbidden_tracked_read_compares_keys(synced):
    synced.emulator.control.tracking_denied.add("vin_products")
    synced.emulator.delete("vin_products", any_of(synced, "vin_products"))

    report = synced.sync()

    assert report.ok
    assert "change tracking cannot be used" in report.notes["vin_products"]
    assert "403" in report.notes["vin_products"]
    assert synced.is_mirror("vin_products")
    assert delta_link(synced) is None


def test_first_sync_completes_without_tracked_reads(make_world):
    world = make_world()
    fill(world.emulator)
    world.emulator.control.tracking_denied.add("vin_products")

    first = world.sync()
    world.emulator.delete("vin_products", any_of(world, "vin_products"))
    second = world.sync()

    assert first.ok
    assert second.ok
    assert world.is_mirror("vin_products")


def test_many_deletions_and_changes_paged(make_world):
    world = make_world([PRODUCTS])
    entities = [EntityConfig("vin_products")]
    insert(world.emulator, "vin_products", [{"vin_name": str(n)} for n in range(60)])
    world.sync(entities)
    world.wait()
    keys = sorted(world.emulator.rows("vin_products"))
    for key in keys[:17]:
        world.emulator.delete("vin_products", key)
    for key in keys[17:30]:
        world.emulator.update("vin_products", key, {"vin_name": "import"}, modifiedon=OLD)

    report = world.sync(entities)

    assert counts(report, "vin_products") == Counts(fetched=13, updated=13, deleted=17)
    assert world.is_mirror("vin_products")


# Tables that cannot be read in the best way


@pytest.mark.parametrize(
    ("refused", "expected"),
    [
        ((), "createdon"),
        (("createdon",), "modifiedon"),
        (("createdon", "modifiedon"), None),
    ],
)
def test_refused_order_replaced_by_next(make_world, refused, expected):
    table = replace(CANDIDATES, orderable=False, not_orderable=refused)
    world = make_world([table])
    insert(
        world.emulator,
        "vin_candidates",
        [{"vin_name": str(n), "createdon": f"2024-01-{n + 1:02}T00:00:00Z"} for n in range(12)],
    )

    report = world.sync(CANDIDATES_ONLY)
    world.emulator.delete("vin_candidates", any_of(world, "vin_candidates"))
    again = world.sync(CANDIDATES_ONLY)

    assert report.ok
    assert again.ok
    assert world.is_mirror("vin_candidates")
    good = [one for one in world.emulator.log if one.status == 200 and one.kind == "thin"]
    assert {one.query.get("$orderby") for one in good} == {expected}


def test_unreadable_table_fails_with_service_message(make_world):
    world = make_world([CANDIDATES, replace(LINKS, readable=False)])

    report = world.sync([*CANDIDATES_ONLY, EntityConfig(LINK_SET)])

    (failed,) = report.failed
    assert "RetrieveMultiple" in failed.error


def test_table_without_versions_compared_by_modifiedon(make_world):
    world = make_world([replace(CANDIDATES, versionnumber=False)])
    insert(world.emulator, "vin_candidates", [{"vin_name": str(n)} for n in range(7)])
    world.sync(CANDIDATES_ONLY)
    key = any_of(world, "vin_candidates")
    world.emulator.update(
        "vin_candidates", key, {"vin_name": "import"}, modifiedon="2020-01-01T00:00:00Z"
    )
    world.emulator.delete("vin_candidates", any_of(world, "vin_candidates", 1))

    world.sync(CANDIDATES_ONLY)

    assert world.asked(kind="thin")[0].query["$select"] == "vin_candidateid,modifiedon"
    assert world.is_mirror("vin_candidates")


def test_filtered_table_without_version_read_whole(make_world):
    tags = Table(
        "account",
        "accounts",
        "accountid",
        [],
        createdon=False,
        modifiedon=False,
        versionnumber=False,
    )
    world = make_world([CANDIDATES, tags])
    account = world.emulator.insert("accounts", {})
    insert(world.emulator, "vin_candidates", [{"vin_developerid": account}])
    entities = [*CANDIDATES_ONLY, EntityConfig("accounts", filtered=True)]
    world.sync(entities)

    report = world.sync(entities)

    assert counts(report, "accounts") == Counts(fetched=1, unchanged=1)
    assert world.state("accounts", "last_timestamp") is None


# The configuration changes


def test_added_entity_read_by_next_sync(make_world):
    world = make_world()
    fill(world.emulator)
    world.sync(ENTITIES[:1])

    report = world.sync()

    assert report.ok
    assert world.is_mirror(*TABLE_NAMES)
    assert {str(item) for item in report.drift if item.change == "entity_added"} == {
        f"{entity.name}: new in the configuration" for entity in ENTITIES[1:]
    }
    assert "vin_products" in json.loads(world.schema_path.read_text())["entities"]


def test_entity_removed_from_list_keeps_table(synced):
    before = synced.copy("vin_products")
    synced.emulator.delete("vin_products", any_of(synced, "vin_products"))

    report = synced.sync([ENTITIES[0], *ENTITIES[2:]])
    synced.sync([ENTITIES[0], *ENTITIES[2:]])

    assert report.ok
    assert synced.copy("vin_products") == before
    assert synced.query("SELECT entity_name, change, severity FROM _schema_changes") == [
        ("vin_products", "entity_removed", "breaking")
    ]


def test_entity_added_again_resumes(synced):
    synced.sync([ENTITIES[0], *ENTITIES[2:]])
    synced.emulator.delete("vin_products", any_of(synced, "vin_products"))

    report = synced.sync()

    assert report.ok
    assert counts(report, "vin_products") == Counts(deleted=1)
    assert synced.is_mirror("vin_products")
