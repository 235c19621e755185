"""Change the demo's environment the way a working day does: a few dozen records."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from ..data.records import parse_record
from ..emulator import Emulator
from .demo_data import COUNTS, LINKS, DemoWriter

UPDATED = {"vin_candidates": 12, "vin_clinicaltrials": 9, "vin_products": 4, "accounts": 5,
           "contacts": 3, "vin_rdpriorities": 1}  # fmt: skip
CREATED = {"vin_candidates": 4, "vin_clinicaltrials": 6, "vin_sources": 5}
DELETED = {"vin_clinicaltrials": 2, "vin_sources": 3, "vin_capparameters": 1}
NEW_LINKS = 5
UNLINKED = 4

_NOTE = {
    "vin_candidates": "vin_description",
    "vin_clinicaltrials": "vin_summary",
    "vin_products": "vin_description",
    "vin_rdpriorities": "vin_description",
    "accounts": "description",
    "contacts": "jobtitle",
}
_ACCOUNT_LINKS = "vin_vin_candidate_accountset"


@dataclass(frozen=True, slots=True)
class Changes:
    """How many records of one set a day's work touched."""

    created: int = 0
    updated: int = 0
    deleted: int = 0


def change_demo(emulator: Emulator, seed: int = 1) -> dict[str, Changes]:
    """Update, create, delete, link and unlink; give another seed for another day."""
    writer = DemoWriter(seed, ids={name: emulator.ids(name) for name in COUNTS})
    chosen = random.Random(seed)  # noqa: S311  made-up data, no secrets
    created: Counter[str] = Counter()
    deleted: Counter[str] = Counter()
    ids = {name: emulator.ids(name) for name in {*UPDATED, *DELETED, _ACCOUNT_LINKS}}
    # Of accounts and contacts, those that are linked to: the others are not synced.
    linked = {row["accountid"] for row in emulator.rows(_ACCOUNT_LINKS).values()}
    not_linked = [id_ for id_ in ids["accounts"] if id_ not in linked]
    ids["accounts"] = sorted(linked)
    ids["contacts"] = sorted(_primary_contacts(emulator, ids["accounts"]))
    for name, count in UPDATED.items():
        for id_ in _take(ids[name], count, chosen):
            emulator.update(name, id_, {_NOTE[name]: f"Reviewed in round {seed} ✓"})
    for name, count in DELETED.items():
        for id_ in _take(ids[name], count, chosen):
            emulator.delete(name, id_)
            deleted[name] += 1
        deleted.update(_delete_links(emulator, name))
    for name, count in CREATED.items():
        for _ in range(count):
            emulator.insert(name, writer.make(name))
            created[name] += 1
    candidates = _take(ids["vin_candidates"], NEW_LINKS, chosen)
    for candidate in candidates:
        account = chosen.choice(not_linked)
        emulator.insert(_ACCOUNT_LINKS, {"vin_candidateid": candidate, "accountid": account})
        created[_ACCOUNT_LINKS] += 1
    for id_ in _take(ids[_ACCOUNT_LINKS], UNLINKED, chosen):
        emulator.delete(_ACCOUNT_LINKS, id_)
        deleted[_ACCOUNT_LINKS] += 1
    return {
        name: Changes(created[name], UPDATED.get(name, 0), deleted[name])
        for name in sorted({*UPDATED, *created, *deleted})
    }


def _primary_contacts(emulator: Emulator, accounts: list[str]) -> set[str]:
    records = (parse_record(emulator.record_bytes("accounts", id_)) for id_ in accounts[:100])
    return {record["_primarycontactid_value"] for record in records} - {None}


def _take(ids: list[str], count: int, chosen: random.Random) -> list[str]:
    """Draw ids, each once: a record is not both changed and deleted."""
    taken = chosen.sample(ids, count)
    for id_ in taken:
        ids.remove(id_)
    return taken


def _delete_links(emulator: Emulator, entity_set: str) -> Counter[str]:
    """Delete the links of records that are gone, as the service does."""
    deleted: Counter[str] = Counter()
    key, there = DemoWriter.key(entity_set), set(emulator.ids(entity_set))
    for name in (name for name, (first, _, _) in LINKS.items() if first == entity_set):
        for link, record in emulator.rows(name).items():
            if record[key] not in there:
                emulator.delete(name, link)
                deleted[name] += 1
    return deleted
