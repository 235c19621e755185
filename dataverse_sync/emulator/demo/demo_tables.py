"""The demo's environment: a clinical-trials pipeline, its link tables, and the usual four.

Set and column names are those of the entity list that ships with the project.
"""

from __future__ import annotations

from ..data.columns import Column
from ..data.tables import Table

MODALITIES = {100_000_000: "Vaccine", 100_000_001: "Small molecule", 100_000_003: "Diagnostic"}
POPULATIONS = {1: "Adults", 2: "Children under 5", 3: "Adolescents", 4: "Pregnant women"}
PHASES = {1: "Phase 1", 3: "Phase 2", 5: "Phase 3", 6: "Phase 4"}
TRIAL_STATUSES = {1: "Not yet recruiting", 2: "Recruiting", 4: "Completed", 5: "Terminated"}
SOURCE_TYPES = {1: "Registry", 2: "Journal article", 3: "Press release", 4: "Company pipeline"}
INDUSTRIES = {1: "Accounting", 6: "Biotechnology", 12: "Consulting", 22: "Health services"}

CUSTOMER = ("account", "contact")
CURRENCY = Column("transactioncurrencyid", "Lookup", targets=("transactioncurrency",))


def _of(type_: str, *names: str) -> list[Column]:
    return [Column(name, type_) for name in names]


def _dates(*names: str) -> list[Column]:
    return [Column(name, "DateTime", date_only=True) for name in names]


def _lookups(**targets: str) -> list[Column]:
    return [Column(name, "Lookup", targets=(target,)) for name, target in targets.items()]


def _owned() -> list[Column]:
    return [
        Column("ownerid", "Owner", targets=("systemuser", "team")),
        *_lookups(createdby="systemuser", modifiedby="systemuser"),
        Column("statecode", "State"),
        Column("statuscode", "Status"),
        Column("importsequencenumber", "Integer"),
    ]


def _table(name: str, entity_set: str, *columns: Column, tracked: bool = False) -> Table:
    """A table of the project's own: all have a name and an owner."""
    columns = (Column("vin_name", "String"), *columns, *_owned())
    return Table(name, entity_set, f"{name}id", columns, change_tracking=tracked)


def _link(name: str, first: str, second: str) -> Table:
    """A many-to-many table: its key, and two plain guids named as the keys they hold."""
    return Table(
        name,
        f"{name}set",
        f"{name}id",
        _of("Uniqueidentifier", first, second),
        intersect=True,
        createdon=False,
        modifiedon=False,
    )


def demo_tables() -> list[Table]:
    """Every table of the demo, those that others point to last."""
    return [
        *(_candidate(), _trial(), *_pipeline(), *_reference()),
        *(_link(f"vin_{first}_{second}", *keys) for first, second, *keys in _LINKS),
        *(_account(), _contact(), *_users_and_currencies()),
    ]


_LINKS = [
    ("vin_candidate", "account", "vin_candidateid", "accountid"),
    ("vin_candidate", "vin_rdpriority", "vin_candidateid", "vin_rdpriorityid"),
    ("vin_candidate", "systemuser", "vin_candidateid", "systemuserid"),
    ("vin_candidate", "vin_country", "vin_candidateid", "vin_countryid"),
    ("vin_candidate", "vin_region", "vin_candidateid", "vin_regionid"),
    ("vin_clinicaltrial", "account", "vin_clinicaltrialid", "accountid"),
    ("vin_clinicaltrial", "account_collaborator", "vin_clinicaltrialid", "accountid"),
    ("vin_clinicaltrial", "vin_country", "vin_clinicaltrialid", "vin_countryid"),
]


def _candidate() -> Table:
    return _table(
        "vin_candidate",
        "vin_candidates",
        *_of("String", "vin_alternativenames"),
        *_of("Memo", "vin_description"),
        *_lookups(vin_productid="vin_product", vin_diseaseid="vin_disease"),
        *_lookups(vin_archetypeid="vin_archetype", vin_rdstageid="vin_rdstage"),
        *_lookups(vin_clinicalusestatusid="vin_clinicalusestatus", vin_developerid="vin_developer"),
        Column("vin_sponsorid", "Customer", targets=CUSTOMER),
        Column("vin_modality", "Picklist", options=MODALITIES),
        Column("vin_populations", "MultiSelectPicklist", options=POPULATIONS),
        *_of("Money", "vin_funding", "vin_funding_base"),
        *_of("Decimal", "exchangerate"),
        CURRENCY,
        *_of("Double", "vin_probability"),
        *_of("BigInt", "vin_externalid"),
        *_of("Boolean", "vin_ispriority"),
        *_dates("vin_firstinhuman"),
        *_of("File", "vin_dossier"),
        *_of("PartyList", "vin_reviewers"),
        tracked=True,
    )


