"""Settings and the entity list: accepted values, and all mistakes reported at once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataverse_sync.config import (
    Config,
    build_config,
    check_entities,
    find_db_path,
    find_windows_user,
    is_loopback,
    load_entities,
    load_settings,
    select_entities,
)
from dataverse_sync.errors import ConfigError
from dataverse_sync.model import EntityConfig

API = "https://contoso.api.crm.dynamics.com/api/data/v9.2/"
SETTINGS = {
    "DATAVERSE_API_URL": API,
    "DATAVERSE_CLIENT_ID": "8e1b2a5c-0000-4000-8000-3c1d2e4f5a6b",
    "DATAVERSE_CLIENT_SECRET": "Zq~8Q.pretend-secret-3Fh",
}


@pytest.fixture(autouse=True)
def bare_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder, and no setting in the environment."""
    for name in list(os.environ):
        if name.startswith(("DATAVERSE_", "SQLITE_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write_entities(tmp_path: Path) -> Callable[[object], Path]:
    def write(document: object) -> Path:
        path = tmp_path / "entities_config.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        return path

    return write


def config(**changes: Any) -> Config:
    return Config(**{"api_url": API, "client_id": "app", "client_secret": "hidden", **changes})


# Settings: the environment and the .env file


def test_env_file_of_folder_is_read():
    Path(".env").write_text(f"# mine\nDATAVERSE_API_URL={API}\nexport SQLITE_DB_PATH='a b.db'\n")

    found = load_settings()

    assert found["DATAVERSE_API_URL"] == API
    assert found["SQLITE_DB_PATH"] == "a b.db"


def test_variable_wins_over_env_file(monkeypatch):
    Path(".env").write_text("DATAVERSE_CLIENT_ID=from-file\nDATAVERSE_SCOPE=file-scope\n")
    monkeypatch.setenv("DATAVERSE_CLIENT_ID", "from-environment")

    found = load_settings()

    assert found["DATAVERSE_CLIENT_ID"] == "from-environment"
    assert found["DATAVERSE_SCOPE"] == "file-scope"


def test_empty_variable_hides_nothing(monkeypatch):
    Path(".env").write_text(
        "DATAVERSE_CLIENT_ID=from-file\nDATAVERSE_SCOPE=\nDATAVERSE_TENANT_ID\n"
    )
    monkeypatch.setenv("DATAVERSE_CLIENT_ID", "")

    found = load_settings()

    assert found["DATAVERSE_CLIENT_ID"] == "from-file"
    assert "DATAVERSE_SCOPE" not in found
    assert "DATAVERSE_TENANT_ID" not in found


def test_env_file_is_optional(monkeypatch):
    monkeypatch.setenv("DATAVERSE_API_URL", API)

    found = load_settings()

    assert found["DATAVERSE_API_URL"] == API


def test_named_env_file_must_exist(tmp_path):
    path = tmp_path / "prod.env"

    with pytest.raises(ConfigError, match=r"prod\.env: there is no such file") as caught:
        load_settings(path)

    assert "--env-file" in caught.value.hint


def test_named_env_file_replaces_default(tmp_path):
    Path(".env").write_text("DATAVERSE_CLIENT_ID=default\n")
    (tmp_path / "prod.env").write_text("DATAVERSE_CLIENT_ID=named\n")

    found = load_settings(tmp_path / "prod.env")

    assert found["DATAVERSE_CLIENT_ID"] == "named"


def test_env_file_with_byte_order_mark(tmp_path):
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfDATAVERSE_API_URL=https://a/\r\nX=1\r\n")

    found = load_settings()

    assert found["DATAVERSE_API_URL"] == "https://a/"


def test_secret_taken_literally():
    Path(".env").write_text("DATAVERSE_CLIENT_SECRET=a$HOME${PATH}#b~c\n")

    found = load_settings()

    assert found["DATAVERSE_CLIENT_SECRET"] == "a$HOME${PATH}#b~c"


def test_env_file_must_be_utf_8(tmp_path):
    path = tmp_path / "prod.env"
    path.write_bytes("DATAVERSE_CLIENT_ID=a\n".encode("utf-16"))

    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load_settings(path)

    assert caught.value.hint == "Save it as UTF-8 text."


# Config


def test_config_built_from_settings_and_options():
    optional = {"DATAVERSE_SCOPE": " api://x/.default ", "DATAVERSE_TENANT_ID": "contoso.com"}

    built = build_config({**SETTINGS, **optional}, "my.db", workers=7, schema_path="s.json")

    assert built.api_url == API
    assert built.client_secret == SETTINGS["DATAVERSE_CLIENT_SECRET"]
    assert (built.token_scope, built.tenant_id) == ("api://x/.default", "contoso.com")
    assert (built.db_path, built.workers, built.schema_path) == (Path("my.db"), 7, "s.json")


def test_optional_settings_have_defaults():
    built = build_config({**SETTINGS, "DATAVERSE_SCOPE": " ", "DATAVERSE_TENANT_ID": ""})

    assert built.scope is None
    assert built.tenant_id is None
    assert built.token_scope == "https://contoso.api.crm.dynamics.com/.default"
    assert (built.db_path, built.workers) == (Path("dataverse.db"), 50)


@pytest.mark.parametrize(
    ("option", "setting", "expected"),
    [
        ("option.db", "setting.db", "option.db"),
        (None, " setting.db ", "setting.db"),
        (None, "  ", "dataverse.db"),
        ("", "", "dataverse.db"),
    ],
)
def test_database_from_option_setting_or_default(option, setting, expected):
    assert find_db_path({"SQLITE_DB_PATH": setting}, option) == expected


def test_missing_settings_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        build_config({"DATAVERSE_CLIENT_ID": "   "})

    assert "3 mistakes" in caught.value.message
    assert "DATAVERSE_API_URL is missing" in caught.value.message
    assert "DATAVERSE_CLIENT_ID is missing" in caught.value.message
    assert "DATAVERSE_CLIENT_SECRET is missing" in caught.value.message


def test_wrong_url_reported_with_missing_settings():
    with pytest.raises(ConfigError) as caught:
        build_config({"DATAVERSE_API_URL": "http://contoso.crm.dynamics.com/"})

    assert "3 mistakes" in caught.value.message
    assert "must begin with https://" in caught.value.message


@pytest.mark.parametrize("url", [API, API.rstrip("/"), f"  {API}  ", f"{API}//"])
def test_last_slash_of_url_is_optional(url):
    built = build_config({**SETTINGS, "DATAVERSE_API_URL": url})

    assert built.api_url == API
    assert built.api_origin == "https://contoso.api.crm.dynamics.com"


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8080/api/data/v9.2/",
        "http://127.0.0.1/api/data/v9.2/",
        "http://127.8.9.10:1/api/data/v9.2/",
        "http://[::1]:5000/api/data/v9.2/",
        "http://LOCALHOST/api/data/v9.2/",
    ],
)
def test_http_allowed_on_loopback(url):
    assert config(api_url=url).api_url == url
    assert is_loopback(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://contoso.crm.dynamics.com/", "must begin with https://"),
        ("http://localhost.evil.example/", "must begin with https://"),
        ("http://127.0.0.1.evil.example/", "must begin with https://"),
        ("http://evil.example/localhost", "must begin with https://"),
        ("http://127.0.0.1@evil.example/", "user name or password"),
        ("http:///api", "must begin with https://"),
        ("https://", "is not an https:// address"),
        ("contoso.api.crm.dynamics.com/api/data/v9.2", "is not an https:// address"),
        ("ftp://contoso.crm.dynamics.com/", "is not an https:// address"),
        ("", "is not an https:// address"),
        (f"{API}?$top=1", r"without \? or #"),
        (f"{API}#here", r"without \? or #"),
        ("https://contoso:99999/", "is not a URL: 'https://contoso:99999/'"),
        ("https://[contoso/", "is not a URL"),
    ],
)
def test_wrong_api_url_refused(url, said):
    with pytest.raises(ConfigError, match=said):
        config(api_url=url)


