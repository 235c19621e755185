"""``$expand`` of single-valued lookups; other expansions are refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from ..data.columns import LOOKUPS, guid_rank
from ..data.store import StoredTable
from .annotations import navigation_name
from .answers import bad_request, unknown_property
from .environment import Environment

_AT_ONCE = 500


class Expansion:
    """One lookup whose record is put into the answer."""

    def __init__(
        self,
        env: Environment,
        navigation: str,
        member: str,
        target: StoredTable,
        names: tuple[str, ...] | None,
    ) -> None:
        self._env = env
        self._target = target
        self._names = names
        self.navigation = navigation
        self.member = member

    @property
    def context(self) -> str:
        return f"{self.navigation}({','.join(self._names or ())})"

    def fetch(self, ids: Sequence[Any]) -> dict[Any, str]:
        """The related records, as JSON without etag, by id."""
        target = self._target
        key = target.spec.key
        names = tuple(target.spec.members) if self._names is None else (*self._names, key)
        names = tuple(dict.fromkeys(names))
        columns = [target.sql.c[name] for name in names]
        wanted = sorted({guid_rank(id_) for id_ in ids if id_ is not None})
        found: dict[Any, str] = {}
        for start in range(0, len(wanted), _AT_ONCE):
            batch = wanted[start : start + _AT_ONCE]
            query = sa.select(target.key, target.version, *columns).where(target.rank.in_(batch))
            for row in self._env.store.read(query):
                text = target.codec.projected(names, row[2:], row[1]).decode()
                found[row[0]] = "{" + text.partition(",")[2]
        return found


def parse_expand(text: str | None, table: StoredTable, env: Environment) -> list[Expansion]:
    return [_parse(part, table, env) for part in split_outside(text or "", ",")]


def _parse(text: str, table: StoredTable, env: Environment) -> Expansion:
    navigation, options = split_call(text)
    for column in table.spec.all_columns:
        targets = column.targets if column.type in LOOKUPS else ()
        for target_name in targets:
            target = env.find_table(target_name)
            if navigation_name(column, target_name) != navigation or target is None:
                continue
            selected = options.pop("$select", None)
            if options:
                raise bad_request(f"The query parameter {next(iter(options))} is not supported")
            names = None if selected is None else tuple(selected.split(","))
            for name in names or ():
                if name not in target.spec.members:
                    raise unknown_property(name, target_name)
            return Expansion(env, navigation, f"_{column.name}_value", target, names)
    raise unknown_property(navigation, table.spec.logical_name)


def split_call(text: str) -> tuple[str, dict[str, str]]:
    """``Attributes($select=a,b;$filter=c)`` as its name and its options."""
    match = re.fullmatch(r"\s*([^()]+?)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    if match is None:
        raise bad_request(f"Syntax error in '{text}'.")
    options = {}
    for part in split_outside(match[2] or "", ";"):
        name, _, value = part.partition("=")
        options[name.strip()] = value
    return match[1], options


def split_outside(text: str, separator: str) -> list[str]:
    """Split at a separator that stands in no parentheses."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == separator and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return [part for part in parts if part.strip()]
