"""What columns entities have: from one metadata request, from samples where that fails."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from dataverse_sync.errors import PageError, RequestError
from dataverse_sync.schema import discovery


def definition(name: str) -> dict[str, object]:
    key = {"LogicalName": f"{name}id", "AttributeType": "Uniqueidentifier"}
    return {
        "LogicalName": name,
        "EntitySetName": f"{name}s",
        "PrimaryIdAttribute": f"{name}id",
        "Attributes": [key, {"LogicalName": "name", "AttributeType": "String"}],
    }


class Client:
    """Answers with what it is given; an error is raised."""

    def __init__(self, definitions: object = None, **samples: object) -> None:
        self._definitions = definitions
        self._samples = samples

    def get_definitions(self, names):
        if isinstance(self._definitions, Exception):
            raise self._definitions
        return self._definitions

    def get_sample(self, name):
        sample = self._samples[name]
        if isinstance(sample, Exception):
            raise sample
        return sample


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


def test_metadata_knows_some_sets():
    client = Client([definition("account"), definition("stranger")])

    found = discovery.read_metadata(client, ["accounts", "contacts"])

    assert list(found.entities) == ["accounts"]
    assert found.entities["accounts"].key == "accountid"
    assert found.unknown == ("contacts",)
    assert found.metadata_error is None


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ({"Attributes": None}, "Expected `array`, got `null` - at `$.Attributes`"),
        (
            {"Attributes": [{}]},
            "Object missing required field `LogicalName` - at `$.Attributes[0]`",
        ),
        ({"PrimaryIdAttribute": None}, "Expected `str`, got `null` - at `$.PrimaryIdAttribute`"),
        ({"PrimaryIdAttribute": "a b"}, "no usable PrimaryIdAttribute"),
        ({"Attributes": "x"}, "Expected `array`, got `str` - at `$.Attributes`"),
    ],
)
def test_misfit_definition_is_warned_of(caplog, damage, what):
    client = Client([{**definition("contact"), **damage}, definition("account")])

    found = discovery.read_metadata(client, ["accounts", "contacts"])

    assert list(found.entities) == ["accounts"]
    assert found.unknown == ("contacts",)
    said = f"contacts: its EntityDefinitions entry cannot be used ({what}"
    assert said in caplog.text
    assert caplog.messages[0].endswith("); it goes by its first record")


def test_refused_metadata_leaves_all_unknown():
    refusal = RequestError("EntityDefinitions: the service answered 403", status=403)

    found = discovery.read_metadata(Client(refusal), ["accounts", "contacts"])

    assert found.unknown == ("accounts", "contacts")
    assert found.metadata_error is refusal


def test_samples_tell_columns_or_failure(pool):
    refusal = RequestError("contacts: the service answered 403", status=403)
    client = Client(accounts={"accountid": "a1", "size": 3}, contacts=refusal, leads=None, odd={})

    found = discovery.read_samples(client, pool, ["accounts", "contacts", "leads", "odd"])

    assert list(found.entities) == ["accounts"]
    assert found.entities["accounts"].source == "sample"
    assert found.empty == ("leads",)
    assert found.failures["contacts"] is refusal
    assert isinstance(found.failures["odd"], PageError)


def test_bug_is_not_an_entity_failure(pool):
    with pytest.raises(ZeroDivisionError):
        discovery.read_samples(Client(accounts=ZeroDivisionError()), pool, ["accounts"])
