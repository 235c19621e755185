"""The way of the pages: workers fetch, one thread stores.

The work of an entity is a generator. It yields the requests that it wants sent,
is handed each page as it arrives, inside the transaction that the page is stored
in, and yields the requests that follow from it. When it returns, the entity is
complete; an ``EntityError`` that leaves it ends that entity alone. What it wrote
stands, so a step raises before it writes anything of its page, not after.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy import Connection

from dataverse_sync.dataverse.client import DataverseClient
from dataverse_sync.dataverse.session import LISTEN_S
from dataverse_sync.errors import EntityError
from dataverse_sync.model import Event, Page, PageRequest, PageStored, StillWaiting
from dataverse_sync.store.database import leave_room, transaction


@dataclass(frozen=True, slots=True)
class Ahead:
    """Requests to send at once, while the step that wants them goes on."""

    requests: Sequence[PageRequest]


Wanted = Sequence[PageRequest] | Ahead
Steps = Generator[Wanted, Page, None]

# Keys come in no order: a commit writes nearly every page of a large table's index.
PAGES_PER_TRANSACTION = 20
TRANSACTION_S = 2.0
WIDE_PAGE = 8 * 2**20  # bytes of JSON; two of them are held beside SQLite's cache


@dataclass(frozen=True, slots=True)
class _Arrival:
    name: str
    answer: Page | BaseException


def advance(
    steps: Steps,
    answer: Page | EntityError | None,
    ask: Callable[[Sequence[PageRequest]], None],
) -> bool:
    """Let a job take one step; what it wants sent goes to ``ask``.

    Args:
        steps: The job.
        answer: What it waits for: a page, or why there is none. None to begin.
        ask: Called, perhaps several times, while the step goes on.

    Returns:
        Whether the job goes on; False when it is complete.

    Raises:
        EntityError: The job failed.
    """
    try:
        if answer is None:
            wanted = next(steps)
        elif isinstance(answer, Page):
            wanted = steps.send(answer)
        else:
            wanted = steps.throw(answer)
        while isinstance(wanted, Ahead):
            ask(wanted.requests)
            wanted = next(steps)
    except StopIteration:
        return False
    ask(wanted)
    return True


class PageLoop:
    """Runs the work of many entities over one pool and one connection.

    Args:
        client: Where pages come from.
        pool: The workers.
        workers: Requests handed to the pool at once.
        connection: The one that writes.
        emit: Told of each page after it is committed.
        on_commit: Called after each commit, when its pages were told of.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        client: DataverseClient,
        pool: ThreadPoolExecutor,
        workers: int,
        connection: Connection,
        emit: Callable[[Event], None],
        on_commit: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._pool = pool
        self._workers = workers
        self._connection = connection
        self._emit = emit
        self._on_commit = on_commit
        self._clock = clock

    def run(
        self, jobs: Mapping[str, Steps], on_end: Callable[[str, EntityError | None], None]
    ) -> None:
        """Work until every job has returned or failed.

        Args:
            jobs: Entity set → its work.
            on_end: Called in the transaction that ends a job.

        Raises:
            RunError: What ends the run, from a worker or from the database.
        """
        running = dict(jobs)
        waiting: deque[tuple[str, PageRequest]] = deque()
        arrived: queue.SimpleQueue[_Arrival] = queue.SimpleQueue()
        in_flight = 0

        def take(name: str, answer: Page | EntityError | None) -> bool:
            """Hand a job what arrived for it; returns whether that is stored."""

            def ask(requests: Sequence[PageRequest]) -> None:
                # A started entity's next page goes before a new entity.
                place = waiting.extend if answer is None else waiting.extendleft
                place((name, request) for request in requests)
                submit()

            if isinstance(answer, Page) and answer.size > WIDE_PAGE:
                leave_room(self._connection)
            try:
                goes_on = advance(running[name], answer, ask)
            except EntityError as error:
                del running[name]
                on_end(name, error)
                return False
            if not goes_on:
                del running[name]
                on_end(name, None)
            return True

        def submit() -> None:
            nonlocal in_flight
            while waiting and in_flight < self._workers:
                name, request = waiting.popleft()
                if name in running:
                    in_flight += 1
                    self._pool.submit(self._fetch, name, request, arrived)

        with transaction(self._connection):
            for name in jobs:
                take(name, None)
        self._on_commit()
        while in_flight:
            stored = []
            first = [self._listen(arrived, in_flight)]
            with transaction(self._connection):
                for arrival in self._batch(first, arrived):
                    in_flight -= 1
                    name, answer = arrival.name, arrival.answer
                    if not isinstance(answer, Page | EntityError):
                        raise answer
                    is_stored = name in running and take(name, answer)
                    if isinstance(answer, Page):
                        if is_stored:
                            stored.append(self._tell_stored(answer, in_flight))
                        self._client.release(answer)
                    # A name kept on a page would hold its memory until the next one comes.
                    del arrival, answer
                    submit()
            for event in stored:
                self._emit(event)
            self._on_commit()

    def _fetch(self, name: str, request: PageRequest, arrived: queue.SimpleQueue[_Arrival]) -> None:
        """On a worker thread."""
        try:
            arrived.put(_Arrival(name, self._client.get_page(request)))
        except BaseException as error:  # raised again on the main thread
            arrived.put(_Arrival(name, error))

    def _listen(self, arrived: queue.SimpleQueue[_Arrival], in_flight: int) -> _Arrival:
        while True:
            try:
                return arrived.get(timeout=LISTEN_S)
            except queue.Empty:
                self._emit(StillWaiting(in_flight, self._client.waited_s))

    def _tell_stored(self, page: Page, in_flight: int) -> PageStored:
        request, waited_s = page.request, self._client.waited_s
        return PageStored(
            request.entity, len(page.records), page.size, in_flight, waited_s, request.keys_only
        )

    def _batch(
        self, first: list[_Arrival], arrived: queue.SimpleQueue[_Arrival]
    ) -> Iterator[_Arrival]:
        """What one transaction holds: the pages that wait already, up to 20 of them or 2 s."""
        began = self._clock()
        yield first.pop()
        for _ in range(PAGES_PER_TRANSACTION - 1):
            if self._clock() - began > TRANSACTION_S:
                return
            try:
                yield arrived.get_nowait()
            except queue.Empty:
                return
