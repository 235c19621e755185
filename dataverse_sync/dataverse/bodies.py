"""Memory for the bodies of pages: a limit on bytes held at once, and maps that are used again.

Freed memory that came from ``malloc`` stays with the thread that asked for it: 50 tables with
pages of 20 MB peak at 280 MB with anonymous maps, and at 650 MB with bytearrays. The system
clears a new map, so the map of a page that is gone takes another page: without that, the first
sync of a table of 180 columns takes 5 % longer.
"""

from __future__ import annotations

import mmap
import sys
import threading
import weakref
from contextlib import suppress

from urllib3.response import BaseHTTPResponse

from dataverse_sync.dataverse.throttle import StoppedError

PAGES_HELD = 32 * 2**20  # bytes of JSON between a body and the writing of its rows
LARGEST_PAGE = 48 * 2**20  # bytes of JSON; two pages and their rows fit in 400 MB
LARGEST_RECORD = 256 * 2**20  # bytes of a page that cannot be made smaller
MAPS_KEPT = PAGES_HELD // 2  # bytes of maps without a page; one of any size is always kept
_CHUNK = 2**18


class TooLargeError(Exception):
    """A body is larger than a page of so many records may be."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit  # bytes
        self.hint = (
            "One record is larger than a page may be: take the table out of the configuration."
            if limit == LARGEST_RECORD
            else "Read fewer records at once: --page-size."
        )


class PageBudget:
    """Bounds the bytes of pages held at once.

    Two pages of any size always fit: one being stored and one on its way.
    """

    def __init__(self, limit: int = PAGES_HELD) -> None:
        self._limit = limit
        self._held = 0
        self._pages = 0
        self._stopped = False
        self._condition = threading.Condition()

    def acquire(self, size: int) -> None:
        """Wait until a page of this size fits, and reserve its bytes."""
        with self._condition:
            while self._pages > 1 and self._held + size > self._limit:
                if self._stopped:
                    raise StoppedError
                self._condition.wait()
            self._pages += 1
            self._held += size

    def adjust(self, difference: int) -> None:
        """Replace a reservation by the actual size: add actual less reserved."""
        with self._condition:
            self._held += difference
            self._condition.notify_all()

    def release(self, size: int) -> None:
        """Give a page and its bytes back."""
        with self._condition:
            self._pages -= 1
            self._held -= size
            self._condition.notify_all()

    def stop(self) -> None:
        """Make threads that wait raise ``StoppedError``: the run is ending."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()


class BodyMaps:
    """Maps for bodies, for any thread; those of pages that are gone are kept for others."""

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []
        self._lock = threading.RLock()  # a map may come back to the thread that is taking one

    def take(self, size: int) -> mmap.mmap:
        """A map of at least this size, whatever is written in it."""
        with self._lock:
            for at, body in enumerate(self._free):
                if size <= len(body) <= 2 * max(size, _CHUNK):
                    return self._free.pop(at)
        return _map(-(-size // _CHUNK) * _CHUNK)

    def lend(self, body: mmap.mmap, size: int) -> memoryview:
        """The beginning of a map, which comes back when nothing refers to it any more."""
        view = memoryview(body)[:size]
        weakref.finalize(view, self._give_back, body).atexit = False
        return view

    def _give_back(self, body: mmap.mmap) -> None:
        with self._lock:
            self._free.append(body)
            while sum(map(len, self._free)) > max(MAPS_KEPT, len(body)):
                self._free.pop(0)


def read_body(response: BaseHTTPResponse, maps: BodyMaps, expected: int, limit: int) -> memoryview:
    """A whole body, inflated, of about so many bytes."""
    body = maps.take(expected)
    size = 0
    while chunk := response.read(_CHUNK, decode_content=True):
        needed = size + len(chunk)
        if needed > limit:
            raise TooLargeError(limit)
        if needed > len(body):
            larger = maps.take(2 * needed)
            larger[:size] = body[:size]
            body = larger
        body[size:needed] = chunk
        size = needed
    return maps.lend(body, size)


def _map(size: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    body = mmap.mmap(-1, size, mmap.MAP_PRIVATE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # of a system that has none
            body.madvise(mmap.MADV_HUGEPAGE)  # to be filled in few steps, not page by page
    return body
