"""The demo's environment: a clinical-trials pipeline, its link tables, and the usual four.

Set and column names are those of the entity list that ships with the project.
"""

from __future__ import annotations

from ..data.columns import Column
from ..data.tables import Table

PHASES = {1: "Phase 1", 2: "Phase 1/2", 3: "Phase 2", 4: "Phase 2/3", 5: "Phase 3", 6: "Phase 4"}
TRIAL_STATUSES = {
    1: "Not yet recruiting",
    2: "Recruiting",
    3: "Active, not recruiting",
    4: "Completed",
    5: "Terminated",
    6: "Unknown status",
}
MODALITIES = {
    100_000_000: "Vaccine",
    100_000_001: "Small molecule",
    100_000_002: "Monoclonal antibody",
    100_000_003: "Diagnostic",
    100_000_004: "Vector control product",
}
POPULATIONS = {
    1: "Adults",
    2: "Children under 5",
    3: "Adolescents",
    4: "Pregnant women",
    5: "Older adults",
}
SOURCE_TYPES = {1: "Registry", 2: "Journal article", 3: "Press release", 4: "Company pipeline"}
INDUSTRIES = {
    1: "Accounting",
    6: "Biotechnology",
    12: "Consulting",
    22: "Health services",
    33: "Wholesale",
}
CATEGORIES = {1: "Preferred customer", 2: "Standard"}

_OWNED = (
    Column("ownerid", "Owner", targets=("systemuser", "team")),
    Column("createdby", "Lookup", targets=("systemuser",)),
    Column("modifiedby", "Lookup", targets=("systemuser",)),
    Column("statecode", "State"),
    Column("statuscode", "Status"),
    Column("importsequencenumber", "Integer"),
)


def _lookup(name: str, target: str) -> Column:
    return Column(name, "Lookup", targets=(target,))


def _table(
    logical_name: str, entity_set: str, *columns: Column, change_tracking: bool = False
) -> Table:
    return Table(
        logical_name,
        entity_set,
        f"{logical_name}id",
        (Column("vin_name", "String"), *columns, *_OWNED),
        change_tracking=change_tracking,
        primary_name="vin_name",
    )


def _link(logical_name: str, first: str, second: str) -> Table:
    """A many-to-many table: its key, and two plain guids named as the keys they hold."""
    return Table(
        logical_name,
        f"{logical_name}set",
        f"{logical_name}id",
        (Column(first, "Uniqueidentifier"), Column(second, "Uniqueidentifier")),
        intersect=True,
        createdon=False,
        modifiedon=False,
    )


def demo_tables() -> list[Table]:
    """Every table of the demo, those that others point to last."""
    return [*_pipeline(), *_reference(), *_links(), *_usual()]


def _pipeline() -> list[Table]:
    return [
        _table(
            "vin_candidate",
            "vin_candidates",
            Column("vin_alternativenames", "String"),
            Column("vin_description", "Memo"),
            _lookup("vin_productid", "vin_product"),
            _lookup("vin_diseaseid", "vin_disease"),
            _lookup("vin_archetypeid", "vin_archetype"),
            _lookup("vin_rdstageid", "vin_rdstage"),
            _lookup("vin_clinicalusestatusid", "vin_clinicalusestatus"),
            _lookup("vin_developerid", "vin_developer"),
            Column("vin_sponsorid", "Customer", targets=("account", "contact")),
            Column("vin_modality", "Picklist", options=MODALITIES),
            Column("vin_populations", "MultiSelectPicklist", options=POPULATIONS),
            Column("vin_funding", "Money"),
            Column("vin_funding_base", "Money"),
            Column("exchangerate", "Decimal"),
            _lookup("transactioncurrencyid", "transactioncurrency"),
            Column("vin_probability", "Double"),
            Column("vin_externalid", "BigInt"),
            Column("vin_ispriority", "Boolean"),
            Column("vin_firstinhuman", "DateTime", date_only=True),
            Column("vin_dossier", "File"),
            Column("vin_reviewers", "PartyList"),
            change_tracking=True,
        ),
        _table(
            "vin_clinicaltrial",
            "vin_clinicaltrials",
            Column("vin_registryid", "String"),
            Column("vin_summary", "Memo"),
            _lookup("vin_candidateid", "vin_candidate"),
            Column("vin_phase", "Picklist", options=PHASES),
            Column("vin_trialstatus", "Picklist", options=TRIAL_STATUSES),
            Column("vin_enrollment", "Integer"),
            Column("vin_startdate", "DateTime", date_only=True),
            Column("vin_completiondate", "DateTime", date_only=True),
            Column("vin_lastverified", "DateTime"),
            Column("vin_randomized", "Boolean"),
            Column("vin_budget", "Money"),
            _lookup("transactioncurrencyid", "transactioncurrency"),
            _lookup("vin_principalinvestigatorid", "contact"),
            change_tracking=True,
        ),
        _table(
            "vin_product",
            "vin_products",
            Column("vin_description", "Memo"),
            _lookup("vin_diseaseid", "vin_disease"),
            _lookup("vin_developerid", "vin_developer"),
            Column("vin_modality", "Picklist", options=MODALITIES),
            Column("vin_launchyear", "Integer"),
            Column("vin_unitprice", "Money"),
            _lookup("transactioncurrencyid", "transactioncurrency"),
        ),
        _table(
            "vin_rdstageproduct",
            "vin_rdstageproducts",
            _lookup("vin_productid", "vin_product"),
            _lookup("vin_rdstageid", "vin_rdstage"),
            Column("vin_startedon", "DateTime"),
            Column("vin_endedon", "DateTime"),
            Column("vin_probability", "Decimal"),
            Column("vin_cost", "Money"),
            _lookup("transactioncurrencyid", "transactioncurrency"),
        ),
        _table(
            "vin_source",
            "vin_sources",
            Column("vin_url", "String"),
            Column("vin_quote", "Memo"),
            Column("vin_type", "Picklist", options=SOURCE_TYPES),
            Column("vin_accessedon", "DateTime", date_only=True),
            _lookup("vin_candidateid", "vin_candidate"),
        ),
        _table(
            "vin_developer",
            "vin_developers",
            _lookup("vin_accountid", "account"),
            _lookup("vin_countryid", "vin_country"),
            Column("vin_website", "String"),
            Column("vin_employees", "Integer"),
            change_tracking=True,
        ),
    ]


