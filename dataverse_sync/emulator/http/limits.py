"""Service protection: how many requests, how long, how many at once, per sliding window.

https://learn.microsoft.com/power-apps/developer/data-platform/api-limits
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass, field

from ..api.answers import ServiceError

TOO_MANY = "Number of requests exceeded the limit of {} over time window of {:g} seconds."


@dataclass(slots=True)
class Limits:
    """The limits of one user on one web server; requests over them are refused with 429."""

    in_flight: int = 52
    requests: int = 6000
    execution_s: float = 1200.0
    window_s: float = 300.0
    _lock: threading.Lock = field(init=False, repr=False, default_factory=threading.Lock)
    _began: deque[float] = field(init=False, repr=False, default_factory=deque)
    _spent: deque[tuple[float, float]] = field(init=False, repr=False, default_factory=deque)
    _running: int = field(init=False, repr=False, default=0)

    def admit(self, now: float) -> None:
        """Let a request in, to be ended by ``finish``; or raise the 429 it gets at once."""
        with self._lock:
            self._forget(now)
            self._began.append(now)
            if self._running >= self.in_flight:
                text = f"Number of concurrent requests exceeded the limit of {self.in_flight}."
                raise _refused("0x80072326", text, 1)
            excess = len(self._began) - self.requests
            if excess > 0:
                wait_s = self._began[excess - 1] + self.window_s - now
                text = TOO_MANY.format(self.requests, self.window_s)
                raise _refused("0x80072322", text, wait_s)
            if self._execution_s > self.execution_s:
                raise _refused(
                    "0x80072321",
                    "Combined execution time of incoming requests exceeded limit of"
                    f" {self.execution_s * 1000:g} milliseconds over time window of"
                    f" {self.window_s:g} seconds. Decrease number of concurrent requests or"
                    " reduce the duration of requests and try again later.",
                    self._wait_for_execution(now),
                )
            self._running += 1

    def finish(self, began_at: float, now: float) -> None:
        with self._lock:
            self._running -= 1
            self._spent.append((now, now - began_at))

    def headers(self, now: float) -> list[tuple[str, str]]:
        with self._lock:
            self._forget(now)
            requests = max(0, self.requests - len(self._began))
            time_s = max(0.0, self.execution_s - self._execution_s)
        return [
            ("x-ms-ratelimit-burst-remaining-xrm-requests", str(requests)),
            ("x-ms-ratelimit-time-remaining-xrm-requests", f"{time_s:,.2f}"),
        ]

    @property
    def _execution_s(self) -> float:
        return sum(spent for _, spent in self._spent)

    def _wait_for_execution(self, now: float) -> float:
        over, wait = self._execution_s - self.execution_s, 0.0
        for ended_at, spent in self._spent:
            if over <= 0:
                break
            over -= spent
            wait = ended_at + self.window_s - now
        return wait

    def _forget(self, now: float) -> None:
        start = now - self.window_s
        while self._began and self._began[0] <= start:
            self._began.popleft()
        while self._spent and self._spent[0][0] <= start:
            self._spent.popleft()


def _refused(code: str, message: str, wait_s: float) -> ServiceError:
    return ServiceError(429, code, message, [("Retry-After", str(max(1, math.ceil(wait_s))))])
