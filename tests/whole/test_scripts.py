"""The diagnostic scripts, run as a user runs them, against the emulator."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import ACCOUNTS, CANDIDATES, CONTACTS, LINKS, OLD, PRODUCTS, World, fill, insert

from dataverse_sync import EntityConfig
from dataverse_sync.emulator import Column, Fault, Table

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = (
    "test_pagination",
    "test_entity_access",
    "generate_mocks",
    "verify_filtering",
    "test_full_sync",
)
PEOPLE = Table(
    "vin_person",
    "vin_people",
    "vin_personid",
    [
        Column("vin_fullname", "String"),
        Column("vin_mail", "String"),
        Column("vin_note", "Memo"),
        Column("vin_born", "DateTime", date_only=True),
        Column("vin_pay", "Money"),
        Column("vin_employerid", "Lookup", targets=("account",)),
    ],
)


@pytest.fixture(autouse=True)
def own_folder(no_settings: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


class Script:
    """One script, run in this process with the settings of a world."""

    def __init__(self, module: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
        self.module = module
        self._capsys = capsys
        self.out = ""
        self.err = ""

    def __call__(self, *arguments: str) -> int:
        try:
            status: int = self.module.main(list(arguments))
        except SystemExit as ended:  # argparse
            status = int(str(ended.code))
        self.out, self.err = self._capsys.readouterr()
        return status

    def cells(self, first: str) -> list[str]:
        """Return the cells of the printed row that begins with this text."""
        (line,) = [one for one in self.out.splitlines() if one.split("  ")[0] == first]
        return re.split(r" {2,}", line.strip())


@pytest.fixture
def load_script(capsys: pytest.CaptureFixture[str]) -> Callable[[str], Script]:
    def load(name: str) -> Script:
        path = ROOT / "scripts" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"script_{name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        before = sys.path[:]
        spec.loader.exec_module(module)
        sys.path[:] = before
        return Script(module, capsys)

    return load


def configure(world: World, names: Sequence[str], filtered: Sequence[str] = ()) -> None:
    """Write the ``.env`` and the ``entities_config.json`` of the working folder."""
    world.write_env_file()
    world.write_entity_list(
        [
            *(EntityConfig(name) for name in names),
            *(EntityConfig(name, filtered=True) for name in filtered),
        ]
    )


def configure_all(world: World) -> None:
    configure(
        world,
        ["vin_candidates", "vin_products", "vin_vin_candidate_accountset"],
        ["accounts", "contacts"],
    )


# All of them


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_has_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    monkeypatch.setattr(sys, "path", sys.path[:])

    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")

    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(option in out for option in ("--env-file", "--config", "--entity"))


@pytest.mark.slow
def test_script_runs_from_any_folder(world: World) -> None:
    configure_all(world)

    done = run_python(str(ROOT / "scripts" / "test_entity_access.py"), folder=world.folder)

    assert done.returncode == 0, done.stderr
    assert "5 of 5 entity sets can be read." in done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_holds_nothing_named_test(name: str, load_script: Callable[[str], Script]) -> None:
    module = load_script(name).module

    assert module.__test__ is False
    assert not [one for one in vars(module) if one.lower().startswith("test")]


def test_pytest_collects_nothing_from_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    quiet = ("-q", "-p", "no:cacheprovider")

    done = run_python("-m", "pytest", *quiet, "scripts/test_pagination.py", folder=ROOT)

    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout


def run_python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_missing_settings_exit_2(name: str, load_script: Callable[[str], Script]) -> None:
    script = load_script(name)

    assert script() == 2
    assert "DATAVERSE_CLIENT_SECRET is missing" in script.err


@pytest.mark.parametrize("name", SCRIPTS)
def test_unknown_entity_exits_2(
    name: str, world: World, load_script: Callable[[str], Script]
) -> None:
    configure_all(world)
    script = load_script(name)

    assert script("--entity", "vin_nothings") == 2
    assert "not in the entity configuration: vin_nothings" in script.err
    assert not world.emulator.log


@pytest.mark.parametrize("name", SCRIPTS)
def test_refused_sign_in_exits_3(
    name: str, world: World, load_script: Callable[[str], Script]
) -> None:
    configure_all(world)
    secret = "Qw8~a-wrong-secret-of-no-one"
    with (world.folder / ".env").open("a", encoding="utf-8") as file:
        file.write(f"\nDATAVERSE_CLIENT_SECRET={secret}\n")
    script = load_script(name)

    assert script("-vv") == 3
    assert "AADSTS7000215" in script.err
    shown = script.out + script.err
    assert not any(secret[at : at + 8] in shown for at in range(len(secret) - 7))


# test_pagination.py


def test_pagination_times_each_size(
    make_world: Callable[..., World], load_script: Callable[[str], Script]
) -> None:
    world = make_world()
    fill(world.emulator, candidates=23)
    configure_all(world)
    script = load_script("test_pagination")

    assert script("--sizes", "5,10", "--pages", "2") == 0

    assert script.cells("5")[:3] == ["5", "2", "10"]
    assert script.cells("10")[:3] == ["10", "2", "20"]
    assert script.cells("10")[-1] == "more pages follow"
    assert re.search(r"^Best: (5|10) rows a page, \d+ rows/s\.$", script.out, re.MULTILINE)
    asked = [one.prefer for one in world.asked("vin_candidates")]
    assert asked == ["odata.maxpagesize=5"] * 3 + ["odata.maxpagesize=10"] * 2


def test_pagination_follows_pages_to_the_end(
    make_world: Callable[..., World], load_script: Callable[[str], Script]
) -> None:
    world = make_world()
    fill(world.emulator, products=23)
    configure_all(world)
    script = load_script("test_pagination")

    assert script("--entity", "vin_products", "--sizes", "4,23,50", "--all") == 0

    assert script.cells("4")[:3] == ["4", "6", "23"]
    assert script.cells("23")[:3] == ["23", "1", "23"]
    assert script.cells("4")[-1] == "read to its end"
    assert "fits on one page of 23" in script.out


def test_pagination_without_order_by_key(
    make_world: Callable[..., World], load_script: Callable[[str], Script]
) -> None:
    table = Table("vin_x", "vin_xes", "vin_xid", [Column("vin_name", "String")], orderable=False)
    world = make_world([table])
    insert(world.emulator, "vin_xes", [{"vin_name": str(n)} for n in range(9)])
    configure(world, ["vin_xes"])
    script = load_script("test_pagination")

    assert script("--sizes", "4", "--all") == 0
    assert script.cells("4")[:3] == ["4", "3", "9"]


def test_pagination_finds_repeated_keys(world: World, load_script: Callable[[str], Script]) -> None:
    configure_all(world)
    world.emulator.control.fault(Fault("repeat_page", match="skiptoken", times=1))
    script = load_script("test_pagination")

    assert script("--sizes", "5", "--pages", "3") == 1
    assert "problem: size 5: 5 keys came twice" in script.out
    assert "No size is best" in script.out


def test_pagination_finds_differing_sizes(
    world: World, load_script: Callable[[str], Script]
) -> None:
    configure_all(world)
    world.emulator.control.fault(Fault("drop_last_record", match=r"v9\.2/vin_candidates", skip=1))
    script = load_script("test_pagination")

    assert script("--sizes", "5,6", "--all") == 1
    assert "problem: sizes 5 and 6: 1 keys came with only one of them" in script.out


def test_pagination_of_an_unknown_set_fails(
    world: World, load_script: Callable[[str], Script]
) -> None:
    configure(world, ["vin_unicorns"])
    script = load_script("test_pagination")

    assert script() == 1
    assert "vin_unicorns" in script.err
    assert "404" in script.err


@pytest.mark.parametrize("sizes", ["0", "5001", "many", ""])
def test_pagination_refuses_odd_sizes(sizes: str, load_script: Callable[[str], Script]) -> None:
    assert load_script("test_pagination")("--sizes", sizes) == 2


# test_entity_access.py


def test_access_describes_each_entity_set(
    world: World, load_script: Callable[[str], Script]
) -> None:
    configure_all(world)
    script = load_script("test_entity_access")

    assert script() == 0

    total = "total (up to a day old)"
    candidates = ["yes", "vin_candidateid", "metadata", "12", total, "yes", "no"]
    assert script.cells("vin_candidates")[1:] == candidates
    assert script.cells("vin_products")[4:] == ["8", total, "yes", "yes"]
    links = ["1", total, "no", "no"]
    assert script.cells("vin_vin_candidate_accountset")[4:] == links
    assert "5 of 5 entity sets can be read." in script.out
    assert not [one for one in world.emulator.log if one.records > 1 and one.kind == "data"]


def test_access_says_why_set_is_unreadable(
    make_world: Callable[..., World], load_script: Callable[[str], Script]
) -> None:
    secret = Table("vin_secret", "vin_secrets", "vin_secretid", [], privilege_missing=True)
    world = make_world([CANDIDATES, secret])
    configure(world, ["vin_candidates", "vin_secrets", "vin_unicorns"])
    script = load_script("test_entity_access")

    assert script() == 1

    assert script.cells("vin_candidates")[1] == "yes"
    assert script.cells("vin_secrets")[1:3] == ["no (403)", "vin_secretid"]
    assert script.cells("vin_unicorns")[1:3] == ["no (404)", "-"]
    assert re.search(r"^vin_secrets: .*prvRead.*privilege", script.out, re.MULTILINE)
    assert "1 of 3 entity sets can be read." in script.out


def test_access_without_metadata_guesses_key(
    make_world: Callable[..., World], load_script: Callable[[str], Script]
) -> None:
    world = make_world([CANDIDATES, ACCOUNTS, CONTACTS, LINKS, PRODUCTS], metadata_readable=False)
    insert(world.emulator, "vin_candidates", [{"vin_name": str(n)} for n in range(7)])
    insert(world.emulator, "accounts", [{"name": "x"} for n in range(5001)])
    configure(world, ["vin_candidates", "accounts", "contacts"])
    script = load_script("test_entity_access")

    assert script() == 0

    found = ["vin_candidateid", "'vin_candidate' + 'id'", "7", "$count", "yes", "not known"]
    assert script.cells("vin_candidates")[2:] == found
    assert script.cells("accounts")[4:6] == ["5000+", "$count"]
    assert "contacts: empty, and not in the metadata" in script.out
    assert "The metadata cannot be read" in script.out


def test_access_tells_of_refused_tracking(
    world: World, load_script: Callable[[str], Script]
) -> None:
    world.emulator.control.tracking_denied.add("vin_products")
    configure_all(world)
    script = load_script("test_entity_access")

    assert script("--entity", "vin_products") == 0
    assert script.cells("vin_products")[-1] == "refused"
    assert "vin_products: not tracked:" in script.out


# generate_mocks.py

NOTE = 'Met Günther Łukasiewicz at "Weißbier" on 2023-11-05;\r\ncall 0471-5533891,東京都港区'
ORIGINALS = (
    "Oksavik",
    "Maren",
    "maren.oksavik@northmoor.example",
    "northmoor",
    "Günther",
    "Łukasiewicz",
    "Weißbier",
    "5533891",
    "東京都港区",
    "Litware",
)


def fill_people(world: World) -> tuple[str, list[str]]:
    employer = insert(world.emulator, "accounts", [{"name": "Litware"}])[0]
    person = {
        "vin_fullname": "Maren Oksavik",
        "vin_mail": "maren.oksavik@northmoor.example",
        "vin_note": NOTE,
        "vin_born": "1979-03-14",
        "vin_pay": "20000.0000",
        "vin_employerid": employer,
    }
    return employer, insert(world.emulator, "vin_people", [person for _ in range(5)])


@pytest.fixture
def people(make_world: Callable[..., World]) -> World:
    world = make_world([ACCOUNTS, CONTACTS, PEOPLE])
    configure(world, ["vin_people", "accounts"])
    return world


def read_files(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in paths}


def test_mocks_hold_no_original_value(people: World, load_script: Callable[[str], Script]) -> None:
    employer, ids = fill_people(people)
    script = load_script("generate_mocks")

    assert script("--output", "mocks", "--records", "2") == 0, script.out

    files = read_files(Path("mocks"))
    assert set(files) == {
        "vin_people_page1.json",
        "vin_people_page2.json",
        "accounts_page1.json",
        "error_responses/404.json",
        "error_responses/400.json",
    }
    everything = "\n".join(files.values()).lower()
    host = people.emulator.origin.partition("://")[2]
    for original in [*ORIGINALS, *ids, employer, host, "127.0.0.1"]:
        assert original.lower() not in everything, original


def test_mocks_agree_with_each_other(people: World, load_script: Callable[[str], Script]) -> None:
    employer, _ = fill_people(people)
    script = load_script("generate_mocks")
    script("--output", "mocks", "--records", "2")
    files = read_files(Path("mocks"))
    page, second = (json.loads(files[f"vin_people_page{n}.json"]) for n in (1, 2))
    (account,) = json.loads(files["accounts_page1.json"])["value"]
    one, other = page["value"]

    assert one["_vin_employerid_value"] == account["accountid"] != employer
    assert second["value"][0]["_vin_employerid_value"] == account["accountid"]
    assert one["vin_fullname"] == other["vin_fullname"]
    assert re.fullmatch(r"[A-Z][a-z]{4} [A-Z][a-z]{6}", one["vin_fullname"])
    assert re.fullmatch(r"[a-z]{5}\.[a-z]{7}@example\.com", one["vin_mail"])
    assert one["vin_mail"].split("@")[0].split(".") == one["vin_fullname"].lower().split()
    assert len(one["vin_note"]) == len(NOTE)
    assert "\r\n" in one["vin_note"]
    assert (one["vin_born"], one["modifiedon"]) == ("1979-03-14", OLD)
    assert '"vin_pay":20000.0000' in files["vin_people_page1.json"]
    numbers = people.emulator.rows("vin_people").values()
    assert {one["versionnumber"], other["versionnumber"]} < {r["versionnumber"] for r in numbers}
    assert len({r["vin_personid"] for r in (one, other, *second["value"])}) == 4

    link = page["@odata.nextLink"]
    assert link.startswith("https://contoso.api.crm.dynamics.com/api/data/v9.2/vin_people?")
    assert one["vin_personid"].upper() in link  # the cookie names the page's first and last key
    assert other["vin_personid"].upper() in link
    assert page["@odata.context"].startswith("https://contoso.api.crm.dynamics.com/api/data/")

    missing = json.loads(files["error_responses/404.json"])["error"]
    assert missing["code"] == "0x8006088a"
    assert "no_such_entityset" in missing["message"]
    assert "no_such_column" in files["error_responses/400.json"]


def test_mocks_keep_values_on_demand(people: World, load_script: Callable[[str], Script]) -> None:
    fill_people(people)
    script = load_script("generate_mocks")

    assert script("--output", "mocks", "--records", "5", "--keep-values") == 0

    saved = read_files(Path("mocks"))["vin_people_page1.json"].encode()
    assert all(record in saved for record in people.source("vin_people").values())


def test_mocks_of_refused_set_are_errors(
    make_world: Callable[..., World], load_script: Callable[[str], Script]
) -> None:
    secret = Table("vin_secret", "vin_secrets", "vin_secretid", [], privilege_missing=True)
    world = make_world([secret, ACCOUNTS, CONTACTS])
    insert(world.emulator, "accounts", [{"name": "Litware"}])
    configure(world, ["vin_secrets", "accounts"])
    script = load_script("generate_mocks")

    assert script() == 1

    saved = json.loads(read_files(Path("mock_responses"))["error_responses/403_vin_secrets.json"])
    said = re.search(r"failed: vin_secrets.*Id=([0-9a-f-]{36})", script.out)
    assert said
    assert re.search(r"Id=[0-9a-f-]{36}, type=8\) is missing", saved["error"]["message"])
    assert said[1] not in saved["error"]["message"]
    assert "1 of 2 entity sets saved." in script.out


def test_mocks_are_not_overwritten(people: World, load_script: Callable[[str], Script]) -> None:
    fill_people(people)
    (people.folder / "mocks").mkdir()
    (people.folder / "mocks" / "mine.json").write_text("{}")
    script = load_script("generate_mocks")

    assert script("--output", "mocks") == 2
    assert "is not empty" in script.err
    assert read_files(people.folder / "mocks") == {"mine.json": "{}"}


def test_links_of_real_service_are_disguised(
    load_script: Callable[[str], Script],
) -> None:
    module = load_script("generate_mocks").module
    disguise = module.Disguise("https://northmoor.api.crm4.dynamics.com/api/data/v9.2/", b"secret")
    key, text = "D5026A4D-D01C-ED11-B83E-000D3A572421", "Yvonne%252520McKay"
    link = (
        "https://northmoor.crm4.dynamics.com/api/data/v9.2/contacts?$select=fullname&$skiptoken="
        "%3Ccookie%20pagenumber=%222%22%20pagingcookie=%22%253ccookie%2520page%253d%25221%2522"
        f"%253e%253ccontactid%2520last%253d%2522%257b{key}%257d%2522%253e%253cfullname%2520"
        f"first%253d%2522{text}%2522%2520%252f%253e%22%20istracking=%22False%22%20/%3E"
    )

    made_up = disguise.link(link)

    for original in ("northmoor", "crm4", key, "Yvonne", "McKay"):
        assert original.lower() not in made_up.lower()
    kept = "%3Ccookie%20pagenumber=%222%22%20pagingcookie=%22%253ccookie%2520page%253d%25221%2522"
    assert kept in made_up
    assert made_up.endswith("%2522%2520%252f%253e%22%20istracking=%22False%22%20/%3E")


def test_lone_surrogate_stays_writable(load_script: Callable[[str], Script]) -> None:
    module = load_script("generate_mocks").module
    disguise = module.Disguise("https://northmoor.api.crm4.dynamics.com/api/data/v9.2/", b"secret")

    made_up = disguise.body(r'{"value":[{"name":"Oksavik \ud83d \"Ł\" 0","n":1.50,"x":null}]}')

    (record,) = json.loads(made_up.encode())["value"]
    assert re.fullmatch('[A-Z][a-z]{6} \ud83d "[^Ł]" 0', record["name"])
    assert made_up.endswith('"n":1.50,"x":null}]}')


# verify_filtering.py


def fill_accounts(world: World, count: int) -> list[str]:
    return insert(world.emulator, "accounts", [{"name": f"Account {n}"} for n in range(count)])


def test_filtering_returns_the_ids_asked(
    make_world: Callable[..., World], load_script: Callable[[str], Script]
) -> None:
    world = make_world()
    fill_accounts(world, 130)
    configure_all(world)
    script = load_script("verify_filtering")

    assert script("--count", "120") == 0

    assert "accounts: 120 ids from the first pages, asked for by accountid." in script.out
    assert "3 answers, 120 records" in script.out
    assert script.out.rstrip().endswith("The filter returned exactly what was asked for.")
    asked = [one.query["$filter"] for one in world.emulator.log if "$filter" in one.query]
    assert sum(text.count("accountid eq ") for text in asked) == 120


def test_filtering_takes_ids_from_database(
    world: World, load_script: Callable[[str], Script]
) -> None:
    configure_all(world)
    assert world.sync().ok
    (lost, kept) = sorted(world.copy("accounts"))
    world.emulator.delete("accounts", lost)
    script = load_script("verify_filtering")

    assert script("--entity", "accounts", "--db", str(world.db_path)) == 1

    assert "accounts: 2 ids from the table" in script.out
    assert re.search(rf"missing: +1: {lost}$", script.out, re.MULTILINE)
    assert kept not in script.out


def test_filtering_finds_unasked_and_repeated_records(
    make_world: Callable[..., World], load_script: Callable[[str], Script]
) -> None:
    world = make_world()
    asked, other = sorted(fill_accounts(world, 2), key=world.emulator.ids("accounts").index)
    configure_all(world)
    records = [{"accountid": other}, {"accountid": asked}, {"accountid": asked.upper()}]
    body = json.dumps({"value": records}).encode()
    world.emulator.control.fault(Fault("body", match=r"accounts\?.*\$filter", body=body))
    script = load_script("verify_filtering")

    assert script("--count", "1") == 1

    assert re.search(r"missing: +0$", script.out, re.MULTILINE)
    assert re.search(rf"not asked for: +1: {other}$", script.out, re.MULTILINE)
    assert re.search(rf"twice: +1: {asked}$", script.out, re.MULTILINE)


def test_filtering_nothing_fails(
    make_world: Callable[..., World], load_script: Callable[[str], Script]
) -> None:
    configure_all(make_world())
    script = load_script("verify_filtering")

    assert script() == 1
    assert "nothing was verified" in script.out


def test_filtering_forbidden_set_fails(
    make_world: Callable[..., World], load_script: Callable[[str], Script]
) -> None:
    secret = Table("vin_secret", "vin_secrets", "vin_secretid", [], privilege_missing=True)
    configure(make_world([secret]), [], ["vin_secrets"])
    script = load_script("verify_filtering")

    assert script() == 1
    assert "403" in script.err


@pytest.mark.parametrize("content", [None, "no database"])
def test_filtering_without_database_exits_2(
    content: str | None, world: World, load_script: Callable[[str], Script]
) -> None:
    configure_all(world)
    path = world.folder / "other.db"
    if content is not None:
        path.write_text(content)
    script = load_script("verify_filtering")

    assert script("--db", str(path)) == 2
    assert str(path) in script.err
    assert not world.emulator.log


# test_full_sync.py


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the folder that temporary folders are made in."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_full_sync_leaves_nothing_behind(
    world: World, temporary: Path, load_script: Callable[[str], Script]
) -> None:
    configure_all(world)
    script = load_script("test_full_sync")

    assert script() == 0, script.out

    assert "All is well: 21 rows in 3 tables, synced twice and verified." in script.out
    assert len(re.findall(r"^ok .*, the same$", script.out, re.MULTILINE)) == 3
    assert re.search(r"^vin_candidates +12 +12 .*completed$", script.out, re.MULTILINE)
    assert re.search(r"^vin_candidates +0 +0 .*completed$", script.out, re.MULTILINE)
    assert not list(temporary.iterdir())
    assert not world.db_path.exists()


def test_full_sync_keeps_database_on_demand(
    world: World, temporary: Path, load_script: Callable[[str], Script]
) -> None:
    configure_all(world)
    script = load_script("test_full_sync")

    assert script("--entity", "vin_products", "--keep") == 0

    found = re.search(r"^Kept: (.+)$", script.out, re.MULTILINE)
    assert found
    world.db_path = Path(found[1])
    assert temporary in world.db_path.parents
    assert world.is_mirror("vin_products")


def test_full_sync_tells_second_sync_news(
    world: World, temporary: Path, load_script: Callable[[str], Script]
) -> None:
    configure_all(world)
    script = load_script("test_full_sync")
    run_sync = script.module.run_sync  # type: ignore[attr-defined]

    def run_and_change(*arguments: Any, **options: Any) -> Any:
        report = run_sync(*arguments, **options)
        world.emulator.insert("vin_products", {"vin_name": "Made meanwhile"})
        return report

    script.module.run_sync = run_and_change  # type: ignore[attr-defined]

    assert script("--entity", "vin_products") == 1
    assert "problem: second sync: vin_products: 1 added, 0 updated, 0 deleted" in script.out
    assert "Not all is well" in script.out


def test_full_sync_with_unknown_set_fails(
    world: World, temporary: Path, load_script: Callable[[str], Script]
) -> None:
    configure(world, ["vin_candidates", "vin_unicorns"])
    script = load_script("test_full_sync")

    assert script() == 1

    assert re.search(r"^problem: first sync: vin_unicorns.*404", script.out, re.MULTILINE)
    assert re.search(r"^ok +vin_candidates: 12 rows, the same$", script.out, re.MULTILINE)
    assert not list(temporary.iterdir())
