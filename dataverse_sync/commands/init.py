"""``init``: ask where and what, sign in, pick tables; write ``.env`` and ``entities_config.json``.

Whatever was given is not asked for; where nobody can be asked, what is missing is said
at once. Nothing is written before all is known, and no file is overwritten unless that
is asked for. Asking and telling are handed in, so nothing here knows a console.

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/query-metadata-web-api
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from textwrap import wrap
from urllib.parse import urlsplit

import msgspec

from dataverse_sync.config import Config, check_entities, is_loopback
from dataverse_sync.dataverse import definitions as metadata
from dataverse_sync.dataverse import odata
from dataverse_sync.dataverse.session import Session, open_session
from dataverse_sync.errors import (
    AuthError,
    ConfigError,
    EntityError,
    RequestError,
    StorageError,
    UnreachableError,
)
from dataverse_sync.model import IDENTIFIER, Entity, EntityConfig, PageRequest
from dataverse_sync.redaction import Redactor

API_PATH = "/api/data/v9.2/"
TRIES = 3
COUNTED_AT_ONCE = 50
_PORTALS = ("make.powerapps.com", "make.preview.powerapps.com", "admin.powerplatform.microsoft.com")
# Tables of Microsoft's own solutions are custom ones too, by their flag.
_MICROSOFTS = re.compile(r"(ms(dyn|fp|pp|pcat|erp|evtmgt|gdpr)[a-z]*|adx)_")
_PICK_CUSTOM = "custom"

Ask = Callable[[str], str]
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class InitChoices:
    """What was given on the command line; what is empty is asked for."""

    url: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)  # from standard input or the environment
    entities: tuple[str, ...] = ()  # names and patterns
    custom: bool = False  # all custom tables
    env_file: Path = Path(".env")
    config: Path = Path("entities_config.json")
    force: bool = False
    yes: bool = False  # take what is proposed
    interactive: bool = True  # somebody can be asked: standard input is a terminal

    @property
    def words(self) -> tuple[str, ...]:
        return (*self.entities, *([_PICK_CUSTOM] if self.custom else []))


@dataclass(frozen=True, slots=True)
class InitResult:
    """What was written."""

    env_file: Path
    config: Path
    entities: tuple[EntityConfig, ...]


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table of the environment, as the list shows it."""

    name: str  # the entity set
    logical_name: str
    key: str
    title: str  # its display name, plural where it has one
    custom: bool = False
    intersect: bool = False
    virtual: bool = False
    rows: int | None = None  # about; None: not known


# The address


def parse_address(text: str) -> str:
    """The address of the Web API, out of whatever address of the environment was typed.

    ``org.crm.dynamics.com``, ``https://org.crm.dynamics.com/main.aspx?appid=...`` and the
    Web API's own address give ``https://org.crm.dynamics.com/api/data/v9.2/``.

    Raises:
        ConfigError: It is no address that a secret may be used for.
    """
    typed = text.strip()
    hint = "Give the environment's address, such as https://ORG.crm.dynamics.com."
    try:
        parts = urlsplit(typed if "://" in typed else f"https://{typed}")
        port = parts.port
    except ValueError:
        raise ConfigError("that is not an address", hint) from None
    host = (parts.hostname or "").lower()
    if parts.username or parts.password:
        raise ConfigError("the address holds a user name or password: take it out", hint)
    if host in _PORTALS:
        raise ConfigError(
            f"{host} is the portal, not an environment",
            "The environment's own address is there under Settings, Session details, Instance url.",
        )
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[a-z0-9.\-]+|[0-9a-f:]+", host):
        raise ConfigError(f"{typed[:100]!r} is not an https:// address", hint)
    if parts.scheme == "http" and not is_loopback(typed):
        raise ConfigError("the address must begin with https:// (http only for this machine)", hint)
    place = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{place}{f':{port}' if port else ''}{API_PATH}"


# Picking


@dataclass(frozen=True, slots=True)
class Picked:
    """What the words of a user pick."""

    names: tuple[str, ...]  # entity sets, as the list has them
    unknown: tuple[str, ...] = ()  # words that pick nothing
    left_out: tuple[str, ...] = ()  # custom by their flag, but of Microsoft's own solutions


def split_words(text: str) -> list[str]:
    return [word for word in re.split(r"[\s,;]+", text.strip()) if word]


