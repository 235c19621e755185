"""From a request to the bytes that leave: the log, faults, limits, headers, compression."""

from __future__ import annotations

import gzip
import secrets
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import format_datetime

from ..api.answers import Answer, ServiceError
from ..api.options import MAX_URL
from ..api.service import Service
from .faults import IN_PAGE, INSTEAD, Fault, Faults, answer_instead, change_page
from .limits import Limiter
from .request_log import API_PATH, Headers, LoggedRequest, classify

_WORTH_COMPRESSING = 256


@dataclass(frozen=True, slots=True)
class Reply:
    """What is sent, and the fault that befalls it on the way."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    fault: Fault | None = None


class Exchange:
    """Answers requests from any number of threads; knows how many are being answered."""

    def __init__(
        self,
        service: Service,
        *,
        limiter: Limiter | None = None,
        latency_s: float = 0.0,
        gzip_answers: bool = True,
    ) -> None:
        self.log: list[LoggedRequest] = []
        self.faults = Faults()
        self.on_request: Callable[[LoggedRequest], object] | None = None
        self.latency_s = latency_s
        self.most_in_flight = 0
        self.stopping = threading.Event()
        self.service = service
        self._limiter = limiter
        self._gzip = gzip_answers
        self._lock = threading.Lock()
        self._in_flight = 0
        self._admitted: set[int] = set()  # of the requests that the limits let in
        self._last_page: dict[str, list[bytes]] = {}
        self._affinity = secrets.token_hex(32)

    def begin(self, method: str, target: str, headers: Headers) -> LoggedRequest:
        request = LoggedRequest.of(method, target, headers)
        table = self.service.env.find_set(request.entity_set or "")
        thin = {table.spec.key, "modifiedon", "versionnumber"} if table else None
        request.kind = classify(request, thin)
        with self._lock:
            self.log.append(request)
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
        return request

    def end(self, request: LoggedRequest) -> None:
        """Called before the last byte is sent: the client's next request must not meet this one."""
        with self._lock:
            if request.ended_at is not None:
                return
            request.ended_at = time.monotonic()
            self._in_flight -= 1
            admitted = id(request) in self._admitted
            self._admitted.discard(id(request))
        if self._limiter and admitted:
            self._limiter.finish(request.began_at, request.ended_at)

    def reply(self, request: LoggedRequest, body: bytes, origin: str) -> Reply:
        if self.on_request is not None:
            self.on_request(request)
        fault = self.faults.take(request.method, request.target)
        request.fault = fault.kind if fault else None
        answer = self._refused(request, fault)
        if answer is None:
            self.stopping.wait(self.latency_s)
            if fault and fault.kind == "stall":
                self.stopping.wait(fault.details.get("seconds", 1.0))
            answer = self._answer(request, body, origin, fault)
        request.status, request.records = answer.status, answer.records
        request.retry_after = dict(answer.headers).get("Retry-After")
        return self._reply(request, answer, fault)

    def _refused(self, request: LoggedRequest, fault: Fault | None) -> Answer | None:
        instead = fault and fault.kind in INSTEAD
        if self._limiter is None or instead or not API_PATH.fullmatch(request.path):
            return None
        try:
            self._limiter.admit(time.monotonic())
        except ServiceError as refusal:
            return refusal.answer()
        with self._lock:
            self._admitted.add(id(request))
        return None

    def _answer(
        self, request: LoggedRequest, body: bytes, origin: str, fault: Fault | None
    ) -> Answer:
        if fault and fault.kind in INSTEAD:
            return answer_instead(fault)
        if len(request.target) > MAX_URL:
            return Answer(414, b"<h2>URI Too Long</h2>", "text/html; charset=us-ascii")
        answer = self.service.answer(request, body, origin)
        if answer.page is not None:
            page, before = answer.page, self._last_page.get(answer.page.entity_set, [])
            self._last_page[page.entity_set] = page.records
            if fault and fault.kind in IN_PAGE:
                change_page(
                    fault,
                    page,
                    origin + request.target,
                    before,
                    lambda: self.service.same_place(request, origin),
                )
                answer.records = len(page.records)
        return answer

    def _reply(self, request: LoggedRequest, answer: Answer, fault: Fault | None) -> Reply:
        payload = answer.payload()
        headers = [("Date", format_datetime(self.service.env.clock.now(), usegmt=True))]
        if answer.content_type:
            headers.append(("Content-Type", answer.content_type))
        if API_PATH.fullmatch(request.path):
            headers += self._service_headers()
        headers += answer.headers
        if fault and fault.kind == "bad_gzip":
            headers.append(("Content-Encoding", "gzip"))
            payload = b"\x1f\x8b\x08\x00" + payload[: len(payload) // 2]
        elif (
            self._gzip
            and len(payload) >= _WORTH_COMPRESSING
            and "gzip" in request.headers.get("Accept-Encoding", "")
        ):
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
        if self._limiter:
            headers += self._limiter.headers(time.monotonic())
        return headers
