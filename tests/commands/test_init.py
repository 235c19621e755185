"""``init`` over the emulator: what is asked, picked, proposed and written."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataverse_sync import EntityConfig
from dataverse_sync.commands.init.address import parse_address
from dataverse_sync.commands.init.conversation import InitOptions, User, run_init
from dataverse_sync.commands.init.files import format_entities, format_env, write_file
from dataverse_sync.commands.init.proposal import Proposal, build_entities, pick, propose
from dataverse_sync.commands.init.tables import TableInfo, format_tables, parse_table
from dataverse_sync.config import load_entities, load_settings
from dataverse_sync.dataverse import throttle
from dataverse_sync.emulator import Column, Emulator, Fault, Table, demo_tables, fill_demo
from dataverse_sync.emulator.http.signin import CLIENT_ID, CLIENT_SECRET
from dataverse_sync.errors import (
    AuthError,
    ConfigError,
    RequestError,
    StorageError,
    UnreachableError,
)
from dataverse_sync.model import Column as LockedColumn
from dataverse_sync.model import Entity
from dataverse_sync.redaction import Redactor

SHIPPED = Path(__file__).parents[2] / "entities_config.json"


class Talk:
    """A user at the console: answers in turn, and all that was shown."""

    def __init__(self, *answers: str, secrets: tuple[str, ...] = (CLIENT_SECRET,)) -> None:
        self.answers = list(answers)
        self.secrets = list(secrets)
        self.prompts: list[str] = []
        self.lines: list[str] = []

    def ask(self, prompt: str) -> str:
        self.prompts.append(prompt)
        if not self.answers:
            raise EOFError
        return self.answers.pop(0)

    def ask_hidden(self, prompt: str) -> str:
        self.prompts.append(prompt)
        return self.secrets.pop(0)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def run(self, options: InitOptions) -> bool:
        return run_init(options, User(self.ask, self.ask_hidden, self.lines.append), Redactor())


@pytest.fixture(scope="module")
def demo() -> Iterator[Emulator]:
    with Emulator(demo_tables()) as emulator:
        fill_demo(emulator, scale=0.1)
        yield emulator


@pytest.fixture(autouse=True)
def _faultless(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "demo" in request.fixturenames:
        request.getfixturevalue("demo").control.faults.clear()


@pytest.fixture
def asked(tmp_path: Path) -> InitOptions:
    """Nothing given but where to write."""
    return InitOptions(env_file=tmp_path / ".env", config=tmp_path / "entities.json")


@pytest.fixture
def given_all(demo: Emulator, asked: InitOptions) -> InitOptions:
    """All given, and nobody to ask."""
    return replace(
        asked,
        url=demo.origin,
        client_id=CLIENT_ID,
        client_secret=CLIENT_SECRET,
        entities=("vin_*",),
        interactive=False,
    )


def filtered(path: Path) -> dict[str, bool]:
    return {entity.name: entity.filtered for entity in load_entities(path)}


# The whole way


def test_conversation_gives_shipped_configuration(
    demo: Emulator, asked: InitOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk(f"{demo.origin}/main.aspx?appid=1", CLIENT_ID, "vin_*", "", "")

    assert talk.run(asked)

    assert filtered(asked.config) == filtered(SHIPPED)
    for name in ("URL", "CLIENT_ID", "CLIENT_SECRET"):
        monkeypatch.delenv(f"DATAVERSE_{name}", raising=False)
    written = load_settings(asked.env_file)
    assert written["DATAVERSE_API_URL"] == demo.api_url
    assert written["DATAVERSE_CLIENT_ID"] == CLIENT_ID
    assert written["DATAVERSE_CLIENT_SECRET"] == CLIENT_SECRET
    assert len(talk.prompts) == 6
    assert "python -m dataverse_sync check --env-file" in talk.text
    assert CLIENT_SECRET not in talk.text


def test_list_shows_custom_then_filled_tables(demo: Emulator, asked: InitOptions) -> None:
    talk = Talk(demo.origin, CLIENT_ID, "vin_regions", "", "n")

    talk.run(asked)

    shown = [line.split() for line in talk.lines]
    assert ["vin_regions", "22", "Regions"] in shown
    assert ["accounts", "1,000", "Accounts"] in shown
    assert not [words for words in shown if words[:1] == ["vin_vin_candidate_accountset"]]
    assert talk.lines.index("Custom tables:") < talk.lines.index("Standard tables that hold rows:")


def test_declined_proposal_writes_nothing(demo: Emulator, asked: InitOptions) -> None:
    talk = Talk(demo.origin, CLIENT_ID, "vin_regions", "", "n")

    assert not talk.run(asked)

    assert talk.lines[-1] == "Nothing was written."
    assert not asked.env_file.exists()
    assert not asked.config.exists()


def test_nothing_asked_if_all_given(given_all: InitOptions) -> None:
    talk = Talk(secrets=())

    talk.run(given_all)

    assert talk.prompts == []
    assert filtered(given_all.config) == filtered(SHIPPED)


def test_only_missing_answers_asked(given_all: InitOptions) -> None:
    talk = Talk()

    talk.run(replace(given_all, client_secret="", interactive=True))

    assert talk.prompts == ["Client secret (what is typed is not shown): "]
    assert given_all.config.exists()


def test_yes_takes_proposal(demo: Emulator, asked: InitOptions) -> None:
    talk = Talk(demo.origin, CLIENT_ID, "custom")

    talk.run(replace(asked, yes=True))

    assert len(talk.prompts) == 4
    assert filtered(asked.config) == filtered(SHIPPED)


def test_filtered_table_made_whole(demo: Emulator, asked: InitOptions) -> None:
    talk = Talk(demo.origin, CLIENT_ID, "vin_developers", "nothing", "accounts", "y")

    talk.run(asked)

    assert "error: not among them: nothing" in talk.lines
    assert filtered(asked.config) == {
        "vin_developers": False,
        "accounts": False,
        "systemusers": True,
    }
    assert "vin_countries" in talk.text.partition("not picked")[2]


def test_three_wrong_names_leave_filtered(demo: Emulator, asked: InitOptions) -> None:
    talk = Talk(demo.origin, CLIENT_ID, "vin_developers", "a", "b", "c", "y")

    talk.run(asked)

    assert filtered(asked.config)["accounts"] is True


def test_unlinked_table_asks_nothing(make_world: Any, asked: InitOptions) -> None:
    plain = Table("vin_plain", "vin_plains", "vin_plainid", [Column("vin_text", "String")])
    emulator: Emulator = make_world([plain]).emulator
    talk = Talk(emulator.origin, CLIENT_ID, "vin_plains", "y")

    talk.run(asked)

    assert filtered(asked.config) == {"vin_plains": False}
    assert "Filtered" not in talk.text


def test_ended_input_is_error(demo: Emulator, asked: InitOptions) -> None:
    with pytest.raises(ConfigError, match="the input ended"):
        Talk(demo.origin).run(asked)

    assert not asked.env_file.exists()


# Signing in


def test_wrong_secret_asked_again(demo: Emulator, asked: InitOptions) -> None:
    talk = Talk(
        demo.origin, CLIENT_ID, "vin_regions", "", "", secrets=("not it, no", CLIENT_SECRET)
    )

    talk.run(asked)

    assert [line for line in talk.lines if "AADSTS7000215" in line]
    assert [prompt.split()[0] for prompt in talk.prompts[:4]] == [
        "Address", "Application", "Client", "Client",
    ]  # fmt: skip
    assert load_settings(asked.env_file)["DATAVERSE_CLIENT_SECRET"] == CLIENT_SECRET


def test_three_wrong_secrets_end_init(demo: Emulator, asked: InitOptions) -> None:
    talk = Talk(demo.origin, CLIENT_ID, secrets=("wrong one", "wrong two", "wrong three"))

    with pytest.raises(AuthError, match="AADSTS7000215"):
        talk.run(asked)

    assert talk.secrets == []
    assert not asked.env_file.exists()


def test_wrong_secret_without_terminal_ends(given_all: InitOptions) -> None:
    with pytest.raises(AuthError, match="AADSTS7000215"):
        Talk().run(replace(given_all, client_secret="not it, no"))


def test_unknown_app_asked_again_with_secret(demo: Emulator, asked: InitOptions) -> None:
    talk = Talk(
        demo.origin, "11111111-2222-3333-4444-555555555555", CLIENT_ID, "vin_regions", "", "",
        secrets=("any secret", CLIENT_SECRET),
    )  # fmt: skip

    assert talk.run(asked)

    assert "AADSTS700016" in talk.text


def test_wrong_address_asked_again(demo: Emulator, asked: InitOptions) -> None:
    demo.control.fault(Fault("body", "GET /api/data/v9.2/ ?$", body=b"<h1>A web site</h1>"))
    talk = Talk("ftp://x", demo.origin, CLIENT_ID, demo.origin, "vin_regions", "", "")

    talk.run(asked)

    assert "'ftp://x' is not an https:// address" in talk.text
    assert "did not say where to sign in" in talk.text
    assert [prompt.split()[0] for prompt in talk.prompts[:5]] == [
        "Address", "Address", "Application", "Client", "Address",
    ]  # fmt: skip


def test_unreachable_address_asked_three_times(
    asked: InitOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle.Throttle, "sleep", lambda self, seconds: None)
    address = "http://127.0.0.1:9"
    talk = Talk(address, "id", address, address)

    with pytest.raises(UnreachableError, match="cannot be reached"):
        talk.run(asked)

    assert sum(prompt.startswith("Address") for prompt in talk.prompts) == 3


def test_empty_answer_asked_again(demo: Emulator, asked: InitOptions) -> None:
    talk = Talk(demo.origin, " ", CLIENT_ID, "vin_regions", "", "", secrets=("x", CLIENT_SECRET))

    talk.run(asked)

    assert "must not be empty" in talk.text


# What is refused before anything is asked


def test_missing_options_named_without_terminal(asked: InitOptions) -> None:
    talk = Talk()

    with pytest.raises(ConfigError) as caught:
        talk.run(replace(asked, interactive=False, client_id="x"))

    assert talk.prompts == []
    assert "missing: --url, --client-secret-stdin (or " in str(caught.value)
    assert ", --entities or --custom" in str(caught.value)
    assert "--client-id" not in str(caught.value)


@pytest.mark.parametrize("name", ["env_file", "config"])
def test_existing_file_is_kept(asked: InitOptions, name: str) -> None:
    path: Path = getattr(asked, name)
    path.write_text("precious", encoding="utf-8")
    talk = Talk()

    with pytest.raises(ConfigError, match=r"exists already.*--force"):
        talk.run(asked)

    assert talk.prompts == []
    assert path.read_text(encoding="utf-8") == "precious"


def test_force_overwrites_files(given_all: InitOptions) -> None:
    given_all.env_file.write_text("precious", encoding="utf-8")
    given_all.env_file.chmod(0o644)

    Talk().run(replace(given_all, force=True))

    assert "precious" not in given_all.env_file.read_text(encoding="utf-8")
    assert sorted(path.name for path in given_all.config.parent.iterdir()) == [
        ".env", "entities.json",
    ]  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits to check")
def test_secret_file_readable_by_owner(given_all: InitOptions) -> None:
    given_all.env_file.write_text("x", encoding="utf-8")
    given_all.env_file.chmod(0o644)

    Talk().run(replace(given_all, force=True))

    assert stat.S_IMODE(given_all.env_file.stat().st_mode) == 0o600


def test_wrong_file_places_refused(asked: InitOptions, tmp_path: Path) -> None:
    for options, what in (
        (replace(asked, env_file=tmp_path / "no" / ".env"), "there is no folder"),
        (replace(asked, config=tmp_path), "is a folder"),
        (replace(asked, config=asked.env_file), "cannot be both files"),
    ):
        with pytest.raises(ConfigError, match=what):
            Talk().run(options)


def test_unwritable_folder_refused(asked: InitOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)

    with pytest.raises(ConfigError, match="the folder cannot be written"):
        Talk().run(asked)


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(StorageError, match="No space left"):
        write_file(tmp_path / ".env", "x", 0o600)

    assert list(tmp_path.iterdir()) == []


def test_secret_not_in_repr() -> None:
    assert "hidden" not in repr(InitOptions(client_secret="hidden"))


def test_usual_files_need_no_options(
    given_all: InitOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    talk = Talk()

    talk.run(replace(given_all, env_file=Path(".env"), config=Path("entities_config.json")))

    assert talk.lines[-1] == "Then copy the tables:  python -m dataverse_sync sync"


# The tables


def test_unreadable_tables_not_listed(make_world: Any, asked: InitOptions) -> None:
    tables = [
        Table("vin_a", "vin_as", "vin_aid", [Column("vin_x", "String")]),
        Table("vin_b", "vin_bs", "vin_bid", [Column("vin_x", "String")], privilege_missing=True),
    ]
    emulator: Emulator = make_world(tables).emulator
    talk = Talk(emulator.origin, CLIENT_ID, "vin_bs", "vin_as", "y")

    talk.run(asked)

    assert "1 tables cannot be read by the app; they are not shown" in talk.lines
    assert not [line for line in talk.lines if line.startswith("  vin_bs")]
    assert "no table that the app can read is called vin_bs (did you mean" in talk.text
    assert filtered(asked.config) == {"vin_as": False}


def test_unreadable_named_tables_left_out(make_world: Any, given_all: InitOptions) -> None:
    tables = [
        Table("vin_a", "vin_as", "vin_aid", [Column("vin_x", "String")]),
        Table("vin_b", "vin_bs", "vin_bid", [Column("vin_x", "String")], privilege_missing=True),
    ]
    emulator: Emulator = make_world(tables).emulator
    talk = Talk()

    talk.run(replace(given_all, url=emulator.origin))

    assert "left out, since it cannot be read: vin_bs" in talk.text
    assert filtered(given_all.config) == {"vin_as": False}
    with pytest.raises(ConfigError, match="none of the tables picked can be read"):
        Talk().run(replace(given_all, url=emulator.origin, entities=("vin_bs",), force=True))


def test_uncountable_table_spares_others(demo: Emulator, given_all: InitOptions) -> None:
    demo.control.fault(Fault("status", "RetrieveTotal.*vin_regions?%22", status=400, times=99))
    talk = Talk(secrets=())

    talk.run(given_all)

    known = re.search(r"about ([\d,]+) rows", talk.text)
    assert known is not None
    assert known.group(1) == "1,978"  # 2,000 without the 22 regions


def test_unknown_row_counts_shown(demo: Emulator, asked: InitOptions) -> None:
    demo.control.fault(Fault("status", "RetrieveTotal", status=403, times=99))
    talk = Talk(demo.origin, CLIENT_ID, "vin_regions", "", "")

    talk.run(asked)

    assert ["vin_regions", "?", "Regions"] in [line.split() for line in talk.lines]
    counting = [one for one in demo.log if "RetrieveTotal" in one.target]
    assert len(counting) < 30  # none is counted alone


def test_unlistable_tables_refused_with_hint(demo: Emulator, given_all: InitOptions) -> None:
    demo.control.fault(Fault("status", "EntityDefinitions", status=403, times=9))

    with pytest.raises(RequestError, match=r"cannot be listed.*403.*by hand"):
        Talk().run(given_all)


def test_unusable_definition_has_no_links(demo: Emulator, given_all: InitOptions) -> None:
    answer = json.dumps({"value": [{"EntitySetName": "vin_regions"}]}).encode()
    demo.control.fault(Fault("body", "Attributes\\(", body=answer))

    Talk().run(replace(given_all, entities=("vin_regions",)))

    assert filtered(given_all.config) == {"vin_regions": False}


def test_unknown_given_names_end_init(given_all: InitOptions) -> None:
    with pytest.raises(ConfigError, match=r"vin_regoin \(did you mean vin_region\?\), zzz*"):
        Talk().run(replace(given_all, entities=("vin_regoin", "zzz*")))


def test_three_unknown_names_end_init(demo: Emulator, asked: InitOptions) -> None:
    talk = Talk(demo.origin, CLIENT_ID, "", "x", "y")

    with pytest.raises(ConfigError, match=r"no table .* is called y; nothing was written"):
        talk.run(asked)

    assert "error: nothing was named" in talk.lines


# The pure parts


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        ("https://org.crm.dynamics.com", "https://org.crm.dynamics.com/api/data/v9.2/"),
        (" org.crm4.dynamics.com/ ", "https://org.crm4.dynamics.com/api/data/v9.2/"),
        ("https://ORG.crm.dynamics.com/main.aspx?appid=1#x", "https://org.crm.dynamics.com/api/data/v9.2/"),
        ("https://org.api.crm.dynamics.com/api/data/v9.1", "https://org.api.crm.dynamics.com/api/data/v9.2/"),
        ("http://localhost:8080/x", "http://localhost:8080/api/data/v9.2/"),
        ("http://[::1]:8080", "http://[::1]:8080/api/data/v9.2/"),
    ],
)  # fmt: skip
def test_address_completed_to_web_api(typed: str, address: str) -> None:
    assert parse_address(typed) == address


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ("", "is not an https:// address"),
        ("two words", "is not an https:// address"),
        ("ftp://org.crm.dynamics.com", "is not an https:// address"),
        ("http://org.crm.dynamics.com", "must begin with https://"),
        ("https://me:pw@org.crm.dynamics.com", "user name or password"),
        ("https://org:port", "is not an address"),
        ("https://[x", "is not an address"),
        ("https://make.powerapps.com/environments/1", "is the portal, not an environment"),
    ],
)
def test_wrong_address_refused(typed: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        parse_address(typed)

    assert "pw" not in str(caught.value)


def info(name: str, **options: Any) -> TableInfo:
    logical_name = options.pop("logical_name", name.removesuffix("s"))
    return TableInfo(name, logical_name, f"{logical_name}id", name.title(), **options)


TABLES = [
    info("accounts", rows=5),
    info("contacts", rows=0),
    info("msdyn_things", custom=True),
    info("vin_as", custom=True),
    info("vin_bs", custom=True),
    info("vin_ghosts", custom=True, virtual=True),
    info("vin_a_bset", custom=True, intersect=True, logical_name="vin_a_b"),
]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["Accounts", "VIN_A"], ("accounts", "vin_as")),
        (["vin_*"], ("vin_as", "vin_bs")),
        (["vin_[ab]"], ("vin_as", "vin_bs")),
        (["custom"], ("vin_as", "vin_bs")),
        (["vin_a_bset", "vin_ghosts"], ("vin_ghosts", "vin_a_bset")),
        (["custom", "msdyn_*"], ("msdyn_things", "vin_as", "vin_bs")),
    ],
)
def test_words_pick_tables(words: list[str], names: tuple[str, ...]) -> None:
    picked = pick(TABLES, words)

    assert sorted(picked.names) == sorted(names)
    assert picked.unknown == ()
    assert picked.left_out == (("msdyn_things",) if words == ["custom"] else ())


def test_table_may_be_called_custom() -> None:
    tables = [*TABLES, info("custom", logical_name="custom")]

    assert pick(tables, ["custom"]).names == ("custom",)


def test_custom_leaves_out_microsofts_tables(make_world: Any, given_all: InitOptions) -> None:
    tables = [
        Table("vin_a", "vin_as", "vin_aid", [Column("vin_x", "String")]),
        Table("msdyn_b", "msdyn_bs", "msdyn_bid", [Column("msdyn_x", "String")]),
    ]
    emulator: Emulator = make_world(tables).emulator
    talk = Talk()

    talk.run(replace(given_all, url=emulator.origin, entities=(), custom=True))

    assert filtered(given_all.config) == {"vin_as": False}
    assert "1 tables of Microsoft's own solutions" in talk.text


def entity(name: str, *columns: str, **targets: str) -> Entity:
    found = [LockedColumn(column, "TEXT") for column in columns]
    found += [LockedColumn(f"_{c}_value", "TEXT", (target,)) for c, target in targets.items()]
    return Entity(name, f"{name}id", (LockedColumn(f"{name}id", "TEXT"), *found), "metadata")


def test_junction_needs_one_whole_side() -> None:
    intersects = [
        entity("both", "vin_aid", "vin_bid"),
        entity("filtered", "vin_aid", "accountid"),
        entity("only_filtered", "accountid", "systemuserid"),
        entity("one", "vin_aid", "contactid"),
        entity("itself", "vin_aidone", "vin_aidtwo"),
        entity("half", "vin_aid", "somethingid"),
        entity("vin_bs", "vin_aid", "vin_bid"),
    ]
    tables = [*TABLES, info("systemusers", rows=1)]
    targets = [tables[0], tables[1], tables[2], tables[3], tables[-1]]

    proposal = propose(["vin_as", "vin_bs"], targets, intersects, tables)

    assert proposal == Proposal(
        whole=("vin_as", "vin_bs"),
        filtered=("accounts", "systemusers"),  # contacts has no rows
        junctions={
            "both": ("vin_as", "vin_bs"),
            "filtered": ("vin_as", "accounts"),
            "itself": ("vin_as", "vin_as"),
        },
        others=("msdyn_things",),
    )


def test_entries_have_descriptions() -> None:
    proposal = Proposal(("vin_as",), ("accounts",), {"vin_a_bset": ("vin_as", "vin_bs")})

    text = format_entities(build_entities(proposal, TABLES))

    assert text.splitlines() == [
        "{",
        '  "entities": [',
        '    {"name": "vin_as", "filtered": false, "description": "Vin_As"},',
        '    {"name": "vin_a_bset", "filtered": false, '
        '"description": "Junction: Vin_As and Vin_Bs"},',
        '    {"name": "accounts", "filtered": true, '
        '"description": "Only Accounts linked from what was synced"}',
        "  ]",
        "}",
    ]


def test_configuration_reads_back(tmp_path: Path) -> None:
    entities = [EntityConfig("accounts", description='Kunden "Süd" \\ \N{SNOWMAN}')]
    path = tmp_path / "entities.json"
    write_file(path, format_entities(entities), 0o666)

    assert load_entities(path) == entities


def label(text: object) -> dict[str, Any]:
    return {"UserLocalizedLabel": {"Label": text}}


def test_definition_parsed_to_table() -> None:
    definition = {
        "EntitySetName": "accounts",
        "LogicalName": "account",
        "PrimaryIdAttribute": "accountid",
        "DisplayName": label("Account"),
        "DisplayCollectionName": label("The\n \x1b[31maccounts"),
        "DataProviderId": "x",
    }

    table = parse_table(definition)

    assert table == TableInfo("accounts", "account", "accountid", "The [31maccounts", virtual=True)
    untitled = parse_table({**definition, "DisplayCollectionName": None})
    assert untitled is not None
    assert untitled.title == "Account"
    nameless = parse_table({**definition, "DisplayCollectionName": 1, "DisplayName": label(None)})
    assert nameless is not None
    assert nameless.title == "accounts"
    for change in (
        {"IsPrivate": True},
        {"EntitySetName": None},
        {"EntitySetName": "a b"},
        {"EntitySetName": "_accounts"},
        {"EntitySetName": "SQLite_x"},
        {"LogicalName": "x' or"},
        {"PrimaryIdAttribute": ""},
    ):
        assert parse_table({**definition, **change}) is None, change
    assert parse_table("no definition") is None


def test_empty_standard_tables_only_counted() -> None:
    lines = format_tables([info("contacts", rows=0), info("accounts", rows=1)])

    assert lines[-2] == "(and 1 standard tables without rows)"
    assert not [line for line in lines if "contacts" in line]
    assert format_tables([]) == [""]


PRINTABLE = st.text(
    st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc")), min_size=1
).filter(lambda text: text == text.strip())
AWKWARD = st.text("ab'\"\\$# `{}=!", min_size=1).filter(lambda text: text == text.strip())


@settings(max_examples=150, deadline=None)
@given(client_id=PRINTABLE | AWKWARD, secret=PRINTABLE | AWKWARD)
def test_dotenv_reads_values_back(
    client_id: str, secret: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "typed.env"
    names = ("TYPED_ID", "TYPED_SECRET")
    client_id = client_id.rstrip("\\") or "x"
    path.write_text(
        format_env(dict(zip(names, (client_id, secret), strict=True))),
        encoding="utf-8",
        newline="\n",
    )

    read = load_settings(path)

    assert (read["TYPED_ID"], read["TYPED_SECRET"]) == (client_id, secret)


@pytest.mark.parametrize("value", ["two\nlines", "\ud800", "\x00"])
def test_control_characters_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"TYPED holds a character that a \.env file cannot"):
        format_env({"TYPED": value})
