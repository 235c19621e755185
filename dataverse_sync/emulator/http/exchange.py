"""From a request to the bytes that leave: the log, faults, limits, headers, compression."""

from __future__ import annotations

import gzip
import secrets
import threading
import time
import uuid
from dataclasses import dataclass
from email.message import Message
from email.utils import format_datetime

from ..api.answers import Answer, ServiceError
from ..api.query import API_PATH
from ..api.service import Service
from .faults import IN_PAGE, INSTEAD, Fault, answer_instead, change_page, take_fault
from .request_log import LoggedRequest, classify
from .signin import SignIn

_WORTH_COMPRESSING = 256


@dataclass(frozen=True, slots=True)
class Reply:
    """The bytes to send, and the fault that strikes them on the way."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    fault: Fault | None = None


class Exchange:
    """Answers requests from any number of threads; logs them."""

    def __init__(self, service: Service, signin: SignIn, log: list[LoggedRequest]) -> None:
        self.stopping = threading.Event()
        self._service = service
        self._signin = signin
        self._store = service.backend.store
        self._control = service.backend.control
        self._log = log
        self._lock = threading.Lock()
        self._in_flight = 0
        self._last_page: dict[str, list[bytes]] = {}
        self._affinity = secrets.token_hex(32)

    def begin(self, method: str, target: str, headers: Message) -> LoggedRequest:
        request = LoggedRequest.of(method, target, headers)
        table = self._store.tables.get(request.entity_set or "")
        thin = {table.spec.key, "modifiedon", "versionnumber"} if table else None
        request.kind = classify(request, thin)
        with self._lock:
            self._in_flight += 1
            request.in_flight = self._in_flight
            self._log.append(request)
        return request

    def end(self, request: LoggedRequest) -> None:
        """Note the end before the last byte is sent, so that the next request does not overlap."""
        with self._lock:
            if request.ended_at is not None:
                return
            request.ended_at = time.monotonic()
            self._in_flight -= 1
        if self._control.limits and request.admitted:
            self._control.limits.finish(request.began_at, request.ended_at)

    def reply(self, request: LoggedRequest, body: bytes, origin: str) -> Reply:
        if self._control.on_request is not None:
            self._control.on_request(request)
        with self._lock:
            fault = take_fault(self._control.faults, request.method, request.target)
        request.fault = fault.kind if fault else None
        answer = self._refused(request, fault)
        if answer is None:
            self.stopping.wait(self._control.latency_s)
            if fault and fault.kind == "stall":
                self.stopping.wait(fault.details.get("seconds", 1.0))
            answer = self._answer(request, body, origin, fault)
        request.status = answer.status
        request.records = len(answer.page.records) if answer.page else 0
        request.retry_after = dict(answer.headers).get("Retry-After")
        return self._reply(request, answer, fault)

    def _refused(self, request: LoggedRequest, fault: Fault | None) -> Answer | None:
        instead = fault and fault.kind in INSTEAD
        if self._control.limits is None or instead or not API_PATH.fullmatch(request.path):
            return None
        try:
            self._control.limits.admit(time.monotonic())
        except ServiceError as refusal:
            return refusal.answer()
        request.admitted = True
        return None

    def _answer(
        self, request: LoggedRequest, body: bytes, origin: str, fault: Fault | None
    ) -> Answer:
        if fault and fault.kind in INSTEAD:
            return answer_instead(fault)
        if not API_PATH.fullmatch(request.path):
            return self._signin.answer(request.method, request.path, body, origin)
        if not self._signin.accepts(request.headers.get("Authorization", "")):
            return self._signin.challenge(origin)
        asked = (request.target, request.prefer, origin)
        answer = self._service.answer(request.method, *asked)
        if answer.page is not None:
            page, before = answer.page, self._last_page.get(answer.page.entity_set, [])
            self._last_page[page.entity_set] = page.records
            if fault and fault.kind in IN_PAGE:
                change_page(fault, page, before, lambda: self._service.same_page(*asked))
        return answer

    def _reply(self, request: LoggedRequest, answer: Answer, fault: Fault | None) -> Reply:
        payload = answer.payload()
        headers = [("Date", format_datetime(self._store.clock.now(), usegmt=True))]
        if answer.content_type:
            headers.append(("Content-Type", answer.content_type))
        if API_PATH.fullmatch(request.path):
            headers += self._service_headers()
        headers += answer.headers
        accepted = request.headers.get("Accept-Encoding", "")
        if len(payload) >= _WORTH_COMPRESSING and "gzip" in accepted:
            payload = gzip.compress(payload, compresslevel=1, mtime=0)
            headers += [("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")]
        return Reply(answer.status, tuple(headers), payload, fault)

    def _service_headers(self) -> list[tuple[str, str]]:
        request_id = str(uuid.uuid4())
        headers = [
            ("Cache-Control", "no-cache"),
            ("OData-Version", "4.0"),
            ("x-ms-service-request-id", request_id),
            ("REQ_ID", request_id),
            ("x-ms-dop-hint", "4"),
            # Without Secure, so that a client that keeps cookies shows it over http too.
            ("Set-Cookie", f"ARRAffinity={self._affinity}; Path=/; HttpOnly"),
        ]
        if self._control.limits:
            headers += self._control.limits.headers(time.monotonic())
        return headers
