"""Save a small sample of each entity set as mock responses, with made-up values.

    python scripts/generate_mocks.py --output mock_responses

Writes NAME_page1.json and NAME_page2.json as the service sends them, and what it answers
to mistakes into error_responses/. Names, texts, e-mail addresses, ids and the host are
replaced, each by the same made-up one wherever it occurs; numbers, dates and choices are
kept. Exits 1 if an entity set could not be read.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import re
import secrets
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataverse_sync import config as settings
from dataverse_sync.cli import guard
from dataverse_sync.commands.console import FAILED, OK, load
from dataverse_sync.commands.options import Options, add_shared
from dataverse_sync.dataverse import odata
from dataverse_sync.dataverse.client import DataverseClient
from dataverse_sync.dataverse.session import open_session
from dataverse_sync.dataverse.transport import Answer
from dataverse_sync.errors import (
    ConfigError,
    EntityError,
    PageError,
    RequestError,
    StorageError,
)
from dataverse_sync.model import PageRequest
from dataverse_sync.redaction import Redactor

__test__ = False  # for pytest: this is a program, not a test

MADE_UP_HOST = "contoso.api.crm.dynamics.com"
UNKNOWN_SET = "no_such_entityset"
UNKNOWN_COLUMN = "no_such_column"


# Made-up values

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?')
_GUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)?)?")
_MAIL = r"(?P<mailbox>[\w.+'-]{1,64})@(?P<domain>[\w-]+(?:\.[\w-]+)+)"
_PARTS = re.compile(
    rf"(?P<guid>{_GUID.pattern})"
    r"|(?P<scheme>https?://)(?P<site>[^\s/?#\"<>]+)"
    rf"|{_MAIL}"
    r"|(?P<letters>[^\W\d_]+)"
    r"|(?P<digits>\d+)"
)
_IN_COOKIE = re.compile(r"((?:first|last)%(?:25)*3[dD]%(?:25)*22)(.*?)(?=%(?:25)*22)")
_LINKS = ("@odata.nextLink", "@odata.deltaLink")
_SCHEMA_WORDS = ("@odata.", "@Microsoft.Dynamics.CRM.")  # annotations that name no record
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


class Disguise:
    """Made-up values for real ones: the same for the same, with nothing to tell them back by.

    Args:
        api_url: Whose host is replaced.
        secret: What the values are made with; another makes others.
    """

    def __init__(self, api_url: str, secret: bytes) -> None:
        self._secret = secret
        parts = urlsplit(api_url)
        host = parts.hostname or ""
        # The links of an answer may use the host with or without its ".api".
        organisation, _, rest = host.partition(".")
        rest = rest.removeprefix("api.")
        hosts = (parts.netloc, f"{organisation}.api.{rest}", f"{organisation}.{rest}", host)
        named = "|".join(re.escape(one) for one in hosts)
        self._host = re.compile(rf"(?:https?://)?(?<![\w.-])(?:{named})(?![\w-])", re.IGNORECASE)
        self._organisation = re.compile(rf"\b{re.escape(organisation)}\b", re.IGNORECASE)

    def body(self, text: str) -> str:
        """The JSON text of a page with its values replaced, every other byte as it was."""
        member = ""

        def replace(found: re.Match[str]) -> str:
            nonlocal member
            if found[1] is not None:
                member = json.loads(found[0][: -len(found[1])])
                return found[0]
            value = self._value(member, json.loads(found[0]))
            # Half a surrogate pair, which JSON may name, can only be written as an escape.
            is_writable = value.encode(errors="ignore").decode() == value
            return json.dumps(value, ensure_ascii=not is_writable)

        return _STRING.sub(replace, text)

    def error(self, code: str, message: str) -> str:
        """The JSON text of an error: the service's own words, and no one else's."""
        message = self._names(message)
        message = re.sub(_MAIL, lambda found: self.text(found[0]), message)
        message = self._organisation.sub(MADE_UP_HOST.partition(".")[0], message)
        return json.dumps({"error": {"code": code, "message": message}})

    def text(self, value: str) -> str:
        """A text of the same length: letters for letters, digits for digits."""
        return _PARTS.sub(self._part, value)

    def link(self, url: str) -> str:
        """A next link: the host, and the keys in its cookie, encoded as they were."""

        def replace(found: re.Match[str]) -> str:
            value = unquote(unquote(found[2]))
            if _GUID.fullmatch(value.strip("{}")) or _MOMENT.fullmatch(value):
                return found[1] + found[2]  # ids are replaced with all the others
            return found[1] + quote(quote(self.text(value), safe=""), safe="")

        return self._names(_IN_COOKIE.sub(replace, url))

    def _value(self, member: str, value: str) -> str:
        if member == "@odata.etag" or _MOMENT.fullmatch(value):
            return value
        if member in _LINKS:
            return self.link(value)
        if any(word in member for word in _SCHEMA_WORDS):
            return self._names(value)
        return self.text(value)

    def _names(self, text: str) -> str:
        """Only ids and the host are anyone's own here."""
        text = self._host.sub(self._made_up_host, text)
        return _GUID.sub(lambda found: self._guid(found[0]), text)

    def _made_up_host(self, found: re.Match[str]) -> str:
        return ("https://" if "://" in found[0] else "") + MADE_UP_HOST

    def _part(self, found: re.Match[str]) -> str:
        if found["guid"]:
            return self._guid(found["guid"])
        if found["scheme"]:
            return f"{found['scheme']}{self._word(found['site'])}.example.com"
        if found["mailbox"]:
            return f"{self.text(found['mailbox'])}@example.com"
        return self._word(found["letters"]) if found["letters"] else self._number(found["digits"])

    def _guid(self, value: str) -> str:
        made_up = str(uuid.UUID(bytes=self._stream("guid", value.lower(), 16), version=4))
        return made_up.upper() if value.upper() == value else made_up

    def _word(self, word: str) -> str:
        def make(stream: bytes) -> str:
            places = enumerate(zip(word, stream, strict=True))
            return "".join(_letter(char, byte, at) for at, (char, byte) in places)

        return self._unlike("letters", word, make)

    def _number(self, digits: str) -> str:
        def make(stream: bytes) -> str:
            first = "0" if digits[0] == "0" else str(stream[0] % 9 + 1)
            return first + "".join(str(byte % 10) for byte in stream[1:])

        return self._unlike("digits", digits, make)

    def _unlike(self, kind: str, value: str, make: Callable[[bytes], str]) -> str:
        """Make up until it is another; what has no other, such as 0, stays."""
        made_up = value
        for attempt in range(20):
            made_up = make(self._stream(f"{kind}{attempt}", value.lower(), len(value)))
            if made_up.lower() != value.lower():
                break
        return made_up

    def _stream(self, kind: str, value: str, length: int) -> bytes:
        seed = hmac.digest(self._secret, f"{kind}:{value}".encode(), "sha256")
        return hashlib.shake_256(seed).digest(length)


