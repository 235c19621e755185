"""``demo``: a first sync of an emulated environment, some changes, and a second sync.

The emulator is a server on loopback like any other; the program does not know it
from the real one.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from dataverse_sync.commands.console import FAILED, OK, Tell, choose_tell, open_log
from dataverse_sync.commands.options import CONSOLE, Options, add_shared
from dataverse_sync.commands.sync import run_and_show
from dataverse_sync.config import Config, load_entities
from dataverse_sync.emulator import Emulator, change_demo, demo_tables, fill_demo
from dataverse_sync.model import EntityConfig, SyncReport
from dataverse_sync.redaction import Redactor
from dataverse_sync.show.text import format_table
from dataverse_sync.store.database import read_query

FOLDER = Path("demo")
FILTERED = ("accounts", "contacts", "systemusers", "transactioncurrencies")

RunSync = Callable[[Config, Sequence[EntityConfig]], SyncReport]

EXAMPLES = {
    "Which countries have the most candidates?": """
SELECT c.vin_name AS country, count(*) AS candidates
  FROM vin_vin_candidate_vin_countryset AS link
  JOIN vin_countries AS c ON c.vin_countryid = link.vin_countryid
 GROUP BY c.vin_countryid
 ORDER BY candidates DESC, country
 LIMIT 5""",
    "Which accounts run the most clinical trials, and who is their contact?": """
SELECT a.name AS account, p.fullname AS contact, count(*) AS trials
  FROM vin_vin_clinicaltrial_accountset AS link
  JOIN accounts AS a ON a.accountid = link.accountid
  LEFT JOIN contacts AS p ON p.contactid = a._primarycontactid_value
 GROUP BY a.accountid
 ORDER BY trials DESC, account
 LIMIT 5""",
    "How far are the candidates, in words?": """
SELECT vin_modality_label AS modality, statuscode_label AS status, count(*) AS candidates
  FROM vin_candidates_labelled
 GROUP BY modality, status
 ORDER BY candidates DESC, modality
 LIMIT 5""",
    "What was removed from Dataverse, and why did it go from here?": """
SELECT entity_name, reason, count(*) AS records
  FROM _sync_deleted
 GROUP BY entity_name, reason
 ORDER BY records DESC, entity_name
 LIMIT 5""",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add_shared(parser, "--config", "--workers", *CONSOLE)


def run(options: Options, redactor: Redactor) -> int:
    open_log(options, redactor)
    done = run_demo(
        options.config,
        options.workers,
        lambda config, entities: run_and_show(config, entities, options, redactor),
        choose_tell(options),
    )
    return OK if done else FAILED


def run_demo(config_path: Path, workers: int, run_sync: RunSync, write: Tell) -> bool:
    """Make a new database in ``demo/``; returns whether both syncs completed."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(exist_ok=True)
    entities = find_entities(config_path)
    write("Filling an emulated environment on this machine ...")
    with Emulator(demo_tables()) as emulator:
        fill_demo(emulator)
        config = Config(
            api_url=emulator.api_url,
            client_id=emulator.client_id,
            client_secret=emulator.client_secret,
            sqlite_db_path=FOLDER / "dataverse.db",
            schema_path=FOLDER / "schema.json",
            workers=workers,
        )
        write(f"It answers at {emulator.api_url}")
        write("\nThe first sync copies everything:\n")
        first = run_sync(config, entities)
        changes = change_demo(emulator)
        write("\nMeanwhile, in Dataverse:")
        for name, made in changes.items():
            told = [f"{count} {kind}" for kind, count in asdict(made).items() if count]
            write(f"  {name}: {', '.join(told)}")
        write("\nThe second sync fetches only what changed:\n")
        second = run_sync(config, entities)
    for question, sql in EXAMPLES.items():
        write(f"\n{question}\n{sql};\n")
        for line in _answer(config.db_path, sql):
            write(f"  {line}")
    write(f"\nThe database is {config.db_path}; open it with any SQLite tool.")
    return first.ok and second.ok


def find_entities(config_path: Path) -> list[EntityConfig]:
    """The entities of the configuration, or the emulator's own tables if there is none."""
    if config_path.exists():
        return load_entities(config_path)
    return [
        EntityConfig(table.entity_set, filtered=table.entity_set in FILTERED)
        for table in demo_tables()
    ]


def _answer(db_path: Path, sql: str) -> list[str]:
    heads, rows = read_query(db_path, sql)
    return format_table(heads, [["-" if it is None else str(it) for it in row] for row in rows])
