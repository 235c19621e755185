"""The way of the pages: workers fetch, one thread stores.

A job is the reads of an entity, one after the other. For each page that arrives the loop asks
its read what follows, sends that to the workers, and lets the read store the page; all in one
transaction, which may hold several pages. When nothing of a read is under way, the entity's
next read begins. An ``EntityError`` ends a read, and the entity too if its reads do not catch
it. What a job wrote stands, so a read raises before it writes anything of a page, not after.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from dataverse_sync.dataverse.client import DataverseClient
from dataverse_sync.dataverse.session import LISTEN_S
from dataverse_sync.errors import EntityError, RequestError
from dataverse_sync.model import Event, Page, PageRequest, PageStored, StillWaiting
from dataverse_sync.store.database import dialect_of, transaction
from dataverse_sync.sync.reading import EntityReader, Read, Reads

# Keys come in no order: a commit writes nearly every page of a large table's index.
PAGES_PER_TRANSACTION = 20
TRANSACTION_S = 2.0
WIDE_PAGE = 8 * 2**20  # bytes of JSON; two of them are held beside SQLite's cache


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be read of one entity."""

    reader: EntityReader  # counts what its reads ask for
    reads: Reads
    admit: Callable[[], None] = lambda: None  # raises if no answer of it may be taken


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a worker brings for an entity: a page, or why there is none."""

    name: str
    answer: Page | EntityError


Arrived = Arrival | BaseException  # the latter ends the run


@dataclass(slots=True)
class _Running:
    """A job that goes on."""

    name: str
    job: Job
    read: Read | None = None  # None: its first read has not begun
    under_way: int = 0  # requests of the read that wait or are in flight
    failure: EntityError | None = None  # ended the read; told once nothing is under way


OnEnd = Callable[[str, EntityError | None], Event | None]


class PageLoop:
    """Runs the jobs of many entities over one pool and one connection.

    ``emit`` is told of each page and each end after they are committed.
    """

    def __init__(
        self,
        client: DataverseClient,
        pool: ThreadPoolExecutor,
        workers: int,
        connection: Connection,
        emit: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._pool = pool
        self._workers = workers
        self._connection = connection
        self.emit = emit
        self._clock = clock
        self._running: dict[str, _Running] = {}
        self._waiting: deque[tuple[str, PageRequest]] = deque()
        self._in_flight = 0
        self._arrived: queue.SimpleQueue[Arrived] = queue.SimpleQueue()
        self._events: list[Event] = []  # of the transaction that is under way

    def run(
        self, jobs: Mapping[str, Job], on_end: OnEnd, before: Sequence[Future[Any]] = ()
    ) -> None:
        """Work until every job has returned or failed.

        No answer is taken ``before`` these have come, but all is asked for. ``on_end`` is called
        in the transaction that ends a job, and returns what to tell of it. What ends the run, from
        a worker or from the database, is raised.
        """
        self._running = {name: _Running(name, job) for name, job in jobs.items()}
        self._arrived = queue.SimpleQueue()
        with transaction(self._connection):
            for running in list(self._running.values()):
                self._begin_next_read(running, on_end)
        self._tell()
        for future in before:
            self._wait_for(future)
        arrival: Arrived | None = None  # no other name is kept on a page while the next one comes
        while self._in_flight:
            arrival = arrival or self._listen()
            if isinstance(arrival, BaseException):
                raise arrival
            began, pages = self._clock(), 0
            with transaction(self._connection):
                while isinstance(arrival, Arrival):
                    self._take(arrival, on_end)
                    pages += 1
                    arrival = self._next_arrival(began, pages)
            self._tell()

    def _take(self, arrival: Arrival, on_end: OnEnd) -> None:
        """Hand a read what arrived for it: what follows is asked for, then the page is stored."""
        self._in_flight -= 1
        running, answer = self._running[arrival.name], arrival.answer
        running.under_way -= 1
        running.job.reader.count(answer)
        if running.failure is None and running.read is not None:
            try:
                running.job.admit()
                if isinstance(answer, Page):
                    self._follow_and_store(running, running.read, answer)
                elif isinstance(answer, RequestError):
                    self._ask(running, running.read.refused(answer))
                else:
                    raise answer
            except EntityError as error:
                self._give_up(running, error)
        if not running.under_way:
            self._begin_next_read(running, on_end)
        if isinstance(answer, Page):
            self._client.release(answer)  # not before: this frame holds it while a read begins
        self._submit()

    def _follow_and_store(self, running: _Running, read: Read, page: Page) -> None:
        if page.size > WIDE_PAGE:
            dialect_of(self._connection).leave_room(self._connection)
        self._ask(running, read.follow(page))
        read.store(page)
        self._events.append(
            PageStored(
                running.name,
                len(page.records),
                page.size,
                self._in_flight,
                self._client.waited_s,
                page.request.keys_only,
            )
        )

    def _give_up(self, running: _Running, error: EntityError) -> None:
        """End a read: what is in flight is waited for, so that no later read is handed it."""
        running.failure = _without_frames(error)
        kept = [(name, request) for name, request in self._waiting if name != running.name]
        running.under_way -= len(self._waiting) - len(kept)
        self._waiting = deque(kept)

    def _begin_next_read(self, running: _Running, on_end: OnEnd) -> None:
        """Begin an entity's next read; the entity ends if there is none, or on an error."""
        is_new = running.read is None
        while not running.under_way:
            failure, running.failure = running.failure, None
            try:
                reads = running.job.reads
                running.read = next(reads) if failure is None else reads.throw(failure)
                self._ask(running, running.read.begin(), is_new=is_new)
            except StopIteration:
                self._end(running, None, on_end)
                return
            except EntityError as error:
                self._end(running, error, on_end)
                return

    def _end(self, running: _Running, error: EntityError | None, on_end: OnEnd) -> None:
        del self._running[running.name]
        if (event := on_end(running.name, error)) is not None:
            self._events.append(event)

    def _ask(
        self, running: _Running, requests: Sequence[PageRequest], *, is_new: bool = False
    ) -> None:
        """Send requests as soon as a worker is free; those of a started entity go first."""
        if not requests:
            return  # a read may begin next, whose requests go before those that wait
        running.under_way += len(requests)
        pairs = [(running.name, request) for request in requests]
        if is_new:
            self._waiting.extend(pairs)
        else:
            self._waiting.extendleft(reversed(pairs))
        self._submit()

    def _submit(self) -> None:
        while self._waiting and self._in_flight < self._workers:
            name, request = self._waiting.popleft()
            self._in_flight += 1
            self._pool.submit(_fetch, self._client, name, request, self._arrived)

    def _listen(self) -> Arrived:
        while True:
            try:
                return self._arrived.get(timeout=LISTEN_S)
            except queue.Empty:
                self.emit(StillWaiting(self._in_flight, self._client.waited_s))

    def _wait_for(self, future: Future[Any]) -> None:
        while not future.done():
            wait([future], LISTEN_S)
            self.emit(StillWaiting(self._in_flight, self._client.waited_s))

    def _next_arrival(self, began: float, pages: int) -> Arrived | None:
        """What waits already, as long as the transaction that began then may hold more."""
        if pages == PAGES_PER_TRANSACTION or self._clock() - began > TRANSACTION_S:
            return None
        try:
            return self._arrived.get_nowait()
        except queue.Empty:
            return None

    def _tell(self) -> None:
        events, self._events = self._events, []
        for event in events:
            self.emit(event)


def _fetch(
    client: DataverseClient,
    name: str,
    request: PageRequest,
    arrived: queue.SimpleQueue[Arrived],
) -> None:
    """On a worker thread: get a page, and put it or its error where the main thread listens."""
    try:
        arrived.put(Arrival(name, client.get_page(request)))
    except EntityError as error:
        arrived.put(Arrival(name, _without_frames(error)))
    except BaseException as error:  # raised again on the main thread
        arrived.put(error)


def _without_frames(error: EntityError) -> EntityError:
    """The error without tracebacks, whose frames would keep a page or its body in memory."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
