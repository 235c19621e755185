"""The gate that all requests pass: bounds how many are in flight, and closes on a 429."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class StoppedError(Exception):
    """The run is ending, so no further request is sent."""


class Throttle:
    """The gate of a run.

    A 429 closes it for as long as the service says and halves the requests in
    flight; they come back one by one as answers arrive. The 429s to what was on its
    way already when the first of them came are of the same burst: they halve no more.
    """

    def __init__(
        self,
        limit: int,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Condition, float | None], object] = threading.Condition.wait,
    ) -> None:
        self.limit = limit  # of requests in flight
        self.waited_s = 0.0  # how long the gate was closed, all told
        self.allowed = limit  # how many may be in flight now
        self.in_flight = 0
        self._streak = 0
        self._closed_until = 0.0
        self._bursts = 0
        self._sent = threading.local()  # after which burst this thread's request went out
        self._stopped = False
        self._clock = clock
        self._wait = wait
        self._condition = threading.Condition()

    def enter(self) -> None:
        """Wait for the gate and for a place, and take it."""
        with self._condition:
            while True:
                self._check()
                closed_s = self._closed_until - self._clock()
                if closed_s > 0:
                    self._wait(self._condition, closed_s)
                elif self.in_flight >= self.allowed:
                    self._wait(self._condition, None)
                else:
                    self.in_flight += 1
                    self._sent.after = self._bursts
                    return

    def leave(self, answered: bool) -> None:
        """Give the place back; an answer lets the others climb back towards the limit."""
        with self._condition:
            self.in_flight -= 1
            if answered and self.allowed < self.limit:
                self._streak += 1
                if self._streak >= self.allowed:
                    self.allowed, self._streak = self.allowed + 1, 0
            self._condition.notify_all()

    def close(self, wait_s: float) -> None:
        """Close the gate for everyone, because this thread's request was answered 429."""
        with self._condition:
            now = self._clock()
            if getattr(self._sent, "after", self._bursts) == self._bursts:
                self._bursts += 1
                self.allowed = max(1, min(self.allowed, self.in_flight) // 2)
                self._streak = 0
            until = max(self._closed_until, now + wait_s)
            self.waited_s += until - max(self._closed_until, now)
            self._closed_until = until

    def sleep(self, seconds: float) -> None:
        """Wait without giving the place back, and for the gate if it is closed then."""
        with self._condition:
            until = self._clock() + seconds
            while (left := max(until, self._closed_until) - self._clock()) > 0:
                self._check()
                self._wait(self._condition, left)
            self._check()
            self._sent.after = self._bursts

    def stop(self) -> None:
        """Let no request pass any more; threads that wait raise ``StoppedError``."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def _check(self) -> None:
        if self._stopped:
            raise StoppedError
