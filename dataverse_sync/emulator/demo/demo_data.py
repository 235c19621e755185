"""Fill the demo's environment: the same records every time, some 29,000 of them.

Most accounts and contacts are linked to by nothing but each other, as in an environment
that sales shares with research: a filtered sync fetches only a part of them.
"""

# ruff: noqa: S311  made-up data: no secrets

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..data.columns import LOOKUPS, Column, moment_text
from ..emulator import Emulator
from . import demo_words as words
from .demo_tables import LINKS, demo_tables

LATEST = dt.datetime(2025, 6, 30, 18, 0, tzinfo=dt.UTC)
SEED = 20_250_630

Record = dict[str, Any]

# The share of a set that others link to, its first records; the rest only link to each other.
_LINKED = {"accounts": 0.048, "contacts": 0.075, "systemusers": 0.7}
_SCALED_FROM = 600  # smaller sets keep their size at any scale

_TABLES = {table.entity_set: table for table in demo_tables()}
_SETS = {table.logical_name: table.entity_set for table in demo_tables()}
_NODES = ("000d3a1b1223", "000d3a572421", "0022481d68cd", "6045bd8f1a02")
_YEARS = ("ed11", "ee11", "ef11", "f011")

_NAMES: dict[str, Sequence[str]] = {  # the records' names in the sets that are lists of words
    "vin_regions": words.REGIONS,
    "vin_countries": words.COUNTRIES,
    "vin_diseases": [disease + form for disease in words.DISEASES for form in words.FORMS],
    "vin_rdstages": words.STAGES,
    "vin_clinicalusestatuses": words.USE_STATUSES,
}
COUNTS = {
    "transactioncurrencies": len(words.CURRENCIES), "systemusers": 120, "accounts": 10_000,
    "contacts": 4_000, **{name: len(names) for name, names in _NAMES.items()},
    "vin_archetypes": 48, "vin_rdpriorities": 160, "vin_capparameters": 340,
    "vin_developers": 280, "vin_products": 640, "vin_candidates": 1_800,
    "vin_clinicaltrials": 2_400, "vin_rdstageproducts": 1_360, "vin_sources": 1_280,
}  # fmt: skip
# Texts by the name of their column; a ``vin_name``, by its entity set.
_TEXTS = {
    "vin_archetypes": "Archetype {i}",
    "vin_rdpriorities": "R&D priority {i}: {disease}",
    "vin_capparameters": "Parameter {i}",
    "vin_developers": "{company} R&D {i}",
    "vin_products": "{compound}-{i:03}",
    "vin_candidates": "{compound} {disease}",
    "vin_clinicaltrials": "Study of {compound} in {disease}",
    "vin_rdstageproducts": "Stage of {compound} {i}",
    "vin_sources": "Source {i}",
    "name": "{company} {i}",
    "accountnumber": "ACC-{i:06}",
    "address1_city": "{city}",
    "domainname": "user{i}@contoso.example",
    "emailaddress1": "mail{i}@example.org",
    "fullname": "{person}",
    "internalemailaddress": "user{i}@contoso.example",
    "jobtitle": "{job}",
    "mobilephone": "+44 7700 9{i:05}",
    "telephone1": "+41 44 9{i:06}",
    "vin_alternativenames": "{compound}; VIN-{i:05}",
    "vin_icdcode": "A{i:02}.1",
    "vin_registryid": "NCT{i:08}",
    "vin_url": "https://registry.example/record?id={i}&lang=en#v1",
    "vin_website": "https://developer{i}.example/pipeline?view=all",
    "websiteurl": "https://www.company{i}.example/",
}
_COMPOUND = (words.SYLLABLES, words.SYLLABLES, words.ENDINGS)
# The share of the records that have a value in a column; 0.7 in all others.
_FILLED = {
    **dict.fromkeys(("vin_name", "name", "fullname", "accountnumber", "statecode"), 1.0),
    **dict.fromkeys(("ownerid", "createdby", "modifiedby", "transactioncurrencyid"), 1.0),
    **dict.fromkeys(("importsequencenumber", "vin_reviewers", "statuscode"), 0.0),
    **{"primarycontactid": 0.5, "parentaccountid": 0.2, "parentcustomerid": 0.6},
    **{"vin_sponsorid": 0.2, "vin_principalinvestigatorid": 0.1, "vin_dossier": 0.05},
}
_FOLLOWING = ("owninguser", "owningteam")  # from the owner; every owner here is a user


