"""Speak OData: build the query for an entity, read a page out of an answer.

Pure functions over strings and bytes: no network, no clock, no SQL.

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/query/page-results
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote, unquote, urlencode, urljoin, urlsplit
from uuid import uuid4

import msgspec

from dataverse_sync.config import is_loopback
from dataverse_sync.errors import PageError
from dataverse_sync.model import Entity, Page, PageRequest

LOOKUP_TARGET = "Microsoft.Dynamics.CRM.lookuplogicalname"
IDS_PER_REQUEST = 50  # keeps a URL far below the 32 KB and 500 conditions of the service
_GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_TOKEN_VERSION = re.compile(r"deltatoken=(\d{1,20})(?=$|[!&])")
_SAFE = "(),:;=@/'$*"  # what a query may hold as it is (RFC 3986), kept readable in logs
SET_API_URL = "Set DATAVERSE_API_URL to the address the service uses in its own links."


# Queries


def build_url(
    api_url: str,
    path: str,
    *,
    select: Sequence[str] = (),
    filter: str = "",
    orderby: str = "",
    top: int | None = None,
    expand: str = "",
) -> str:
    """The URL of a query; ``path`` is an entity set, options are left out where empty."""
    options = {
        "$select": ",".join(select),
        "$filter": filter,
        "$orderby": orderby,
        "$top": "" if top is None else str(top),
        "$expand": expand,
    }
    query = urlencode({k: v for k, v in options.items() if v}, safe=_SAFE, quote_via=quote)
    return api_url + path + (f"?{query}" if query else "")


def changed_since(bookmark: str | None) -> str:
    """The ``$filter`` of an incremental read; empty for a full one."""
    return f"modifiedon gt {bookmark}" if bookmark else ""


def is_guid(value: object) -> bool:
    return isinstance(value, str) and _GUID.fullmatch(value) is not None


def any_of(key: str, ids: Iterable[str]) -> str:
    """The filter for a batch of records by id, guids bare; only guids are ever let in."""
    return " or ".join(f"{key} eq {record_id}" for record_id in ids if is_guid(record_id))


def iter_batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), IDS_PER_REQUEST):
        yield ids[start : start + IDS_PER_REQUEST]


def orders(entity: Entity) -> tuple[str, ...]:
    """The orders to try, best first: a unique order repeats and skips nothing.

    The service refuses some orders on some tables (junction tables above all), so the
    next is tried; the last is to ask for no order.
    """
    fallbacks = [name for name in ("createdon", "modifiedon") if entity.has(name)]
    return (entity.key, *fallbacks, "")


# Answers


class _Envelope(msgspec.Struct):
    value: list[msgspec.Raw]
    next_link: str | None = msgspec.field(default=None, name="@odata.nextLink")
    delta_link: str | None = msgspec.field(default=None, name="@odata.deltaLink")
    context: str = msgspec.field(default="", name="@odata.context")
    error: msgspec.Raw = msgspec.Raw()


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a whole pair
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",  # half a pair, or another escape
    re.DOTALL,
)


class NotJsonError(Exception):
    """The body is not JSON, or ends early: worth asking again."""


def parse_page(request: PageRequest, body: bytes | memoryview) -> Page:
    """Split an answer into its records, each with its own bytes; nothing is decoded."""
    if body[:3] == codecs.BOM_UTF8:
        body = bytes(body[3:])  # a view of a view would not keep the body from being used again
    try:
        try:
            envelope = _decode_envelope(body)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            envelope = _decode_masked(body)
    except msgspec.ValidationError as error:
        raise _not_a_page(request, body) from error
    except msgspec.DecodeError as error:
        raise NotJsonError(str(error)) from error
    except RecursionError as error:
        raise PageError(f"{request}: the answer is nested too deep to be a record") from error
    if bytes(envelope.error) not in (b"", b"null"):
        raise _not_a_page(request, body)
    links = envelope.next_link, envelope.delta_link
    return Page(request, tuple(envelope.value), *links, envelope.context, size=len(body))


def _decode_masked(body: bytes | memoryview) -> _Envelope:
    """Mask lone surrogates, which JSON allows and msgspec refuses, while a body is split."""
    mask = uuid4().hex.encode()
    masked = _ESCAPE.sub(lambda found: mask + found[1] if found[1] else found[0], body)
    envelope = _decode_envelope(masked)
    envelope.value = [msgspec.Raw(bytes(raw).replace(mask, b"\\")) for raw in envelope.value]
    return envelope


def _not_a_page(request: PageRequest, body: bytes | memoryview) -> PageError:
    """The error for JSON that is not a page: an error under status 200, or something else."""
    code, message = _find_error(body) or ("", "")
    if said := ": ".join(filter(None, [code, message[:500].rstrip(".")])):
        return PageError(
            f"{request}: the service answered 200 and an error in it ({said})",
            hint="Run again later; it goes on from the last committed page.",
        )
    return PageError(
        f"{request}: the answer has no 'value' array of records",
        hint="Does DATAVERSE_API_URL end in /api/data/v9.2/?",
    )


def parse_document(request: PageRequest, body: bytes | memoryview) -> Page:
    """An answer that is one JSON document: a page with that as its only record."""
    try:
        msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise NotJsonError(str(error)) from error
    return Page(request, (msgspec.Raw(body),), size=len(body))


def parse_error(body: bytes) -> tuple[str, str]:
    """The service's own code and message, from a body that may be JSON, HTML or empty."""
    if found := _find_error(body):
        return found
    text = re.sub(r"<[^>]*>", " ", body[:2000].decode(errors="replace"))
    return "", " ".join(text.split())[:200]


