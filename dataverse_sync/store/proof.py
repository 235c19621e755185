"""What each ``verify`` has found, kept in ``_sync_verify``: when was a table last proven?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

import sqlalchemy as sa

from dataverse_sync.moments import parse_timestamp, to_text
from dataverse_sync.store.database import OWN_TABLES

VERIFY = sa.Table(
    "_sync_verify",
    OWN_TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("entity_name", sa.Text, nullable=False),
    sa.Column("verified_at", sa.Text, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("missing", sa.Integer, nullable=False),
    sa.Column("stale", sa.Integer, nullable=False),
    sa.Column("surplus", sa.Integer, nullable=False),
    sa.Column("altered", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Proof:
    """How many rows of an entity agree with Dataverse, and how many do not, of each kind."""

    entity_name: str
    rows: int
    missing: int  # in Dataverse, and not in the table
    stale: int  # of another version
    surplus: int  # not in Dataverse, or not linked to any more
    altered: int  # not what their own JSON says
    status: Literal["same", "differs", "failed"]  # same also where it was repaired


def keep_proofs(
    connection: sa.Connection, run_id: str, proofs: Iterable[Proof], now: datetime
) -> None:
    OWN_TABLES.create_all(connection, [VERIFY])
    common = {"run_id": run_id, "verified_at": to_text(now)}
    if rows := [{**common, **asdict(proof)} for proof in proofs]:
        connection.execute(sa.insert(VERIFY), rows)


def load_proven(connection: sa.Connection) -> Mapping[str, datetime]:
    """When each entity was last found to be the same; the table has to be there."""
    of = VERIFY.c
    last = sa.select(of.entity_name, sa.func.max(of.verified_at)).where(of.status == "same")
    moments = {
        name: parse_timestamp(text)
        for name, text in connection.execute(last.group_by("entity_name"))
    }
    return {name: moment for name, moment in moments.items() if moment is not None}