class DemoWriter:
    """Makes up records; the ids of every set are known before its first record."""

    def __init__(
        self, seed: int = SEED, scale: float = 1.0, ids: dict[str, list[str]] | None = None
    ) -> None:
        self._random = drawn = random.Random(seed)
        self._chance = self._random.random
        self._scale = scale
        self.ids = ids or {
            name: [self._new_id() for _ in range(self.scaled(count))]
            for name, count in COUNTS.items()
        }
        offsets = sorted(drawn.randrange(730 * 86_400) for _ in range(9_000))
        self._moments = [moment_text(LATEST - dt.timedelta(seconds=s)) for s in reversed(offsets)]
        self._makers: dict[str, Callable[[Column], object]] = {
            "Memo": lambda _: "\r\n".join(self._pick(words.SENTENCES) for _ in range(2)),
            "Integer": lambda _: int(self._chance() * 3_000),
            "BigInt": lambda _: 9_007_199_254_740_993 + int(self._chance() * 10_000),
            "Double": lambda _: round(self._chance(), 6),
            "Decimal": lambda _: f"{self._chance() * 100:.10f}",
            "Money": lambda _: f"{self._chance() * 9_000_000:.2f}00",
            "Boolean": lambda _: self._chance() < 0.2,
            "State": lambda _: int(self._chance() < 0.07),
            "Picklist": lambda column: self._pick(tuple(column.options or ())),
            "MultiSelectPicklist": lambda column: drawn.sample(list(column.options or ()), 2),
            "DateTime": self._moment,
            "File": lambda _: self._new_id(),
        }

    def scaled(self, count: int) -> int:
        return int(count * self._scale) if count >= _SCALED_FROM else count

    def records(self, entity_set: str) -> Iterator[Record]:
        """The records of one set, older moments and newer ones mixed."""
        key, moments = _TABLES[entity_set].key, self._moments
        for i, id_ in enumerate(self.ids[entity_set]):
            record = self._record(entity_set, i)
            # Now and then an import: dozens of records of one second.
            last = int(self._chance() * len(moments))
            last = last // 300 * 300 if self._chance() < 0.1 else last
            record["modifiedon"] = moments[last]
            record["createdon"] = moments[int(self._chance() * last)]
            yield {key: id_, **record}

    def make(self, entity_set: str) -> Record:
        """One more record, without id or moments."""
        return self._record(entity_set, self._random.randrange(len(self.ids[entity_set])))

    def links(self, entity_set: str) -> Iterator[Record]:
        first, second, count = LINKS[entity_set]
        pairs: dict[tuple[str, str], None] = {}  # in the order in which they are drawn
        while len(pairs) < self.scaled(count):
            pairs[self._linked(first), self._linked(second)] = None
        keys = (_TABLES[first].key, _TABLES[second].key)
        for pair in pairs:
            yield {_TABLES[entity_set].key: self._new_id(), **dict(zip(keys, pair, strict=True))}

    def _record(self, entity_set: str, i: int) -> Record:
        if entity_set == "transactioncurrencies":
            names = ("currencyname", "isocurrencycode", "currencysymbol", "exchangerate")
            return dict(zip(names, words.CURRENCIES[i], strict=True))
        record: Record = {}
        for column in _TABLES[entity_set].columns:
            if column.name in _FOLLOWING or self._chance() >= _FILLED.get(column.name, 0.7):
                continue
            if column.type in LOOKUPS:
                record[f"_{column.name}_value"] = self._related(entity_set, i, column)
            elif column.type == "String":
                record[column.name] = self._text(entity_set, i, column.name)
            else:
                record[column.name] = self._makers[column.type](column)
        return self._consistent(record, i)

    def _consistent(self, record: Record, i: int) -> Record:
        """The record with the values that follow from others."""
        if "_ownerid_value" in record:
            record["_owninguser_value"] = record["_ownerid_value"]
        if "statecode" in record:
            record["statuscode"] = record["statecode"] + 1
        if "exchangerate" in record:
            currency = record["_transactioncurrencyid_value"]
            number = self.ids["transactioncurrencies"].index(currency)
            record["exchangerate"] = words.CURRENCIES[number][3]
        if "vin_dossier" in record:
            record["vin_dossier_name"] = f"dossier {i}.pdf"
        return record

    def _related(self, entity_set: str, i: int, column: Column) -> str:
        """A record that a lookup of the ``i``-th record may point to."""
        targets = [_SETS[name] for name in column.targets if name in _SETS]
        target = targets[-1] if i % 12 == 0 else targets[0]
        if {entity_set, target} <= {"accounts", "contacts"}:
            return self._neighbour(target, i < self._linked_count(entity_set))
        return self._linked(target)

    def _linked(self, entity_set: str) -> str:
        return self.ids[entity_set][int(self._chance() * self._linked_count(entity_set))]

    def _neighbour(self, entity_set: str, linked: bool) -> str:
        """One of the records that others link to, and some more; or one of all the rest."""
        ids, edge = self.ids[entity_set], int(self._linked_count(entity_set) * 1.1)
        low, high = (0, edge) if linked else (edge, len(ids))
        return ids[low + int(self._chance() * (high - low))]

    def _linked_count(self, entity_set: str) -> int:
        return int(len(self.ids[entity_set]) * _LINKED.get(entity_set, 1.0))

    def _text(self, entity_set: str, i: int, column: str) -> str:
        if column == "vin_name" and entity_set in _NAMES:
            return _NAMES[entity_set][i]
        return _TEXTS[entity_set if column == "vin_name" else column].format(
            i=i,
            city=self._pick(words.CITIES),
            company=f"{self._pick(words.COMPANY_HEADS)} {self._pick(words.COMPANY_TAILS)}",
            compound="".join(map(self._pick, _COMPOUND)).capitalize(),
            disease=self._pick(words.DISEASES),
            job=self._pick(words.JOBS),
            person=f"{self._pick(words.FIRST_NAMES)} {self._pick(words.LAST_NAMES)}",
        )

    def _moment(self, column: Column) -> str:
        moment: str = self._pick(self._moments)
        return moment[:10] if column.date_only else moment

    def _pick(self, values: Sequence[Any]) -> Any:
        return values[int(self._chance() * len(values))]

    def _new_id(self) -> str:
        """Like the service's: random in front, the moment and the machine behind."""
        bits = self._random.getrandbits(64)
        a, b = bits >> 32, (bits >> 16) & 0xFFFF
        node, year = _NODES[bits & 3], _YEARS[(bits >> 2) & 3]
        return f"{a:08x}-{b:04x}-{year}-{0x8000 | (bits >> 4) & 0x3FF:04x}-{node}"


def fill_demo(emulator: Emulator, seed: int = SEED, scale: float = 1.0) -> None:
    """Fill an emulator that has ``demo_tables()``; at a smaller scale for a quick test."""
    writer = DemoWriter(seed, scale)
    for entity_set in COUNTS:
        emulator.insert_many(entity_set, writer.records(entity_set))
    for entity_set in LINKS:
        emulator.insert_many(entity_set, writer.links(entity_set))
