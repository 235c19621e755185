"""``demo``: two real syncs of an emulated environment, and what they leave behind."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from dataverse_sync import Config, EntityConfig, SyncReport, run_sync
from dataverse_sync.commands import demo
from dataverse_sync.emulator import demo_tables, fill_demo
from dataverse_sync.redaction import Redactor

ROOT = Path(__file__).parents[2]


@pytest.fixture
def played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[bool, list[SyncReport], list[str]]:
    """The demo with a fiftieth of its data, in an empty folder: its verdict, reports and words."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "fill_demo", partial(fill_demo, scale=0.02))
    reports: list[SyncReport] = []
    lines: list[str] = []

    def sync(config: Config, entities: Sequence[EntityConfig], _: Redactor) -> SyncReport:
        reports.append(run_sync(config, entities))
        return reports[-1]

    verdict = demo.run_demo(ROOT / "entities_config.json", 8, sync, lines.append)
    return verdict, reports, lines


def test_the_second_sync_fetches_only_what_changed(
    played: tuple[bool, list[SyncReport], list[str]],
) -> None:
    verdict, (first, second), _ = played

    assert verdict
    assert first.totals.added == first.totals.fetched > 0
    changed = second.totals.added + second.totals.updated
    assert 0 < changed < first.totals.added / 4
    junctions = [entity for entity in second.entities if "_vin_" in entity.name]
    others = [entity for entity in second.entities if entity not in junctions]
    assert sum(entity.counts.unchanged for entity in others) == 0


def test_every_shipped_entity_has_its_table(
    played: tuple[bool, list[SyncReport], list[str]],
) -> None:
    with closing(sqlite3.connect("demo/dataverse.db")) as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}

    assert len(played[1][0].entities) == 26
    assert {entity.name for entity in played[1][0].entities} <= names


def test_it_answers_three_questions(played: tuple[bool, list[SyncReport], list[str]]) -> None:
    text = "\n".join(played[2])

    assert len(demo.EXAMPLES) == 3
    for example in demo.EXAMPLES:
        assert example.question in text
        assert example.sql in text


def test_without_a_configuration_the_emulators_own_tables_are_copied() -> None:
    entities = demo.find_entities(Path("missing.json"))

    assert [entity.name for entity in entities] == [t.entity_set for t in demo_tables()]
    assert {entity.name for entity in entities if entity.filtered} == set(demo.FILTERED)
