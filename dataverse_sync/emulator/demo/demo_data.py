"""Fill the demo's environment: the same records every time, some 110,000 of them.

Most accounts and contacts are linked to by nothing but each other, as in an environment
that sales shares with research: a filtered sync fetches a few thousand of them.
"""

# ruff: noqa: RUF001, S311  made-up data: no secrets, and any letters

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..data.columns import moment_text
from ..emulator import Emulator
from . import demo_words as words
from .demo_tables import (
    CATEGORIES,
    INDUSTRIES,
    MODALITIES,
    PHASES,
    POPULATIONS,
    SOURCE_TYPES,
    TRIAL_STATUSES,
)

LATEST = dt.datetime(2025, 6, 30, 18, 0, tzinfo=dt.UTC)
SEED = 20_250_630

Record = dict[str, Any]

COUNTS = {
    "transactioncurrencies": len(words.CURRENCIES),
    "systemusers": 320,
    "accounts": 50_000,
    "contacts": 20_000,
    "vin_regions": len(words.REGIONS),
    "vin_countries": 197,
    "vin_diseases": len(words.DISEASES) * len(words.FORMS),
    "vin_rdstages": len(words.STAGES),
    "vin_clinicalusestatuses": len(words.USE_STATUSES),
    "vin_archetypes": 48,
    "vin_rdpriorities": 160,
    "vin_capparameters": 340,
    "vin_developers": 1_400,
    "vin_products": 3_200,
    "vin_candidates": 9_000,
    "vin_clinicaltrials": 12_000,
    "vin_rdstageproducts": 6_800,
    "vin_sources": 6_400,
}
LINKS = {
    "vin_vin_candidate_accountset": ("vin_candidates", "accounts", 3_600),
    "vin_vin_candidate_vin_rdpriorityset": ("vin_candidates", "vin_rdpriorities", 2_400),
    "vin_vin_candidate_systemuserset": ("vin_candidates", "systemusers", 900),
    "vin_vin_candidate_vin_countryset": ("vin_candidates", "vin_countries", 5_200),
    "vin_vin_candidate_vin_regionset": ("vin_candidates", "vin_regions", 2_800),
    "vin_vin_clinicaltrial_accountset": ("vin_clinicaltrials", "accounts", 4_100),
    "vin_vin_clinicaltrial_account_collaboratorset": ("vin_clinicaltrials", "accounts", 1_900),
    "vin_vin_clinicaltrial_vin_countryset": ("vin_clinicaltrials", "vin_countries", 8_700),
}

# The first records of a set are what others link to; the rest only link to each other.
LINKED = {"accounts": 2_400, "contacts": 1_500, "systemusers": 180}

SCALED_FROM = 900  # smaller sets keep their size at any scale

_NODES = ("000d3a1b1223", "000d3a572421", "0022481d68cd", "6045bd8f1a02")
_YEARS = ("ed11", "ee11", "ef11", "f011")