def _reference() -> list[Table]:
    return [
        _table("vin_disease", "vin_diseases", Column("vin_icdcode", "String"),
               Column("vin_neglected", "Boolean"), Column("vin_burden", "Decimal")),
        _table("vin_rdstage", "vin_rdstages", Column("vin_order", "Integer"),
               Column("vin_durationmonths", "Decimal")),
        _table("vin_rdpriority", "vin_rdpriorities", Column("vin_description", "Memo"),
               _lookup("vin_diseaseid", "vin_disease"), Column("vin_year", "Integer")),
        _table("vin_archetype", "vin_archetypes", Column("vin_description", "Memo"),
               Column("vin_complexity", "Integer")),
        _table("vin_clinicalusestatus", "vin_clinicalusestatuses", Column("vin_order", "Integer")),
        _table("vin_country", "vin_countries", Column("vin_isocode", "String"),
               _lookup("vin_regionid", "vin_region"), Column("vin_population", "BigInt")),
        _table("vin_region", "vin_regions", Column("vin_code", "String")),
        _table("vin_capparameter", "vin_capparameters",
               _lookup("vin_archetypeid", "vin_archetype"), _lookup("vin_rdstageid", "vin_rdstage"),
               Column("vin_value", "Decimal"), Column("vin_low", "Decimal"),
               Column("vin_high", "Decimal"), Column("vin_note", "Memo")),
    ]  # fmt: skip


def _links() -> list[Table]:
    candidate, trial = "vin_candidateid", "vin_clinicaltrialid"
    return [
        _link("vin_vin_candidate_account", candidate, "accountid"),
        _link("vin_vin_candidate_vin_rdpriority", candidate, "vin_rdpriorityid"),
        _link("vin_vin_candidate_systemuser", candidate, "systemuserid"),
        _link("vin_vin_candidate_vin_country", candidate, "vin_countryid"),
        _link("vin_vin_candidate_vin_region", candidate, "vin_regionid"),
        _link("vin_vin_clinicaltrial_account", trial, "accountid"),
        _link("vin_vin_clinicaltrial_account_collaborator", trial, "accountid"),
        _link("vin_vin_clinicaltrial_vin_country", trial, "vin_countryid"),
    ]


def _usual() -> list[Table]:
    """The tables of every environment, which the sync filters."""
    return [
        Table(
            "account",
            "accounts",
            "accountid",
            (
                Column("name", "String"),
                Column("accountnumber", "String"),
                Column("description", "Memo"),
                Column("emailaddress1", "String"),
                Column("telephone1", "String"),
                Column("websiteurl", "String"),
                Column("address1_city", "String"),
                Column("address1_country", "String"),
                Column("address1_postalcode", "String"),
                Column("industrycode", "Picklist", options=INDUSTRIES),
                Column("accountcategorycode", "Picklist", options=CATEGORIES),
                Column("numberofemployees", "Integer"),
                Column("revenue", "Money"),
                Column("creditonhold", "Boolean"),
                _lookup("transactioncurrencyid", "transactioncurrency"),
                _lookup("primarycontactid", "contact"),
                _lookup("parentaccountid", "account"),
                *_OWNED,
            ),
            change_tracking=True,
        ),
        Table(
            "contact",
            "contacts",
            "contactid",
            (
                Column("fullname", "String"),
                Column("firstname", "String"),
                Column("lastname", "String"),
                Column("jobtitle", "String"),
                Column("emailaddress1", "String"),
                Column("mobilephone", "String"),
                Column("birthdate", "DateTime", date_only=True),
                Column("donotemail", "Boolean"),
                Column("annualincome", "Money"),
                _lookup("transactioncurrencyid", "transactioncurrency"),
                Column("parentcustomerid", "Customer", targets=("account", "contact")),
                *_OWNED,
            ),
        ),
        Table(
            "systemuser",
            "systemusers",
            "systemuserid",
            (
                Column("fullname", "String"),
                Column("domainname", "String"),
                Column("internalemailaddress", "String"),
                Column("title", "String"),
                Column("isdisabled", "Boolean"),
                Column("accessmode", "Integer"),
            ),
        ),
        Table(
            "transactioncurrency",
            "transactioncurrencies",
            "transactioncurrencyid",
            (
                Column("currencyname", "String"),
                Column("isocurrencycode", "String"),
                Column("currencysymbol", "String"),
                Column("exchangerate", "Decimal"),
                Column("currencyprecision", "Integer"),
            ),
        ),
    ]
