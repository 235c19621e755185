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

    def get_definitions(self, names, *, is_trial):
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
    assert found.refused == ("accounts", "contacts")
    assert found.failures == {}
    assert found.metadata_error is refusal


class Metadata:
    """Answers definitions unless ``fail`` names an error for the batch; records what is asked."""

    def __init__(self, fail):
        self._fail = fail
        self.asked: list[tuple[int, bool]] = []  # how many sets, and whether it is a trial

    def get_definitions(self, names, *, is_trial):
        self.asked.append((len(names), is_trial))
        error = self._fail(names)
        if error is not None:
            raise error
        return [definition(name.removesuffix("s")) for name in names if name != "strangers"]


def sets(count):
    return [f"vin_{n}s" for n in range(count)]


def lost(status=None):
    return RequestError(f"EntityDefinitions: the service answered {status}", status=status)


PASSING = [
    *(lost(status) for status in (302, 408, 410, 413, 414, 429, 500, 502, 503, 504)),
    lost(),  # no answer, or a connection that broke
    PageError("EntityDefinitions: the answer is not JSON"),
    PageError("EntityDefinitions: the answer is larger than 256 MiB"),
]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 501])
@pytest.mark.parametrize("count", [1, 30, 250])
def test_refusal_is_not_asked_again(status, count):
    client = Metadata(lambda _: lost(status))

    found = discovery.read_metadata(client, sets(count))

    assert client.asked == [
        (size, False) for size in ((100, 100, 50) if count == 250 else (count,))
    ]
    assert found.refused == found.unknown == tuple(sets(count))
    assert found.failures == {}


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_failure_leaves_nothing_to_guess(error):
    client = Metadata(lambda _: error)

    found = discovery.read_metadata(client, sets(3))

    assert client.asked == [(3, False), (1, 1), (1, 1), (1, 1)]
    assert found.failures == dict.fromkeys(sets(3), error)
    assert (found.unknown, found.refused, found.entities) == ((), (), {})
    assert found.metadata_error is error


@pytest.mark.parametrize("error", PASSING, ids=str)
@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 60, 100, 101, 250])
@pytest.mark.parametrize("place", [0, 1, -1])
def test_smaller_batches_isolate_the_failing_set(error, count, place):
    names = sets(count)
    bad = names[place % count]
    client = Metadata(lambda batch: error if bad in batch else None)

    found = discovery.read_metadata(client, names)

    assert found.failures == {bad: error}
    assert list(found.entities) == [name for name in names if name != bad]
    assert found.unknown == ()
    assert found.metadata_error is error
    assert len(client.asked) <= 3 + 10 + 10
    patient = [size for size, is_trial in client.asked if not is_trial]
    assert patient == [100, 100, 50][: len(patient)] if count == 250 else len(patient) <= 2


@pytest.mark.parametrize("largest", [1, 5, 10, 50])
def test_answer_too_large_is_had_in_parts(largest):
    error = PageError("EntityDefinitions: the answer is larger than 256 MiB")
    client = Metadata(lambda batch: error if len(batch) > largest else None)

    found = discovery.read_metadata(client, sets(130))

    assert list(found.entities) == sets(130)
    assert (found.failures, found.metadata_error) == ({}, None)


@pytest.mark.parametrize("count", [5, 10, 30, 100, 300])
def test_outage_is_given_up_soon(count):
    client = Metadata(lambda _: lost(503))

    found = discovery.read_metadata(client, sets(count))

    assert len(client.asked) == 5
    assert [is_trial for _, is_trial in client.asked] == [False, True, True, True, True]
    assert found.failures.keys() == set(sets(count))


def test_outage_after_answers_is_given_up():
    answers = iter([None] * 2)
    client = Metadata(lambda _: next(answers, lost(503)))

    found = discovery.read_metadata(client, sets(500))

    assert list(found.entities) == sets(200)
    assert found.failures.keys() == set(sets(500)) - set(sets(200))
    assert len(client.asked) == 2 + 12


def test_batch_of_failing_sets_keeps_others():
    bad = set(sets(10))
    client = Metadata(lambda batch: lost(500) if bad & {*batch} else None)

    found = discovery.read_metadata(client, ["accounts", *sets(40), "contacts"])

    assert found.failures.keys() == bad
    assert len(found.entities) == 32


def test_smaller_batch_may_be_refused_or_unknown():
    def fail(batch):
        if len(batch) > 1:
            return lost(500)
        return {"accounts": lost(403), "leads": lost(500)}.get(batch[0])

    names = ["accounts", "strangers", "leads", "contacts"]

    found = discovery.read_metadata(Metadata(fail), names)

    assert found.unknown == ("accounts", "strangers")
    assert found.refused == ("accounts",)
    assert list(found.failures) == ["leads"]
    assert list(found.entities) == ["contacts"]


def test_bug_in_metadata_is_not_a_failure():
    with pytest.raises(ZeroDivisionError):
        discovery.read_metadata(Metadata(lambda _: ZeroDivisionError()), sets(2))


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


@pytest.mark.parametrize(
    ("first", "second", "secured"),
    [
        ({"Privileges": []}, {}, [{}, {}]),
        ({"IsSecured": True}, {"Privileges": []}, [{"name": "id"}, {}]),
        ({}, {}, [None, None]),  # an older service tells of no table
    ],
)
def test_service_that_tells_rights_of_one_table_tells_of_all(first, second, secured):
    def definition(name, about):
        attribute = {"LogicalName": "name", "AttributeType": "String", "MetadataId": "ID"}
        attribute |= {key: value for key, value in about.items() if key == "IsSecured"}
        told = {key: value for key, value in about.items() if key == "Privileges"}
        base = {"LogicalName": name, "EntitySetName": name, "PrimaryIdAttribute": "id"}
        return {**base, "Attributes": [{**attribute, "IsValidODataAttribute": True}], **told}

    class Told:
        def get_definitions(self, names, *, is_trial):
            return [definition("ones", first), definition("twos", second)]

    found = discovery.read_metadata(Told(), ["ones", "twos"])

    assert [found.securities[name].secured for name in ("ones", "twos")] == secured