def _trial() -> Table:
    return _table(
        "vin_clinicaltrial",
        "vin_clinicaltrials",
        *_of("String", "vin_registryid"),
        *_of("Memo", "vin_summary"),
        *_lookups(vin_candidateid="vin_candidate", vin_principalinvestigatorid="contact"),
        Column("vin_phase", "Picklist", options=PHASES),
        Column("vin_trialstatus", "Picklist", options=TRIAL_STATUSES),
        *_of("Integer", "vin_enrollment"),
        *_dates("vin_startdate", "vin_completiondate"),
        *_of("DateTime", "vin_lastverified"),
        *_of("Boolean", "vin_randomized"),
        *_of("Money", "vin_budget"),
        CURRENCY,
        tracked=True,
    )


def _pipeline() -> list[Table]:
    product = [
        *_of("Memo", "vin_description"),
        *_lookups(vin_diseaseid="vin_disease", vin_developerid="vin_developer"),
        Column("vin_modality", "Picklist", options=MODALITIES),
        *_of("Integer", "vin_launchyear"),
        *_of("Money", "vin_unitprice"),
        CURRENCY,
    ]
    stage_product = [
        *_lookups(vin_productid="vin_product", vin_rdstageid="vin_rdstage"),
        *_of("DateTime", "vin_startedon", "vin_endedon"),
        *_of("Decimal", "vin_probability"),
        *_of("Money", "vin_cost"),
        CURRENCY,
    ]
    source = [
        *_of("String", "vin_url"),
        *_of("Memo", "vin_quote"),
        Column("vin_type", "Picklist", options=SOURCE_TYPES),
        *_dates("vin_accessedon"),
        *_lookups(vin_candidateid="vin_candidate"),
    ]
    developer = [
        *_lookups(vin_accountid="account", vin_countryid="vin_country"),
        *_of("String", "vin_website"),
        *_of("Integer", "vin_employees"),
    ]
    return [
        _table("vin_product", "vin_products", *product),
        _table("vin_rdstageproduct", "vin_rdstageproducts", *stage_product),
        _table("vin_source", "vin_sources", *source),
        _table("vin_developer", "vin_developers", *developer, tracked=True),
    ]


def _reference() -> list[Table]:
    note, order = _of("Memo", "vin_description"), _of("Integer", "vin_order")
    disease = [*_of("String", "vin_icdcode"), *_of("Boolean", "vin_neglected")]
    country = [*_lookups(vin_regionid="vin_region"), *_of("BigInt", "vin_population")]
    parameter = [
        *_lookups(vin_archetypeid="vin_archetype", vin_rdstageid="vin_rdstage"),
        *_of("Decimal", "vin_value", "vin_low", "vin_high"),
    ]
    return [
        _table("vin_disease", "vin_diseases", *disease),
        _table("vin_rdstage", "vin_rdstages", *order),
        _table("vin_rdpriority", "vin_rdpriorities", *note, *_lookups(vin_diseaseid="vin_disease")),
        _table("vin_archetype", "vin_archetypes", *note),
        _table("vin_clinicalusestatus", "vin_clinicalusestatuses", *order),
        _table("vin_country", "vin_countries", *country),
        _table("vin_region", "vin_regions"),
        _table("vin_capparameter", "vin_capparameters", *parameter),
    ]


def _account() -> Table:
    texts = ("name", "accountnumber", "emailaddress1", "telephone1", "websiteurl", "address1_city")
    columns = [
        *_of("String", *texts),
        *_of("Memo", "description"),
        Column("industrycode", "Picklist", options=INDUSTRIES),
        *_of("Integer", "numberofemployees"),
        *_of("Money", "revenue"),
        CURRENCY,
        *_of("Boolean", "creditonhold"),
        *_lookups(primarycontactid="contact", parentaccountid="account"),
        *_owned(),
    ]
    return Table("account", "accounts", "accountid", columns, change_tracking=True)


def _contact() -> Table:
    columns = [
        *_of("String", "fullname", "jobtitle", "emailaddress1", "mobilephone"),
        *_dates("birthdate"),
        *_of("Boolean", "donotemail"),
        *_of("Money", "annualincome"),
        CURRENCY,
        Column("parentcustomerid", "Customer", targets=CUSTOMER),
        *_owned(),
    ]
    return Table("contact", "contacts", "contactid", columns)


def _users_and_currencies() -> list[Table]:
    user = [
        *_of("String", "fullname", "domainname", "internalemailaddress", "jobtitle"),
        *_of("Boolean", "isdisabled"),
    ]
    currency = [
        *_of("String", "currencyname", "isocurrencycode", "currencysymbol"),
        *_of("Decimal", "exchangerate"),
    ]
    return [
        Table("systemuser", "systemusers", "systemuserid", user),
        Table("transactioncurrency", "transactioncurrencies", "transactioncurrencyid", currency),
    ]
