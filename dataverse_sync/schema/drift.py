"""Compare the locked schema with the live one, and accept the live one; pure functions."""

from __future__ import annotations

from dataclasses import replace

from dataverse_sync.model import Drift, Entity


def diff_entity(locked: Entity, live: Entity) -> list[Drift]:
    """The differences in columns, their types and the key."""
    was = {column.name: column.type for column in locked.columns if not column.gone}
    now = {column.name: column.type for column in live.columns}
    added = [
        Drift(locked.name, "column_added", name, None, now[name]) for name in now if name not in was
    ]
    removed = [
        Drift(locked.name, "column_removed", name, was[name], None)
        for name in was
        if name not in now
    ]
    # A sample shows null as TEXT: what it says of types proves nothing.
    guessed = "sample" in (locked.source, live.source)
    retyped = [
        Drift(locked.name, "type_changed", name, was[name], now[name])
        for name in was
        if name in now and was[name] != now[name] and not guessed
    ]
    found = [*added, *removed, *retyped]
    # A key that was guessed wrong merges records: nothing else shows it.
    if locked.key != live.key and live.source == "metadata":
        found.append(Drift(locked.name, "type_changed", live.key, was.get(live.key), "TEXT"))
    return found


def accept_entity(locked: Entity, live: Entity, drop: bool) -> Entity:
    """The live schema; columns that Dataverse no longer has are kept unless ``drop``."""
    if drop:
        return live
    have = {column.name for column in live.columns}
    gone = [replace(column, gone=True) for column in locked.columns if column.name not in have]
    return replace(live, columns=(*live.columns, *gone))
