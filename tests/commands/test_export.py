"""``export``: files that foreign readers open, each value equal to what ``json_response`` holds."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from conftest import raw

from dataverse_sync import cli
from dataverse_sync.export import parquet, xlsx
from dataverse_sync.model import Column, Entity
from dataverse_sync.store import choices
from dataverse_sync.store.choices import Choice
from dataverse_sync.store.database import dialect_of, open_target, prepare_own_tables, transaction
from dataverse_sync.store.dictionary import ColumnEntry, save_dictionary
from dataverse_sync.store.labelled_views import build_view, replace_view
from dataverse_sync.store.rows import to_rows
from dataverse_sync.store.schema_lock import save_lock_copy
from dataverse_sync.store.tables import build_table

NOW = datetime(2026, 11, 23, 2, tzinfo=UTC)
ANNOTATION = "@Microsoft.Dynamics.CRM.lookuplogicalname"

TYPES = {  # of the columns of "orders": SQL's, Dataverse's, and more of the dictionary
    "number": ("INTEGER", "Integer", {}),
    "version": ("INTEGER", "BigInt", {}),
    "price": ("REAL", "Money", {"precision": 2}),
    "dose": ("REAL", "Decimal", {"precision": 10}),
    "share": ("REAL", "Double", {}),
    "paid": ("INTEGER", "Boolean", {}),
    "kind": ("INTEGER", "Picklist", {}),
    "colours": ("TEXT", "MultiSelectPicklist", {}),
    "due": ("TEXT", "DateTime", {"date_behavior": "DateOnly"}),
    "sent": ("TEXT", "DateTime", {"date_behavior": "UserLocal"}),
    "local": ("TEXT", "DateTime", {"date_behavior": "TimeZoneIndependent"}),
    "text": ("TEXT", "Memo", {}),
    "_parentid_value": ("TEXT", "Lookup", {"targets": ("order",)}),
    "_buyerid_value": ("TEXT", "Customer", {"targets": ("account", "contact")}),
    "_ownerid_value": ("TEXT", "Owner", {"targets": ("systemuser", "team")}),
    "_owninguser_value": ("TEXT", "Lookup", {"targets": ("systemuser",)}),
    "_owningteam_value": ("TEXT", "Lookup", {"targets": ("team",)}),
}
ORDERS = Entity(
    "orders",
    "orderid",
    (
        Column("orderid", "TEXT"),
        Column("name", "TEXT"),
        *(Column(name, told[0], told[2].get("targets", ())) for name, told in TYPES.items()),
    ),
    "metadata",
    "order",
)
NOTES = Entity("notes", "noteid", (Column("noteid", "TEXT"), Column("length", "REAL")), "metadata")
EMPTIES = Entity("empties", "emptyid", (Column("emptyid", "TEXT"),), "metadata")
LOCKED = (ORDERS, NOTES, EMPTIES)
ENTRIES = [
    ColumnEntry("orders", name, at, type=told[1], **told[2])
    for at, (name, told) in enumerate(TYPES.items(), 1)
]
FULL = (
    '{"orderid":"a1","name":"First","number":42,"version":9007199254740993,'
    '"price":922337203685477.58,"dose":0.1234567891,"share":0.30000000000000004,"paid":true,'
    '"kind":1,"colours":"2,3","due":"2024-02-29","sent":"2024-05-01T10:00:00Z",'
    '"local":"2024-05-01T10:00:00Z","text":"=1+1","_parentid_value":"a2",'
    f'"_buyerid_value{ANNOTATION}":"contact","_buyerid_value":"c1",'
    '"_ownerid_value":"u1","_owningteam_value":"u1"}'
)
ODD = (
    '{"orderid":"a2","name":"Second","number":-1,"version":null,"price":-0.5,"dose":1e3,"share":5,'
    '"paid":false,"kind":null,"due":"0001-01-01","sent":"1753-01-01T00:00:00.123Z",'
    '"local":"9999-12-31T23:59:59Z","text":"","_buyerid_value":"c2"}'
)
KIND = {"entity_name": "orders", "column_name": "kind", "value": 1}
EMPTY = '{"orderid":"a3"}'


class Copy:
    """A database of orders and notes, and the files that are exported from it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "dataverse.db"
        self.folder = folder / "export"

    def fill(self, entity: Entity, records: Sequence[str]) -> None:
        table = build_table(entity)
        with open_target(self.path).open_writer() as connection, transaction(connection):
            table.table.create(connection, checkfirst=True)
            rows = to_rows(table, map(raw, records), "2026-11-23T02:00:00.000Z")
            if rows:
                dialect_of(connection).rewrite_rows(connection, table, rows)

    def export(self, *options: str) -> int:
        return cli.main(["export", str(self.folder), "--db", str(self.path), *options])

    def parquet(self, name: str) -> tuple[pa.Schema, list[dict[str, Any]]]:
        table = pq.read_table(self.folder / f"{name}.parquet")
        return table.schema, table.to_pylist()

    def sheet(self, name: str) -> list[list[Any]]:
        with closing(openpyxl.load_workbook(self.folder / f"{name}.xlsx")) as book:
            return [[cell.value for cell in row] for sheet in book for row in sheet.rows]


