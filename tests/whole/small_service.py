"""A small Dataverse service that answers from a file and keeps nothing between requests.

Its links hold all that is needed to go on, so a link that one instance sent works with the
next. It stands apart from the package and its emulator, which change from version to version:
what an earlier version has stored must still find the same service.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from loopback import JSON_TYPE, Asked, Reply, http, json_reply

API = "/api/data/v9.2/"
OPTIONS = {"select", "filter", "orderby", "top", "expand", "count", "skiptoken", "deltatoken"}
ATTRIBUTE = {"IsValidForRead": True, "IsValidODataAttribute": True, "IsSecured": False}
_TERM = re.compile(r"(\w+) (eq|ne|gt|ge|lt|le) ('[^']*'|[^\s()]+)")

Record = dict[str, Any]
Option = dict[str, str]


class RefusedError(Exception):
    """A refusal of the service: status and reason."""


class Table:
    """One entity set: its records, decoded and as text."""

    def __init__(self, name: str, source: Mapping[str, Any], definition: Record) -> None:
        self.name = name
        self.key: str = definition.get("PrimaryIdAttribute", f"{name[:-1]}id")
        self.is_tracked = bool(definition.get("ChangeTrackingEnabled"))
        self.records: list[tuple[Record, str]] = [
            (json.loads(text), text) for text in source["records"][name]
        ]
        self.deleted: list[Record] = source["deleted"].get(name, [])
        versions = [record.get("versionnumber", 0) for record, _ in self.records]
        self.version = max([*versions, *(entry["version"] for entry in self.deleted)], default=0)

    def find(self, options: Option) -> Iterator[tuple[Record, str | None]]:
        """Yield the records that match a query, in its order; text is None with ``$select``."""
        since = int(options.get("deltatoken", 0))
        holds = parse_filter(options.get("filter", ""))
        found = [
            (record, text)
            for record, text in self.records
            if holds(record) and record.get("versionnumber", 1) > since
        ]
        for column in reversed((options.get("orderby") or self.key).split(",")):
            name, _, direction = column.strip().partition(" ")
            found.sort(key=partial(_place, name), reverse=direction == "desc")
        columns = options["select"].split(",") if options.get("select") else ()
        for record, text in found:
            part = {name: record.get(name) for name in ("@odata.etag", self.key, *columns)}
            yield (part, None) if columns else (record, text)
        for entry in self.deleted if since else ():
            if entry["version"] > since:
                yield {"id": entry["id"], "reason": "deleted"}, None


class SmallService:
    """A script for a ``LoopbackServer``.

    Args:
        source: What the service holds: ``definitions``, ``records`` (entity set → JSON texts),
            ``deleted`` (entity set → ids and versions), ``counts``, ``functions``.
        page_size: Records on a page at most.
    """

    def __init__(self, source: Mapping[str, Any], page_size: int = 10) -> None:
        self.sent_whole: list[tuple[str, str]] = []  # entity set and id of each whole record
        self._source = source
        self._page_size = page_size
        self._definitions = [
            {**one, "Attributes": [{**ATTRIBUTE, **about} for about in one["Attributes"]]}
            for one in source["definitions"]
        ]
        known = {one["EntitySetName"]: one for one in self._definitions}
        names = source["records"]
        self._tables = {name: Table(name, source, known.get(name, {})) for name in names}

    def __call__(self, asked: Asked) -> Reply:
        origin = f"http://{asked.headers['host']}"
        if asked.method == "POST":
            return json_reply({"access_token": "good-for-an-hour", "expires_in": 3599})
        if "authorization" not in asked.headers:
            challenge = f"Bearer authorization_uri={origin}/tenant/oauth2/authorize"
            return http(401, b"", ("WWW-Authenticate", challenge))
        path, _, query = asked.target.partition("?")
        options = {name.removeprefix("$"): value for name, value in parse_qsl(query)}
        try:
            body = self._answer(origin, unquote(path).removeprefix(API), options, asked)
        except RefusedError as error:
            status, reason = error.args
            return json_reply({"error": {"code": "0x80060888", "message": reason}}, status=status)
        return http(200, body.encode(), JSON_TYPE)

    def _answer(self, origin: str, path: str, options: Option, asked: Asked) -> str:
        function = path.partition("(")[0]
        if path in self._tables:
            return self._page(origin, self._tables[path], options, asked.headers.get("prefer", ""))
        if function == "EntityDefinitions":
            return json.dumps({"value": self._describe(path, options)})
        if function == "RetrieveTotalRecordCount":
            return json.dumps(self._count(re.findall(r'"(\w+)"', unquote(asked.target))))
        if function in self._source["functions"]:
            return json.dumps(self._source["functions"][function])
        raise RefusedError(404, f"Resource not found for the segment '{path}'.")

    def _page(self, origin: str, table: Table, options: Option, prefer: str) -> str:
        if unknown := options.keys() - OPTIONS:
            raise RefusedError(400, f"The query option '{min(unknown)}' is not supported.")
        asked_size = re.search(r"odata\.maxpagesize=(\d+)", prefer)
        size = min(self._page_size, int(asked_size[1]) if asked_size else self._page_size)
        start, _, flag = options.pop("skiptoken", "0").partition(",")
        is_delta = "deltatoken" in options
        is_tracked = is_delta or flag == "tracked" or "odata.track-changes" in prefer
        found = list(table.find(options))
        found = found[: int(options.get("top", len(found)))]
        end = int(start) + size
        answer = {"@odata.context": f"{origin}{API}$metadata#{table.name}" + "/$delta" * is_delta}
        if end < len(found):
            token = f"{end},tracked" if is_tracked else str(end)
            answer["@odata.nextLink"] = _link(origin, table, {**options, "skiptoken": token})
        elif is_tracked and table.is_tracked:
            token = str(table.version)
            answer["@odata.deltaLink"] = _link(origin, table, {**options, "deltatoken": token})
        sent = ",".join(self._send(table, *pair) for pair in found[int(start) : end])
        return json.dumps(answer)[:-1] + ',"value":[' + sent + "]}"

    def _send(self, table: Table, record: Record, text: str | None) -> str:
        if text is None:
            return json.dumps(record)
        self.sent_whole.append((table.name, record[table.key]))
        return text

    def _describe(self, path: str, options: Option) -> Sequence[Record]:
        """Return definitions, or one table's attributes, of one type if the path ends in a cast."""
        if "(" not in path:
            holds = parse_filter(options.get("filter", ""))
            return [one for one in self._definitions if holds(one)]
        _, part, cast = (*path.split("/"), "", "")[:3]
        found = [one for one in self._definitions if f"'{one['LogicalName']}'" in path]
        if not found:
            raise RefusedError(404, f"Could not find an entity with this name: '{path}'.")
        if not part:
            return found
        kind = cast.rpartition(".")[2].removesuffix("AttributeMetadata")
        return [one for one in found[0].get(part, ()) if kind in ("", one.get("AttributeType"))]

    def _count(self, logical_names: Sequence[str]) -> Record:
        tables = {one["LogicalName"]: one["EntitySetName"] for one in self._definitions}
        if unknown := [name for name in logical_names if name not in tables]:
            raise RefusedError(404, f"Could not find an entity with name '{unknown[0]}'.")
        known = self._source["counts"]
        counts = [known.get(n, len(self._tables[tables[n]].records)) for n in logical_names]
        return {"EntityRecordCountCollection": {"Keys": logical_names, "Values": counts}}


