"""The demo's environment: a clinical-trials pipeline, its link tables, and the usual four.

Set and column names are those of the entity list that ships with the project.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..data.columns import Column
from ..data.tables import Table

# A table's logical name, its entity set, and what else holds for it; below, its columns by
# type. A lookup points to the table that it is named for, unless another is given. Custom
# tables have a ``vin_name`` too, and all but the unowned have an owner and a state.
_TABLES = """
vin_candidate vin_candidates tracked
    String vin_alternativenames; Memo vin_description
    Lookup vin_productid vin_diseaseid vin_archetypeid vin_rdstageid vin_clinicalusestatusid
    Lookup vin_developerid; Customer vin_sponsorid>account,contact; Picklist vin_modality
    MultiSelectPicklist vin_populations; Money vin_funding vin_funding_base; Decimal exchangerate
    Lookup transactioncurrencyid; Double vin_probability; BigInt vin_externalid
    Boolean vin_ispriority; Date vin_firstinhuman; File vin_dossier; PartyList vin_reviewers
vin_clinicaltrial vin_clinicaltrials tracked
    String vin_registryid; Memo vin_summary
    Lookup vin_candidateid vin_principalinvestigatorid>contact; Picklist vin_phase vin_trialstatus
    Integer vin_enrollment; Date vin_startdate vin_completiondate; DateTime vin_lastverified
    Boolean vin_randomized; Money vin_budget; Lookup transactioncurrencyid
vin_product vin_products
    Memo vin_description; Lookup vin_diseaseid vin_developerid; Picklist vin_modality
    Integer vin_launchyear; Money vin_unitprice; Lookup transactioncurrencyid
vin_rdstageproduct vin_rdstageproducts
    Lookup vin_productid vin_rdstageid; DateTime vin_startedon vin_endedon
    Decimal vin_probability; Money vin_cost; Lookup transactioncurrencyid
vin_source vin_sources
    String vin_url; Memo vin_quote; Picklist vin_type; Date vin_accessedon; Lookup vin_candidateid
vin_developer vin_developers tracked
    Lookup vin_accountid>account vin_countryid; String vin_website; Integer vin_employees
vin_disease vin_diseases
    String vin_icdcode; Boolean vin_neglected
vin_rdstage vin_rdstages
    Integer vin_order
vin_rdpriority vin_rdpriorities
    Memo vin_description; Lookup vin_diseaseid
vin_archetype vin_archetypes
    Memo vin_description
vin_clinicalusestatus vin_clinicalusestatuses
    Integer vin_order
vin_country vin_countries
    Lookup vin_regionid; BigInt vin_population
vin_region vin_regions
vin_capparameter vin_capparameters
    Lookup vin_archetypeid vin_rdstageid; Decimal vin_value vin_low vin_high
account accounts tracked
    String name accountnumber emailaddress1 telephone1 websiteurl address1_city; Memo description
    Picklist industrycode; Integer numberofemployees; Money revenue; Lookup transactioncurrencyid
    Boolean creditonhold; Lookup primarycontactid>contact parentaccountid>account
contact contacts
    String fullname jobtitle emailaddress1 mobilephone; Date birthdate; Boolean donotemail
    Money annualincome; Lookup transactioncurrencyid; Customer parentcustomerid>account,contact
systemuser systemusers unowned
    String fullname domainname internalemailaddress jobtitle; Boolean isdisabled
transactioncurrency transactioncurrencies unowned
    String currencyname isocurrencycode currencysymbol; Decimal exchangerate
"""
_NAMED = "String vin_name"
_OWNED = (
    "Owner ownerid>systemuser,team; Lookup owninguser>systemuser owningteam>team; "
    "Lookup createdby>systemuser modifiedby>systemuser; "
    "State statecode; Status statuscode; Integer importsequencenumber"
)
_OPTIONS = {
    "vin_modality": {
        100_000_000: "Vaccine", 100_000_001: "Small molecule", 100_000_003: "Diagnostic",
    },
    "vin_populations": {
        1: "Adults", 2: "Children under 5", 3: "Adolescents", 4: "Pregnant women",
    },
    "vin_phase": {1: "Phase 1", 3: "Phase 2", 5: "Phase 3", 6: "Phase 4"},
    "vin_trialstatus": {
        1: "Not yet recruiting", 2: "Recruiting", 4: "Completed", 5: "Terminated",
    },
    "vin_type": {1: "Registry", 2: "Journal article", 3: "Press release", 4: "Company pipeline"},
    "industrycode": {1: "Accounting", 6: "Biotechnology", 12: "Consulting", 22: "Health services"},
}  # fmt: skip

# Many-to-many tables: the sets whose records they link, and how many links there are.
LINKS = {
    "vin_vin_candidate_accountset": ("vin_candidates", "accounts", 720),
    "vin_vin_candidate_vin_rdpriorityset": ("vin_candidates", "vin_rdpriorities", 480),
    "vin_vin_candidate_systemuserset": ("vin_candidates", "systemusers", 180),
    "vin_vin_candidate_vin_countryset": ("vin_candidates", "vin_countries", 1_040),
    "vin_vin_candidate_vin_regionset": ("vin_candidates", "vin_regions", 560),
    "vin_vin_clinicaltrial_accountset": ("vin_clinicaltrials", "accounts", 820),
    "vin_vin_clinicaltrial_account_collaboratorset": ("vin_clinicaltrials", "accounts", 380),
    "vin_vin_clinicaltrial_vin_countryset": ("vin_clinicaltrials", "vin_countries", 1_740),
}


def demo_tables() -> list[Table]:
    tables: dict[str, Table] = {}
    for text in _TABLES.strip().replace("\n    ", ";").splitlines():
        head, *texts = text.split(";")
        name, entity_set, *traits = head.split()
        texts = [_NAMED, *texts] if name.startswith("vin_") else texts
        texts += [] if "unowned" in traits else _OWNED.split(";")
        columns = [column for text in texts for column in _columns(*text.split())]
        tracked = "tracked" in traits
        table = Table(name, entity_set, f"{name}id", columns, change_tracking=tracked)
        tables[entity_set] = table
    links = [_link(name, tables[a].key, tables[b].key) for name, (a, b, _) in LINKS.items()]
    return [*tables.values(), *links]


def _columns(type_: str, *texts: str) -> Iterator[Column]:
    for text in texts:
        name, _, targets = text.partition(">")
        if type_ == "Lookup":
            targets = targets or name.removesuffix("id")
        yield Column(
            name,
            "DateTime" if type_ == "Date" else type_,
            targets=tuple(targets.split(",")) if targets else (),
            options=_OPTIONS.get(name),
            date_only=type_ == "Date",
        )


def _link(entity_set: str, *keys: str) -> Table:
    columns = [Column(key, "Uniqueidentifier") for key in keys]
    name = entity_set.removesuffix("set")
    plain = Table(name, entity_set, f"{name}id", columns, intersect=True)
    return replace(plain, createdon=False, modifiedon=False)
