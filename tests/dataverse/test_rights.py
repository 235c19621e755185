"""What the service tells of rights is read, whatever way it is written in."""

from __future__ import annotations

from typing import Any, cast

import pytest

from dataverse_sync.dataverse.client import DataverseClient
from dataverse_sync.dataverse.rights import Privilege, get_depths, get_identity, get_readable
from dataverse_sync.errors import PageError, RequestError

ONE, TWO = Privilege("prvReadOne", "1a"), Privilege("prvReadTwo", "2b")


class Client:
    """Answers each function from a script: a document, or an error to raise."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def get_document(self, function: str, path: str, **_: Any) -> Any:
        self.asked.append(path)
        answer = self.answers[function]
        if isinstance(answer, Exception):
            raise answer
        return answer


def client(**answers: Any) -> DataverseClient:
    return cast(DataverseClient, Client(**answers))


def entry(**about: Any) -> dict[str, Any]:
    return {"Depth": "Local", "BusinessUnitId": "U", **about}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([entry(PrivilegeName="prvReadOne")], {"u": 1}),
        ([entry(PrivilegeName="PRVREADONE")], {"u": 1}),
        ([entry(PrivilegeId="{1A}")], {"u": 1}),
        ([entry(PrivilegeId="1A", PrivilegeName="prvRenamed")], {"u": 1}),
        ([entry(PrivilegeName="prvReadOne", Depth=2)], {"u": 2}),
        ([entry(PrivilegeName="prvReadOne", Depth="RecordFilter")], {"u": 0}),
        ([entry(PrivilegeName="prvReadOne", BusinessUnitId=None)], {"": 1}),
        (
            [
                entry(PrivilegeName="prvReadOne", Depth="Deep"),
                entry(PrivilegeName="prvReadOne"),
                entry(PrivilegeName="prvReadOne", BusinessUnitId="V"),
                entry(PrivilegeName="prvReadThree", Depth="Global"),
            ],
            {"u": 2, "v": 1},
        ),
        ([], {}),
    ],
)
def test_widest_depth_of_each_unit_counts(entries: list[Any], expected: dict[str, int]) -> None:
    asked = client(RetrieveUserSetOfPrivilegesByNames={"RolePrivileges": entries})

    found = get_depths(asked, "me", [ONE, TWO], singles=1)

    assert found == {"prvreadone": expected, "prvreadtwo": {}}


def test_refused_call_is_followed_by_single_ones() -> None:
    single = {"RolePrivileges": [entry(PrivilegeName="prvReadOne", Depth="Global")]}
    asked = client(
        RetrieveUserSetOfPrivilegesByNames=RequestError("no", status=404),
        RetrieveUserPrivilegeByPrivilegeName=single,
    )

    assert get_depths(asked, "me", [ONE, TWO], singles=1) == {"prvreadone": {"u": 3}}
    assert len(cast(Client, asked).asked) == 2


@pytest.mark.parametrize("error", [RequestError("busy", status=503), PageError("no JSON")])
def test_failure_that_may_pass_is_raised(error: Exception) -> None:
    with pytest.raises(type(error)):
        get_depths(client(RetrieveUserSetOfPrivilegesByNames=error), "me", [ONE], singles=1)


def test_many_privileges_are_asked_for_in_parts() -> None:
    asked = client(RetrieveUserSetOfPrivilegesByNames={"RolePrivileges": []})
    privileges = [Privilege(f"prvReadTableWithALongName{n:05}", "") for n in range(700)]

    assert len(get_depths(asked, "me", privileges, singles=1)) == 700
    assert len(cast(Client, asked).asked) == 2
    assert max(map(len, cast(Client, asked).asked)) < 32 * 1024


def test_readable_columns_are_those_that_may_be_read() -> None:
    entries = [
        {"AttributeId": "{A}", "CanRead": 4, "CanReadUnMasked": 0},
        {"AttributeId": "b", "CanRead": 0},
        {"AttributeId": "c"},
    ]
    asked = client(RetrievePrincipalAttributePrivileges={"AttributePrivileges": entries})

    assert get_readable(asked, "me") == {"a"}


@pytest.mark.parametrize("answer", [{}, [], None, {"AttributePrivileges": [{"CanRead": 4}]}])
def test_answer_that_is_not_understood_is_an_error(answer: Any) -> None:
    with pytest.raises(PageError, match="is not understood"):
        get_readable(client(RetrievePrincipalAttributePrivileges=answer), "me")


def test_user_may_not_be_told() -> None:
    organization = "5D0E1F5C-7A3B-4C7E-9F0A-2B6C8D4E1F3A"

    identity = get_identity(client(WhoAmI={"OrganizationId": organization}))

    assert (identity.organization_id, identity.user_id) == (organization.lower(), None)
    with pytest.raises(PageError, match="has no OrganizationId"):
        get_identity(client(WhoAmI={"UserId": organization}))
