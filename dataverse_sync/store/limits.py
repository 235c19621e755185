"""What this app may read, and what it does not see: ``_sync_limits`` keeps it while it stands."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import astuple
from datetime import datetime

import msgspec
import sqlalchemy as sa

from dataverse_sync.model import Limit
from dataverse_sync.moments import to_text
from dataverse_sync.store.database import OWN_TABLES

LIMITS = sa.Table(
    "_sync_limits",
    OWN_TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("entity_name", sa.Text, nullable=False),
    sa.Column("column_name", sa.Text),  # null: of the whole table
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("detected_at", sa.Text, nullable=False),
)
_NAMES = ("entity_name", "column_name", "kind", "detail")  # as the fields of a Limit


class Rights(msgspec.Struct, frozen=True):
    """What the app may read of a table: kept in ``_sync_state`` as JSON. None: not known."""

    depths: dict[str, int] | None = None  # business unit → how deep, of its privilege
    hidden: tuple[str, ...] | None = None  # secured columns that it may not read

    @property
    def is_known(self) -> bool:
        return self.depths is not None and self.hidden is not None


def parse_rights(text: str | None) -> Rights | None:
    """Rights out of their column; None where there are none that this version can use."""
    try:
        return msgspec.json.decode(text or "", type=Rights)
    except msgspec.DecodeError:
        return None


def dump_rights(before: Rights | None, now: Rights) -> str:
    """What is kept: what is told now, and else what was known before."""
    before = before or Rights()
    depths = before.depths if now.depths is None else now.depths
    hidden = before.hidden if now.hidden is None else now.hidden
    return msgspec.json.encode(Rights(depths, hidden)).decode()


def load_limits(connection: sa.Connection) -> list[Limit]:
    """The limits that stand, by table; the table of limits has to be there."""
    columns = [LIMITS.c[name] for name in _NAMES]
    query = sa.select(*columns).order_by(LIMITS.c.entity_name, LIMITS.c.column_name, LIMITS.c.id)
    return [Limit(*row) for row in connection.execute(query)]


def record_limits(
    connection: sa.Connection,
    found: Sequence[Limit],
    settled: Collection[tuple[str, str]],
    configured: Collection[str],
    now: datetime,
) -> list[Limit]:
    """Write each limit once while it stands; returns those that are new.

    What stood and is not found any more goes, if its entity and kind are ``settled``, asked for
    and answered, or its entity is not ``configured`` any more.
    """
    standing = load_limits(connection)
    for limit in standing:
        is_settled = (limit.entity, limit.kind) in settled or limit.entity not in configured
        if limit not in found and is_settled:
            columns = zip(_NAMES, astuple(limit), strict=True)
            mine = [LIMITS.c[name].is_not_distinct_from(value) for name, value in columns]
            connection.execute(sa.delete(LIMITS).where(*mine))
    new = [limit for limit in found if limit not in standing]
    if new:
        rows = [dict(zip(_NAMES, astuple(limit), strict=True)) for limit in new]
        connection.execute(
            sa.insert(LIMITS), [{**row, "detected_at": to_text(now)} for row in rows]
        )
    return new
