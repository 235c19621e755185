"""The source that ``benchmark.py`` measures against: ready-made records in memory.

Run in a process of its own, with a description of its entity sets as JSON. All records
are made before the first request, in the order of their ``createdon``, in one buffer a
kind of table: a page of any range is one slice of it, sent as it lies there. So what is
measured is the client. It answers what a sync asks, and anything else with 400.

It prints its port when it is ready, and ends when its standard input does.
"""

from __future__ import annotations

import bisect
import gzip
import json
import random
import re
import socketserver
import sys
import threading
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from functools import cache
from math import sqrt
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID

API = "/api/data/v9.2/"
KEY = "vin_rowid"
KINDS = ("String", "Integer", "Decimal", "DateTime", "Uniqueidentifier", "Boolean")
# What every record begins with; a junction table has no dates.
DATED = {
    KEY: "Uniqueidentifier",
    "modifiedon": "DateTime",
    "createdon": "DateTime",
    "versionnumber": "BigInt",
}
JUNCTION = {
    KEY: "Uniqueidentifier",
    "versionnumber": "BigInt",
    "vin_leftid": "Uniqueidentifier",
    "vin_rightid": "Uniqueidentifier",
}
_OLDEST, _NEWEST = 1420070400, 1704067200  # 2015-01-01, 2024-01-01
_STEP_S = 600  # moments are this far apart, so that several records share one
_TAILS = 20_000  # different records; beyond them only key, dates and version differ
_GZIP_LEVEL = 5

