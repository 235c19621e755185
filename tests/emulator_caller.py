"""Set-up of the emulator's tests: a few tables, and an HTTP client that signs in."""

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import requests

from dataverse_sync.emulator import Clock, Column, Emulator, Table
from dataverse_sync.emulator.http.signin import TENANT_ID

MORNING = dt.datetime(2025, 3, 3, 8, 0, tzinfo=dt.UTC)

ACCOUNTS = Table(
    "account",
    "accounts",
    "accountid",
    (
        Column("name", "String"),
        Column("description", "Memo"),
        Column("allowemail", "Boolean"),
        Column("industrycode", "Picklist", options={1: "Accounting", 2: "Health"}),
        Column("statecode", "State"),
        Column("statuscode", "Status"),
        Column("numberofemployees", "Integer"),
        Column("externalid", "BigInt"),
        Column("revenue", "Money"),
        Column("exchangerate", "Decimal"),
        Column("score", "Double"),
        Column("founded", "DateTime", date_only=True),
        Column("lastcall", "DateTime"),
        Column("markets", "MultiSelectPicklist", options={1: "EU", 2: "US", 3: "Asia"}),
        Column("primarycontactid", "Lookup", targets=("contact",)),
        Column("parentcustomerid", "Customer", targets=("account", "contact")),
        Column("ownerid", "Owner", targets=("systemuser", "team")),
        Column("transactioncurrencyid", "Lookup", targets=("transactioncurrency",)),
        Column("contract", "File"),
        Column("participants", "PartyList"),
    ),
    change_tracking=True,
)
CONTACTS = Table(
    "contact",
    "contacts",
    "contactid",
    (Column("fullname", "String"), Column("annualincome", "Money")),
)
LINKS = Table(
    "account_contact",
    "account_contactset",
    "account_contactid",
    (Column("accountid", "Uniqueidentifier"), Column("contactid", "Uniqueidentifier")),
    intersect=True,
    createdon=False,
    modifiedon=False,
)


class Caller:
    """A plain HTTP client with a token."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.session = requests.Session()
        self.session.trust_env = False

    def sign_in(self) -> None:
        answer = self.token()
        assert answer.status_code == 200, answer.text
        self.session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def token(self, **form: str) -> requests.Response:
        fields = {
            "grant_type": "client_credentials",
            "client_id": self.emulator.client_id,
            "client_secret": self.emulator.client_secret,
            "scope": f"{self.emulator.origin}/.default",
        } | form
        url = f"{self.emulator.origin}/{fields.pop('tenant', TENANT_ID)}/oauth2/v2.0/token"
        return self.session.post(url, data=fields, timeout=10)

    def get(self, path: str, prefer: str | None = None, **headers: str) -> requests.Response:
        url = path if path.startswith("http") else self.emulator.api_url + path
        if prefer is not None:
            headers["Prefer"] = prefer
        return self.session.get(url, headers=headers, timeout=10, allow_redirects=False)

    def value(self, path: str, prefer: str | None = None) -> list[dict]:
        answer = self.get(path, prefer)
        assert answer.status_code == 200, answer.text
        return answer.json()["value"]

    def names(self, filter_: str) -> list[str]:
        """Return the names of the accounts that match a filter, in alphabetical order."""
        return sorted(a["name"] for a in self.value(f"accounts?$filter={quote(filter_)}"))

    def pages(self, path: str, prefer: str = "odata.maxpagesize=2") -> Iterator[dict]:
        link: str | None = path
        while link is not None:
            page = self.get(link, prefer).json()
            yield page
            link = page.get("@odata.nextLink")

    def refusal(self, path: str, prefer: str | None = None) -> tuple[int, str, str]:
        answer = self.get(path, prefer)
        error = answer.json()["error"]
        return answer.status_code, error["code"], error["message"]


@contextmanager
def running(*tables: Table, **levers: object) -> Iterator[tuple[Emulator, Caller]]:
    """Start an emulator with these tables and settings, and a client that has signed in."""
    emulator = Emulator(tables or (ACCOUNTS, CONTACTS, LINKS), clock=Clock(MORNING))
    for name, value in levers.items():
        setattr(emulator.control, name, value)
    with emulator:
        caller = Caller(emulator)
        with caller.session:
            caller.sign_in()
            emulator.log.clear()
            yield emulator, caller
