"""Tell a webhook how a run went: its summary as JSON, within a time limit, never failing the run.

The address is the user's, not Dataverse: nothing is shared with the run's own requests. It may
itself be a secret, as a chat's incoming webhooks are: no more than its scheme and host is logged.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from dataverse_sync.config import is_loopback
from dataverse_sync.model import EntityReport, SyncReport
from dataverse_sync.moments import to_text
from dataverse_sync.show.text import format_result
from dataverse_sync.version import __version__

TIMEOUT_S = 10.0  # for all of it: the name lookup, both attempts, a receiver that is slow
RETRY_AFTER_S = 1.0
_SHARE = 0.9  # of the time limit, for the requests: their own word on what went wrong is better
_RETRIED = (408, 429, 500, 502, 503, 504)
_NEVER = datetime.min.replace(tzinfo=UTC)  # stands for the moments of a run that ended early
_THREAD = "dataverse-notify"
# What urllib3 logs of the requests holds the address's path.
_WIRE_LOGS = ("urllib3.connection", "urllib3.connectionpool", "urllib3.util.retry")

log = logging.getLogger(__name__)


def find_url_problem(url: str) -> str | None:
    """Say why a notification cannot be sent there, without naming the address."""
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
    """Build one JSON document about a run, of the same shape however it ended.

    A run that ended early has no report, but an error without secrets, and its moments are null.
    ``text`` is what chat tools show.
    """
    ok = report is not None and report.ok and error is None
    run = report or SyncReport("", _NEVER, _NEVER, ())
    said = [
        f"dataverse_sync {'completed' if ok else 'failed'}",
        error,
        format_result(report) if report else None,
        *(entity.error for entity in run.failed),
    ]
    return {
        "program": "dataverse_sync",
        "version": __version__,
        "text": "\n".join(part for part in said if part),
        "ok": ok,
        "run_id": run.run_id or None,
        "started_at": report and to_text(run.started_at),
        "finished_at": report and to_text(run.finished_at),
        "duration_s": report and round((run.finished_at - run.started_at).total_seconds(), 3),
        "totals": asdict(run.totals),
        "requests": run.requests,
        "bytes_read": run.bytes_read,
        "waited_s": round(run.waited_s, 3),
        "entities": [_describe_entity(entity) for entity in run.entities],
        "drift": [
            asdict(item) | {"severity": item.severity, "text": str(item)} for item in run.drift
        ],
        "notes": dict(run.notes),
        "error": error,
    }


def _describe_entity(entity: EntityReport) -> dict[str, Any]:
    spent = {"requests": entity.requests, "duration_s": round(entity.seconds, 3)}
    named = {"name": entity.name, "state": entity.state}
    return {**named, **asdict(entity.counts), **spent, "error": entity.error}


def send_notification(url: str, report: SyncReport | None, error: str | None) -> None:
    """Post a run's summary, within ten seconds; a failure is logged as a warning, never raised.

    Sent again after a second if the receiver could not be reached or was busy. Not sent
    again if it does not answer, since it may have heard.
    """
    problem = find_url_problem(url) or _post_in_time(url, build_summary(report, error))
    if problem:
        log.warning("the notification to %s was not sent: %s", _name_host(url), problem)


def _post_in_time(url: str, document: dict[str, Any]) -> str | None:
    """Post on a thread, which is left behind if it takes too long.

    A timeout of requests counts from byte to byte, and does not apply to a name lookup.
    """
    result: list[str | None] = [f"it took longer than {TIMEOUT_S:g} s"]
    loggers = [logging.getLogger(name) for name in _WIRE_LOGS]

    def run() -> None:
        for logger in loggers:
            logger.addFilter(_is_of_another_thread)
        try:
            result[0] = _post(url, document, time.monotonic() + TIMEOUT_S * _SHARE)
        except Exception as error:  # whatever it is, the run's own outcome stands
            result[0] = type(error).__name__  # not its text, which may hold the address
        finally:
            for logger in loggers:
                logger.removeFilter(_is_of_another_thread)

    thread = threading.Thread(target=run, name=_THREAD, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    return result[0]


def _post(url: str, document: dict[str, Any], until: float) -> str | None:
    """Post, and once more if that may help; returns why it did not arrive."""
    with requests.Session() as session:
        session.mount("https://", _SystemTrust())
        # With no authentication at all, requests would look for one in a .netrc file.
        own = requests.utils.get_auth_from_url(url)
        session.auth = own if any(own) else lambda request: request
        problem, is_temporary = _attempt(session, url, document, until)
        if is_temporary and until - time.monotonic() > RETRY_AFTER_S:
            time.sleep(RETRY_AFTER_S)
            problem, _ = _attempt(session, url, document, until)
    return problem


def _attempt(
    session: requests.Session, url: str, document: dict[str, Any], until: float
) -> tuple[str | None, bool]:
    """Post once; returns why it did not arrive, and whether to try again."""
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
    status = response.status_code
    if status < 300:
        return None, False
    note = ", and redirects are not followed" if status < 400 else ""
    return f"it answered {status}{note}", status in _RETRIED


class _SystemTrust(HTTPAdapter):
    """Verifies certificates against the system's trust store too, where company roots are."""

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:
        import truststore

        host, tls = super().build_connection_pool_key_attributes(*args, **kwargs)
        return host, {**tls, "ssl_context": truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}


def _is_of_another_thread(record: logging.LogRecord) -> bool:
    return record.threadName != _THREAD


def _name_host(url: str) -> str:
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.hostname:
            return f"{parts.scheme}://{parts.hostname}"
    return "that address"
