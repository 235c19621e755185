"""Maps for bodies: used again when nothing refers to a page any more, and not before."""

from __future__ import annotations

import mmap

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from dataverse_sync.dataverse.body_pool import BodyMaps
from dataverse_sync.dataverse.odata import parse_page
from dataverse_sync.model import PageRequest

KIB = 1024
REQUEST = PageRequest("things", "https://x/things")


def fill(maps: BodyMaps, content: bytes) -> memoryview:
    body = maps.take(len(content))
    body[: len(content)] = content
    return maps.lend(body, len(content))


def test_a_map_is_used_again_once_its_page_is_gone() -> None:
    maps = BodyMaps()
    page = fill(maps, b"one page" * 100_000)
    first = page.obj

    del page

    assert maps.take(700_000) is first


def test_a_record_that_is_kept_keeps_its_bytes() -> None:
    maps = BodyMaps()
    page = parse_page(REQUEST, fill(maps, b'{"value":[{"id":"a"},{"id":"b"}]}'))
    kept: msgspec.Raw = page.records[1]
    del page

    other = fill(maps, b"x" * 40)

    assert bytes(kept) == b'{"id":"b"}'
    assert bytes(other) == b"x" * 40


def test_a_map_that_is_far_too_large_or_too_small_is_left_for_another_page() -> None:
    maps = BodyMaps()
    large, small = maps.take(4096 * KIB), maps.take(512 * KIB)
    maps.give_back(large)
    maps.give_back(small)

    taken = maps.take(1024 * KIB)

    assert taken is not large
    assert taken is not small
    assert maps.take(4096 * KIB) is large


def test_of_large_maps_two_are_kept_and_the_newest_displace_the_others() -> None:
    maps = BodyMaps(limit=1024 * KIB)
    narrow = maps.take(512 * KIB)
    wide = [maps.take(2048 * KIB) for _ in range(3)]
    for body in (narrow, *wide):
        maps.give_back(body)

    assert maps.take(512 * KIB) is not narrow
    again = [maps.take(2048 * KIB) for _ in range(3)]

    assert sum(any(one is body for body in wide) for one in again) <= 2


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3000)), max_size=40))
def test_what_is_free_stays_within_the_limit(steps: list[tuple[bool, int]]) -> None:
    limit = 2048 * KIB
    maps = BodyMaps(limit)
    taken: list[mmap.mmap] = []

    for takes, size in steps:
        if takes or not taken:
            body = maps.take(size * KIB)
            assert size * KIB <= len(body)
            assert all(body is not other for other in taken)
            taken.append(body)
        else:
            maps.give_back(taken.pop(size % len(taken)))
        free = sum(len(body) for body in maps._free)
        largest = max((len(body) for body in maps._free), default=0)
        assert free <= max(limit, 2 * largest)
