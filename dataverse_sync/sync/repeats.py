"""Pages that bring only what their read has returned already: paging that does not advance.

The keys of a read are kept as two bits each, in 512 KiB, and not at all for a read of one page. A
new key may be taken for a known one (one in 40,000 after 10,000 keys, one in seven after a
million); that two pages in a row are does not happen, small as pages of heavy records are.
"""

from __future__ import annotations

from collections.abc import Sequence

from dataverse_sync.errors import PageError
from dataverse_sync.model import Page

_BITS = 2**22


class RepeatedPages:
    """The keys that a read has returned, and how many pages in a row brought no other."""

    def __init__(self) -> None:
        self._first: Sequence[str] = ()  # until a second page comes
        self._known: bytearray | None = None
        self._repeated = 0

    def check(self, page: Page, keys: Sequence[str]) -> None:
        """Add the keys of a page; two pages in a row with none that is new are a PageError."""
        if page.next_link is None and self._known is None and not self._first:
            return
        if self._known is None:
            if not self._first:
                self._first = keys
                return
            self._known = bytearray(_BITS // 8)
            _add(self._known, self._first)
        if page.request.number > 1 and keys and _has_all(self._known, keys):
            self._repeated += 1
        else:
            self._repeated = 0
        if self._repeated == 2:
            raise PageError(
                f"{page.request}: two pages in a row brought only records already read",
                "The service's paging does not advance, so the rest is out of reach; nothing was "
                "removed. Read another way: fewer records a page with --page-size, or report it.",
            )
        _add(self._known, keys)


def _add(known: bytearray, keys: Sequence[str]) -> None:
    for number in map(hash, keys):
        first, second = number % _BITS, (number >> 22) % _BITS
        known[first >> 3] |= 1 << (first & 7)
        known[second >> 3] |= 1 << (second & 7)


def _has_all(known: bytearray, keys: Sequence[str]) -> bool:
    places = (at % _BITS for number in map(hash, keys) for at in (number, number >> 22))
    return all(known[at >> 3] >> (at & 7) & 1 for at in places)