def _find_error(body: bytes | memoryview) -> tuple[str, str] | None:
    """The code and message of the member ``error`` of a JSON object; None without one."""
    try:
        error = json.loads(str(body, "utf-8-sig"))["error"]
        return str(error.get("code") or ""), str(error.get("message") or "").strip()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def is_older_token(link: str | None, than: str) -> bool:
    """Whether the version in a delta link is lower than in another; False if either has none."""
    found = [_TOKEN_VERSION.search(unquote(text or "")) for text in (link, than)]
    return all(found) and int(found[0][1]) < int(found[1][1])  # type: ignore[index]


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: what must be equal before a token is sent."""
    parts = urlsplit(url)
    default = {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme.lower(), (parts.hostname or "").lower(), parts.port or default


def find_other_api_url(address: str, api_url: str) -> str | None:
    """The root of the API by an address below it, if it is another origin than ``api_url``.

    None also if it could not be a ``DATAVERSE_API_URL``: no host, or http beyond this machine.
    """
    try:
        parts = urlsplit(address)
        scheme, host, port = origin(address)
        if not host or (scheme, host, port) == origin(api_url):
            return None
    except ValueError:  # the port is not a number, or the host not a host
        return None
    if scheme != "https" and not (scheme == "http" and is_loopback(address)):
        return None
    netloc = parts.netloc.rpartition("@")[2]
    return f"{scheme}://{netloc}{parts.path.rpartition('/')[0]}/"


def suggest_api_url(address: str, api_url: str) -> str:
    """What to set if the service names another address than the one configured."""
    found = find_other_api_url(address, api_url)
    if found is None or len(found) > 200:
        return SET_API_URL
    return f"If that is an address of this environment, set DATAVERSE_API_URL to {found}"


def follow(page: Page, link: str) -> str:
    """Check that a link leads to the origin it came from, and was not just asked for."""
    asked = page.request.url
    try:
        link = link if "://" in link else urljoin(asked, link)
        same = origin(link) == origin(asked)
    except ValueError:  # the port is not a number, or the host not a host
        same = False
    if same and link != asked:
        return link
    if same:
        message = f"{page.request}: the next link repeats the page itself"
        hint = "The service would be read in a circle. Run again later; if it stays, report it."
    else:
        leads_to = link.partition("?")[0][:100]
        message = f"{page.request}: the next link leads to another origin: {leads_to}"
        hint = f"The token is not sent there. {suggest_api_url(link, asked)}"
    raise PageError(message, hint, requests=page.requests)
