"""Maps for bodies: used again when nothing refers to a page any more, and not before."""

from __future__ import annotations

import codecs
import mmap
import weakref

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataverse_sync.dataverse.bodies import MAPS_KEPT, BodyMaps
from dataverse_sync.dataverse.odata import parse_page
from dataverse_sync.model import PageRequest

KIB = 1024
REQUEST = PageRequest("things", "https://x/things")


def fill(maps: BodyMaps, content: bytes) -> memoryview:
    """A body with this content, as a page's records refer to it."""
    body = maps.take(len(content))
    body[: len(content)] = content
    return maps.lend(body, len(content))


def test_a_map_is_used_again_once_its_page_is_gone() -> None:
    maps = BodyMaps()
    page = fill(maps, b"one page" * 100_000)
    first = page.obj

    del page

    assert maps.take(700_000) is first


@pytest.mark.parametrize("before", [b"", codecs.BOM_UTF8])
def test_a_record_that_is_kept_keeps_its_bytes(before: bytes) -> None:
    maps = BodyMaps()
    page = parse_page(REQUEST, fill(maps, before + b'{"value":[{"id":"a"},{"id":"b"}]}'))
    kept: msgspec.Raw = page.records[1]
    del page

    other = fill(maps, b"x" * 40)

    assert bytes(kept) == b'{"id":"b"}'
    assert bytes(other) == b"x" * 40


def test_a_map_that_is_far_too_large_or_too_small_is_left_for_another_page() -> None:
    maps = BodyMaps()
    large, small = maps.take(4096 * KIB), maps.take(512 * KIB)
    maps.lend(large, 1)
    maps.lend(small, 1)

    taken = maps.take(1024 * KIB)

    assert taken is not large
    assert taken is not small
    assert maps.take(4096 * KIB) is large


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 24)), max_size=40))
def test_of_the_maps_without_a_page_few_are_kept(steps: list[tuple[bool, int]]) -> None:
    maps = BodyMaps()
    taken: list[mmap.mmap] = []
    made: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()

    for takes, size in steps:
        if takes or not taken:
            taken.append(maps.take(size * KIB * KIB))
            made.add(taken[-1])
            assert size * KIB * KIB <= len(taken[-1])
            assert len(set(map(id, taken))) == len(taken)
        else:
            maps.lend(taken.pop(size % len(taken)), 1)
        in_use = set(map(id, taken))
        free = [len(body) for body in made if id(body) not in in_use]
        assert sum(free) <= max(MAPS_KEPT, *free, 0)