Parts = Sequence[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class SetSpec:
    """One entity set; sets of the same shape share their records."""

    name: str
    rows: int
    columns: int = 40
    nulls: float = 0.0  # share of the values that are null
    junction: bool = False
    tracked: bool = False  # change tracking is on
    undated: float = 0.0  # share of the records that have no createdon
    lookups: int = 0  # how many of the columns are lookups
    target: str = "vin_elsewhere"  # logical name of the table that they point to

    @property
    def shape(self) -> tuple[float, ...]:
        return self.columns, self.nulls, self.junction, self.undated, self.lookups


@dataclass(slots=True)
class Records:
    """Records one after the other in one buffer, a comma after each."""

    buffer: bytearray = field(default_factory=bytearray)
    ends: array[int] = field(default_factory=lambda: array("Q", [0]))

    def add(self, record: bytes) -> None:
        self.buffer += record
        self.buffer += b","
        self.ends.append(len(self.buffer))

    def slice(self, start: int, end: int) -> memoryview:
        if start >= end:
            return memoryview(b"")
        return memoryview(self.buffer)[self.ends[start] : self.ends[end] - 1]


@dataclass(slots=True)
class Data:
    """The records of one shape, whole and as keys with versions, and their dates."""

    whole: Records = field(default_factory=Records)
    thin: Records = field(default_factory=Records)
    created: array[int] = field(default_factory=lambda: array("q"))  # only of dated records
    newest_change: str = ""


def column_types(spec: SetSpec) -> dict[str, str]:
    """Each column and its AttributeType."""
    if spec.junction:
        return JUNCTION
    lookups = {f"_{_lookup(at)}_value": "Lookup" for at in range(spec.lookups)}
    others = spec.columns - len(DATED) - spec.lookups
    return DATED | lookups | {_column(at): KINDS[at % len(KINDS)] for at in range(others)}


def _column(at: int) -> str:
    return f"vin_col{at:03d}"


def _lookup(at: int) -> str:
    return f"vin_link{at}"


def make_data(spec: SetSpec) -> Data:
    """The same records every time, for the same specification."""
    source = random.Random(repr(spec.shape))  # noqa: S311
    tails = [_tail(source, spec) for _ in range(min(spec.rows, _TAILS))]
    data = Data()
    dated = 0 if spec.junction else spec.rows - round(spec.rows * spec.undated)
    for at in range(spec.rows):
        version = 1_000_000 + at
        key = _guid(source)
        start = f'{{"@odata.etag":"W/\\"{version}\\"","{KEY}":"{key}"'
        data.thin.add(f'{start},"versionnumber":{version}}}'.encode())
        dates = ""
        if not spec.junction:
            # More and more records as the years go by: ranges of equal length are not equal.
            moment = _OLDEST + int((_NEWEST - _OLDEST) * sqrt(at / max(1, dated)))
            moment = min(moment, _NEWEST) // _STEP_S * _STEP_S
            created = f'"{to_text(moment)}"' if at < dated else "null"
            later = moment + int(source.random() * (_NEWEST - moment)) // _STEP_S * _STEP_S
            changed = to_text(later)
            data.newest_change = max(data.newest_change, changed)
            dates = f',"modifiedon":"{changed}","createdon":{created}'
            if at < dated:
                data.created.append(moment)
        head = f'{start}{dates},"versionnumber":{version}'
        data.whole.add(head.encode() + tails[at % len(tails)])
    return data


def _tail(source: random.Random, spec: SetSpec) -> bytes:
    """The rest of a record, after what differs from record to record."""
    names = list(column_types(spec).items())[2 if spec.junction else len(DATED) :]
    parts = (
        f',"{name}":' + ("null" if source.random() < spec.nulls else _value(source, kind))
        for name, kind in names
    )
    return ("".join(parts) + "}").encode()


def _value(source: random.Random, kind: str) -> str:
    match kind:
        case "String":
            return f'"text value {source.randrange(10**9)} lorem ipsum"'
        case "Integer":
            return str(source.randrange(10**6))
        case "Decimal":
            return f"{source.randrange(10**5)}.{source.randrange(10**4):04d}"
        case "DateTime":
            return f'"{to_text(_OLDEST + source.randrange(_NEWEST - _OLDEST))}"'
        case "Boolean":
            return source.choice(("true", "false"))
        case _:
            return f'"{_guid(source)}"'


def _guid(source: random.Random) -> str:
    text = f"{source.getrandbits(128):032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@cache
def to_text(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class RefusedError(Exception):
    """A request that no sync should send."""


class Site:
    """The entity sets, what to do with a request, and what was asked so far."""

    def __init__(self, sets: Sequence[SetSpec], page_size: int, compress: bool) -> None:
        self.sets = {spec.name: spec for spec in sets}
        self.base = ""  # scheme, host and port, known once it listens
        self.latency_s = 0.0  # before every answer
        self.page_latency_s = 0.0  # before every page of records, on top
        self.gzip = False
        self._page_size = page_size
        largest: dict[tuple[float, ...], SetSpec] = {}
        for spec in sets:
            if spec.shape not in largest or spec.rows > largest[spec.shape].rows:
                largest[spec.shape] = spec
        self._data = {shape: make_data(spec) for shape, spec in largest.items()}
        self._compress = compress
        self._compressed: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._reset()

    def listen_at(self, base: str) -> None:
        self.base = base
        if self._compress:
            for name, spec in self.sets.items():
                for at in range(0, spec.rows, self._page_size):
                    body = b"".join(self._page(spec, "whole", at, spec.rows))
                    self._compressed[f"{name}.{at}"] = gzip.compress(body, _GZIP_LEVEL)

    # Counting

    def _reset(self) -> None:
        self.requests = self.bytes_sent = self.in_flight = self.most_in_flight = 0

    def begin(self) -> None:
        with self._lock:
            self.requests += 1
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def end(self, size: int) -> None:
        with self._lock:
            self.in_flight -= 1
            self.bytes_sent += size

    def control(self, query: str) -> Parts:
        """Set what ``benchmark.py`` asks for, tell what was counted, and count from zero."""
        wanted = {name: float(values[-1]) for name, values in parse_qs(query).items()}
        with self._lock:
            counted = {
                "requests": self.requests,
                "bytes_sent": self.bytes_sent,
                "most_in_flight": self.most_in_flight,
            }
            self._reset()
        self.latency_s = wanted.get("latency_s", self.latency_s)
        self.page_latency_s = wanted.get("page_latency_s", self.page_latency_s)
        self.gzip = bool(wanted.get("gzip", self.gzip))
        return [json.dumps(counted).encode()]

    # Answers

    def answer(self, target: str, headers: Mapping[str, str]) -> tuple[Parts, str]:
        """The body of an answer, in parts, and its encoding.

        Raises:
            RefusedError: It is not understood.
        """
        time.sleep(self.latency_s)
        parts = urlsplit(target)
        path = unquote(parts.path.removeprefix(API))
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if path.endswith("/token"):
            return [
                b'{"token_type":"Bearer","expires_in":3599,"access_token":"benchmark-token"}'
            ], ""
        if path == "WhoAmI":
            who = {"OrganizationId": str(UUID(int=1)), "UserId": str(UUID(int=2))}
            return [json.dumps(who).encode()], ""
        if path.endswith("RetrieveUserSetOfPrivilegesByNames(PrivilegeNames=@p)"):
            names = json.loads(options["@p"])
            rights = [{"PrivilegeName": name, "Depth": "Global"} for name in names]
            return [json.dumps({"RolePrivileges": rights}).encode()], ""
        if path.endswith("RetrievePrincipalAttributePrivileges"):
            readable = [{"AttributeId": spec.name, "CanRead": 4} for spec in self.sets.values()]
            return [json.dumps({"AttributePrivileges": readable}).encode()], ""
        if path == "EntityDefinitions":
            return [
                json.dumps({"value": [_define(spec) for spec in self.sets.values()]}).encode()
            ], ""
        if path == "stringmaps" or path.startswith("EntityDefinitions("):
            return [b'{"value":[]}'], ""  # there are no labels
        if path.startswith("RetrieveTotalRecordCount"):
            return [self._counts(path)], ""
        if path not in self.sets:
            raise RefusedError(target)
        if "$top" in options:
            return [self._edge(self.sets[path], options)], ""
        time.sleep(self.page_latency_s)
        return self._records(self.sets[path], options, headers)

    def _counts(self, path: str) -> bytes:
        rows = {_logical_name(spec): spec.rows for spec in self.sets.values()}
        names = json.loads(path[path.index("[") : path.rindex("]") + 1])
        counts = [rows[name] for name in names]
        found = {"Count": len(names), "IsReadOnly": False, "Keys": names, "Values": counts}
        return json.dumps({"EntityRecordCountCollection": found}).encode()

    def _edge(self, spec: SetSpec, options: Mapping[str, str]) -> bytes:
        """The first or the last ``createdon``."""
        if options.get("$filter") != "createdon ne null" or options["$top"] != "1":
            raise RefusedError(f"{spec.name}: {options}")
        created = self._data[spec.shape].created[: spec.rows]
        at = {"createdon": 0, "createdon desc": -1}[options["$orderby"]]
        return json.dumps(
            {"value": [{"createdon": to_text(created[at])}] if created else []}
        ).encode()

    def _records(
        self, spec: SetSpec, options: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[Parts, str]:
        tracked = "track-changes" in headers.get("prefer", "")
        if "$deltatoken" in options:  # nothing ever changes
            return self._envelope(spec, "/$delta", b"", self._delta_link(spec)), ""
        if "$skiptoken" in options:
            kind, start, end = options["$skiptoken"].split(".")
            at, until = int(start), int(end)
        else:
            kind = "tracked" if tracked else "thin" if "$select" in options else "whole"
            at, until = self._range(spec, options.get("$filter", ""))
        if tracked and not spec.tracked:
            raise RefusedError(f"{spec.name}: change tracking is off")
        packed = self._compressed.get(f"{spec.name}.{at}") if kind == "whole" else None
        if self.gzip and packed is not None and "gzip" in headers.get("accept-encoding", ""):
            return [packed], "gzip"
        return self._page(spec, kind, at, until), ""

    def _range(self, spec: SetSpec, filter: str) -> tuple[int, int]:
        """Which records a filter lets through: the first, and the one after the last."""
        data = self._data[spec.shape]
        dated = min(len(data.created), spec.rows)
        if not filter:
            return 0, spec.rows
        if filter == "createdon ne null":
            return 0, dated
        if filter == "createdon eq null":
            return dated, spec.rows
        if match := re.fullmatch(r"modifiedon gt (\S+)", filter):
            if match[1] < data.newest_change and spec.rows:
                raise RefusedError(f"{spec.name}: {filter}: changes are not told apart")
            return 0, 0
        match = re.fullmatch(r"(?:createdon ge (\S+))?(?: and )?(?:createdon lt (\S+))?", filter)
        if match is None:
            raise RefusedError(f"{spec.name}: {filter}")
        since, until = (
            edge and bisect.bisect_left(data.created, _to_moment(edge), 0, dated)
            for edge in match.groups()
        )
        return since or 0, dated if until is None else until

    def _page(self, spec: SetSpec, kind: str, at: int, until: int) -> Parts:
        data = self._data[spec.shape]
        records = data.whole if kind == "whole" else data.thin
        end = min(at + self._page_size, until)
        link = self._delta_link(spec) if kind == "tracked" else b""
        if end < until:
            token = f"{kind}.{end}.{until}"
            link = f',"@odata.nextLink":"{self.base}{API}{spec.name}?$skiptoken={token}"'.encode()
        return self._envelope(spec, "", records.slice(at, end), link)

    def _delta_link(self, spec: SetSpec) -> bytes:
        return f',"@odata.deltaLink":"{self.base}{API}{spec.name}?$deltatoken=1"'.encode()

    def _envelope(
        self, spec: SetSpec, suffix: str, records: bytes | memoryview, link: bytes
    ) -> Parts:
        context = f"{self.base}{API}$metadata#{spec.name}{suffix}"
        return [f'{{"@odata.context":"{context}","value":['.encode(), records, b"]", link, b"}"]


def _define(spec: SetSpec) -> dict[str, Any]:
    """The entity's element of EntityDefinitions."""
    return {
        "EntitySetName": spec.name,
        "LogicalName": _logical_name(spec),
        "PrimaryIdAttribute": KEY,
        "IsIntersect": spec.junction,
        "ChangeTrackingEnabled": spec.tracked,
        "Privileges": [{"Name": f"prvRead{_logical_name(spec)}", "PrivilegeType": "Read"}],
        "Attributes": [
            {
                "LogicalName": name[1:-6] if kind == "Lookup" else name,  # _name_value
                "AttributeType": kind,
                "IsValidODataAttribute": True,
                "IsSecured": name == "modifiedon",  # so that it is asked who may read it
                "MetadataId": spec.name,
            }
            for name, kind in column_types(spec).items()
        ],
        "ManyToOneRelationships": [
            {"ReferencingAttribute": _lookup(at), "ReferencedEntity": spec.target}
            for at in range(spec.lookups)
        ],
    }


def _logical_name(spec: SetSpec) -> str:
    return spec.name.removesuffix("s")


def _to_moment(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


# HTTP, as little of it as there has to be


class _Handler(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        while line := self.rfile.readline():
            target = line.decode("ascii").split(" ")[1]
            headers = {}
            while (line := self.rfile.readline().decode("latin-1")).strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            self.rfile.read(int(headers.get("content-length", 0)))
            if target.startswith("/_control"):
                self._send("200 OK", self.server.site.control(urlsplit(target).query))
            else:
                self._answer(target, headers)

    def _answer(self, target: str, headers: Mapping[str, str]) -> None:
        site = self.server.site
        site.begin()
        size = 0
        try:
            if "authorization" not in headers and not target.endswith("/token"):
                time.sleep(site.latency_s)
                uri = f"{site.base}/tenant/oauth2/authorize"
                more = f"WWW-Authenticate: Bearer authorization_uri={uri}\r\n"
                self._send("401 Unauthorized", [], more)
                return
            body, encoding = site.answer(target, headers)
            size = sum(map(len, body))
            self._send("200 OK", body, f"Content-Encoding: {encoding}\r\n" if encoding else "")
        except (RefusedError, KeyError, ValueError) as error:
            message = {"error": {"code": "benchmark", "message": f"not understood: {error}"}}
            self._send("400 Bad Request", [json.dumps(message).encode()])
        finally:
            site.end(size)

    def _send(self, status: str, body: Parts, more: str = "") -> None:
        head = (
            f"HTTP/1.1 {status}\r\nDate: {formatdate(usegmt=True)}\r\n{more}"
            f"Content-Type: application/json\r\nContent-Length: {sum(map(len, body))}\r\n\r\n"
        )
        self.request.sendall(head.encode() + bytes(body[0] if body else b""))
        for part in body[1:]:
            self.request.sendall(part)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, site: Site) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.site = site

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # the client went away
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def main(read_line: Callable[[], str] = sys.stdin.readline) -> int:
    """Serve what the first line of the input describes, until the input ends."""
    described = json.loads(read_line())
    sets = [SetSpec(**spec) for spec in described["sets"]]
    site = Site(sets, described["page_size"], described["compress"])
    with _Server(site) as server:
        port = server.socket.getsockname()[1]
        site.listen_at(f"http://127.0.0.1:{port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(port, flush=True)
        while read_line():
            pass
        server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
