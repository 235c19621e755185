"""Load the settings: the environment, the ``.env`` file, the entity list.

Every mistake of a source is reported at once, with the way out. Only this
module reads the environment.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dotenv import dotenv_values

from dataverse_sync.errors import ConfigError
from dataverse_sync.model import IDENTIFIER, EntityConfig

DEFAULT_DB = "dataverse.db"
DEFAULT_SCHEMA = "schema/schema.json"
DEFAULT_WORKERS = 50
MAX_PAGE_SIZE = 5000  # records, as the service allows at most
TENANT = re.compile(r"[A-Za-z0-9.-]{1,255}")
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")
_ENTRY_KEYS = ("name", "filtered", "description", "deletions")
_DELETIONS = ("sync", "ignore")
_REQUIRED = {
    "DATAVERSE_API_URL": "https://ORG.api.crm.dynamics.com/api/data/v9.2/",
    "DATAVERSE_CLIENT_ID": "the application (client) id of the app registration",
    "DATAVERSE_CLIENT_SECRET": "a client secret of the app registration",
}


@dataclass(frozen=True, slots=True)
class Config:
    """How to reach one environment, and where its copy is kept.

    Raises:
        ConfigError: The API URL is not an https address (http only on loopback),
            or a number is out of range.
    """

    api_url: str
    client_id: str
    client_secret: str = field(repr=False)
    sqlite_db_path: str | Path = DEFAULT_DB
    scope: str | None = None  # else <origin of the API URL>/.default
    tenant_id: str | None = None  # else what the service's challenge names
    schema_path: str | Path = DEFAULT_SCHEMA
    workers: int = DEFAULT_WORKERS  # requests in flight at most
    segments: int | None = None  # ranges of one large table read at once, at most; None: chosen
    page_size: int = MAX_PAGE_SIZE
    connect_timeout_s: float = 20.0
    read_timeout_s: float = 150.0  # the service gives up on a query after 120 s

    def __post_init__(self) -> None:
        problems = list(_check_api_url(self.api_url))
        if self.workers < 1:
            problems.append(f"workers is {self.workers}: it must be 1 or more")
        if self.segments is not None and self.segments < 1:
            problems.append(f"segments is {self.segments}: it must be 1 or more")
        if not 1 <= self.page_size <= MAX_PAGE_SIZE:
            problems.append(f"page_size is {self.page_size}: it must be from 1 to {MAX_PAGE_SIZE}")
        if self.tenant_id is not None and not TENANT.fullmatch(self.tenant_id):
            problems.append(f"DATAVERSE_TENANT_ID is not a tenant: {self.tenant_id[:100]!r}")
        _refuse("The configuration", problems)
        object.__setattr__(self, "api_url", self.api_url.rstrip("/") + "/")

    @property
    def api_origin(self) -> str:
        parts = urlsplit(self.api_url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def token_scope(self) -> str:
        return self.scope or f"{self.api_origin}/.default"

    @property
    def db_path(self) -> Path:
        return Path(self.sqlite_db_path)


def is_loopback(url: str) -> bool:
    return _LOOPBACK.fullmatch(urlsplit(url).hostname or "") is not None


def _check_api_url(url: str) -> Iterable[str]:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # It may hold a password, and cannot be taken apart to leave that out.
        yield "DATAVERSE_API_URL is not a URL" + ("" if "@" in url else f": {url[:100]!r}")
        return
    shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"[:100]
    if parts.username or parts.password:
        yield "DATAVERSE_API_URL holds a user name or password: take it out"
    elif parts.query or parts.fragment:
        yield f"DATAVERSE_API_URL must end after the version, without ? or #: {shown}"
    elif parts.scheme == "http" and not is_loopback(url):
        yield f"DATAVERSE_API_URL must begin with https:// (http only for this machine): {shown}"
    elif parts.scheme not in ("http", "https") or not parts.hostname:
        yield f"DATAVERSE_API_URL is not an https:// address: {url[:100]!r}"


def load_settings(env_file: Path | None = None) -> dict[str, str]:
    """Load the settings by variable name: the environment, then the ``.env`` file.

    A file named by the user must exist; ``.env`` in the working folder may be missing.
    """
    path = env_file or Path(".env")
    if env_file is not None and not path.is_file():
        raise ConfigError(
            f"{path}: there is no such file", "Name the file with --env-file, or leave it out."
        )
    try:
        values = dotenv_values(path, interpolate=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})", "Save it as UTF-8 text.") from error
    both = [*values.items(), *os.environ.items()]  # the environment wins, unless it is empty
    return {name: value for name, value in both if value}


def build_config(settings: Mapping[str, str], db_path: str | None = None, **options: Any) -> Config:
    """Build a ``Config`` from settings by variable name and a command's options."""
    given = {name: value.strip() for name, value in settings.items() if value.strip()}
    missing = [name for name in _REQUIRED if name not in given]
    problems = [f"{name} is missing: {_REQUIRED[name]}" for name in missing]
    if url := given.get("DATAVERSE_API_URL", ""):
        problems.extend(_check_api_url(url))
    _refuse("The settings", problems)
    return Config(
        api_url=url,
        client_id=given["DATAVERSE_CLIENT_ID"],
        client_secret=given["DATAVERSE_CLIENT_SECRET"],
        sqlite_db_path=find_db_path(settings, db_path),
        scope=given.get("DATAVERSE_SCOPE"),
        tenant_id=given.get("DATAVERSE_TENANT_ID"),
        **options,
    )