def pick(tables: Sequence[TableInfo], words: Iterable[str]) -> Picked:
    """The tables that these names and patterns mean.

    A name is an entity set or a logical name. Patterns and ``custom`` pick neither
    junction tables, which come with the tables that they join, nor virtual ones.
    """
    chosen: set[str] = set()
    unknown = []
    left_out: list[str] = []
    usual = [table for table in tables if not table.intersect and not table.virtual]
    for word in words:
        low = word.lower()
        found = [table for table in tables if low in _names_of(table)]
        if not found and low == _PICK_CUSTOM:
            custom = [table for table in usual if table.custom]
            found = [table for table in custom if not _MICROSOFTS.match(table.logical_name)]
            left_out += [table.name for table in custom if table not in found]
        elif not found and any(sign in word for sign in "*?["):
            found = [t for t in usual if any(fnmatchcase(name, low) for name in _names_of(t))]
        if found:
            chosen.update(table.name for table in found)
        else:
            unknown.append(word)
    names = tuple(table.name for table in tables if table.name in chosen)
    return Picked(names, tuple(unknown), tuple(one for one in left_out if one not in chosen))


def _names_of(table: TableInfo) -> tuple[str, str]:
    return table.name.lower(), table.logical_name.lower()


def explain_unknown(unknown: Sequence[str], tables: Sequence[TableInfo]) -> str:
    """Which words picked nothing, and what may have been meant."""
    known = [name for table in tables for name in _names_of(table)]
    told = []
    for word in unknown:
        close = get_close_matches(word.lower(), known, n=1)
        told.append(word + (f" (did you mean {close[0]}?)" if close else ""))
    return f"no table that the app can read is called {', '.join(told)}"


@dataclass(frozen=True, slots=True)
class Junction:
    """The table of an N:N relationship, and the two that it joins."""

    name: str
    joins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Proposal:
    """What to sync: whole tables, those of which only linked records are, the junctions."""

    whole: tuple[str, ...]
    filtered: tuple[str, ...] = ()
    junctions: tuple[Junction, ...] = ()
    others: tuple[str, ...] = ()  # custom tables that are linked to, and were not picked


def find_targets(picked: Iterable[Entity], tables: Iterable[TableInfo]) -> list[TableInfo]:
    """The tables that lookups of the picked ones point to."""
    pointed = {target for e in picked for column in e.columns for target in column.targets}
    return [table for table in tables if table.logical_name in pointed and not table.virtual]


def propose(
    names: Sequence[str],
    targets: Iterable[TableInfo],
    intersects: Iterable[Entity],
    tables: Iterable[TableInfo],
) -> Proposal:
    """Sync what was picked whole; of standard tables that it links to, what is linked to.

    Args:
        names: The entity sets that were picked.
        targets: What they link to, as far as it can be read.
        intersects: The junction tables of the environment, with their columns.
        tables: All tables.
    """
    whole = tuple(names)
    more = [table for table in targets if table.name not in whole]
    filtered = tuple(table.name for table in more if not table.custom and table.rows != 0)
    by_key: dict[str, set[str]] = {}
    for table in tables:
        if not table.intersect:
            by_key.setdefault(table.key, set()).add(table.name)
    junctions = []
    for entity in intersects:
        sides = _find_sides(entity, by_key)
        joins = tuple(min(side & {*whole, *filtered}, default="") for side in sides)
        is_whole = any(side & set(whole) for side in sides)
        if len(joins) >= 2 and all(joins) and is_whole and entity.name not in whole:
            junctions.append(Junction(entity.name, joins))
    others = tuple(table.name for table in more if table.custom)
    return Proposal(whole, filtered, tuple(junctions), others)


def _find_sides(intersect: Entity, by_key: Mapping[str, set[str]]) -> list[set[str]]:
    """For each column of a junction that is named as a key, the tables with that key."""
    sides = []
    for column in intersect.columns:
        # One that joins a table with itself has accountidone and accountidtwo.
        own = column.name.removesuffix("one").removesuffix("two")
        names = by_key.get(column.name) or by_key.get(own)
        if names and column.name != intersect.key:
            sides.append(names)
    return sides


def build_entities(proposal: Proposal, tables: Sequence[TableInfo]) -> list[EntityConfig]:
    """The entries of the configuration, described for whoever reads it."""
    titles = {table.name: table.title for table in tables}
    entities = [EntityConfig(name, description=titles[name]) for name in proposal.whole]
    for junction in proposal.junctions:
        joined = " and ".join(titles[name] for name in junction.joins)
        entities.append(EntityConfig(junction.name, description=f"Junction: {joined}"))
    for name in proposal.filtered:
        text = f"Only {titles[name]} linked from what was synced"
        entities.append(EntityConfig(name, filtered=True, description=text))
    return entities


