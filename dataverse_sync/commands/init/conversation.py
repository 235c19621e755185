"""Ask for every answer that was not given, until both files can be written.

Asking and telling are handed in, so that no function here knows a console.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dataverse_sync.commands.console import Tell
from dataverse_sync.commands.init.address import parse_address
from dataverse_sync.commands.init.files import check_files, format_entities, format_env, write_file
from dataverse_sync.commands.init.proposal import (
    PICK_CUSTOM,
    Proposal,
    build_entities,
    explain_unknown,
    format_names,
    format_proposal,
    get_proposal,
    pick,
)
from dataverse_sync.commands.init.tables import (
    TableInfo,
    find_unreadable,
    format_tables,
    keep_readable,
    list_tables,
)
from dataverse_sync.commands.options import ENTITY_LIST
from dataverse_sync.config import Config, check_entities
from dataverse_sync.dataverse.session import Session, open_session
from dataverse_sync.errors import AuthError, ConfigError, UnreachableError
from dataverse_sync.redaction import Redactor

TRIES = 3
_WRONG_SECRET = ("AADSTS7000215", "AADSTS7000222")  # not the app's, or expired


@dataclass(frozen=True, slots=True)
class InitOptions:
    """The answers given on the command line; one that is empty is asked for."""

    url: str = ""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)  # from standard input or the environment
    entities: tuple[str, ...] = ()  # names and patterns
    custom: bool = False  # all custom tables
    env_file: Path = Path(".env")
    config: Path = ENTITY_LIST
    force: bool = False
    yes: bool = False  # take what is proposed
    interactive: bool = True  # somebody can be asked: standard input is a terminal

    @property
    def words(self) -> tuple[str, ...]:
        return (*self.entities, *([PICK_CUSTOM] if self.custom else []))

    @property
    def is_confirmed(self) -> bool:
        """Whether the proposal is taken without a question."""
        return self.yes or not self.interactive or bool(self.url and self.words)


@dataclass(frozen=True, slots=True)
class User:
    """How somebody is asked and told."""

    ask: Callable[[str], str]  # shows a prompt and returns the line that was typed
    ask_hidden: Callable[[str], str]  # the same for a secret, which is not shown
    tell: Tell


def run_init(options: InitOptions, user: User, redactor: Redactor) -> bool:
    """Ask, sign in, pick tables, and write both files; returns whether they were written.

    Raises:
        ConfigError: A file exists already, or something is missing or wrong and
            nobody can be asked; nothing was written.
        AuthError: The sign-in was refused, three times where somebody was asked.
        UnreachableError: The API did not answer.
        RequestError: The tables cannot be listed.
        StorageError: A file cannot be written.
    """
    redactor.add(options.client_secret)
    check_files(options.env_file, options.config, force=options.force)
    _check_missing(options)
    try:
        with ExitStack() as stack:
            config, session = _sign_in(options, user, redactor, stack)
            tables, proposal = _choose_tables(options, session, user)
        return _write(options, user, config, tables, proposal)
    except EOFError:
        raise ConfigError(
            "the input ended before everything was answered; nothing was written",
            "Give the answers as options: python -m dataverse_sync init --help",
        ) from None


def _check_missing(options: InitOptions) -> None:
    given = {
        "--url": options.url,
        "--client-id": options.client_id,
        "--client-secret-stdin (or DATAVERSE_CLIENT_SECRET)": options.client_secret,
        "--entities or --custom": options.words,
    }
    missing = [name for name, value in given.items() if not value]
    if missing and not options.interactive:
        raise ConfigError(
            "standard input is not a terminal, so nobody can be asked; missing: "
            + ", ".join(missing),
            "Give them as options.",
        )


# Signing in


def _sign_in(
    options: InitOptions, user: User, redactor: Redactor, stack: ExitStack
) -> tuple[Config, Session]:
    """Ask for missing answers until the sign-in succeeds, three times at most."""
    known = options
    for left in reversed(range(TRIES)):
        doubtful = ["url"]  # what is asked for again after an error
        try:
            url = known.url or user.ask(
                "Address of the environment (https://ORG.crm.dynamics.com): "
            )
            known = replace(known, url=parse_address(url))
            doubtful = ["client_id", "client_secret"]
            known = _ask_credentials(known, user)
            redactor.add(known.client_secret)
            config = Config(known.url, known.client_id, known.client_secret)
            user.tell(f"Signing in to {config.api_origin} ...")
            with ExitStack() as attempt:
                session = attempt.enter_context(open_session(config, redactor))
                session.sign_in()
                stack.enter_context(attempt.pop_all())
            return config, session
        except (ConfigError, AuthError, UnreachableError) as error:
            if not options.interactive or not left:
                raise
            user.tell(f"error: {redactor.redact(str(error))}")
            cleared: dict[str, Any] = dict.fromkeys(_find_doubtful(error) or doubtful, "")
            known = replace(known, **cleared)
    raise AssertionError("the last try raises")  # pragma: no cover


def _ask_credentials(known: InitOptions, user: User) -> InitOptions:
    client_id = known.client_id or user.ask("Application (client) id of the app registration: ")
    secret = known.client_secret or user.ask_hidden("Client secret (what is typed is not shown): ")
    if not client_id.strip() or not secret.strip():
        raise ConfigError(
            "the client id and the client secret must not be empty",
            "Both are on the page of the app registration, in Microsoft Entra ID.",
        )
    return replace(known, client_id=client_id.strip(), client_secret=secret.strip())


def _find_doubtful(error: Exception) -> list[str]:
    """The answers that the sign-in found wrong; nothing if the error is of another kind."""
    if code := re.search(r"AADSTS\d+", str(error)):
        is_secret = code[0] in _WRONG_SECRET
        return ["client_secret"] if is_secret else ["client_id", "client_secret"]
    return ["url"] if isinstance(error, AuthError | UnreachableError) else []


# The tables


def _choose_tables(
    options: InitOptions, session: Session, user: User
) -> tuple[list[TableInfo], Proposal]:
    tables = list_tables(session, user.tell)
    if not options.words:
        tables = keep_readable(session, tables, user.tell)
        for line in format_tables(tables):
            user.tell(line)
    names = _pick_tables(options, tables, user)
    unreadable = find_unreadable(session, tables, names)
    for name, error in unreadable.items():
        user.tell(f"left out, since it cannot be read: {name}: {error}")
    readable = [name for name in names if name not in unreadable]
    if not readable:
        raise ConfigError(
            "none of the tables picked can be read; nothing was written",
            "Give the application user a role that may read them (organization level).",
        )
    return tables, get_proposal(session, readable, tables)


def _pick_tables(options: InitOptions, tables: Sequence[TableInfo], user: User) -> tuple[str, ...]:
    words, tries = options.words, 1
    while True:
        if not words:
            prompt = "Which tables? Names, patterns (vin_*), or custom for all custom: "
            words = split_words(user.ask(prompt))
        picked = pick(tables, words)
        if words and not picked.unknown:
            break
        problem = explain_unknown(picked.unknown, tables) if words else "nothing was named"
        if options.words or tries == TRIES:
            raise ConfigError(f"{problem}; nothing was written")
        user.tell(f"error: {problem}")
        words, tries = (), tries + 1
    if picked.left_out:
        user.tell(
            f"{len(picked.left_out)} tables of Microsoft's own solutions are custom too, and left "
            "out; a pattern such as msdyn_* picks them"
        )
    return picked.names


def split_words(text: str) -> tuple[str, ...]:
    return tuple(word for word in re.split(r"[\s,;]+", text.strip()) if word)


def _adjust(proposal: Proposal, user: User) -> Proposal:
    """Let the user have some of the filtered tables whole."""
    if not proposal.filtered:
        return proposal
    user.tell("")
    user.tell("The tables picked link to these. Only the records that are linked to are copied:")
    for line in format_names(proposal.filtered):
        user.tell(line)
    for _ in range(TRIES):
        words = split_words(user.ask("Copy any of them whole? Names, or Enter for none: "))
        unknown = [word for word in words if word not in proposal.filtered]
        if not unknown:
            whole = (*proposal.whole, *(name for name in proposal.filtered if name in words))
            rest = tuple(name for name in proposal.filtered if name not in words)
            return replace(proposal, whole=whole, filtered=rest)
        user.tell(f"error: not among them: {', '.join(unknown)}")
    return proposal


# The files


def _write(
    options: InitOptions,
    user: User,
    config: Config,
    tables: Sequence[TableInfo],
    proposal: Proposal,
) -> bool:
    """Show the proposal, have it confirmed, and write both files."""
    if not options.is_confirmed:
        proposal = _adjust(proposal, user)
    entities = build_entities(proposal, tables)
    check_entities(entities)
    for line in format_proposal(proposal, tables):
        user.tell(line)
    if not options.is_confirmed:
        answer = user.ask(f"Write {options.env_file} and {options.config}? [Y/n] ")
        if answer.strip().lower() not in ("", "y", "yes"):
            user.tell("Nothing was written.")
            return False
    settings = {
        "DATAVERSE_API_URL": config.api_url,
        "DATAVERSE_CLIENT_ID": config.client_id,
        "DATAVERSE_CLIENT_SECRET": config.client_secret,
    }
    env = format_env(settings)
    write_file(options.config, format_entities(entities))
    write_file(options.env_file, env, mode=0o600)
    user.tell(f"Written: {options.env_file} (it holds the secret) and {options.config}")
    user.tell("")
    places = _format_places(options)
    user.tell(f"See that all is well:  python -m dataverse_sync check{places}")
    user.tell(f"Then copy the tables:  python -m dataverse_sync sync{places}")
    return True


def _format_places(options: InitOptions) -> str:
    """The options that the next command needs to find the files."""
    told = ""
    if options.env_file != Path(".env"):
        told += f' --env-file "{options.env_file}"'
    if options.config != ENTITY_LIST:
        told += f' --config "{options.config}"'
    return told