@pytest.mark.parametrize(
    "url", ["https://me:hunter22@contoso/", "https://hunter22@contoso/", "https://me:hunter22@c:x/"]
)
def test_password_in_url_refused_unseen(url):
    with pytest.raises(ConfigError) as caught:
        config(api_url=url)

    assert "DATAVERSE_API_URL" in str(caught.value)
    assert "hunter22" not in str(caught.value)


def test_numbers_out_of_range_refused():
    with pytest.raises(ConfigError) as caught:
        config(workers=0, page_size=5001)

    assert "workers is 0" in caught.value.message
    assert "page_size is 5001" in caught.value.message


def test_limits_are_in_range():
    assert config(workers=1, page_size=1).page_size == 1
    assert config(page_size=5000).page_size == 5000


def test_secret_not_in_repr():
    built = config(client_secret="Zq~8Q.pretend-secret-3Fh")

    assert "pretend" not in repr(built)
    assert "pretend" not in str(built)


def test_secret_not_in_errors():
    broken = {**SETTINGS, "DATAVERSE_API_URL": "nonsense", "DATAVERSE_CLIENT_ID": ""}

    with pytest.raises(ConfigError) as caught:
        build_config(broken)

    assert "pretend" not in str(caught.value)


# entities_config.json


def test_entities_keep_order_with_defaults(write_entities):
    path = write_entities(
        {
            "entities": [
                {"name": "vin_candidates", "description": "All"},
                {"name": "accounts", "filtered": True, "deletions": "ignore"},
                {"name": "A1_" + "b" * 125, "filtered": False, "deletions": "sync"},
            ]
        }
    )

    entities = load_entities(path)

    assert entities == [
        EntityConfig("vin_candidates", description="All"),
        EntityConfig("accounts", filtered=True, deletions="ignore"),
        EntityConfig("A1_" + "b" * 125),
    ]


