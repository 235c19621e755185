"""Memory for pages: how many bytes are held at once, and maps that are used again.

Freed memory that came from ``malloc`` stays with the thread that asked for it, for 50
threads several times what the pages need; an anonymous map goes back to the system. But the
system clears a new map before it is written, which takes longer than reading a page into
it. So the map of a page that is gone takes another page.
"""

from __future__ import annotations

import mmap
import sys
import threading
import weakref
from contextlib import suppress

from dataverse_sync.dataverse.throttle import StoppedError

PAGES_HELD = 32 * 2**20  # bytes of JSON between a body and its commit
_STEP = 2**18  # maps are multiples of it, so that one fits a slightly larger page too


class PageBudget:
    """Bounds the bytes of pages held at once.

    Two pages always fit, however large: one that is stored and one that is on its way.
    """

    def __init__(self, limit: int = PAGES_HELD) -> None:
        self._limit = limit
        self._held = 0
        self._pages = 0
        self._stopped = False
        self._condition = threading.Condition()

    def acquire(self, size: int) -> None:
        with self._condition:
            while self._pages > 1 and self._held + size > self._limit:
                if self._stopped:
                    raise StoppedError
                self._condition.wait()
            self._pages += 1
            self._held += size

    def adjust(self, size: int) -> None:
        """Correct what was expected to what came."""
        with self._condition:
            self._held += size
            self._condition.notify_all()

    def release(self, size: int) -> None:
        with self._condition:
            self._pages -= 1
            self._held -= size
            self._condition.notify_all()

    def stop(self) -> None:
        with self._condition:
            self._stopped = True
            self._condition.notify_all()


class BodyMaps:
    """Maps for bodies, for any thread; those that are free are kept, within a limit.

    Args:
        limit: Bytes of all maps, in use or free, beyond which none is kept; two of the
            kind that comes back are always allowed.
    """

    def __init__(self, limit: int = PAGES_HELD) -> None:
        self._limit = limit
        self._free: list[mmap.mmap] = []
        self._mapped = 0  # bytes of those in use too
        # A map may come back at any moment, also to the thread that is taking another.
        self._lock = threading.RLock()

    def take(self, size: int) -> mmap.mmap:
        """A map of at least this size, whatever is written in it."""
        with self._lock:
            for at, body in enumerate(self._free):
                if size <= len(body) <= 2 * max(size, _STEP):
                    return self._free.pop(at)
            rounded = -(-size // _STEP) * _STEP
            self._mapped += rounded
        return _map(rounded)

    def lend(self, body: mmap.mmap, size: int) -> memoryview:
        """The beginning of a map, which comes back when nothing refers to it any more."""
        view = memoryview(body)[:size]
        weakref.finalize(view, self.give_back, body).atexit = False
        return view

    def give_back(self, body: mmap.mmap) -> None:
        allowed = max(self._limit, 2 * len(body))
        with self._lock:
            while self._free and self._mapped > allowed:
                self._mapped -= len(self._free.pop(0))
            if self._mapped > allowed:
                self._mapped -= len(body)
            else:
                self._free.append(body)


def _map(size: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    body = mmap.mmap(-1, size, mmap.MAP_PRIVATE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # of a system that has none
            body.madvise(mmap.MADV_HUGEPAGE)  # to be filled in few steps, not page by page
    return body
