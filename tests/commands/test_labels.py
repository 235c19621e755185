"""``labels`` over the emulator: what choices are called, and the views that show it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from conftest import World, insert

from dataverse_sync import EntityConfig
from dataverse_sync.commands.labels import format_labels, run_labels
from dataverse_sync.emulator import Column, Fault, Table
from dataverse_sync.errors import ConfigError, EntityError, LockedError, PageError, RequestError
from dataverse_sync.model import Column as LockedColumn
from dataverse_sync.model import Entity
from dataverse_sync.redaction import Redactor
from dataverse_sync.store import choices, database, labelled_views
from dataverse_sync.store.choices import CHOICES, Choice, choose_language
from dataverse_sync.store.run_lock import hold
from dataverse_sync.store.tables import build_table
from dataverse_sync.sync.labelling import EntityLabels, LabelsReport, find_lookups
from dataverse_sync.sync.reading_labels import (
    count_user_languages,
    parse_option_sets,
    parse_stringmap,
)

TRIALS = Table(
    "vin_trial",
    "vin_trials",
    "vin_trialid",
    [
        Column("vin_name", "String"),
        Column("vin_phase", "Picklist", options={1: "Phase 1", 2: "Phase 2", 9: "Never used"}),
        Column("vin_groups", "MultiSelectPicklist", options={2: "Adults", 3: "Old", 8: "Young"}),
        Column("vin_blinded", "Boolean", options={0: "Open", 1: "Blinded"}),
        Column("statecode", "State"),
        Column("vin_sponsorid", "Customer", targets=("account", "contact")),
        Column("ownerid", "Owner", targets=("systemuser", "team")),
    ],
)
ACCOUNTS = Table(
    "account",
    "accounts",
    "accountid",
    [
        Column("accountnumber", "String"),
        Column("name", "String"),
        Column("parentaccountid", "Lookup", targets=("account",)),
    ],
    primary_name="name",
)
CONTACTS = Table("contact", "contacts", "contactid", [Column("fullname", "String")])
LINKS = Table(
    "vin_trial_account",
    "vin_trial_accountset",
    "vin_trial_accountid",
    [Column("vin_trialid", "Uniqueidentifier"), Column("accountid", "Uniqueidentifier")],
    intersect=True,
    modifiedon=False,
    createdon=False,
)
PLAIN = Table("vin_plain", "vin_plains", "vin_plainid", [Column("vin_text", "String")])
TABLES = [TRIALS, ACCOUNTS, CONTACTS, LINKS, PLAIN]
ENTITIES = [EntityConfig(table.entity_set) for table in TABLES]
REFUSED = {"status": 403, "times": 99}


@pytest.fixture
def trials(make_world: Any) -> World:
    """A trial of each kind, its sponsor an account, a contact, nobody."""
    world: World = make_world(TABLES)
    emulator = world.emulator
    parent = insert(emulator, "accounts", [{"name": "Litware"}])[0]
    account = insert(emulator, "accounts", [{"name": "Fabrikam", "parentaccountid": parent}])[0]
    contact = insert(emulator, "contacts", [{"fullname": "Nancy"}])[0]
    records: list[dict[str, Any]] = [
        {"vin_name": "A", "vin_phase": 2, "vin_groups": "8,2", "vin_sponsorid": account},
        {"vin_name": "B", "vin_phase": 7, "vin_groups": "3,5", "vin_sponsorid": contact},
        {"vin_name": "C", "vin_blinded": True, "statecode": 1, "ownerid": contact},
    ]
    made = insert(emulator, "vin_trials", [{"statecode": 0, **record} for record in records])
    emulator.insert("vin_trial_accountset", {"vin_trialid": made[0], "accountid": account})
    insert(emulator, "vin_plains", [{"vin_text": "nothing to tell"}])
    # As the service: stringmaps has nothing of yes/no columns.
    for key, row in emulator.rows("stringmaps").items():
        if row["attributename"] == "vin_blinded":
            emulator.delete("stringmaps", key)
    return world


def labels(world: World, *only: str, **options: Any) -> LabelsReport:
    world.emulator.log.clear()
    entities = options.pop("entities", ENTITIES)
    told: list[str] = []
    return run_labels(world.config(), entities, only, Redactor(), told.append, **options)


def translate(world: World, column: str, language: int, words: dict[int, str | None]) -> None:
    world.emulator.insert_many(
        "stringmaps",
        [
            {
                "objecttypecode": "vin_trial",
                "attributename": column,
                "attributevalue": value,
                "value": word,
                "langid": language,
            }
            for value, word in words.items()
        ],
    )


def shown(world: World, columns: str, view: str = "vin_trials_labelled") -> list[Any]:
    return world.query(f"SELECT {columns} FROM {view} ORDER BY 1")


def stored(world: World, entity: str = "vin_trials") -> set[Any]:
    return set(
        world.query(
            "SELECT column_name, value, label, language FROM _choices WHERE entity_name = ?", entity
        )
    )


ALL_LABELS = {
    ("statecode", 0, "Active", 1033),
    ("statecode", 1, "Inactive", 1033),
    ("vin_blinded", 0, "Open", 1033),
    ("vin_blinded", 1, "Blinded", 1033),
    ("vin_groups", 2, "Adults", 1033),
    ("vin_groups", 3, "Old", 1033),
    ("vin_groups", 8, "Young", 1033),
    ("vin_phase", 1, "Phase 1", 1033),
    ("vin_phase", 2, "Phase 2", 1033),
    ("vin_phase", 9, "Never used", 1033),
}


# The table


def test_every_option_is_stored(trials: World) -> None:
    trials.sync(ENTITIES)

    report = labels(trials)

    assert report.ok
    assert stored(trials) == ALL_LABELS
    assert trials.query("SELECT DISTINCT entity_name FROM _choices") == [("vin_trials",)]
    assert [row[1] for row in trials.query("PRAGMA table_info(_choices)")] == [
        "entity_name", "column_name", "value", "label", "language",
    ]  # fmt: skip


def test_stringmaps_paged_in_every_language(trials: World) -> None:
    trials.sync(ENTITIES)
    translate(trials, "vin_phase", 1036, {1: "Phase un", 2: "Phase deux", 9: None})

    report = labels(trials)

    asked = [one.target for one in trials.emulator.log if "stringmaps" in one.target]
    assert len(asked) == 3  # eight labels and three, five a page
    assert "objecttypecode%20eq%20'vin_trial'%20or%20objecttypecode%20eq%20'account'" in asked[0]
    assert stored(trials) == ALL_LABELS | {
        ("vin_phase", 1, "Phase un", 1036),
        ("vin_phase", 2, "Phase deux", 1036),
    }
    assert (report.language, report.languages) == (1033, (1033, 1036))


def test_metadata_asked_for_missing_labels(trials: World) -> None:
    trials.sync(ENTITIES)

    labels(trials)

    casts = [one.target for one in trials.emulator.log if "/Attributes/" in one.target]
    assert len(casts) == 1
    assert "LogicalName='vin_trial'" in casts[0]
    assert "BooleanAttributeMetadata" in casts[0]


def test_unknown_column_read_from_metadata(trials: World) -> None:
    trials.sync(ENTITIES)
    for key, row in trials.emulator.rows("stringmaps").items():
        if row["attributename"] == "vin_groups":
            trials.emulator.delete("stringmaps", key)

    labels(trials)

    assert stored(trials) == ALL_LABELS


def test_metadata_replaces_refused_stringmaps(trials: World) -> None:
    trials.sync(ENTITIES)
    trials.emulator.control.fault(Fault("status", "stringmaps", **REFUSED))

    report = labels(trials)

    assert report.ok
    assert stored(trials) == ALL_LABELS
    assert shown(trials, "vin_name, vin_groups_label")[0] == ("A", "Young; Adults")


def test_unchanged_label_rows_stay(trials: World) -> None:
    trials.sync(ENTITIES)
    first = labels(trials).saved
    rows = dict(trials.query("SELECT rowid, label FROM _choices"))
    key = next(
        key
        for key, row in trials.emulator.rows("stringmaps").items()
        if (row["attributename"], row["attributevalue"]) == ("vin_phase", 1)
    )
    assert labels(trials).saved == choices.Saved(0, 0, 0)
    trials.emulator.update("stringmaps", key, {"value": "First phase"})
    gone = next(
        key for key, row in trials.emulator.rows("stringmaps").items() if row["value"] == "Phase 2"
    )
    trials.emulator.delete("stringmaps", gone)
    translate(trials, "vin_phase", 1033, {3: "Phase 3"})

    second = labels(trials).saved

    assert (first.added, second) == (10, choices.Saved(1, 1, 1))
    after = dict(trials.query("SELECT rowid, label FROM _choices"))
    same = {rowid for rowid, label in rows.items() if after.get(rowid) == label}
    assert len(same) == 8
    assert {("vin_phase", 1, "First phase", 1033), ("vin_phase", 3, "Phase 3", 1033)} < stored(
        trials
    )


def test_failed_column_keeps_labels(trials: World) -> None:
    trials.sync(ENTITIES)
    labels(trials)
    trials.emulator.control.fault(Fault("status", "BooleanAttributeMetadata", status=404, times=9))

    report = labels(trials)

    assert not report.ok
    assert "404" in str(report.entities[0].error)
    assert [entity.error for entity in report.entities[1:]] == [None] * 4
    assert stored(trials) == ALL_LABELS
    assert shown(trials, "vin_name, vin_blinded_label")[2] == ("C", "Blinded")
    assert format_labels(report)[0].startswith("failure  EntityDefinitions(LogicalName=")


def test_names_guessed_without_metadata(
    trials: World,
) -> None:
    trials.sync(ENTITIES)
    trials.emulator.control.fault(Fault("status", "EntityDefinitions", **REFUSED))

    report = labels(trials)

    assert report.ok
    assert len(report.warnings) == 1
    assert "403" in report.warnings[0]
    assert stored(trials) == {row for row in ALL_LABELS if row[0] != "vin_blinded"}
    assert shown(trials, "vin_name, vin_sponsorid_name")[:2] == [("A", "Fabrikam"), ("B", "Nancy")]
    lines = "\n".join(format_labels(report))
    assert "warning  the metadata cannot be read, so yes/no columns get no labels" in lines


def test_sampled_copy_has_no_logical_names(make_world: Any) -> None:
    world: World = make_world([TRIALS, ACCOUNTS], metadata_readable=False)
    account = insert(world.emulator, "accounts", [{"name": "Fabrikam"}])[0]
    insert(world.emulator, "vin_trials", [{"vin_name": "A", "vin_sponsorid": account}])
    entities = [EntityConfig("vin_trials"), EntityConfig("accounts")]
    world.sync(entities)

    report = labels(world, entities=entities)

    assert "logical name is not known" in report.entities[0].note
    assert "note     vin_trials: its logical name" in "\n".join(format_labels(report))
    assert shown(world, "vin_name, vin_sponsorid_name") == [("A", "Fabrikam")]
    assert not [one for one in world.emulator.log if "stringmaps" in one.target]


@pytest.mark.parametrize("status", [403, 404])
def test_nothing_written_if_both_refused(trials: World, status: int) -> None:
    trials.sync(ENTITIES)
    trials.emulator.control.fault(Fault("status", "stringmaps|EntityDef", status=status, times=99))
    before = trials.db_path.read_bytes()

    with pytest.raises(RequestError, match=f"stringmaps, page 1: the service answered {status}"):
        labels(trials)

    assert trials.db_path.read_bytes() == before


@pytest.mark.parametrize("part", ["stringmaps", "EntityDefinitions\\?"])
def test_refused_token_uses_no_fallback(trials: World, part: str) -> None:
    trials.sync(ENTITIES)
    trials.emulator.control.fault(Fault("status", part, status=401, times=99))

    with pytest.raises(RequestError, match="401"):
        labels(trials)


def test_unreadable_record_ends_labels(trials: World) -> None:
    trials.sync(ENTITIES)
    body = '{"value": [{"value": ' + "9" * 5000 + "}]}"
    trials.emulator.control.fault(Fault("body", "stringmaps", body=body.encode()))

    with pytest.raises(PageError, match="stringmaps, page 1: a record cannot be read"):
        labels(trials)


def test_unusable_definitions_are_skipped(trials: World) -> None:
    trials.sync(ENTITIES)
    answer = {"value": [{"EntitySetName": "vin_trials"}, "what?"]}
    trials.emulator.control.fault(
        Fault("body", "EntityDefinitions\\?", body=json.dumps(answer).encode())
    )

    report = labels(trials)

    assert report.ok
    assert {row[0] for row in stored(trials)} == {"statecode", "vin_groups", "vin_phase"}


def test_hostile_logical_name_not_sent(trials: World) -> None:
    trials.sync(ENTITIES)
    lock = trials.schema_path.read_text(encoding="utf-8")
    trials.schema_path.write_text(
        lock.replace('"logical_name": "vin_trial",', '"logical_name": "x\' or a eq \'a",'),
        encoding="utf-8",
    )
    trials.emulator.control.fault(Fault("status", "EntityDefinitions", **REFUSED))

    report = labels(trials)

    assert "logical name is not known" in report.entities[0].note
    assert not [one for one in trials.emulator.log if "%20a%20eq" in one.target]


# The views


def test_view_shows_label_beside_choice(trials: World) -> None:
    trials.sync(ENTITIES)

    labels(trials)

    assert shown(
        trials, "vin_name, vin_phase, vin_phase_label, vin_blinded_label, statecode_label"
    ) == [
        ("A", 2, "Phase 2", None, "Active"),
        ("B", 7, None, None, "Active"),
        ("C", None, None, "Blinded", "Inactive"),
    ]
    names = [row[1] for row in trials.query("PRAGMA table_info(vin_trials_labelled)")]
    assert names[names.index("vin_phase") + 1] == "vin_phase_label"
    assert names[-3:] == ["sync_time", "valid_from", "json_response"]


def test_multi_select_labels_joined_in_order(trials: World) -> None:
    trials.sync(ENTITIES)
    trials.execute("UPDATE vin_trials SET vin_groups = '1,no list' WHERE vin_name = 'C'")

    labels(trials)

    assert shown(trials, "vin_name, vin_groups_label") == [
        ("A", "Young; Adults"),
        ("B", "Old; 5"),
        ("C", None),
    ]


def test_lookup_named_by_first_table(trials: World) -> None:
    trials.sync(ENTITIES)

    labels(trials)

    assert shown(trials, "vin_name, vin_sponsorid_name") == [
        ("A", "Fabrikam"),
        ("B", "Nancy"),
        ("C", None),
    ]
    assert shown(trials, "name, parentaccountid_name", "accounts_labelled") == [
        ("Fabrikam", "Litware"),
        ("Litware", None),
    ]
    assert shown(trials, "vin_trialid_name, accountid_name", "vin_trial_accountset_labelled") == [
        ("A", "Fabrikam")
    ]
    names = [row[1] for row in trials.query("PRAGMA table_info(vin_trials_labelled)")]
    assert "_ownerid_value" in names  # users and teams are not synced
    assert "ownerid_name" not in names


def test_view_follows_its_tables(trials: World) -> None:
    trials.sync(ENTITIES)
    labels(trials)
    trials.wait()
    key = trials.emulator.ids("contacts")[0]
    trials.emulator.update("contacts", key, {"fullname": "Nancy Anderson"})

    trials.sync(ENTITIES)

    assert shown(trials, "vin_name, vin_sponsorid_name")[1] == ("B", "Nancy Anderson")


def test_plain_table_has_no_view(trials: World) -> None:
    trials.sync(ENTITIES)

    report = labels(trials)

    views = trials.query("SELECT name FROM sqlite_master WHERE type = 'view' ORDER BY name")
    assert [name for (name,) in views] == [
        "accounts_labelled", "vin_trial_accountset_labelled", "vin_trials_labelled",
    ]  # fmt: skip
    assert report.entities[0] == EntityLabels("vin_trials", 4, 10, 1, "vin_trials_labelled")
    lines = format_labels(report)
    assert lines[0] == "ok       vin_trials_labelled: 4 choice columns (10 values), 1 lookups"
    assert "ok       vin_plains: no choices and no lookups, so no view" in lines
    assert lines[-1] == ("_choices: 10 added, 0 changed, 0 removed; the views show language 1033")


def test_labels_leave_tables_untouched(trials: World) -> None:
    trials.sync(ENTITIES)
    before = trials.rows(), trials.query("SELECT * FROM _sync_state ORDER BY 1")

    labels(trials)

    assert (trials.rows(), trials.query("SELECT * FROM _sync_state ORDER BY 1")) == before
    assert trials.sync(ENTITIES).ok
    assert trials.rows() == before[0]


def test_view_falls_back_to_other_language(trials: World) -> None:
    trials.sync(ENTITIES)
    translate(trials, "vin_phase", 1036, {1: "Phase un", 2: "Phase deux"})

    report = labels(trials, language=1036)

    assert shown(trials, "vin_name, vin_phase_label, statecode_label")[0] == (
        "A", "Phase deux", "Active",
    )  # fmt: skip
    assert report.language == 1036
    assert format_labels(report)[-1].endswith("language 1036 (there is also 1033)")


def test_language_without_labels_refused(trials: World) -> None:
    trials.sync(ENTITIES)

    with pytest.raises(ConfigError, match=r"--language 1031: no label .* labels in 1033"):
        labels(trials, language=1031)

    assert trials.query("SELECT name FROM sqlite_master WHERE name = '_choices'") == []


def test_any_language_without_labels(make_world: Any) -> None:
    world: World = make_world([PLAIN])
    insert(world.emulator, "vin_plains", [{"vin_text": "x"}])
    entities = [EntityConfig("vin_plains")]
    world.sync(entities)

    report = labels(world, entities=entities, language=1031)

    assert report.ok
    assert report.languages == ()
    assert labels(world, entities=entities).language is None
    assert format_labels(labels(world, entities=entities))[-1] == (
        "_choices: 0 added, 0 changed, 0 removed"
    )


def test_only_selected_entities_labelled(trials: World) -> None:
    trials.sync(ENTITIES)
    labels(trials)
    trials.execute("UPDATE _choices SET label = 'mine' WHERE column_name = 'vin_phase'")

    report = labels(trials, "accounts")

    assert [entity.entity for entity in report.entities] == ["accounts"]
    assert shown(trials, "vin_name, vin_phase_label")[0] == ("A", "mine")
    assert shown(trials, "name, parentaccountid_name", "accounts_labelled")[0][1] == "Litware"


def test_colliding_names_get_number(make_world: Any) -> None:
    odd = Table(
        "vin_odd",
        "vin_odds",
        "vin_oddid",
        [
            Column("vin_kind", "Picklist", options={1: "One"}),
            Column("vin_kind_label", "String"),
            Column("VIN_KIND_LABEL_2", "String"),
            Column("vin_file", "File"),
            Column("vin_ourid", "Lookup", targets=("vin_odd",)),
            Column("vin_ourid_name", "String"),
            Column("order", "Picklist", options={1: "First"}),
        ],
        primary_name="vin_kind_label",
    )
    taken = Table("vin_taken", "vin_odds_labelled", "vin_takenid", [Column("vin_a", "String")])
    world: World = make_world([odd, taken])
    key = insert(world.emulator, "vin_odds", [{"vin_kind_label": "mine", "vin_kind": 1}])[0]
    insert(world.emulator, "vin_odds", [{"vin_kind_label": "other", "vin_ourid": key, "order": 1}])
    entities = [EntityConfig("vin_odds"), EntityConfig("vin_odds_labelled")]
    world.sync(entities)
    world.execute("CREATE VIEW vin_odds_labelled_2 AS SELECT 'somebody else''s'")

    report = labels(world, entities=entities)

    assert report.entities[0].view == "vin_odds_labelled_3"
    assert shown(
        world, "vin_kind_label, vin_kind_label_3, vin_ourid_name_2, order_label",
        "vin_odds_labelled_3",
    ) == [("mine", "One", None, None), ("other", None, "mine", "First")]  # fmt: skip
    labels(world, entities=entities)
    views = world.query("SELECT name FROM sqlite_master WHERE type = 'view' ORDER BY 1")
    assert views == [("vin_odds_labelled_2",), ("vin_odds_labelled_3",)]


def test_hostile_label_is_data(make_world: Any) -> None:
    hostile = "'; DROP TABLE vin_bads; --\" */ %s :x \x00 \N{SNOWMAN}"
    bads = Table(
        "vin_bad",
        "vin_bads",
        "vin_badid",
        [Column("vin_name", "String"), Column("vin_kind", "Picklist", options={1: hostile})],
    )
    world: World = make_world([bads])
    insert(world.emulator, "vin_bads", [{"vin_name": "A", "vin_kind": 1}])
    entities = [EntityConfig("vin_bads")]
    world.sync(entities)

    labels(world, entities=entities)

    assert shown(world, "vin_name, vin_kind_label", "vin_bads_labelled") == [("A", hostile)]


def test_refused_view_fails_entity(trials: World, monkeypatch: pytest.MonkeyPatch) -> None:
    trials.sync(ENTITIES)
    monkeypatch.setattr(
        labelled_views,
        "_name_of",
        lambda column, targets: labelled_views.sa.func.no_such_function(column),
    )

    report = labels(trials)

    assert "vin_trials: its view cannot be made (no such function" in str(report.entities[0].error)
    assert report.entities[0].view is None
    views = trials.query("SELECT name FROM sqlite_master WHERE type = 'view'")
    assert views == []
    assert stored(trials) == ALL_LABELS


# What is not there


def test_labels_need_database(trials: World) -> None:
    with pytest.raises(ConfigError, match=r"there is no database yet\. Run a sync first"):
        labels(trials)

    assert not trials.db_path.exists()


def test_labels_need_synced_table(trials: World) -> None:
    trials.db_path.touch()

    with pytest.raises(ConfigError, match="nothing is synced yet"):
        labels(trials)


def test_never_synced_entity_noted(trials: World) -> None:
    trials.sync(ENTITIES[:1])

    report = labels(trials)

    assert report.ok
    assert "note     accounts: no table yet: it was never synced" in format_labels(report)
    assert "vin_sponsorid_name" not in [
        row[1] for row in trials.query("PRAGMA table_info(vin_trials_labelled)")
    ]


def test_labels_take_run_lock(trials: World) -> None:
    trials.sync(ENTITIES)

    with hold(trials.db_path, trials.emulator.clock.now()), pytest.raises(LockedError):
        labels(trials)


# After schema accept


def test_view_survives_rebuilt_table(trials: World) -> None:
    trials.sync(ENTITIES)
    labels(trials)

    with (
        database.open_target(trials.db_path).open_writer() as connection,
        database.transaction(connection),
    ):
        run = connection.exec_driver_sql
        run("PRAGMA legacy_alter_table = ON")
        run("ALTER TABLE accounts RENAME TO _old_accounts")
        run("CREATE TABLE accounts AS SELECT * FROM _old_accounts")
        run("DROP TABLE _old_accounts")
        assert labelled_views.drop_broken(connection) == []

    assert shown(trials, "vin_name, vin_sponsorid_name")[0] == ("A", "Fabrikam")


def test_broken_views_are_dropped(trials: World) -> None:
    trials.sync(ENTITIES)
    labels(trials)
    trials.execute("CREATE VIEW mine AS SELECT no_such_column FROM accounts")

    with (
        database.open_target(trials.db_path).open_writer() as connection,
        database.transaction(connection),
    ):
        run = connection.exec_driver_sql
        run("PRAGMA legacy_alter_table = ON")
        run("ALTER TABLE contacts RENAME TO _old_contacts")
        run("CREATE TABLE contacts (contactid TEXT PRIMARY KEY)")
        run("DROP TABLE _old_contacts")
        dropped = labelled_views.drop_broken(connection)

    assert dropped == ["vin_trials_labelled"]
    views = trials.query("SELECT name FROM sqlite_master WHERE type = 'view' ORDER BY 1")
    assert [name for (name,) in views] == [
        "accounts_labelled", "mine", "vin_trial_accountset_labelled",
    ]  # fmt: skip


# The pure parts


def test_missing_columns_not_shown(trials: World) -> None:
    trials.sync(ENTITIES)
    trials.emulator.add_column("vin_trials", Column("vin_new", "Boolean"))
    trials.emulator.add_column("vin_trials", Column("vin_kind", "Picklist", options={1: "One"}))

    report = labels(trials)

    assert report.entities[0].columns == 4
    names = [row[1] for row in trials.query("PRAGMA table_info(vin_trials_labelled)")]
    assert [name for name in names if "new" in name or "kind" in name] == []


def test_lookup_differing_by_case_skipped() -> None:
    lookups = [LockedColumn(name, "TEXT", ("b",)) for name in ("_a_value", "_A_value")]
    entities = [
        Entity("as", "aid", (LockedColumn("aid", "TEXT"), *lookups), "metadata", "a"),
        Entity("bs", "bid", (LockedColumn("name", "TEXT"),), "metadata", "b"),
    ]
    tables = {one.name: build_table(one) for one in entities}

    found = find_lookups(tables, {})

    assert [list(columns) for columns in found.values()] == [["_A_value"]]


def test_misshapen_labels_are_skipped() -> None:
    good = {
        "objecttypecode": "account",
        "attributename": "kind",
        "attributevalue": 1,
        "value": "One",
        "langid": 1033,
    }
    sets = {"account": "accounts"}

    assert parse_stringmap(good, sets) == Choice("accounts", "kind", 1, "One", 1033)
    for change in (
        {"objecttypecode": "contact"},
        {"attributename": None},
        {"attributevalue": "1"},
        {"attributevalue": True},
        {"attributevalue": 2**63},
        {"value": None},
        {"langid": None},
        {"langid": True},
    ):
        assert parse_stringmap({**good, **change}, sets) is None, change
    assert parse_stringmap(["no record"], sets) is None
    lone = parse_stringmap({**good, "value": "\ud800"}, sets)
    assert lone is not None
    assert lone.label == "?"


def option(value: object, *labels: tuple[str, int], user: int | None = None) -> dict[str, Any]:
    localized = [{"Label": text, "LanguageCode": language} for text, language in labels]
    return {
        "Value": value,
        "Label": {
            "LocalizedLabels": localized,
            "UserLocalizedLabel": None if user is None else {"Label": "x", "LanguageCode": user},
        },
    }


def test_options_from_column_or_global_choice() -> None:
    attributes = [
        {"LogicalName": "a", "OptionSet": {"Options": [option(1, ("One", 1033), ("Un", 1036))]}},
        {"LogicalName": "b", "OptionSet": None, "GlobalOptionSet": {"Options": [option(2)]}},
        {"LogicalName": "c", "GlobalOptionSet": {"Options": [option(3, ("Three", 1033))]}},
        {
            "LogicalName": "d",
            "OptionSet": {
                "TrueOption": option(1, ("Yes", 1033)),
                "FalseOption": option(0, ("No", 1033)),
            },
        },
        {"LogicalName": "e", "OptionSet": {"Options": "no list", "TrueOption": "no option"}},
        {"LogicalName": "f", "OptionSet": {"Options": [{"Value": 1, "Label": None}, None]}},
        "no attribute",
    ]

    assert parse_option_sets("accounts", attributes) == [
        Choice("accounts", "a", 1, "One", 1033),
        Choice("accounts", "a", 1, "Un", 1036),
        Choice("accounts", "c", 3, "Three", 1033),
        Choice("accounts", "d", 0, "No", 1033),
        Choice("accounts", "d", 1, "Yes", 1033),
    ]


def test_language_chosen_by_user_count_number() -> None:
    def of(*languages: int) -> list[Choice]:
        return [Choice("a", "b", at, "c", language) for at, language in enumerate(languages)]

    told = [{"LogicalName": "b", "OptionSet": {"Options": [option(1, user=1036), option(2)]}}]
    assert count_user_languages(told) == Counter({1036: 1})
    assert choose_language(of(1033, 1033, 1036), Counter({1036: 1, 1031: 5})) == 1036
    assert choose_language(of(1033, 1036, 1036), Counter()) == 1036
    assert choose_language(of(1036, 1033), Counter()) == 1033
    assert choose_language([], Counter({1033: 1})) is None


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        (["name", "fullname", "vin_name"], "fullname"),
        (["vin_name", "name"], "name"),
        (["nickname", "vin_name", "other_vin_name"], "vin_name"),
        (["currencyname", "_x_name", "isocode"], "currencyname"),
        (["isocode"], None),
    ],
)
def test_name_column_guessed_by_name(columns: list[str], name: str | None) -> None:
    locked = [LockedColumn(column, "TEXT") for column in columns]
    number = LockedColumn("aname", "INTEGER")
    table = build_table(Entity("things", "thingid", (*locked, number), "sample"))

    assert labelled_views.guess_name_column(table) == name


def test_partly_read_entity_keeps_rows(connection: Any) -> None:
    old = [Choice("a", "kept", 1, "x", 1033), Choice("a", "read", 1, "x", 1033)]
    other = Choice("b", "kept", 1, "x", 1033)
    with connection.begin():
        choices.save(connection, [*old, other], ["a", "b"], ["a", "b"])

        saved = choices.save(connection, [Choice("a", "read", 2, "y", 1033)], ["a"], [])

        rows = connection.execute(CHOICES.select()).all()
    assert saved == choices.Saved(added=1, changed=0, removed=1)
    assert {(row.entity_name, row.column_name, row.value) for row in rows} == {
        ("a", "kept", 1),
        ("a", "read", 2),
        ("b", "kept", 1),
    }


def test_unreadable_view_is_error(connection: Any) -> None:
    with connection.begin(), pytest.raises(EntityError, match="a: its view cannot be made"):
        labelled_views.replace_view(connection, "a", "SELECT x FROM nowhere", [])