class DemoWriter:
    """Makes records up, each set's ids known before its records are."""

    def __init__(
        self, seed: int = SEED, scale: float = 1.0, ids: dict[str, list[str]] | None = None
    ) -> None:
        self.random = random.Random(seed)
        self._chance = self.random.random
        self._scale = scale
        self.ids = ids or {
            name: [self.new_id() for _ in range(self.scaled(name, count))]
            for name, count in COUNTS.items()
        }
        offsets = sorted(self.random.randrange(730 * 86_400) for _ in range(30_000))
        self._moments = [moment_text(LATEST - dt.timedelta(seconds=s)) for s in reversed(offsets)]
        self._days = [f"{y}-{m:02}-{d:02}" for y in range(2012, 2026) for m in range(1, 13)
                      for d in (1, 7, 15, 28)]  # fmt: skip
        self._makers: dict[str, Callable[[int], Record]] = {
            "transactioncurrencies": self._currency,
            "systemusers": self._user,
            "accounts": self._account,
            "contacts": self._contact,
            "vin_regions": lambda i: {"vin_name": words.REGIONS[i], "vin_code": f"R{i:02}"},
            "vin_countries": self._country,
            "vin_diseases": self._disease,
            "vin_rdstages": self._stage,
            "vin_clinicalusestatuses": lambda i: {
                "vin_name": words.USE_STATUSES[i], "vin_order": i + 1
            },
            "vin_archetypes": self._archetype,
            "vin_rdpriorities": self._priority,
            "vin_capparameters": self._parameter,
            "vin_developers": self._developer,
            "vin_products": self._product,
            "vin_candidates": self._candidate,
            "vin_clinicaltrials": self._trial,
            "vin_rdstageproducts": self._stage_product,
            "vin_sources": self._source,
        }  # fmt: skip

    def scaled(self, entity_set: str, count: int) -> int:
        return max(1, int(count * self._scale)) if count >= SCALED_FROM else count

    def records(self, entity_set: str) -> Iterator[Record]:
        """The records of one set, older moments and newer ones mixed."""
        key = self.key(entity_set)
        make, owned = self._makers[entity_set], entity_set not in {
            "transactioncurrencies", "systemusers"
        }  # fmt: skip
        for i, id_ in enumerate(self.ids[entity_set]):
            record = make(i)
            record[key] = id_
            self._date(record)
            if owned:
                self._own(record)
            yield record

    def make(self, entity_set: str) -> Record:
        """One more record, without id or moments."""
        record = self._makers[entity_set](self.random.randrange(len(self.ids[entity_set])))
        self._own(record)
        return record

    def links(self, entity_set: str) -> Iterator[Record]:
        first, second, count = LINKS[entity_set]
        count = self.scaled(entity_set, count)
        name = entity_set.removesuffix("set")
        seen: set[tuple[str, str]] = set()
        while len(seen) < count:
            pair = (self.linked(first), self.linked(second))
            if pair not in seen:
                seen.add(pair)
                yield {
                    f"{name}id": self.new_id(),
                    self.key(first): pair[0],
                    self.key(second): pair[1],
                }

    @staticmethod
    def key(entity_set: str) -> str:
        if entity_set.endswith("statuses"):
            return entity_set.removesuffix("es") + "id"
        if entity_set.endswith("ies"):
            return entity_set.removesuffix("ies") + "yid"
        return entity_set.removesuffix("s") + "id"

    def new_id(self) -> str:
        """Like the service's: random in front, the moment and the machine behind."""
        bits = self.random.getrandbits(64)
        a, b = bits >> 32, (bits >> 16) & 0xFFFF
        node, year = _NODES[bits & 3], _YEARS[(bits >> 2) & 3]
        return f"{a:08x}-{b:04x}-{year}-{0x8000 | (bits >> 4) & 0x3FF:04x}-{node}"

    def linked(self, entity_set: str) -> str:
        """The id of a record that may be linked to."""
        ids = self.ids[entity_set]
        return ids[int(self._chance() * self._linked_count(entity_set))]

    def _linked_count(self, entity_set: str) -> int:
        there, count = len(self.ids[entity_set]), LINKED.get(entity_set)
        return there if count is None else min(there, self.scaled(entity_set, count))

    def _neighbour(self, entity_set: str, linked: bool, margin: float = 1.0) -> str:
        """One of the records that may be linked to, and some more; or one of all the others."""
        ids = self.ids[entity_set]
        edge = int(self._linked_count(entity_set) * margin)
        low, high = (0, edge) if linked else (edge, len(ids))
        return ids[low + int(self._chance() * (high - low))]

    def _pick(self, values: Sequence[Any]) -> Any:
        return values[int(self._chance() * len(values))]

    def _maybe(self, share: float, value: Any) -> Any:
        return value if self._chance() < share else None

    def _date(self, record: Record) -> None:
        moments = self._moments
        # Now and then an import: hundreds of records of one second.
        last = int(self._chance() * len(moments))
        last = last // 1000 * 1000 if self._chance() < 0.1 else last
        record["modifiedon"] = moments[last]
        record["createdon"] = moments[int(self._chance() * last)]

    def _own(self, record: Record) -> None:
        active = self._chance() < 0.93
        record["_ownerid_value"] = self.linked("systemusers")
        record["_createdby_value"] = self.linked("systemusers")
        record["_modifiedby_value"] = self.linked("systemusers")
        record["statecode"] = 0 if active else 1
        record["statuscode"] = 1 if active else 2

    def _text(self, sentences: int) -> str:
        return "\r\n".join(self._pick(words.SENTENCES) for _ in range(sentences))

    def _money(self, most: int) -> str:
        return f"{int(self._chance() * most)}.{int(self._chance() * 100):02}00"

    def _compound(self) -> str:
        name: str = self._pick(words.SYLLABLES) + self._pick(words.SYLLABLES)
        return name.capitalize() + str(self._pick(words.ENDINGS))

    def _company(self) -> str:
        return f"{self._pick(words.COMPANY_HEADS)} {self._pick(words.COMPANY_TAILS)}"

    def _currency(self, i: int) -> Record:
        name, code, symbol, rate = words.CURRENCIES[i]
        return {
            "currencyname": name,
            "isocurrencycode": code,
            "currencysymbol": symbol,
            "exchangerate": rate,
            "currencyprecision": 0 if code == "JPY" else 2,
        }

    def _user(self, i: int) -> Record:
        name = f"{self._pick(words.FIRST_NAMES)} {self._pick(words.LAST_NAMES)}"
        return {
            "fullname": name,
            "domainname": f"user{i}@contoso.example",
            "internalemailaddress": f"user{i}@contoso.example",
            "title": self._maybe(0.6, self._pick(words.JOBS)),
            "isdisabled": self._chance() < 0.1,
            "accessmode": 0,
        }

    def _account(self, i: int) -> Record:
        city, country = self._pick(words.CITIES)
        linked = i < self._linked_count("accounts")
        revenue = self._maybe(0.5, self._money(90_000_000))
        return {
            "name": f"{self._company()} {i}" if i % 7 else self._company(),
            "accountnumber": f"ACC-{i:06}",
            "description": self._maybe(0.1, self._text(2)),
            "emailaddress1": self._maybe(0.7, f"info@company{i}.example"),
            "telephone1": self._maybe(0.6, f"+41 44 {i % 1000:03} {i % 97:02} {i % 89:02}"),
            "websiteurl": self._maybe(0.4, f"https://www.company{i}.example/"),
            "address1_city": city,
            "address1_country": country,
            "address1_postalcode": f"{10_000 + i % 80_000}",
            "industrycode": self._maybe(0.7, self._pick(tuple(INDUSTRIES))),
            "accountcategorycode": self._maybe(0.3, self._pick(tuple(CATEGORIES))),
            "numberofemployees": self._maybe(0.4, int(self._chance() * 9_000)),
            "revenue": revenue,
            "creditonhold": self._chance() < 0.05,
            "_transactioncurrencyid_value": revenue and self.ids["transactioncurrencies"][0],
            "_primarycontactid_value": self._maybe(0.5, self._neighbour("contacts", linked)),
            "_parentaccountid_value": self._maybe(0.2, self._neighbour("accounts", linked, 1.08)),
        }

    def _contact(self, i: int) -> Record:
        first, last = self._pick(words.FIRST_NAMES), self._pick(words.LAST_NAMES)
        income = self._maybe(0.2, self._money(150_000))
        linked = i < self._linked_count("contacts")
        parent = self._neighbour("accounts" if i % 20 else "contacts", linked, 1.2)
        return {
            "fullname": f"{first} {last}",
            "firstname": first,
            "lastname": last,
            "jobtitle": self._maybe(0.5, self._pick(words.JOBS)),
            "emailaddress1": self._maybe(0.8, f"contact{i}@example.org"),
            "mobilephone": self._maybe(0.3, f"+44 7700 {900_000 + i % 1000}"),
            "birthdate": self._maybe(0.2, f"{1950 + i % 50}-{1 + i % 12:02}-{1 + i % 28:02}"),
            "donotemail": self._chance() < 0.1,
            "annualincome": income,
            "_transactioncurrencyid_value": income and self.ids["transactioncurrencies"][1],
            "_parentcustomerid_value": self._maybe(0.6, parent),
        }

    def _country(self, i: int) -> Record:
        return {
            "vin_name": words.CITIES[i][1] if i < len(words.CITIES) else f"Country {i:03}",
            "vin_isocode": f"{chr(65 + i // 26 % 26)}{chr(65 + i % 26)}",
            "_vin_regionid_value": self.linked("vin_regions"),
            "vin_population": int(self._chance() * 1_400_000_000),
        }

    def _disease(self, i: int) -> Record:
        disease, form = divmod(i, len(words.FORMS))
        return {
            "vin_name": words.DISEASES[disease] + words.FORMS[form],
            "vin_icdcode": f"{chr(65 + i % 12)}{i % 99:02}.{i % 10}",
            "vin_neglected": i % 3 == 0,
            "vin_burden": self._maybe(0.7, f"{self._chance() * 60_000:.4f}"),
        }

    def _stage(self, i: int) -> Record:
        return {
            "vin_name": words.STAGES[i],
            "vin_order": i + 1,
            "vin_durationmonths": f"{6 + i * 2.25:.2f}",
        }

    def _archetype(self, i: int) -> Record:
        kind = MODALITIES[100_000_000 + i % len(MODALITIES)]
        return {
            "vin_name": f"{kind} – archetype {i // len(MODALITIES) + 1}",
            "vin_description": self._text(1),
            "vin_complexity": 1 + i % 5,
        }

    def _priority(self, i: int) -> Record:
        return {
            "vin_name": f"R&D priority {i + 1}: {self._pick(words.DISEASES)}",
            "vin_description": self._text(3),
            "_vin_diseaseid_value": self.linked("vin_diseases"),
            "vin_year": 2018 + i % 8,
        }

    def _parameter(self, i: int) -> Record:
        value = self._chance() * 100
        return {
            "vin_name": f"Parameter {i + 1}",
            "_vin_archetypeid_value": self.linked("vin_archetypes"),
            "_vin_rdstageid_value": self.linked("vin_rdstages"),
            "vin_value": f"{value:.10f}",
            "vin_low": f"{value * 0.8:.10f}",
            "vin_high": f"{value * 1.25:.10f}",
            "vin_note": self._maybe(0.2, self._text(1)),
        }

    def _developer(self, i: int) -> Record:
        return {
            "vin_name": f"{self._company()} R&D {i}",
            "_vin_accountid_value": self._maybe(0.8, self.linked("accounts")),
            "_vin_countryid_value": self.linked("vin_countries"),
            "vin_website": self._maybe(0.5, f"https://developer{i}.example/pipeline?view=all"),
            "vin_employees": self._maybe(0.5, int(self._chance() * 4_000)),
        }

    def _product(self, i: int) -> Record:
        price = self._maybe(0.3, self._money(400))
        return {
            "vin_name": f"{self._compound()}-{i % 1000:03}",
            "vin_description": self._maybe(0.4, self._text(1)),
            "_vin_diseaseid_value": self.linked("vin_diseases"),
            "_vin_developerid_value": self._maybe(0.8, self.linked("vin_developers")),
            "vin_modality": self._pick(tuple(MODALITIES)),
            "vin_launchyear": self._maybe(0.4, 1995 + int(self._chance() * 35)),
            "vin_unitprice": price,
            "_transactioncurrencyid_value": price and self.linked("transactioncurrencies"),
        }

    def _candidate(self, i: int) -> Record:
        funding = self._maybe(0.4, self._money(40_000_000))
        currency = self.random.randrange(len(words.CURRENCIES))
        dossier = self._maybe(0.05, self.new_id())
        groups = [str(v) for v in POPULATIONS if self._chance() < 0.4]
        sponsor = "accounts" if i % 12 else "contacts"
        return {
            "vin_name": f"{self._compound()} {words.DISEASES[i % len(words.DISEASES)]}",
            "vin_alternativenames": self._maybe(0.3, f"{self._compound()}; VIN-{i:05}"),
            "vin_description": self._maybe(0.6, self._text(1 + i % 4)),
            "_vin_productid_value": self._maybe(0.5, self.linked("vin_products")),
            "_vin_diseaseid_value": self.linked("vin_diseases"),
            "_vin_archetypeid_value": self.linked("vin_archetypes"),
            "_vin_rdstageid_value": self.linked("vin_rdstages"),
            "_vin_clinicalusestatusid_value": self.linked("vin_clinicalusestatuses"),
            "_vin_developerid_value": self._maybe(0.7, self.linked("vin_developers")),
            "_vin_sponsorid_value": self._maybe(0.2, self.linked(sponsor)),
            "vin_modality": self._pick(tuple(MODALITIES)),
            "vin_populations": ",".join(groups) or None,
            "vin_funding": funding,
            "vin_funding_base": funding,
            "exchangerate": funding and words.CURRENCIES[currency][3],
            "_transactioncurrencyid_value": funding and self.ids["transactioncurrencies"][currency],
            "vin_probability": self._maybe(0.8, round(self._chance(), 6)),
            "vin_externalid": self._maybe(0.3, 9_007_199_254_740_993 + i),
            "vin_ispriority": self._maybe(0.9, self._chance() < 0.2),
            "vin_firstinhuman": self._maybe(0.5, self._pick(self._days)),
            "vin_dossier": dossier,
            "vin_dossier_name": dossier and f"dossier {i}.pdf",
        }

    def _trial(self, i: int) -> Record:
        phase = self._pick(tuple(PHASES))
        budget = self._maybe(0.3, self._money(9_000_000))
        return {
            "vin_name": f"{PHASES[phase]} study of {self._compound()} in "
            f"{self._pick(words.DISEASES)}",
            "vin_registryid": f"NCT{4_000_000 + i * 37:08}",
            "vin_summary": self._maybe(0.7, self._text(1 + i % 3)),
            "_vin_candidateid_value": self._maybe(0.95, self.linked("vin_candidates")),
            "vin_phase": phase,
            "vin_trialstatus": self._pick(tuple(TRIAL_STATUSES)),
            "vin_enrollment": self._maybe(0.9, int(self._chance() * 3_000)),
            "vin_startdate": self._maybe(0.8, self._pick(self._days)),
            "vin_completiondate": self._maybe(0.5, self._pick(self._days)),
            "vin_lastverified": self._maybe(0.6, self._pick(self._moments)),
            "vin_randomized": self._maybe(0.7, self._chance() < 0.6),
            "vin_budget": budget,
            "_transactioncurrencyid_value": budget and self.linked("transactioncurrencies"),
            "_vin_principalinvestigatorid_value": self._maybe(0.1, self.linked("contacts")),
        }

    def _stage_product(self, i: int) -> Record:
        cost = self._maybe(0.6, self._money(2_000_000))
        return {
            "vin_name": f"Stage {i % len(words.STAGES) + 1} / {i}",
            "_vin_productid_value": self.linked("vin_products"),
            "_vin_rdstageid_value": self.ids["vin_rdstages"][i % len(words.STAGES)],
            "vin_startedon": self._maybe(0.9, self._pick(self._moments)),
            "vin_endedon": self._maybe(0.4, self._pick(self._moments)),
            "vin_probability": f"{self._chance():.4f}",
            "vin_cost": cost,
            "_transactioncurrencyid_value": cost and self.linked("transactioncurrencies"),
        }

    def _source(self, i: int) -> Record:
        return {
            "vin_name": f"Source {i + 1}",
            "vin_url": f"https://registry.example/record?id={i}&lang=en#v{i % 9}",
            "vin_quote": self._maybe(0.5, self._text(1)),
            "vin_type": self._pick(tuple(SOURCE_TYPES)),
            "vin_accessedon": self._maybe(0.8, self._pick(self._days)),
            "_vin_candidateid_value": self.linked("vin_candidates"),
        }


def fill_demo(emulator: Emulator, seed: int = SEED, scale: float = 1.0) -> None:
    """Fill an emulator that has ``demo_tables()``; at a smaller scale for a quick test."""
    writer = DemoWriter(seed, scale)
    for entity_set in COUNTS:
        emulator.insert_many(entity_set, writer.records(entity_set))
    for entity_set in LINKS:
        emulator.insert_many(entity_set, writer.links(entity_set))
