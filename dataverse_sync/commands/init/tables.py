"""The tables of an environment: listed, counted, tried for whether the app may read them.

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/query-metadata-web-api
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from dataverse_sync.commands.console import Tell
from dataverse_sync.dataverse import definitions, odata
from dataverse_sync.dataverse.session import Session
from dataverse_sync.errors import EntityError, RequestError
from dataverse_sync.model import PageRequest

COUNTED_AT_ONCE = 50
_MICROSOFTS = re.compile(r"(ms(dyn|fp|pp|pcat|erp|evtmgt|gdpr)[a-z]*|adx)_")


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table of the environment, as the list shows it."""

    name: str  # the entity set
    logical_name: str
    key: str
    title: str  # its display name, plural where it has one
    custom: bool = False
    intersect: bool = False
    virtual: bool = False
    rows: int | None = None  # about; None: not known

    @property
    def names(self) -> tuple[str, str]:
        """The names that a user may give, in lower case."""
        return self.name.lower(), self.logical_name.lower()

    @property
    def is_usual(self) -> bool:
        """Whether patterns pick it: neither virtual nor a junction, which is added by itself."""
        return not self.intersect and not self.virtual

    @property
    def is_microsofts(self) -> bool:
        """Whether it belongs to a solution of Microsoft's; its flag says that it is custom."""
        return _MICROSOFTS.match(self.logical_name) is not None


def list_tables(session: Session, tell: Tell) -> list[TableInfo]:
    """Every table that can be synced, with about how many records it has; or RequestError."""
    try:
        found = session.client.get_metadata("EntityDefinitions", select=definitions.TABLES_SELECT)
    except RequestError as error:
        raise RequestError(
            f"the tables cannot be listed: {error.message}",
            "Give the app a role that may read metadata, or write entities_config.json by hand.",
            status=error.status,
            code=error.code,
        ) from error
    parsed = [parse_table(definition) for definition in found]
    tables = sorted((table for table in parsed if table), key=lambda table: table.name.lower())
    tell(f"Counting the rows of {len(tables)} tables ...")
    counts = _count(session, [table.logical_name for table in tables if table.is_usual])
    return [replace(table, rows=counts.get(table.logical_name)) for table in tables]


def parse_table(definition: object) -> TableInfo | None:
    """One element of EntityDefinitions; None if it cannot be synced."""
    found = definitions.parse_table(definition)
    if found is None or found.entity_set_name.lower().startswith(("_", "sqlite_")):
        return None
    return TableInfo(
        name=found.entity_set_name,
        logical_name=found.logical_name,
        key=found.primary_id_attribute,
        title=found.title,
        custom=bool(found.is_custom_entity),
        intersect=bool(found.is_intersect),
        virtual=definitions.find_kind(None, found.data_provider_id, ()) == "virtual",
    )


def _count(session: Session, names: Sequence[str]) -> dict[str, int]:
    """About how many records each table has; one that cannot be counted is left out."""

    def count(batch: Sequence[str]) -> dict[str, int]:
        try:
            return session.client.get_counts(batch)
        except EntityError as error:
            is_refused = isinstance(error, RequestError) and error.status in (400, 404)
            if not is_refused or len(batch) == 1:
                return {}
            half = len(batch) // 2
            return {**count(batch[:half]), **count(batch[half:])}

    starts = range(0, len(names), COUNTED_AT_ONCE)
    counts: dict[str, int] = {}
    for found in session.pool.map(count, [names[i : i + COUNTED_AT_ONCE] for i in starts]):
        counts.update(found)
    return counts


def find_unreadable(
    session: Session, tables: Sequence[TableInfo], names: Collection[str]
) -> dict[str, str]:
    """Which of the named tables the app may not read, and why; one key of each is asked for."""

    def find_error(table: TableInfo) -> str:
        url = odata.build_url(session.client.api_url, table.name, select=(table.key,), top=1)
        try:
            page = session.client.get_page(PageRequest(table.name, url, top=True))
        except EntityError as error:
            return error.message
        session.client.release(page)
        return ""

    named = [table for table in tables if table.name in names]
    errors = session.pool.map(find_error, named)
    return {table.name: error for table, error in zip(named, errors, strict=True) if error}


def keep_readable(session: Session, tables: Sequence[TableInfo], tell: Tell) -> list[TableInfo]:
    """All tables but those that hold rows, or may hold some, and cannot be read."""
    asked = [t.name for t in tables if t.is_usual and (t.custom or t.rows != 0)]
    tell(f"Checking which of {len(asked)} tables the app can read ...")
    unreadable = find_unreadable(session, tables, asked)
    if unreadable:
        tell(f"{len(unreadable)} tables cannot be read by the app; they are not shown")
    return [table for table in tables if table.name not in unreadable]


def format_tables(tables: Sequence[TableInfo]) -> list[str]:
    """The tables to pick from: custom ones first, then standard ones that hold rows."""
    lines: list[str] = []
    usual = [table for table in tables if table.is_usual]
    groups = {
        "Custom tables:": [table for table in usual if table.custom],
        "Standard tables that hold rows:": [
            table for table in usual if not table.custom and table.rows
        ],
    }
    width = max((len(table.name) for table in usual), default=0)
    for title, group in groups.items():
        if group:
            lines += ["", title]
        for table in group:
            rows = "?" if table.rows is None else f"{table.rows:,}"
            lines.append(f"  {table.name.ljust(width)}  {rows:>11}  {table.title}")
    empty = sum(not table.custom and table.rows == 0 for table in usual)
    if empty:
        lines += ["", f"(and {empty} standard tables without rows)"]
    return [*lines, ""]