def _place(column: str, pair: tuple[Record, str]) -> tuple[bool, Any]:
    value = pair[0].get(column)
    return value is not None, value


def _link(origin: str, table: Table, options: Option) -> str:
    query = "&".join(f"${name}={quote(value, safe=',:')}" for name, value in options.items())
    return f"{origin}{API}{table.name}?{query}"


def parse_filter(text: str) -> Callable[[Record], bool]:
    """Build a function from a filter of comparisons, ``and``, ``or``, ``not`` and brackets."""
    if not text:
        return lambda _: True
    if re.sub(r"\b(and|or|not)\b|[\s()]", "", _TERM.sub("", text)):
        raise RefusedError(400, f"The filter '{text}' is not supported.")
    terms = _TERM.findall(text)
    numbers = iter(range(len(terms)))
    code = compile(_TERM.sub(lambda _: f"holds[{next(numbers)}]", text), "$filter", "eval")

    def holds(record: Record) -> bool:
        found = [_compare(record.get(name), operator, value) for name, operator, value in terms]
        return bool(eval(code, {"holds": found}))

    return holds


def _compare(value: Any, operator: str, literal: str) -> bool:
    wanted: Any = literal.strip("'").lower()
    if re.fullmatch(r"-?\d+(\.\d+)?|true|false|null", literal):
        wanted = json.loads(literal)
    value = value.lower() if isinstance(value, str) else value
    if operator in ("eq", "ne"):
        return (value == wanted) == (operator == "eq")
    if value is None or wanted is None:
        return False
    if isinstance(value, str) != isinstance(wanted, str):
        raise RefusedError(400, f"A comparison with {literal} is not supported.")
    larger = value > wanted if operator[0] == "g" else value < wanted
    return bool(larger or (operator[1] == "e" and value == wanted))
