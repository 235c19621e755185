"""An entity guessed from a sample record."""

from __future__ import annotations

import pytest

from dataverse_sync.errors import PageError
from dataverse_sync.model import Column, Entity
from dataverse_sync.schema.discovery import detect_key, infer_entity, infer_type


def test_entity_guessed_from_sample():
    record = {
        "@odata.etag": 'W/"1"',
        "vin_candidateid": "5b7c2f1e-0000-4000-8000-c0ffee000001",
        "vin_number@OData.Community.Display.V1.FormattedValue": "5",
        "vin_number": 5,
        "vin_dose": 1.5,
        "statecode": True,
        "_ownerid_value": None,
        "not a column": 1,
    }

    entity = infer_entity("vin_candidates", record)

    assert entity == Entity(
        name="vin_candidates",
        key="vin_candidateid",
        columns=(
            Column("vin_candidateid", "TEXT"),
            Column("vin_number", "INTEGER"),
            Column("vin_dose", "REAL"),
            Column("statecode", "INTEGER"),
            Column("_ownerid_value", "TEXT"),
        ),
        source="sample",
        key_found="'vin_candidate' + 'id'",
    )


@pytest.mark.parametrize("record", [{}, {"@odata.etag": "x"}, {"a b": 1, "": 2}])
def test_sample_without_column_is_refused(record):
    with pytest.raises(PageError, match="accounts: the first record holds no column"):
        infer_entity("accounts", record)


@pytest.mark.parametrize(
    ("entity_set", "names", "key", "how"),
    [
        ("vin_candidates", ["x", "vin_candidateid"], "vin_candidateid", "'vin_candidate' + 'id'"),
        ("vin_countries", ["vin_countryid", "aid"], "vin_countryid", "'vin_country' + 'id'"),
        (
            "vin_clinicalusestatuses",
            ["id", "vin_clinicalusestatusid"],
            "vin_clinicalusestatusid",
            "'vin_clinicalusestatus' + 'id'",
        ),
        ("feedback", ["id", "feedbackid"], "feedbackid", "named as the set"),
        ("buses", ["busid", "buseid", "busesid"], "busesid", "named as the set"),
        ("buses", ["busid", "buseid"], "buseid", "'buse' + 'id'"),
        (
            "vin_vin_candidate_accountset",
            ["_aid", "vin_candidateid", "accountid"],
            "accountid",
            "the shortest column that ends in 'id'",
        ),
        ("things", ["bid", "aid"], "bid", "the shortest column that ends in 'id'"),
        ("things", ["_ownerid", "code", "name"], "_ownerid", "the first column"),
        ("things", ["code", "Id"], "code", "the first column"),
    ],
)
def test_likeliest_key_is_found(entity_set, names, key, how):
    assert detect_key(entity_set, names) == (key, how)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, "INTEGER"),
        (False, "INTEGER"),
        (0, "INTEGER"),
        (2**70, "INTEGER"),
        (1.0, "REAL"),
        (None, "TEXT"),
        ("5", "TEXT"),
        ([1], "TEXT"),
        ({"Value": 1}, "TEXT"),
    ],
)
def test_type_guessed_from_value(value, expected):
    assert infer_type(value) == expected


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ([], "standard"),
        (["partitionid"], "standard"),
        (["ttlinseconds"], "standard"),
        (["partitionid", "ttlinseconds"], "elastic"),
    ],
)
def test_elastic_table_told_by_its_record(more: list[str], kind: str) -> None:
    record = {"vin_sensorid": "a"} | dict.fromkeys(more)

    assert infer_entity("vin_sensors", record).kind == kind
