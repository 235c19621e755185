"""Moments as the service and the tables write them: read, written, always aware and UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def parse_timestamp(text: object) -> datetime | None:
    """A moment of the service (``2024-05-01T10:00:00Z``), aware UTC; None where it is none."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # an offset may lead out of the years 1 to 9999
        return None


def to_text(moment: datetime) -> str:
    """UTC as the tables keep it: ``2026-11-23T02:00:00.000Z``."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
