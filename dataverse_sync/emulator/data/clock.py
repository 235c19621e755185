"""The emulator's own clock, so that a test need not wait for a token or a week to pass."""

from __future__ import annotations

import datetime as dt
import threading


class Clock:
    """Follows real time; given a start, it stands still there until it is moved."""

    def __init__(self, start: dt.datetime | None = None) -> None:
        self._lock = threading.Lock()
        self._still = start
        self._offset = dt.timedelta()

    def now(self) -> dt.datetime:
        with self._lock:
            if self._still is not None:
                return self._still
            return dt.datetime.now(dt.UTC) + self._offset

    def advance(self, seconds: float) -> None:
        step = dt.timedelta(seconds=seconds)
        with self._lock:
            if self._still is not None:
                self._still += step
            else:
                self._offset += step

    def set(self, moment: dt.datetime) -> None:
        """From now on it is ``moment``; a clock that follows real time goes on from there."""
        with self._lock:
            if self._still is not None:
                self._still = moment
            else:
                self._offset = moment - dt.datetime.now(dt.UTC)
