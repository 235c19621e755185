"""Change the demo's environment the way a working day does: a few dozen records."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from ..emulator import Emulator
from .demo_data import COUNTS, DemoWriter
from .demo_tables import LINKS

_ACCOUNT_LINKS = "vin_vin_candidate_accountset"
_UPDATED = {
    "vin_candidates": (12, "vin_description"),
    "vin_clinicaltrials": (9, "vin_summary"),
    "vin_products": (4, "vin_description"),
    "accounts": (5, "description"),
    "contacts": (3, "jobtitle"),
    "vin_rdpriorities": (1, "vin_description"),
}
_CREATED = {"vin_candidates": 4, "vin_clinicaltrials": 6, "vin_sources": 5}
_LINKED = 5
_DELETED = {"vin_clinicaltrials": 2, "vin_sources": 3, "vin_capparameters": 1, _ACCOUNT_LINKS: 4}


@dataclass(frozen=True, slots=True)
class Changes:
    """How many records of one set a day's work touched."""

    created: int = 0
    updated: int = 0
    deleted: int = 0


def change_demo(emulator: Emulator, seed: int = 1) -> dict[str, Changes]:
    """Update, create, delete, link and unlink; give another seed for another day."""
    writer = DemoWriter(seed, ids={name: emulator.ids(name) for name in COUNTS})
    drawn = random.Random(seed)  # noqa: S311  made-up data, no secrets
    deleted: Counter[str] = Counter()
    ids = {name: emulator.ids(name) for name in {*_UPDATED, *_DELETED}}
    # Accounts and contacts that nothing links to are not synced: a change would not show.
    rows = emulator.rows("accounts")
    linked = {row["accountid"] for row in emulator.rows(_ACCOUNT_LINKS).values()}
    others = [id_ for id_ in ids["accounts"] if id_ not in linked]
    ids["accounts"] = sorted(linked)
    ids["contacts"] = sorted({rows[id_]["_primarycontactid_value"] for id_ in linked} - {None})
    for name, (count, column) in _UPDATED.items():
        for id_ in _take(ids[name], count, drawn):
            emulator.update(name, id_, {column: f"Reviewed in round {seed} ✓"})
    for name, count in _DELETED.items():
        for id_ in _take(ids[name], count, drawn):
            emulator.delete(name, id_)
        deleted += Counter({name: count}) + _delete_links(emulator, name)
    created = {name: [writer.make(name) for _ in range(count)] for name, count in _CREATED.items()}
    created[_ACCOUNT_LINKS] = [
        {"vin_candidateid": candidate, "accountid": drawn.choice(others)}
        for candidate in _take(ids["vin_candidates"], _LINKED, drawn)
    ]
    for name, records in created.items():
        emulator.insert_many(name, records)
    return {
        name: Changes(len(created.get(name, ())), _UPDATED.get(name, (0, ""))[0], deleted[name])
        for name in sorted({*_UPDATED, *created, *deleted})
    }


def _take(ids: list[str], count: int, drawn: random.Random) -> list[str]:
    """Draw ids, each once: a record is not both changed and deleted."""
    taken = drawn.sample(ids, count)
    for id_ in taken:
        ids.remove(id_)
    return taken


def _delete_links(emulator: Emulator, entity_set: str) -> Counter[str]:
    """Delete the links of records that are gone, as the service does."""
    deleted: Counter[str] = Counter()
    key, present = f"{entity_set.removesuffix('s')}id", set(emulator.ids(entity_set))
    for name in (name for name, (first, _, _) in LINKS.items() if first == entity_set):
        for link, record in emulator.rows(name).items():
            if record[key] not in present:
                emulator.delete(name, link)
                deleted[name] += 1
    return deleted
