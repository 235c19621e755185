"""Ask the service who this app is, and what it may read.

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/reference/whoami
https://learn.microsoft.com/power-apps/developer/data-platform/column-level-security
https://learn.microsoft.com/power-apps/developer/data-platform/security-access-coding
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from dataverse_sync.dataverse import odata
from dataverse_sync.dataverse.client import DataverseClient
from dataverse_sync.dataverse.definitions import to_id
from dataverse_sync.errors import PageError, RequestError

DEPTHS = ("Basic", "Local", "Deep", "Global")  # each with its place as its number
GLOBAL = 3
_READABLE = 4  # of CanRead; 0: not
_NAMES_AT_ONCE = 500  # privileges; keeps a URL below the 32 KB of the service
_REFUSALS = (400, 403, 404, 405, 501)  # statuses that will be the same in the next run
_NAMESPACE = "Microsoft.Dynamics.CRM"

# Business unit, "" where it is not told → how deep below it a privilege reaches.
Depths = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this app is there."""

    organization_id: str
    user_id: str | None  # of the application user; None: not told


def get_identity(client: DataverseClient) -> Identity:
    """The organization that answers, and the app's user in it; retried once alone.

    Source: learn.microsoft.com, "WhoAmI function".
    """
    answer = client.get_document("WhoAmI", "WhoAmI", retries=1)
    known = answer if isinstance(answer, dict) else {}
    organization_id, user_id = known.get("OrganizationId"), known.get("UserId")
    if not odata.is_guid(organization_id):
        raise PageError("WhoAmI: the answer has no OrganizationId")
    return Identity(
        str(organization_id).lower(), str(user_id).lower() if odata.is_guid(user_id) else None
    )


# Read depth


class _RolePrivilege(msgspec.Struct, rename="pascal"):
    depth: str | int
    privilege_id: str | None = None
    business_unit_id: str | None = None
    privilege_name: str | None = None


@dataclass(frozen=True, slots=True)
class Privilege:
    """A right to read a table; several tables may share one."""

    name: str
    id: str

    @property
    def key(self) -> str:
        """What it is told apart by: metadata may write one name in two ways."""
        return self.name.lower()


def get_depths(
    client: DataverseClient, user_id: str, privileges: Sequence[Privilege], *, singles: int
) -> dict[str, Depths]:
    """How deep each of these privileges reaches, by its key; nowhere without an entry.

    All are asked for at once. Where that is refused, the first ``singles`` are asked for one by
    one, and nothing is told of the others. (The call for everything that a user has shows less
    than the truth of what comes by a team.)

    Source: learn.microsoft.com, "RetrieveUserPrivilegeByPrivilegeName function".
    """
    names = [privilege.name for privilege in privileges]
    try:
        found = [
            entry
            for start in range(0, len(names), _NAMES_AT_ONCE)
            for entry in _get_set(client, user_id, names[start : start + _NAMES_AT_ONCE])
        ]
        return _find_depths(privileges, found)
    except RequestError as error:
        if error.status not in _REFUSALS:
            raise
    asked = privileges[:singles]
    found = [entry for one in asked for entry in _get_single(client, user_id, one.name)]
    return _find_depths(asked, found)


def _get_set(
    client: DataverseClient, user_id: str, names: Sequence[str]
) -> Sequence[_RolePrivilege]:
    listed = quote(json.dumps(names, separators=(",", ":")))
    function = "RetrieveUserSetOfPrivilegesByNames"
    return _get_privileges(client, user_id, function, f"(PrivilegeNames=@p)?@p={listed}")


def _get_single(client: DataverseClient, user_id: str, name: str) -> Sequence[_RolePrivilege]:
    function = "RetrieveUserPrivilegeByPrivilegeName"
    return _get_privileges(client, user_id, function, f"(PrivilegeName='{quote(name)}')")


def _get_privileges(
    client: DataverseClient, user_id: str, function: str, arguments: str
) -> Sequence[_RolePrivilege]:
    path = f"systemusers({user_id})/{_NAMESPACE}.{function}{arguments}"
    answer = client.get_document(function, path, retries=0)
    entries: list[_RolePrivilege] = _read(function, answer, "RolePrivileges", list[_RolePrivilege])
    return entries


def _find_depths(
    privileges: Iterable[Privilege], entries: Sequence[_RolePrivilege]
) -> dict[str, Depths]:
    """The widest depth of each privilege in each business unit: several roles may give it."""
    found: dict[str, dict[str, int]] = {privilege.key: {} for privilege in privileges}
    ids = {privilege.id: privilege.key for privilege in privileges if privilege.id}
    for entry in entries:
        name = ids.get(to_id(entry.privilege_id)) or (entry.privilege_name or "").lower()
        if name in found:
            unit = to_id(entry.business_unit_id)
            found[name][unit] = max(found[name].get(unit, 0), _to_number(entry.depth))
    return dict(found)


def _to_number(depth: str | int) -> int:
    """The number of a depth; one that is not known, as by a filter of records, is the least."""
    known = {name: at for at, name in enumerate(DEPTHS)} | {str(at): at for at in range(4)}
    return known.get(str(depth), 0)


# Secured columns


class _AttributePrivilege(msgspec.Struct, rename="pascal"):
    attribute_id: str
    can_read: int | None = None


def get_readable(client: DataverseClient, user_id: str) -> set[str]:
    """Ids of the attributes under column security that the app may read.

    Source: learn.microsoft.com, "RetrievePrincipalAttributePrivileges function".
    """
    function = "RetrievePrincipalAttributePrivileges"
    path = f"systemusers({user_id})/{_NAMESPACE}.{function}"
    answer = client.get_document(function, path, retries=0)
    entries = _read(function, answer, "AttributePrivileges", list[_AttributePrivilege])
    return {to_id(entry.attribute_id) for entry in entries if entry.can_read == _READABLE}


def _read(function: str, answer: Any, member: str, kind: Any) -> Any:
    try:
        return msgspec.convert(answer[member], kind)
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise PageError(f"{function}: the answer is not understood") from error
