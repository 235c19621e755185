"""Route each request to its answer: metadata, functions, records."""

from __future__ import annotations

import json
import re

from ..data.records import StoredTable
from .answers import USER_ID, Answer, ServiceError, bad_request, json_answer, unknown_segment
from .metadata import answer_metadata
from .query import API_PATH, MAX_URL, Query, parse_prefer, split_target
from .reading import count_set, link_to_same_page, read_set
from .request import Backend, SetRequest
from .rights import answer_rights
from .tracking import is_tracked, read_tracked

_TOTALS = re.compile(r"RetrieveTotalRecordCount\(EntityNames=(.+)\)")
_DAY_S = 86_400


class Service:
    """The Web API of one environment, without the network."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def answer(self, method: str, target: str, prefer: str, origin: str) -> Answer:
        """Answer one request that has signed in; a refusal is an answer too."""
        if len(target) > MAX_URL:
            return Answer(414, b"<h2>URI Too Long</h2>", "text/html; charset=us-ascii")
        try:
            if method != "GET":
                message = f"The requested resource does not support http method '{method}'."
                raise ServiceError(405, "0x80060888", message)
            path, query, base = _split(target, origin)
            return self._read(path, query, prefer, base)
        except ServiceError as error:
            return error.answer()
        except RecursionError:
            return bad_request("The query is nested too deeply.").answer()

    def _read(self, path: str, query: Query, prefer: str, base: str) -> Answer:
        store = self.backend.store
        if path.startswith("EntityDefinitions"):
            return answer_metadata(self.backend, path, query, base)
        totals = _TOTALS.fullmatch(path)
        if totals:
            return self._totals(totals[1], base)
        if path == "WhoAmI" and (organization := self.backend.control.organization_id):
            kind = "Microsoft.Dynamics.CRM.WhoAmIResponse"
            context = f"{base}$metadata#{kind}"
            return json_answer(
                {"@odata.context": context, "UserId": USER_ID, "OrganizationId": organization}
            )
        if path.startswith(f"systemusers({USER_ID})/"):
            return answer_rights(self.backend, path, query, base)
        name, _, rest = path.partition("/")
        table = store.tables.get(name)
        if table is None or rest not in {"", "$count"}:
            raise unknown_segment(rest or re.split(r"[/(]", path)[0])
        preferences = parse_prefer(prefer, self.backend.control.max_page_size)
        request = SetRequest(self.backend, table, query, preferences, base)
        if rest:
            return count_set(request)
        return (read_tracked if is_tracked(query, preferences) else read_set)(request)

    def _totals(self, text: str, base: str) -> Answer:
        """Record counts by logical name, from a snapshot that may be a day old."""
        try:
            names = json.loads(text)
        except ValueError as error:
            raise bad_request(f"Syntax error in '{text}'.") from error
        if not isinstance(names, list):
            raise bad_request("EntityNames is a collection of names.")
        values = []
        for name in names:
            table = self.backend.store.find_table(name)
            if table is None:
                raise bad_request(f"The entity with a name = '{name}' was not found.", "0x80041102")
            values.append(self._snapshot(table))
        kind = "Microsoft.Dynamics.CRM.RetrieveTotalRecordCountResponse"
        counts = {"Count": len(names), "IsReadOnly": False, "Keys": names, "Values": values}
        return json_answer(
            {"@odata.context": f"{base}$metadata#{kind}", "EntityRecordCountCollection": counts}
        )

    def _snapshot(self, table: StoredTable) -> int:
        name, now = table.spec.logical_name, self.backend.store.clock.now().timestamp()
        taken_at, count = self.backend.totals.get(name, (now - _DAY_S - 1, 0))
        if now - taken_at > _DAY_S:
            count = self.backend.store.count(table)
            self.backend.totals[name] = (now, count)
        return count

    def same_page(self, target: str, prefer: str, origin: str) -> str:
        """A new link to the page that a request asks for; for a tracked read, its own link."""
        name, query, base = _split(target, origin)
        preferences = parse_prefer(prefer, self.backend.control.max_page_size)
        if is_tracked(query, preferences):
            return origin + target
        table = self.backend.store.tables[name]
        return link_to_same_page(SetRequest(self.backend, table, query, preferences, base))


def _split(target: str, origin: str) -> tuple[str, Query, str]:
    """The path below the API root, the query, and the root's own URL."""
    path, query = split_target(target)
    match = API_PATH.fullmatch(path)
    below = match[1] if match else ""
    return below, query, origin + path.removesuffix(below)