def test_shipped_entity_list_is_valid():
    path = Path(__file__).parents[1] / "entities_config.json"

    entities = load_entities(path)

    check_entities(entities)
    assert EntityConfig("accounts", True, "Only accounts linked from what was synced") in entities


def test_entity_list_with_byte_order_mark(tmp_path):
    path = tmp_path / "entities_config.json"
    path.write_bytes(b'\xef\xbb\xbf{"entities": [{"name": "accounts"}]}')

    assert load_entities(path) == [EntityConfig("accounts")]


def test_missing_entity_list_names_option(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file") as caught:
        load_entities(tmp_path / "entities_config.json")

    assert "--config" in caught.value.hint


def test_unreadable_entity_list_refused(tmp_path):
    (tmp_path / "latin.json").write_bytes(b'{"entities": "\xe9"}')

    for path in (tmp_path, tmp_path / "latin.json"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_entities(path)


def test_broken_json_located(tmp_path):
    path = tmp_path / "entities_config.json"
    path.write_text('{"entities": [\n  {"name": "accounts"},\n]}')

    with pytest.raises(ConfigError, match=r"entities_config\.json, line 3, column 1: not JSON"):
        load_entities(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000])
def test_too_deep_or_long_json_refused(tmp_path, text):
    path = tmp_path / "entities_config.json"
    path.write_text(text)

    with pytest.raises(ConfigError, match="not JSON that can be read"):
        load_entities(path)


@pytest.mark.parametrize("document", [[], "accounts", None, {}, {"entities": {}}, {"entities": 1}])
def test_document_without_list_refused(write_entities, document):
    with pytest.raises(ConfigError, match=r'it must be an object \{"entities": \[\.\.\.\]\}'):
        load_entities(write_entities(document))


def test_empty_entity_list_refused(write_entities):
    with pytest.raises(ConfigError, match="the list of entities is empty"):
        load_entities(write_entities({"entities": []}))


def test_unknown_document_key_refused(write_entities):
    path = write_entities({"entities": [{"name": "accounts"}], "entites": []})

    with pytest.raises(ConfigError, match=r"unknown key 'entites' \(allowed: entities\)"):
        load_entities(path)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("accounts", "entry 1: must be an object with the keys name, filtered, description"),
        (None, "entry 1: must be an object"),
        ({}, "entry 1: 'name' is missing"),
        ({"name": ""}, "entry 1: 'name' is missing"),
        ({"name": 5}, "entry 1: 'name' is missing"),
        ({"name": ["accounts"]}, "entry 1: 'name' is missing"),
        (
            {"name": "accounts", "filterd": True},
            r"entry 1 \(accounts\): unknown key 'filterd' "
            r"\(allowed: name, filtered, description, deletions\)",
        ),
        ({"name": "accounts", "filtered": "yes"}, "'filtered' must be true or false"),
        ({"name": "accounts", "filtered": None}, "'filtered' must be true or false"),
        ({"name": "accounts", "filtered": 1}, "'filtered' must be true or false"),
        ({"name": "accounts", "description": None}, "'description' must be text"),
        ({"name": "accounts", "deletions": "keep"}, '\'deletions\' must be "sync" or "ignore"'),
        ({"name": "accounts", "deletions": ["sync"]}, "'deletions' must be"),
        ({"name": "accounts", "deletions": None}, "'deletions' must be"),
        ({"name": "_sync_state"}, "begin with _ are the program's own tables"),
        ({"name": "_accounts"}, "begin with _ are the program's own tables"),
        ({"name": "sqlite_accounts"}, "begin with sqlite_ belong to SQLite"),
        ({"name": "SQLite_accounts"}, "begin with sqlite_ belong to SQLite"),
        ({"name": "a" * 129}, "the name is 129 characters long: 128 at most"),
        ({"name": "1accounts"}, "'1accounts' is not an entity set name"),
        ({"name": "accounts?$top=1"}, "is not an entity set name"),
        ({"name": "accounts\n"}, "is not an entity set name"),
        ({"name": "konten_ä"}, "is not an entity set name"),
        ({"name": 'a"; DROP TABLE b'}, "is not an entity set name"),
    ],
)
def test_wrong_entry_refused(write_entities, entry, said):
    with pytest.raises(ConfigError, match=said) as caught:
        load_entities(write_entities({"entities": [entry]}))

    assert "entities_config.json: entry 1" in caught.value.message