# What is written


def format_env(settings: Mapping[str, str]) -> str:
    """The text of a ``.env`` that python-dotenv reads back as it was typed.

    The last value may end in a backslash, since no quote follows it.

    Raises:
        ConfigError: A value holds a control character, or half of one.
    """
    lines = ["# Written by python -m dataverse_sync init. Keep it to yourself."]
    for name, value in settings.items():
        if any(ord(char) < 32 or 0xD800 <= ord(char) < 0xE000 for char in value):
            raise ConfigError(
                f"{name} holds a character that a .env file cannot hold, such as a line break",
                "Copy the value again, without what stands around it.",
            )
        lines.append(f"{name}={_quote(value)}")
    return "\n".join(lines) + "\n"


def _quote(value: str) -> str:
    if re.fullmatch(r"[\w.~:/@%+=,-]*", value, re.ASCII):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def format_entities(entities: Sequence[EntityConfig]) -> str:
    """The text of an ``entities_config.json``: one entity a line."""
    lines = [
        "    "
        + json.dumps(
            {"name": one.name, "filtered": one.filtered, "description": one.description},
            ensure_ascii=False,
        )
        for one in entities
    ]
    return '{\n  "entities": [\n' + ",\n".join(lines) + "\n  ]\n}\n"


def check_files(choices: InitChoices) -> None:
    """See that both files can be made, before anything is asked.

    Raises:
        ConfigError: One is there already, or its folder is not.
    """
    if choices.env_file.absolute() == choices.config.absolute():
        raise ConfigError(
            f"{choices.config}: cannot be both files",
            "Name two files with --env-file and --config.",
        )
    for path, option in ((choices.env_file, "--env-file"), (choices.config, "--config")):
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder", f"Name a file with {option}.")
        if (path.exists() or path.is_symlink()) and not choices.force:
            raise ConfigError(
                f"{path}: is there already",
                f"Keep it and name another with {option}, or overwrite it with --force.",
            )
        folder = path.absolute().parent
        if not folder.is_dir():
            raise ConfigError(f"{path}: there is no folder {folder}", "Make it first.")
        if not os.access(folder, os.W_OK):
            raise ConfigError(
                f"{path}: the folder cannot be written", f"Name a file elsewhere with {option}."
            )


