"""Pages that bring only what their read has returned already: paging that does not advance.

The keys of a read are kept as their hashes, of which the lowest, one in 32, are in a set. A page
that has a low one that is new, as nearly every page has, is looked at no further; else its keys are
looked for among the first million, of 8 bytes each. Beyond those the low ones alone tell.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from dataverse_sync.errors import PageError
from dataverse_sync.model import Page

_LOW = -(2**63) + 2**59
_KEPT = 1_000_000


class RepeatedPages:
    """The keys that a read has returned, and how many pages in a row brought no other."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._low: set[int] = set()
        self._repeated = 0

    def check(self, page: Page, keys: Sequence[str]) -> None:
        """Add the keys of a page; two pages in a row with none that is new are a PageError."""
        if page.next_link is None and not self._hashes:
            return  # a read of one page
        hashes = array("q", map(hash, keys))
        low = [*filter(_LOW.__gt__, hashes)]
        is_kept = len(self._hashes) < _KEPT  # every key so far
        if not self._low.issuperset(low):
            self._repeated = 0
        elif is_kept or low:
            is_new = is_kept and set(hashes).difference(self._hashes)
            is_repeated = page.request.number > 1 and keys and not is_new
            self._repeated = self._repeated + 1 if is_repeated else 0
        if self._repeated == 2:
            raise PageError(
                f"{page.request}: two pages in a row brought only records already read",
                "The service's paging does not advance, so the rest is out of reach; nothing was "
                "removed. Read another way: fewer records a page with --page-size, or report it.",
            )
        self._low.update(low)
        if is_kept:
            self._hashes += hashes