def find_db_path(settings: Mapping[str, str], db_path: str | None) -> str:
    """Find the database: the option, else ``SQLITE_DB_PATH``, else the default."""
    return db_path or settings.get("SQLITE_DB_PATH", "").strip() or DEFAULT_DB


def find_client_secret() -> str:
    """Find the secret in the environment alone, if the ``.env`` is not written yet."""
    return os.environ.get("DATAVERSE_CLIENT_SECRET", "")


def list_proxies() -> list[str]:
    """The addresses of proxies in the environment, which may hold passwords."""
    names = [name for name in os.environ if name.lower().endswith("_proxy")]
    return [os.environ[name] for name in names if name.lower() != "no_proxy"]


def find_windows_user() -> str | None:
    r"""Find who is logged on, as ``DOMAIN\user``; None if the system is not Windows."""
    domain, user = os.environ.get("USERDOMAIN"), os.environ.get("USERNAME")
    return f"{domain}\\{user}" if domain and user else None


def load_entities(path: Path) -> list[EntityConfig]:
    """Load the entities of an ``entities_config.json``, in its order."""
    document = _load_json(path)
    _refuse(str(path), _check_document(document))
    return [EntityConfig(**entry) for entry in document["entities"]]


def check_entities(entities: Sequence[EntityConfig]) -> None:
    """Check a list made in Python by the rules of the file."""
    _refuse("The entities", _check_entries([asdict(entity) for entity in entities]))


def _load_json(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
        return json.loads(text, object_pairs_hook=_build_object)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: there is no such file", "Name the entity configuration with --config."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error})", "Save it as UTF-8 text that you may read."
        ) from error
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg})",
            "Look there, and just before, for a comma, a quote or a bracket.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON that can be read ({error})") from error


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a JSON object with a key twice: the last of the two would win unseen."""
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the same key twice in one object: {', '.join(twice)}")
    return members


def select_entities(entities: Sequence[EntityConfig], only: Sequence[str]) -> list[EntityConfig]:
    """Select the entities named by ``--entity``, which must be configured; all if none is."""
    known = [entity.name for entity in entities]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ConfigError(
            f"not in the entity configuration: {', '.join(unknown)}",
            f"Configured are: {', '.join(known)}.",
        )
    return [entity for entity in entities if not only or entity.name in only]


def _check_document(document: object) -> Iterable[str]:
    if not isinstance(document, dict) or not isinstance(document.get("entities"), list):
        yield 'it must be an object {"entities": [...]} with a list'
        return
    for key in document.keys() - {"entities"}:
        yield f"unknown key {key!r} (allowed: entities)"
    yield from _check_entries(document["entities"])


def _check_entries(entries: Sequence[object]) -> Iterable[str]:
    if not entries:
        yield "the list of entities is empty: name one at least"
    for number, entry in enumerate(entries, 1):
        for problem in _check_entry(entry):
            yield f"entry {number}{_format_name(entry)}: {problem}"
    names = [entry.get("name") for entry in entries if isinstance(entry, dict)]
    yield from _check_names(name for name in names if isinstance(name, str))


def _format_name(entry: object) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    return f" ({name[:128]})" if isinstance(name, str) and name else ""


def _check_entry(entry: object) -> Iterable[str]:
    if not isinstance(entry, dict):
        yield f"must be an object with the keys {', '.join(_ENTRY_KEYS)}"
        return
    for key in sorted(entry.keys() - set(_ENTRY_KEYS)):
        yield f"unknown key {key!r} (allowed: {', '.join(_ENTRY_KEYS)})"
    yield from _check_name(entry.get("name"))
    if not isinstance(entry.get("filtered", False), bool):
        yield "'filtered' must be true or false"
    if not isinstance(entry.get("description", ""), str):
        yield "'description' must be text"
    if entry.get("deletions", "sync") not in _DELETIONS:
        yield '\'deletions\' must be "sync" or "ignore"'


def _check_name(name: object) -> Iterable[str]:
    if not isinstance(name, str) or not name:
        yield "'name' is missing: the entity set name, such as accounts"
    elif len(name) > 128:
        yield f"the name is {len(name)} characters long: 128 at most"
    elif name.startswith("_"):
        yield "names that begin with _ are the program's own tables"
    elif name.lower().startswith("sqlite_"):
        yield "names that begin with sqlite_ belong to SQLite"
    elif not IDENTIFIER.fullmatch(name):
        allowed = "letters, digits and _, not beginning with a digit"
        yield f"{name!r} is not an entity set name: {allowed}"


def _check_names(names: Iterable[str]) -> Iterable[str]:
    found: dict[str, str] = {}
    for name in names:
        first = found.get(name.lower())
        if first is None:
            found[name.lower()] = name
        elif first == name:
            yield f"{name!r} occurs twice: remove one"
        else:
            yield f"{first!r} and {name!r} differ only by case: SQLite would merge their tables"


def _refuse(where: str, problems: Iterable[str]) -> None:
    match list(problems):
        case []:
            return
        case [problem]:
            raise ConfigError(f"{where}: {problem}")
        case several:
            lines = "".join(f"\n  - {problem}" for problem in several)
            raise ConfigError(f"{where}: {len(several)} mistakes:{lines}")