def _letter(char: str, byte: int, at: int) -> str:
    """A letter of the same case and script."""
    if not char.isascii():
        start = ord(char) // 64 * 64
        near = [chr(code) for code in range(start, start + 64)]
        alike = [one for one in near if one.isalpha() and one.isupper() == char.isupper()]
        return alike[byte % len(alike)] if alike else char
    if not char.isalpha():  # a sign in a site's name
        return "-"
    letters = _VOWELS if at % 2 else _CONSONANTS
    made_up = letters[byte % len(letters)]
    return made_up.upper() if char.isupper() else made_up


# The program


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(argv, Options())
    redactor = Redactor()
    return guard(lambda: _run(options, redactor), redactor)


def _run(options: Options, redactor: Redactor) -> int:
    config, entities = load(options, redactor, workers=1)
    names = [entity.name for entity in settings.select_entities(entities, options.entity)]
    _check_output(options.output)
    disguise = None
    if not options.keep_values:
        disguise = Disguise(config.api_url, secrets.token_bytes(32))
    with open_session(config, redactor) as session:
        session.sign_in()
        recorder = Recorder(session.client, redactor, disguise, options.output)
        return _record(recorder, names, options.records, redactor)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Save a small sample of each entity set as mock responses, with made-up "
        "names, texts, e-mail addresses, ids and host."
    )
    add_shared(parser, "--env-file", "--config", "--entity")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        default=Path("mock_responses"),
        help="a new or empty folder for the files (default: %(default)s)",
    )
    parser.add_argument(
        "--records",
        type=_page_size,
        metavar="N",
        default=5,
        help="records on a page (default: %(default)s)",
    )
    parser.add_argument(
        "--keep-values",
        action="store_true",
        help="save what came as it came: names, texts and ids of real people included",
    )
    add_shared(parser, "--verbose")
    return parser


