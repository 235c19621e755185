"""Tell a webhook how a run went: its summary as JSON, within a time limit, never failing the run.

Uses requests although only ``auth`` and ``dataverse_client`` do else: it talks to an
address that the user gave, not to Dataverse, so it has no part in the run's session,
retries, throttling or token, and carries none of its secrets. The address may itself be
a secret, as a chat's incoming webhooks are: no more than its scheme and host is logged.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from dataverse_sync.config import is_loopback
from dataverse_sync.model import Counts, Drift, EntityReport, SyncReport
from dataverse_sync.show.text import format_result
from dataverse_sync.version import __version__

DEFAULT_TIMEOUT_S = 10.0
RETRY_AFTER_S = 1.0
_SHARE = 0.9  # of the time limit, for the requests: their own word on what went wrong is better
_RETRIED = (408, 429, 500, 502, 503, 504)

log = logging.getLogger(__name__)


def find_url_problem(url: str) -> str | None:
    """Why a notification cannot be sent there; None where it can be tried.

    Returns:
        A sentence that does not hold the address itself.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "the address is not a URL"
    if parts.scheme not in ("http", "https") or not host:
        return "the address does not begin with https:// and a host"
    if parts.scheme == "http" and not is_loopback(url):
        return "the address begins with http://, which is accepted only for this machine"
    return None


def build_summary(report: SyncReport | None, error: str | None) -> dict[str, Any]:
    """A run as one JSON document, of the same shape however it ended.

    Args:
        report: What the run did; None where it ended early.
        error: Why it ended early, secrets already taken out; None where it did not.

    Returns:
        ``text`` is the run in one line, which chat tools show as it is. Moments are
        UTC, ISO 8601; null in a run that ended early.
    """
    ok = report is not None and report.ok and error is None
    return {
        "program": "dataverse_sync",
        "version": __version__,
        "text": _build_text(report, error, ok),
        "ok": ok,
        "run_id": report.run_id if report else None,
        "started_at": _to_text(report.started_at) if report else None,
        "finished_at": _to_text(report.finished_at) if report else None,
        "duration_s": _duration_s(report) if report else None,
        "totals": asdict(report.totals if report else Counts()),
        "requests": report.requests if report else 0,
        "bytes_read": report.bytes_read if report else 0,
        "waited_s": round(report.waited_s, 3) if report else 0.0,
        "entities": [_build_entity(entity) for entity in report.entities] if report else [],
        "drift": [_build_drift(item) for item in report.drift] if report else [],
        "notes": dict(report.notes) if report else {},
        "error": error,
    }


def _build_text(report: SyncReport | None, error: str | None, ok: bool) -> str:
    said = [error] if error else []
    if report is not None:
        said.append(format_result(report))
        said += [entity.error for entity in report.failed if entity.error]
    outcome = "completed" if ok else "failed"
    return "\n".join([f"dataverse_sync {outcome}", *said])


def _build_entity(entity: EntityReport) -> dict[str, Any]:
    return {
        "name": entity.name,
        "state": entity.state,
        **asdict(entity.counts),
        "requests": entity.requests,
        "duration_s": round(entity.seconds, 3),
        "error": entity.error,
    }


def _build_drift(item: Drift) -> dict[str, Any]:
    return {**asdict(item), "severity": item.severity, "text": str(item)}


def _to_text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _duration_s(report: SyncReport) -> float:
    return round((report.finished_at - report.started_at).total_seconds(), 3)


def send_notification(
    url: str,
    report: SyncReport | None,
    error: str | None,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> None:
    """Post a run's summary; what goes wrong is logged as a warning, never raised.

    Sent once, and once more after a second where the receiver could not be reached or
    was busy. After an answer that does not come, not again: it may have been heard.

    Args:
        url: The webhook: https, or http on loopback. Redirects are not followed.
        report: What the run did; None where it ended early.
        error: Why it ended early, secrets already taken out.
        timeout_s: Everything ends within this: the name lookup, both attempts, a receiver
            that answers a byte at a time.
    """
    problem = find_url_problem(url)
    if problem is None:
        document = build_summary(report, error)
        problem = _run_within(timeout_s, lambda until: _post(url, document, until))
    if problem is not None:
        log.warning("the notification to %s was not sent: %s", _describe(url), problem)


def _run_within(timeout_s: float, work: Callable[[float], str | None]) -> str | None:
    """Do this on a thread that is left behind where it takes too long.

    A timeout of requests counts from byte to byte, and not for name lookups at all.
    """
    result: list[str | None] = [f"it took longer than {timeout_s:g} s"]

    def run() -> None:
        try:
            with _without_wire_log():
                result[0] = work(time.monotonic() + timeout_s * _SHARE)
        except Exception as error:  # whatever it is, the run's own outcome stands
            result[0] = type(error).__name__  # not its text, which may hold the address

    thread = threading.Thread(target=run, name="dataverse-notify", daemon=True)
    thread.start()
    thread.join(timeout_s)
    return result[0]


def _post(url: str, document: dict[str, Any], until: float) -> str | None:
    """Try twice at most; returns why it did not arrive, or None where it did."""
    with requests.Session() as session:
        session.mount("https://", _SystemTrust())
        # With none given, requests would take one from a .netrc file.
        own = requests.utils.get_auth_from_url(url)
        session.auth = own if any(own) else _no_auth
        problem, is_worth_a_retry = _attempt(session, url, document, until)
        if is_worth_a_retry and until - time.monotonic() > RETRY_AFTER_S:
            time.sleep(RETRY_AFTER_S)
            problem, _ = _attempt(session, url, document, until)
    return problem


def _attempt(
    session: requests.Session, url: str, document: dict[str, Any], until: float
) -> tuple[str | None, bool]:
    try:
        response = session.post(
            url,
            json=document,
            headers={"User-Agent": f"dataverse_sync/{__version__}"},
            # A proxy cannot reach this machine's loopback.
            proxies={"http": "", "https": ""} if is_loopback(url) else None,
            timeout=max(0.01, until - time.monotonic()),
            allow_redirects=False,
            stream=True,  # the status says all; a long body is not waited for
        )
    except requests.exceptions.SSLError:
        return "its certificate was not accepted", False
    except requests.exceptions.ReadTimeout:
        return "it did not answer in time", False
    except requests.exceptions.ConnectionError:  # refused, reset, an unknown name, too slow
        return "it cannot be reached", True
    response.close()
    if 300 <= response.status_code < 400:
        return f"it answered {response.status_code}, and redirects are not followed", False
    if not response.ok:
        return f"it answered {response.status_code}", response.status_code in _RETRIED
    return None, False


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


class _SystemTrust(HTTPAdapter):
    """Verifies certificates against the system's trust store too, where company roots are."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=_make_context(), **kwargs)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=_make_context(), **kwargs)


def _make_context() -> ssl.SSLContext:
    import truststore

    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@contextmanager
def _without_wire_log() -> Iterator[None]:
    """Keep urllib3 from logging this thread's request line, which holds the address's path."""
    here = threading.get_ident()

    def is_other(record: logging.LogRecord) -> bool:
        return record.thread != here

    with ExitStack() as stack:
        for name in ("urllib3.connectionpool", "urllib3.util.retry"):
            logger = logging.getLogger(name)
            logger.addFilter(is_other)
            stack.callback(logger.removeFilter, is_other)
        yield


def _describe(url: str) -> str:
    """The scheme and host of an address: its path and query may be the webhook's secret."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname}" if parts.hostname else "that address"
    except ValueError:
        return "that address"
