"""Answer what the app's user may read: privileges with their depth, columns under security.

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/reference/retrieveuserprivileges
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from ..data.tables import Table
from . import answers
from .answers import Answer, bad_request
from .definitions import to_id
from .query import Query
from .request import Backend

_CALL = re.compile(r"[^/]*/Microsoft\.Dynamics\.CRM\.(\w+)(?:\((.*)\))?")
_BUSINESS_UNIT = "38e0dbe4-131b-e111-ba7e-78e7d1620f5e"


def answer_rights(backend: Backend, path: str, query: Query, base: str) -> Answer:
    match = _CALL.fullmatch(path)
    function, arguments = match.groups() if match else (path, None)
    specs = [table for table in backend.store.specs if table.in_metadata]
    value: dict[str, Any]
    if function in backend.control.unknown_functions:
        raise answers.unknown_segment(function)
    if function == "RetrievePrincipalAttributePrivileges":
        value = {"AttributePrivileges": list(_list_columns(backend, specs))}
    elif function == "RetrieveUserPrivileges":
        value = {"RolePrivileges": list(_list_privileges(backend, specs))}
    elif function == "RetrieveUserSetOfPrivilegesByNames" and arguments == "PrivilegeNames=@p":
        value = {"RolePrivileges": _find(backend, specs, json.loads(query.get("@p") or "[]"))}
    elif function == "RetrieveUserPrivilegeByPrivilegeName" and arguments:
        name = arguments.removeprefix("PrivilegeName=").strip("'")
        value = {"RolePrivileges": _find(backend, specs, [name])}
    else:
        raise answers.unknown_segment(function)
    context = f"{base}$metadata#Microsoft.Dynamics.CRM.{function}Response"
    return answers.json_answer({"@odata.context": context, **value})


def _find(backend: Backend, tables: Iterable[Table], names: list[str]) -> list[dict[str, Any]]:
    found = {each["PrivilegeName"]: each for each in _list_privileges(backend, tables)}
    known = {f"prvRead{table.logical_name}" for table in tables}
    if unknown := set(names) - known:
        raise bad_request(f"Privilege with name '{min(unknown)}' does not exist.")
    return [found[name] for name in names if name in found]


def _list_privileges(backend: Backend, tables: Iterable[Table]) -> Iterable[dict[str, Any]]:
    for table in tables:
        depth, _ = backend.control.depths.get(table.entity_set, ("Global", None))
        if depth:
            yield {
                "Depth": depth,
                "PrivilegeId": answers.to_privilege_id(table.logical_name),
                "BusinessUnitId": _BUSINESS_UNIT,
                "PrivilegeName": f"prvRead{table.logical_name}",
            }


def _list_columns(backend: Backend, tables: Iterable[Table]) -> Iterable[dict[str, Any]]:
    for table in tables:
        for column in table.all_columns:
            is_hidden = (table.entity_set, column.name) in backend.control.hidden
            if column.secured and not is_hidden:
                rights = {"CanCreate": 0, "CanRead": 4, "CanUpdate": 0}
                yield {"AttributeId": to_id(table.logical_name, column.name), **rights}