def write_file(path: Path, text: str, mode: int) -> None:
    """Write a file whole or not at all, with this mode where there are modes.

    Raises:
        StorageError: It cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with suppress(FileNotFoundError):
            partial.unlink()
        number = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        with os.fdopen(number, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error})", "Check the disk and the folder's permissions."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


# The conversation


def run_init(
    choices: InitChoices, ask: Ask, ask_hidden: Ask, tell: Tell, redactor: Redactor
) -> InitResult | None:
    """Ask, sign in, pick tables, and write both files.

    Args:
        choices: What was given.
        ask: Shows a prompt and returns the line that was typed.
        ask_hidden: The same for a secret, which is not shown.
        tell: Shows a line.
        redactor: Learns the secret.

    Returns:
        What was written; None where the user said no at the end.

    Raises:
        ConfigError: A file is there already, or something is missing or wrong and
            nobody can be asked; nothing was written.
        AuthError: The sign-in was refused, three times where somebody was asked.
        UnreachableError: The API did not answer.
        RequestError: The tables cannot be listed.
        StorageError: A file cannot be written.
    """
    redactor.add(choices.client_secret)
    check_files(choices)
    _check_missing(choices)
    try:
        return _converse(choices, ask, ask_hidden, tell, redactor)
    except EOFError:
        raise ConfigError(
            "the input ended before everything was answered; nothing was written",
            "Give the answers as options: python -m dataverse_sync init --help",
        ) from None


def _check_missing(choices: InitChoices) -> None:
    if choices.interactive:
        return
    missing = {
        "--url": not choices.url,
        "--client-id": not choices.client_id,
        "--client-secret-stdin (or DATAVERSE_CLIENT_SECRET)": not choices.client_secret,
        "--entities or --custom": not choices.words,
    }
    if any(missing.values()):
        raise ConfigError(
            "nobody can be asked here (standard input is no terminal), and there is no "
            + ", no ".join(name for name, is_missing in missing.items() if is_missing),
            "Give them as options.",
        )


def _converse(
    choices: InitChoices, ask: Ask, ask_hidden: Ask, tell: Tell, redactor: Redactor
) -> InitResult | None:
    confirm = choices.interactive and not choices.yes and not (choices.url and choices.words)
    with ExitStack() as stack:

        def open_(config: Config) -> Session:
            with ExitStack() as opening:
                session = opening.enter_context(open_session(config, redactor))
                session.sign_in()
                stack.push(opening.pop_all())
                return session

        config, session = _sign_in(choices, ask, ask_hidden, tell, redactor, open_)
        tables = _list_tables(session, tell)
        if not choices.words:
            tables = _keep_readable(session, tables, tell)
            for line in format_tables(tables):
                tell(line)
        names = _pick_tables(choices, tables, ask, tell)
        readable, refused = _find_readable(session, [t for t in tables if t.name in names])
        for table, error in refused.items():
            tell(f"left out, since it cannot be read: {table}: {error}")
        if not readable:
            raise ConfigError(
                "none of the tables picked can be read; nothing was written",
                "Give the application user a role that may read them (organization level).",
            )
        proposal = _get_proposal(session, readable, tables)
    if confirm:
        proposal = _adjust(proposal, ask, tell)
    entities = build_entities(proposal, tables)
    check_entities(entities)
    for line in format_proposal(proposal, tables):
        tell(line)
    if confirm and not _is_yes(ask(f"Write {choices.env_file} and {choices.config}? [Y/n] ")):
        tell("Nothing was written.")
        return None
    settings = {
        "DATAVERSE_API_URL": config.api_url,
        "DATAVERSE_CLIENT_ID": config.client_id,
        "DATAVERSE_CLIENT_SECRET": config.client_secret,
    }
    env = format_env(settings)
    write_file(choices.config, format_entities(entities), 0o666)
    write_file(choices.env_file, env, 0o600)
    tell(f"Written: {choices.env_file} (it holds the secret) and {choices.config}")
    tell("")
    tell(f"See that all is well:  python -m dataverse_sync check{_options(choices)}")
    tell(f"Then copy the tables:  python -m dataverse_sync sync{_options(choices)}")
    return InitResult(choices.env_file, choices.config, tuple(entities))


def _options(choices: InitChoices) -> str:
    """The options that the next command needs to find the files."""
    told = ""
    if choices.env_file != Path(".env"):
        told += f' --env-file "{choices.env_file}"'
    if choices.config != Path("entities_config.json"):
        told += f' --config "{choices.config}"'
    return told


def _is_yes(answer: str) -> bool:
    return answer.strip().lower() in ("", "y", "yes")


# Signing in


def _sign_in(
    choices: InitChoices,
    ask: Ask,
    ask_hidden: Ask,
    tell: Tell,
    redactor: Redactor,
    open_: Callable[[Config], Session],
) -> tuple[Config, Session]:
    """Ask for what is missing until the sign-in succeeds, three times at most."""
    url, client_id, secret = choices.url, choices.client_id, choices.client_secret
    api_url = ""
    for left in reversed(range(TRIES)):
        try:
            if not api_url:
                url = url or ask("Address of the environment (https://ORG.crm.dynamics.com): ")
                api_url = parse_address(url)
            client_id = client_id or ask("Application (client) id of the app registration: ")
            secret = secret or ask_hidden("Client secret (what is typed is not shown): ")
            redactor.add(secret.strip())
            config = _build_config(api_url, client_id, secret)
            tell(f"Signing in to {config.api_origin} ...")
            return config, open_(config)
        except (ConfigError, AuthError, UnreachableError) as error:
            if not choices.interactive or not left:
                raise
            tell(f"error: {redactor.redact(str(error))}")
            url, client_id, secret, api_url = _what_to_keep(error, url, client_id, secret, api_url)
    raise AssertionError("the last try raises")  # pragma: no cover


def _build_config(api_url: str, client_id: str, secret: str) -> Config:
    if not client_id.strip() or not secret.strip():
        raise ConfigError(
            "the client id and the client secret must not be empty",
            "Both are on the page of the app registration, in Microsoft Entra ID.",
        )
    return Config(api_url=api_url, client_id=client_id.strip(), client_secret=secret.strip())


def _what_to_keep(
    error: Exception, url: str, client_id: str, secret: str, api_url: str
) -> tuple[str, str, str, str]:
    """What need not be asked again, by what went wrong: address, id, secret, API."""
    code = re.search(r"AADSTS\d+", str(error))
    if code is None and (isinstance(error, AuthError | UnreachableError) or not api_url):
        return "", client_id, secret, ""  # it was the address
    if code is not None and code.group() in ("AADSTS7000215", "AADSTS7000222"):
        return url, client_id, "", api_url
    return url, "", "", api_url


# The tables


def _list_tables(session: Session, tell: Tell) -> list[TableInfo]:
    """Every table that can be synced, with about how many records it has."""
    try:
        definitions = session.client.get_metadata(
            "EntityDefinitions",
            select=(
                "LogicalName",
                "EntitySetName",
                "PrimaryIdAttribute",
                "DisplayName",
                "DisplayCollectionName",
                "IsCustomEntity",
                "IsIntersect",
                "IsPrivate",
                "DataProviderId",
            ),
        )
    except RequestError as error:
        raise RequestError(
            f"the tables cannot be listed: {error.message}",
            "Give the app a role that may read metadata, or write entities_config.json by hand.",
            status=error.status,
            code=error.code,
        ) from error
    parsed = [parse_table(definition) for definition in definitions]
    tables = sorted((table for table in parsed if table), key=lambda table: table.name.lower())
    tell(f"Counting the rows of {len(tables)} tables ...")
    counts = _count(session, [t.logical_name for t in tables if not t.virtual and not t.intersect])
    return [replace(table, rows=counts.get(table.logical_name)) for table in tables]


def parse_table(definition: object) -> TableInfo | None:
    """One element of EntityDefinitions; None for what can be no entity of ours."""
    if not isinstance(definition, dict) or definition.get("IsPrivate"):
        return None
    name, logical_name = definition.get("EntitySetName"), definition.get("LogicalName")
    key = definition.get("PrimaryIdAttribute")
    texts = (name, logical_name, key)
    if not all(isinstance(text, str) and IDENTIFIER.fullmatch(text) for text in texts):
        return None
    name, logical_name, key = map(str, texts)
    if name.startswith("_") or name.lower().startswith("sqlite_"):
        return None
    title = (
        _label(definition.get("DisplayCollectionName"))
        or _label(definition.get("DisplayName"))
        or name
    )
    return TableInfo(
        name=name,
        logical_name=logical_name,
        key=key,
        title=title,
        custom=bool(definition.get("IsCustomEntity")),
        intersect=bool(definition.get("IsIntersect")),
        virtual=definition.get("DataProviderId") is not None,
    )


def _label(value: object) -> str:
    """A display name: one line of text that any file and console can hold."""
    chosen = value.get("UserLocalizedLabel") if isinstance(value, dict) else None
    text = chosen.get("Label") if isinstance(chosen, dict) else None
    if not isinstance(text, str):
        return ""
    text = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(text.split())[:100]


def _count(session: Session, names: Sequence[str]) -> dict[str, int]:
    """About how many records each has; one that cannot be counted does not spoil the others."""

    def count(batch: Sequence[str]) -> dict[str, int]:
        try:
            return session.client.get_counts(batch)
        except EntityError as error:
            is_refused = isinstance(error, RequestError) and error.status in (400, 404)
            if not is_refused or len(batch) == 1:
                return {}
            half = len(batch) // 2
            return {**count(batch[:half]), **count(batch[half:])}

    size = COUNTED_AT_ONCE
    batches = [names[start : start + size] for start in range(0, len(names), size)]
    counts: dict[str, int] = {}
    for found in session.pool.map(count, batches):
        counts.update(found)
    return counts


def _find_readable(
    session: Session, tables: Sequence[TableInfo]
) -> tuple[list[str], dict[str, str]]:
    """Which of these the app may read, told by asking for one key; and why not the others."""

    def reach(table: TableInfo) -> str:
        url = odata.build_url(session.client.api_url, table.name, select=(table.key,), top=1)
        try:
            session.client.release(session.client.get_page(PageRequest(table.name, url, top=True)))
        except EntityError as error:
            return error.message
        return ""

    found = dict(zip((t.name for t in tables), session.pool.map(reach, tables), strict=True))
    refused = {name: error for name, error in found.items() if error}
    return [name for name in found if name not in refused], refused


def _keep_readable(session: Session, tables: Sequence[TableInfo], tell: Tell) -> list[TableInfo]:
    """All but those that hold rows, or may, and cannot be read."""
    asked = [t for t in tables if not t.intersect and not t.virtual and (t.custom or t.rows != 0)]
    tell(f"Looking which of {len(asked)} tables the app can read ...")
    _, refused = _find_readable(session, asked)
    if refused:
        tell(f"{len(refused)} tables cannot be read by the app; they are not shown")
    return [table for table in tables if table.name not in refused]


def format_tables(tables: Sequence[TableInfo]) -> list[str]:
    """The tables to pick from: custom ones first, then standard ones that hold rows."""
    lines: list[str] = []
    usual = [table for table in tables if not table.intersect and not table.virtual]
    groups = {
        "Custom tables:": [table for table in usual if table.custom],
        "Standard tables that hold rows:": [t for t in usual if not t.custom and t.rows],
    }
    width = max((len(table.name) for table in usual), default=0)
    for title, group in groups.items():
        if group:
            lines += ["", title]
        for table in group:
            rows = "?" if table.rows is None else f"{table.rows:,}"
            lines.append(f"  {table.name.ljust(width)}  {rows:>11}  {table.title}")
    empty = sum(not table.custom and table.rows == 0 for table in usual)
    if empty:
        lines += ["", f"(and {empty} standard tables without rows)"]
    return [*lines, ""]


def _pick_tables(
    choices: InitChoices, tables: Sequence[TableInfo], ask: Ask, tell: Tell
) -> tuple[str, ...]:
    words, tries = choices.words, 1
    while True:
        if not words:
            asked = ask("Which tables? Names, patterns (vin_*), or custom for all custom: ")
            words = tuple(split_words(asked))
        picked = pick(tables, words)
        if words and not picked.unknown:
            break
        problem = explain_unknown(picked.unknown, tables) if words else "nothing was named"
        if choices.words or tries == TRIES:
            raise ConfigError(f"{problem}; nothing was written")
        tell(f"error: {problem}")
        words, tries = (), tries + 1
    if picked.left_out:
        tell(
            f"{len(picked.left_out)} tables of Microsoft's own solutions are custom too, and left "
            "out; a pattern such as msdyn_* picks them"
        )
    return picked.names


def _get_proposal(session: Session, names: Sequence[str], tables: Sequence[TableInfo]) -> Proposal:
    targets = find_targets(_get_entities(session, names), tables)
    more = [table for table in targets if table.name not in names]
    readable, _ = _find_readable(session, more)
    more = [table for table in more if table.name in readable]
    intersects = _get_entities(session, [t.name for t in tables if t.intersect])
    proposal = propose(names, more, intersects, tables)
    found = {junction.name for junction in proposal.junctions}
    readable, _ = _find_readable(session, [t for t in tables if t.name in found])
    return replace(
        proposal, junctions=tuple(one for one in proposal.junctions if one.name in readable)
    )


def _get_entities(session: Session, names: Sequence[str]) -> list[Entity]:
    found = []
    for definition in session.client.get_definitions(names):
        # What cannot be understood has no links that we know of.
        with suppress(msgspec.ValidationError):
            found.append(metadata.parse_definition(definition))
    return found


def _adjust(proposal: Proposal, ask: Ask, tell: Tell) -> Proposal:
    """Let the user have some of the filtered tables whole."""
    if not proposal.filtered:
        return proposal
    tell("")
    tell("The tables picked link to these. Only the records that are linked to are copied:")
    for line in _wrapped(proposal.filtered):
        tell(line)
    for _ in range(TRIES):
        words = split_words(ask("Copy any of them whole? Names, or Enter for none: "))
        unknown = [word for word in words if word not in proposal.filtered]
        if not unknown:
            whole = (*proposal.whole, *(name for name in proposal.filtered if name in words))
            rest = tuple(name for name in proposal.filtered if name not in words)
            return replace(proposal, whole=whole, filtered=rest)
        tell(f"error: not among them: {', '.join(unknown)}")
    return proposal


def format_proposal(proposal: Proposal, tables: Sequence[TableInfo]) -> list[str]:
    """What will be synced, and why."""
    rows = {table.name: table.rows for table in tables}
    known = [rows[name] or 0 for name in proposal.whole]
    joined = [junction.name for junction in proposal.junctions]
    lines = ["", f"Copied whole ({len(proposal.whole)} tables, about {sum(known):,} rows):"]
    lines += _wrapped(proposal.whole)
    if proposal.junctions:
        lines += ["", "With the junction tables between them:", *_wrapped(joined)]
    if proposal.filtered:
        lines += ["", "Filtered, only the records that those link to:"]
        lines += _wrapped(proposal.filtered)
    if proposal.others:
        lines += ["", "Also linked to, but not picked; their ids stay ids:"]
        lines += _wrapped(proposal.others)
    return [*lines, ""]


def _wrapped(names: Sequence[str]) -> list[str]:
    return wrap(", ".join(names), 88, initial_indent="  ", subsequent_indent="  ")
