"""``demo``: two real syncs of an emulated environment, and what they leave behind."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from dataverse_sync import Config, EntityConfig, SyncReport, run_sync
from dataverse_sync.commands import demo
from dataverse_sync.emulator import demo_tables, fill_demo

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


class Played(NamedTuple):
    """One run of the demo."""

    folder: Path
    ok: bool
    reports: list[SyncReport]
    lines: list[str]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """The demo with a tenth of its data, in an empty folder."""
    folder = tmp_path_factory.mktemp("played")
    reports: list[SyncReport] = []
    lines: list[str] = []

    def sync(config: Config, entities: Sequence[EntityConfig]) -> SyncReport:
        reports.append(run_sync(config, entities))
        return reports[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(demo, "fill_demo", partial(fill_demo, scale=0.1))
        ok = demo.run_demo(ROOT / "entities_config.json", 8, sync, lines.append)
        yield Played(folder, ok, reports, lines)


def test_second_sync_fetches_only_changes(played: Played) -> None:
    first, second = played.reports

    assert played.ok
    assert first.totals.added == first.totals.fetched > 0
    changed = second.totals.added + second.totals.updated
    assert 0 < changed < first.totals.added / 4
    junctions = [entity for entity in second.entities if "_vin_" in entity.name]
    others = [entity for entity in second.entities if entity not in junctions]
    assert sum(entity.counts.unchanged for entity in others) == 0


def test_every_shipped_entity_has_table(played: Played) -> None:
    with closing(sqlite3.connect(played.folder / "demo" / "dataverse.db")) as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}

    assert len(played.reports[0].entities) == 26
    assert {entity.name for entity in played.reports[0].entities} <= names


def test_demo_answers_its_questions(played: Played) -> None:
    text = "\n".join(played.lines)

    assert len(demo.EXAMPLES) == 4
    for question, sql in demo.EXAMPLES.items():
        assert question in text
        assert sql in text


def test_own_tables_copied_without_configuration() -> None:
    entities = demo.find_entities(Path("missing.json"))

    assert [entity.name for entity in entities] == [t.entity_set for t in demo_tables()]
    assert {entity.name for entity in entities if entity.filtered} == set(demo.FILTERED)