def _page_size(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 5000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 5000")
    return int(text)


def _check_output(folder: Path) -> None:
    """Nothing is ever written over: mocks of two runs would not agree with each other."""
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: is not empty", "Name a new folder with --output.")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is not a folder", "Name a new folder with --output.")


class Recorder:
    """Asks for what is to be saved, as it comes, and saves it."""

    def __init__(
        self,
        client: DataverseClient,
        redactor: Redactor,
        disguise: Disguise | None,
        folder: Path,
    ) -> None:
        self.client = client
        self._redactor = redactor
        self._disguise = disguise
        self._folder = folder

    def save_page(self, request: PageRequest, records: int) -> PageRequest | None:
        """Save one page; returns what to ask for next, if there is more.

        Raises:
            EntityError: It cannot be read; what the service said is saved as an error.
        """
        answer = self.client.get_bytes(request.url, f"odata.maxpagesize={records}")
        status = answer.status
        if status != 200:
            code, message = self._save_refusal(answer, f"{status}_{request.entity}")
            raise RequestError(f"{request}: the service answered {status} {code}: {message}")
        try:
            page = odata.parse_page(request, answer.body)
            text = answer.body.decode("utf-8-sig")
        except (odata.NotJsonError, UnicodeDecodeError) as error:
            raise PageError(f"{request}: the answer is not JSON ({error})") from error
        if self._disguise is not None:
            text = self._disguise.body(text)
        self._save(f"{request.entity}_page{request.number}.json", text)
        if page.next_link is None:
            return None
        link = odata.follow(page, page.next_link)  # the token stays with its origin
        return PageRequest(request.entity, link, request.number + 1)

    def save_error(self, request: PageRequest) -> None:
        """Save what the service answers to a mistake."""
        answer = self.client.get_bytes(request.url)
        if answer.status == 200:
            raise PageError(f"{request.entity}: the service took a mistake for a question")
        self._save_refusal(answer, str(answer.status))

    def _save_refusal(self, answer: Answer, name: str) -> tuple[str, str]:
        code, message = odata.parse_error(answer.body)
        text = json.dumps({"error": {"code": code, "message": message}})
        if self._disguise is not None:
            text = self._disguise.error(code, message)
        self._save(f"error_responses/{name}.json", text)
        return code, message

    def _save(self, name: str, text: str) -> None:
        path = self._folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._redactor.redact(text).encode())
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error})") from error
        print(f"  {path}")


def _record(recorder: Recorder, names: Sequence[str], records: int, redactor: Redactor) -> int:
    """Two pages of each entity set, then the mistakes."""
    print("Saving:")
    failures: list[EntityError] = []
    readable: list[str] = []
    for name in names:
        try:
            first = PageRequest(name, odata.build_url(recorder.client.api_url, name))
            following = recorder.save_page(first, records)
            readable.append(name)
            if following is not None:
                recorder.save_page(following, records)
        except EntityError as error:
            failures.append(error)
    mistakes = [(UNKNOWN_SET, ""), *((name, UNKNOWN_COLUMN) for name in readable[:1])]
    for name, column in mistakes:
        url = odata.build_url(recorder.client.api_url, name, select=[column] if column else ())
        try:
            recorder.save_error(PageRequest(name, url))
        except EntityError as error:
            failures.append(error)
    for failure in failures:
        print(redactor.redact(f"failed: {failure}"))
    print(f"{len(readable)} of {len(names)} entity sets saved.")
    return FAILED if failures else OK


if __name__ == "__main__":
    sys.exit(main())