@pytest.fixture
def copy(tmp_path: Path, no_settings: None, monkeypatch: pytest.MonkeyPatch) -> Copy:
    monkeypatch.chdir(tmp_path)
    copy = Copy(tmp_path)
    with open_target(copy.path).open_writer() as connection, transaction(connection):
        prepare_own_tables(connection)
        save_lock_copy(connection, {one.name: one for one in LOCKED}, NOW)
        save_dictionary(connection, ENTRIES, ["orders"])
        labels = [("kind", 1, "One"), ("colours", 2, "Red"), ("colours", 3, "Blue")]
        found = [Choice("orders", column, value, text, 1033) for column, value, text in labels]
        choices.save(connection, found, ["orders"], ["orders"])
    copy.fill(ORDERS, [FULL, ODD, EMPTY])
    copy.fill(NOTES, ['{"noteid":"n1","length":1.5}'])
    return copy


def exact(text: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(text, parse_float=Decimal)
    return record


def test_parquet_types_and_values_are_exact(copy: Copy) -> None:
    assert copy.export() == 0

    schema, (full, odd, empty) = copy.parquet("orders")
    assert schema.field("price").type == pa.decimal128(38, 2)
    assert schema.field("dose").type == pa.decimal128(38, 10)
    assert schema.field("due").type == pa.date32()
    assert schema.field("sent").type == pa.timestamp("us", tz="UTC")
    assert schema.field("local").type == pa.timestamp("us")
    assert schema.field("paid").type == pa.bool_()
    assert schema.field("kind").type == schema.field("version").type == pa.int64()
    for read, stored in ((full, exact(FULL)), (odd, exact(ODD)), (empty, exact(EMPTY))):
        for name in ("number", "version", "price", "dose", "paid", "kind", "text", "colours"):
            assert (name, read[name]) == (name, stored.get(name))
    assert (full["share"], odd["share"]) == (0.1 + 0.2, 5.0)
    assert (full["due"], odd["due"]) == (date(2024, 2, 29), date(1, 1, 1))
    assert full["sent"] == datetime(2024, 5, 1, 10, tzinfo=UTC)
    assert odd["sent"] == datetime(1753, 1, 1, 0, 0, 0, 123000, tzinfo=UTC)
    assert full["local"] == datetime(2024, 5, 1, 10)  # noqa: DTZ001
    assert odd["local"] == datetime(9999, 12, 31, 23, 59, 59)  # noqa: DTZ001
    assert full["sync_time"] == NOW


def test_labels_types_and_names_stand_beside_values(copy: Copy) -> None:
    copy.export()

    schema, (full, odd, empty) = copy.parquet("orders")
    assert (full["kind_label"], full["colours_label"]) == ("One", "Red; Blue")
    assert (full["parentid_name"], full["parentid_type"]) == ("Second", "order")
    assert [row["buyerid_type"] for row in (full, odd, empty)] == ["contact", None, None]
    assert (full["ownerid_type"], odd["ownerid_type"]) == ("team", None)
    at = schema.get_field_index("_parentid_value")
    assert schema.names[at : at + 3] == ["_parentid_value", "parentid_name", "parentid_type"]

    copy.export("--raw")

    names = copy.parquet("orders")[0].names
    table = build_table(ORDERS).table
    assert names == [column.name for column in table.c if column.name != "json_response"]


def test_labels_in_the_language_of_the_view(copy: Copy) -> None:
    table = build_table(ORDERS)
    with open_target(copy.path).open_writer() as connection, transaction(connection):
        connection.execute(sa.insert(choices.CHOICES), {**KIND, "label": "Eins", "language": 1031})
        query = build_view(connection, table, ["kind", "colours"], {}, 1031)
        replace_view(connection, "orders", query, [])

    copy.export()

    (full, *_) = copy.parquet("orders")[1]
    assert (full["kind_label"], full["colours_label"]) == ("Eins", "Red; Blue")
    assert "parentid_name" not in full  # the view shows none


def test_dictionary_is_a_file(copy: Copy) -> None:
    copy.export()

    rows = copy.parquet("_columns")[1]
    price = next(row for row in rows if row["column_name"] == "price")
    assert (price["type"], price["precision"], price["entity_name"]) == ("Money", 2, "orders")
    assert [row["type"] for row in rows if row["entity_name"] == "notes"] == ["TEXT", "REAL"]


def test_csv_reads_back_equal(copy: Copy) -> None:
    tricky = {"orderid": "a4", "text": "+cmd|'/C x'!A0,\"\r\n\t;\u0000\U0001f600"}
    copy.fill(ORDERS, [json.dumps(tricky)])

    assert copy.export("--format", "csv") == 0

    with (copy.folder / "orders.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["orderid"]: row for row in csv.DictReader(file)}
    stored = exact(FULL)
    for name in ("name", "due", "sent", "text", "colours"):
        assert rows["a1"][name] == stored[name]
    for name in ("number", "version", "price", "dose", "share"):
        assert Decimal(rows["a1"][name]) == stored[name]
    assert (rows["a1"]["paid"], rows["a1"]["kind_label"]) == ("true", "One")
    assert rows["a2"]["sent"] == "1753-01-01T00:00:00.123Z"
    assert (rows["a1"]["local"], rows["a3"]["price"]) == ("2024-05-01T10:00:00", "")
    assert rows["a4"]["text"] == tricky["text"]
    text = (copy.folder / "orders.csv").read_text(encoding="utf-8")
    assert '""' in next(line for line in text.splitlines() if line.startswith('"a2"'))


def test_xlsx_reads_back_equal(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    long = "\U0001f600" * 16_383 + "ab"  # 32,768 UTF-16 units
    texts = {"b1": "<r>&</r>", "b2": "https://x.example/", "b3": "{=1}", "b4": "@x", "b5": long}
    texts["b6"] = "<r>\r\n" + 30_000 * "&" + "</r>"
    records = [json.dumps({"orderid": key, "text": text}) for key, text in texts.items()]
    copy.fill(ORDERS, records)

    assert copy.export("--format", "xlsx") == 0

    heads, *rows = copy.sheet("orders")
    found = {row[heads.index("orderid")]: dict(zip(heads, row, strict=True)) for row in rows}
    full, odd = found["a1"], found["a2"]
    assert (full["text"], full["number"], full["paid"]) == ("=1+1", 42, True)
    assert (full["version"], full["price"]) == ("9007199254740993", "922337203685477.58")
    assert (full["share"], full["dose"], odd["price"]) == (
        "0.30000000000000004",
        0.1234567891,
        -0.5,
    )
    assert full["sent"] == datetime(2024, 5, 1, 10)  # noqa: DTZ001
    assert full["due"] == datetime(2024, 2, 29)  # noqa: DTZ001  openpyxl's for a date
    assert (odd["due"], odd["sent"]) == ("0001-01-01", "1753-01-01T00:00:00.123000")
    for key in ("b1", "b2", "b3", "b4", "b6"):
        assert found[key]["text"] == texts[key]
    assert found["b5"]["text"] == long[:-1]
    assert "orders.text: 1 texts that are longer than a cell" in capsys.readouterr().out


def test_rows_beyond_a_sheet_go_to_the_next(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlsx, "MOST_ROWS", 3)

    copy.export("--format", "xlsx", "--entity", "orders")

    with closing(openpyxl.load_workbook(copy.folder / "orders.xlsx")) as book:
        assert [sheet.max_row for sheet in book] == [3, 2]
        assert [sheet["A2"].value for sheet in book] == ["a1", "a3"]


def test_value_that_does_not_fit_makes_its_column_text(
    copy: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = {"orderid": "a4", "number": 1.5, "paid": 1, "due": "2024-02-29T00:00:00Z", "kind": [1]}
    price = '"price":0.12345,"dose":1e40,"share":1e400'
    copy.fill(ORDERS, [f"{json.dumps(odd)[:-1]},{price}}}", '{"orderid":"a5","name":"\\ud800"}'])

    assert copy.export() == 0

    schema, rows = copy.parquet("orders")
    found = {row["orderid"]: row for row in rows}
    told = capsys.readouterr().out
    for name in ("number", "paid", "due", "kind", "dose", "share"):
        assert schema.field(name).type == pa.string()
        assert f"note     orders.{name}: holds values that are not" in told
    assert [found[key]["number"] for key in ("a1", "a4")] == ["42", "1.5"]
    assert (found["a1"]["paid"], found["a4"]["kind"]) == ("true", "[1]")
    assert schema.field("price").type == pa.decimal128(38, 5)
    assert (found["a1"]["price"], found["a4"]["price"]) == (
        Decimal("922337203685477.58"),
        Decimal("0.12345"),
    )
    assert found["a5"]["name"] == "?"


def test_file_is_whole_or_as_it_was(
    copy: Copy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy.export()
    before = (copy.folder / "orders.parquet").read_bytes()
    copy.fill(ORDERS, ['{"orderid":"a4"}'])
    written = parquet.FileWriter.write

    def fail(writer: parquet.FileWriter, batch: pa.RecordBatch) -> None:
        written(writer, batch)
        if "dose" in batch.schema.names:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet.FileWriter, "write", fail)

    assert copy.export() == 1

    assert (copy.folder / "orders.parquet").read_bytes() == before
    assert len(list(copy.folder.iterdir())) == 3
    assert "failure  " in (told := capsys.readouterr().out)
    assert "2 files" in told.splitlines()[-1]


def test_all_tables_as_of_one_moment(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    written = parquet.FileWriter.write

    def write(writer: parquet.FileWriter, batch: pa.RecordBatch) -> None:
        copy.fill(ORDERS, ['{"orderid":"a1","number":43}', '{"orderid":"a4"}'])
        written(writer, batch)

    monkeypatch.setattr(parquet.FileWriter, "write", write)

    assert copy.export() == 0

    rows = copy.parquet("orders")[1]  # read after the notes were written
    assert [(row["orderid"], row["number"]) for row in rows] == [
        ("a1", 42),
        ("a2", -1),
        ("a3", None),
    ]


@pytest.mark.parametrize(("format", "library"), [("parquet", "pyarrow"), ("xlsx", "xlsxwriter")])
def test_missing_library_is_exit_2(
    format: str,
    library: str,
    copy: Copy,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, library, None)

    assert copy.export("--format", format) == 2

    assert "pip install .[export]" in capsys.readouterr().err
    assert not copy.folder.exists()


def test_tables_without_rows_or_never_synced(
    copy: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    copy.fill(EMPTIES, [])
    entities = [{"name": "orders"}, {"name": "empties"}, {"name": "later"}]
    config = copy.path.with_name("entities_config.json")
    config.write_text(json.dumps({"entities": entities}), encoding="utf-8")

    for format in ("parquet", "csv", "xlsx"):
        assert copy.export("--format", format) == 0

    assert copy.parquet("empties")[1] == []
    assert copy.sheet("empties")[0][:2] == ["emptyid", "sync_time"]
    assert "note     later: no table yet: it was never synced" in capsys.readouterr().out
    assert not (copy.folder / "notes.parquet").exists()


def test_no_database_is_exit_2(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    copy.path.unlink()

    assert copy.export() == 2

    assert "there is no database yet" in capsys.readouterr().err
    assert not copy.folder.exists()