def test_repeated_names_refused(write_entities):
    names = ["accounts", "contacts", "accounts", "Contacts"]

    with pytest.raises(ConfigError) as caught:
        load_entities(write_entities({"entities": [{"name": name} for name in names]}))

    assert "'accounts' occurs twice" in caught.value.message
    assert "'contacts' and 'Contacts' differ only by case" in caught.value.message


def test_file_mistakes_reported_at_once(write_entities):
    entries = [{"name": "a b", "filtered": 0}, 7, {"name": "ok"}, {"nam": "x"}, {"name": "OK"}]

    with pytest.raises(ConfigError) as caught:
        load_entities(write_entities({"entities": entries, "version": 2}))

    said = caught.value.message
    assert "7 mistakes" in said
    assert said.count("\n  - ") == 7
    for part in (
        "unknown key 'version'",
        "entry 1 (a b): 'filtered'",
        "entry 1 (a b): 'a b' is not",
        "entry 2: must be an object",
        "entry 4: unknown key 'nam'",
        "entry 4: 'name' is missing",
        "'ok' and 'OK' differ only by case",
    ):
        assert part in said


_JSON = st.recursive(
    st.sampled_from([None, True, 0, 2**70, -1.5, float("nan"), "", "a b", "é", "\ud800"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("name"), inner),
    max_leaves=4,
)
_NEARLY_AN_ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["accounts", "Accounts", "vin_x", "_x", "sqlite_x", ""]) | _JSON,
        "filtered": st.booleans() | _JSON,
        "description": _JSON,
        "deletions": st.sampled_from(["sync", "ignore", "SYNC"]) | _JSON,
        "other": _JSON,
    },
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "entities_config.json"


@settings(max_examples=100, deadline=None)
@given(
    document=_JSON
    | st.fixed_dictionaries({"entities": st.lists(_NEARLY_AN_ENTRY | _JSON, max_size=4)})
)
def test_any_json_accepted_or_refused(scratch, document):
    scratch.write_text(json.dumps(document), encoding="utf-8")

    try:
        entities = load_entities(scratch)
    except ConfigError as error:
        assert str(scratch) in error.message
    else:
        check_entities(entities)
        assert [entity.name for entity in entities] == [e["name"] for e in document["entities"]]


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=80) | st.text(max_size=40).map(str.encode))
def test_any_bytes_accepted_or_refused(scratch, content):
    scratch.write_bytes(content)

    try:
        entities = load_entities(scratch)
    except ConfigError:
        return
    assert entities


# Entities made in Python


def test_python_list_checked_like_file():
    wrong: Any = [EntityConfig("_x"), EntityConfig("a", deletions="never"), EntityConfig("A")]  # type: ignore[arg-type]

    with pytest.raises(ConfigError) as caught:
        check_entities(wrong)

    assert "3 mistakes" in caught.value.message
    assert "entry 1 (_x): names that begin with _" in caught.value.message
    assert "entry 2 (a): 'deletions' must be" in caught.value.message
    assert "differ only by case" in caught.value.message


def test_empty_python_list_refused():
    with pytest.raises(ConfigError, match="The entities: the list of entities is empty"):
        check_entities([])


def test_selection_keeps_configured_order():
    entities = [EntityConfig("a"), EntityConfig("b"), EntityConfig("c")]

    assert select_entities(entities, []) == entities
    assert select_entities(entities, ["c", "a", "c"]) == [entities[0], entities[2]]


def test_unknown_selection_names_configured():
    with pytest.raises(ConfigError, match="not in the entity configuration: account") as caught:
        select_entities([EntityConfig("accounts"), EntityConfig("contacts")], ["account"])

    assert caught.value.hint == "Configured are: accounts, contacts."


def test_windows_user_has_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERDOMAIN", "CONTOSO")
    monkeypatch.setenv("USERNAME", "nightly")
    assert find_windows_user() == "CONTOSO\\nightly"

    monkeypatch.delenv("USERDOMAIN")
    assert find_windows_user() is None


def test_repeated_json_key_refused(tmp_path: Path) -> None:
    path = tmp_path / "entities_config.json"
    path.write_text('{"entities": [{"name": "a", "name": "b"}]}', encoding="utf-8")

    with pytest.raises(ConfigError, match="the same key twice in one object: name"):
        load_entities(path)


def test_wrong_tenant_refused() -> None:
    with pytest.raises(ConfigError, match="DATAVERSE_TENANT_ID is not a tenant"):
        Config("https://org.crm.dynamics.com/api/data/v9.2/", "a", "b", tenant_id="../x/y")
