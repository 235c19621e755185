"""Find the tables that a user's words pick, and propose others that belong to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from textwrap import wrap

import msgspec

from dataverse_sync.commands.init.tables import TableInfo, find_unreadable
from dataverse_sync.dataverse.definitions import parse_definition
from dataverse_sync.dataverse.session import Session
from dataverse_sync.model import Entity, EntityConfig

PICK_CUSTOM = "custom"  # picks all custom tables


# What was picked


@dataclass(frozen=True, slots=True)
class Picked:
    """The tables that the words of a user pick."""

    names: tuple[str, ...]  # entity sets, in the order of the list
    unknown: tuple[str, ...] = ()  # words that pick no table
    left_out: tuple[str, ...] = ()  # custom by their flag, but of Microsoft's own solutions


def pick(tables: Sequence[TableInfo], words: Iterable[str]) -> Picked:
    """The tables that these names and patterns mean.

    A name is an entity set or a logical name. Patterns and ``custom`` pick neither
    junction tables nor virtual ones.
    """
    chosen: set[str] = set()
    left_out: set[str] = set()
    unknown = []
    for word in words:
        found, microsofts = _find_tables(tables, word.lower())
        chosen.update(found)
        left_out.update(microsofts)
        if not found:
            unknown.append(word)
    names = [table.name for table in tables]
    return Picked(
        tuple(name for name in names if name in chosen),
        tuple(unknown),
        tuple(name for name in names if name in left_out - chosen),
    )


def _find_tables(tables: Sequence[TableInfo], word: str) -> tuple[list[str], list[str]]:
    """The tables that a word means, and those of Microsoft's that it does not."""
    named = [table.name for table in tables if word in table.names]
    usual = [table for table in tables if table.is_usual]
    if named or word == PICK_CUSTOM:
        custom = [] if named else [table for table in usual if table.custom]
        ours = [table.name for table in custom if not table.is_microsofts]
        return named or ours, [table.name for table in custom if table.is_microsofts]
    if not any(sign in word for sign in "*?["):
        return [], []
    return [t.name for t in usual if any(fnmatchcase(name, word) for name in t.names)], []


def explain_unknown(unknown: Sequence[str], tables: Sequence[TableInfo]) -> str:
    """Say which words picked no table, and which table may be meant."""
    known = [name for table in tables for name in table.names]
    told = []
    for word in unknown:
        close = get_close_matches(word.lower(), known, n=1)
        told.append(word + (f" (did you mean {close[0]}?)" if close else ""))
    return f"no table that the app can read is called {', '.join(told)}"


# What is proposed


@dataclass(frozen=True, slots=True)
class Proposal:
    """Tables to sync: whole, filtered (linked records only), and the junctions between them."""

    whole: tuple[str, ...]
    filtered: tuple[str, ...] = ()
    junctions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # → what it joins
    others: tuple[str, ...] = ()  # custom tables that are linked to, and were not picked


def get_proposal(session: Session, names: Sequence[str], tables: Sequence[TableInfo]) -> Proposal:
    """Ask for the columns of the tables picked, and propose what to sync with them."""
    targets = find_targets(_get_entities(session, names), tables)
    more = {table.name for table in targets if table.name not in names}
    more -= find_unreadable(session, tables, more).keys()
    intersects = _get_entities(session, [table.name for table in tables if table.intersect])
    proposal = propose(names, [t for t in targets if t.name in more], intersects, tables)
    unreadable = find_unreadable(session, tables, proposal.junctions)
    readable = {name: it for name, it in proposal.junctions.items() if name not in unreadable}
    return replace(proposal, junctions=readable)


def _get_entities(session: Session, names: Sequence[str]) -> list[Entity]:
    found = []
    for definition in session.client.get_definitions(names):
        # A definition that cannot be understood has no links that we know of.
        with suppress(msgspec.ValidationError):
            found.append(parse_definition(definition))
    return found


def find_targets(picked: Iterable[Entity], tables: Iterable[TableInfo]) -> list[TableInfo]:
    """The tables that lookups of the picked ones point to."""
    pointed = {target for e in picked for column in e.columns for target in column.targets}
    return [table for table in tables if table.logical_name in pointed and not table.virtual]


def propose(
    names: Sequence[str],
    targets: Iterable[TableInfo],
    intersects: Iterable[Entity],
    tables: Iterable[TableInfo],
) -> Proposal:
    """Picked tables are copied whole; standard tables that they link to, filtered.

    ``targets`` are what the picked ones link to, as far as that can be read.
    """
    whole = tuple(names)
    more = [table for table in targets if table.name not in whole]
    filtered = tuple(table.name for table in more if not table.custom and table.rows != 0)
    others = tuple(table.name for table in more if table.custom)
    by_key: dict[str, set[str]] = {}
    for table in tables:
        if not table.intersect:
            by_key.setdefault(table.key, set()).add(table.name)
    junctions = {}
    for entity in intersects:
        sides = _find_sides(entity, by_key)
        joins = tuple(min(side & {*whole, *filtered}, default="") for side in sides)
        is_whole = any(side & set(whole) for side in sides)
        if len(joins) >= 2 and all(joins) and is_whole and entity.name not in whole:
            junctions[entity.name] = joins
    return Proposal(whole, filtered, junctions, others)


def _find_sides(intersect: Entity, by_key: Mapping[str, set[str]]) -> list[set[str]]:
    """For each column of a junction that is named as a key, the tables with that key."""
    sides = []
    for column in intersect.columns:
        # One that joins a table with itself has accountidone and accountidtwo.
        own = column.name.removesuffix("one").removesuffix("two")
        names = by_key.get(column.name) or by_key.get(own)
        if names and column.name != intersect.key:
            sides.append(names)
    return sides


def build_entities(proposal: Proposal, tables: Sequence[TableInfo]) -> list[EntityConfig]:
    """The entries of the configuration, with descriptions."""
    titles = {table.name: table.title for table in tables}
    entities = [EntityConfig(name, description=titles[name]) for name in proposal.whole]
    for junction, joins in proposal.junctions.items():
        joined = " and ".join(titles[name] for name in joins)
        entities.append(EntityConfig(junction, description=f"Junction: {joined}"))
    for name in proposal.filtered:
        text = f"Only {titles[name]} linked from what was synced"
        entities.append(EntityConfig(name, filtered=True, description=text))
    return entities


def format_proposal(proposal: Proposal, tables: Sequence[TableInfo]) -> list[str]:
    """The tables that will be synced, and why, line by line."""
    rows = sum(table.rows or 0 for table in tables if table.name in proposal.whole)
    groups = {
        f"Copied whole ({len(proposal.whole)} tables, about {rows:,} rows):": proposal.whole,
        "With the junction tables between them:": list(proposal.junctions),
        "Filtered, only the records that those link to:": proposal.filtered,
        "Also linked to, but not picked; their ids stay ids:": proposal.others,
    }
    lines = []
    for title, names in groups.items():
        if names:
            lines += ["", title, *format_names(names)]
    return [*lines, ""]


def format_names(names: Sequence[str]) -> list[str]:
    """Names in lines that fit a console."""
    return wrap(", ".join(names), 88, initial_indent="  ", subsequent_indent="  ")
