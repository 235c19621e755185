"""Send each request to what answers it: sign-in, metadata, functions, records."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from ..data.store import StoredTable
from ..http.request_log import API_PATH, LoggedRequest
from ..http.signin import SignIn
from .answers import (
    Answer,
    ServiceError,
    bad_request,
    json_answer,
    unknown_segment,
)
from .csdl import csdl
from .environment import Environment
from .metadata import answer_metadata
from .options import Preferences, Query, parse_prefer, resolve_aliases, split_target
from .reading import count_set, read_record, read_set, same_place
from .shape import Read
from .tracking import count_changes, is_tracked, read_tracked

_RECORD = re.compile(r"(\w+)\(([^()]*)\)")
_TOTALS = re.compile(r"RetrieveTotalRecordCount\(EntityNames=(.+)\)")
_DAY_S = 86_400


class Service:
    """The Web API and the sign-in service of one environment, without the network."""

    def __init__(self, env: Environment, signin: SignIn) -> None:
        self.env = env
        self.signin = signin

    def answer(self, request: LoggedRequest, body: bytes, origin: str) -> Answer:
        """Answer one request; what is refused is an answer too."""
        try:
            return self._answer(request, body, origin)
        except ServiceError as error:
            return error.answer()
        except RecursionError:
            return bad_request("The query is nested too deeply.").answer()

    def _answer(self, request: LoggedRequest, body: bytes, origin: str) -> Answer:
        below = API_PATH.fullmatch(request.path)
        if below is None:
            return self._beside_the_api(request, body, origin)
        if not self.signin.accepts(request.headers.get("Authorization", "")):
            return self.signin.challenge(origin)
        if request.method != "GET":
            raise ServiceError(
                405,
                "0x80060888",
                f"The requested resource does not support http method '{request.method}'.",
            )
        base = origin + request.path[: below.start(1)]
        path, query = split_target(request.target)
        preferences = parse_prefer(request.prefer, self.env.max_page_size)
        return self._read(path[below.start(1) :], query, preferences, base)

    def _beside_the_api(self, request: LoggedRequest, body: bytes, origin: str) -> Answer:
        found = (
            self.signin.answer_post(request.path, body, origin)
            if request.method == "POST"
            else self.signin.answer_get(request.path, origin)
        )
        if found is None:
            return Answer(404, b"<h1>404 Not Found</h1>", "text/html; charset=utf-8")
        return found

    def _read(self, path: str, query: Query, preferences: Preferences, base: str) -> Answer:
        env = self.env
        if path == "":
            return self._service_document(base)
        if path == "$metadata":
            return Answer(body=csdl(self.env.specs), content_type="application/xml")
        if path in {"WhoAmI", "WhoAmI()"}:
            return self._who_am_i(base)
        if path.startswith("EntityDefinitions"):
            return answer_metadata(env, path, query, base)
        totals = _TOTALS.fullmatch(path)
        if totals:
            return self._totals(resolve_aliases(totals[1], query), base)
        name, _, rest = path.partition("/")
        table = env.find_set(name)
        if table is not None and rest in {"", "$count"}:
            read = Read(env, table, query, preferences, base)
            if rest:
                return (count_changes if "$deltatoken" in query.options else count_set)(read)
            return (read_tracked if is_tracked(query, preferences) else read_set)(read)
        record = _RECORD.fullmatch(path)
        table = env.find_set(record[1]) if record else None
        if record is None or table is None:
            raise unknown_segment(rest or re.split(r"[/(]", path)[0])
        return read_record(Read(env, table, query, preferences, base), record[2])

    def _service_document(self, base: str) -> Answer:
        names: Sequence[str] = sorted(table.entity_set for table in self.env.specs)
        value = [{"name": name, "kind": "EntitySet", "url": name} for name in names]
        return json_answer({"@odata.context": f"{base}$metadata", "value": value})

    def _who_am_i(self, base: str) -> Answer:
        return json_answer(
            {
                "@odata.context": f"{base}$metadata#Microsoft.Dynamics.CRM.WhoAmIResponse",
                "BusinessUnitId": self.env.business_unit_id,
                "UserId": self.env.user_id,
                "OrganizationId": self.env.organization_id,
            }
        )

    def _totals(self, text: str, base: str) -> Answer:
        """Record counts by logical name, from a snapshot that may be a day old."""
        try:
            names = json.loads(text)
        except ValueError as error:
            raise bad_request(f"Syntax error in '{text}'.") from error
        if not isinstance(names, list):
            raise bad_request("EntityNames is a collection of names.")
        keys, values = [], []
        now = self.env.clock.now().timestamp()
        for name in names:
            table = self.env.find_table(name)
            if table is None:
                raise bad_request(f"The entity with a name = '{name}' was not found.", "0x80041102")
            keys.append(name)
            values.append(self._snapshot(table, now))
        kind = "Microsoft.Dynamics.CRM.RetrieveTotalRecordCountResponse"
        counts = {"Count": len(keys), "IsReadOnly": False, "Keys": keys, "Values": values}
        return json_answer(
            {"@odata.context": f"{base}$metadata#{kind}", "EntityRecordCountCollection": counts}
        )

    def _snapshot(self, table: StoredTable, now: float) -> int:
        name = table.spec.logical_name
        taken_at, count = self.env.totals.get(name, (now - _DAY_S - 1, 0))
        if now - taken_at > _DAY_S:
            count = self.env.store.count(table)
            self.env.totals[name] = (now, count)
        return count

    def same_place(self, request: LoggedRequest, origin: str) -> str:
        """A new link to where this request's page begins; its own, for a tracked read."""
        path, query = split_target(request.target)
        preferences = parse_prefer(request.prefer, self.env.max_page_size)
        table = self.env.find_set(request.entity_set or "")
        if table is None or is_tracked(query, preferences):
            return origin + request.target
        base = origin + path.removesuffix(table.spec.entity_set)
        return same_place(Read(self.env, table, query, preferences, base))
