"""What each ``verify`` has found, kept in ``_sync_verify``: when was a table last proven?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

import sqlalchemy as sa

from dataverse_sync.moments import parse_timestamp, to_text
from dataverse_sync.store.database import OWN_TABLES, add_missing_columns

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
    sa.Column("compared", sa.Text),
    sa.Column("sampled_to", sa.Text),  # the last key of a sample: the next one goes on after it
)

Compared = str  # one of the next two, or "values of 5 %"
KEYS_AND_VERSIONS, VALUES = "keys and versions", "values"


@dataclass(frozen=True, slots=True)
class Proof:
    """How many rows of an entity agree with Dataverse, and how many do not, of each kind."""

    entity_name: str
    rows: int
    missing: int  # in Dataverse, and not in the table
    stale: int  # of another version
    surplus: int  # not in Dataverse, or not linked to any more
    altered: int  # not what their own JSON says, or not what Dataverse sends
    status: Literal["same", "differs", "failed"]  # same also where it was repaired
    compared: Compared = KEYS_AND_VERSIONS
    sampled_to: str | None = None


def prepare(connection: sa.Connection) -> None:
    """Make the table, or what an earlier version of it lacks."""
    OWN_TABLES.create_all(connection, [VERIFY])
    add_missing_columns(connection, VERIFY)


def keep_proofs(
    connection: sa.Connection, run_id: str, proofs: Iterable[Proof], now: datetime
) -> None:
    prepare(connection)
    common = {"run_id": run_id, "verified_at": to_text(now)}
    if rows := [{**common, **asdict(proof)} for proof in proofs]:
        connection.execute(sa.insert(VERIFY), rows)


def load_proven(connection: sa.Connection) -> Mapping[str, tuple[datetime, Compared]]:
    """When each entity was last found to be the same, and how; the table has to be there."""
    proven = {}
    for row in _load_newest(connection, VERIFY.c.status == "same"):
        if (moment := parse_timestamp(row["verified_at"])) is not None:
            proven[row["entity_name"]] = moment, row.get("compared") or KEYS_AND_VERSIONS
    return proven


def load_sampled(connection: sa.Connection) -> Mapping[str, str]:
    """The last key of each entity's newest sample."""
    rows = _load_newest(connection, VERIFY.c.sampled_to.is_not(None))
    return {row["entity_name"]: row["sampled_to"] for row in rows}


def _load_newest(
    connection: sa.Connection, where: sa.ColumnElement[bool]
) -> Sequence[sa.RowMapping]:
    """The newest row of each entity of which this is true."""
    last = sa.select(sa.func.max(VERIFY.c.id)).where(where).group_by(VERIFY.c.entity_name)
    # By what is there: an earlier version did not keep all of it.
    everything = sa.select(sa.text("*")).select_from(VERIFY).where(VERIFY.c.id.in_(last))
    return connection.execute(everything).mappings().all()
