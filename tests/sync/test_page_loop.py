"""The page loop: order of pages, requests at once, content of a transaction."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import pytest
from sqlalchemy import event

from dataverse_sync.errors import AuthError, EntityError, PageError, RequestError, StorageError
from dataverse_sync.model import Entity, Event, Page, PageRequest, PageStored, StillWaiting
from dataverse_sync.sync import page_loop
from dataverse_sync.sync.page_loop import Job, PageLoop
from dataverse_sync.sync.reading import EntityReader, Reads

ENTITY = Entity("things", "thingid", (), "metadata")


class Client:
    """Answers each request with an empty page, or as a test says."""

    waited_s = 7.5

    def __init__(self, answer: Callable[[PageRequest], Page] | None = None) -> None:
        self._answer = answer or (lambda request: Page(request, (), size=7))
        self._lock = threading.Lock()
        self._in_flight = 0
        self.most_in_flight = 0
        self.asked: list[str] = []
        self.released: list[str] = []

    def get_page(self, request: PageRequest) -> Page:
        with self._lock:
            self.asked.append(request.url)
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            return self._answer(request)
        finally:
            with self._lock:
                self._in_flight -= 1

    def release(self, page: Page) -> None:
        self.released.append(page.request.url)


class FakeRead:
    """Requests these pages at once, and then the page that each links to."""

    def __init__(
        self,
        *urls: str,
        store: Callable[[Page], None] = lambda _: None,
        links: Mapping[str, str] = MappingProxyType({}),
        instead: str | None = None,
        keys_only: bool = False,
    ) -> None:
        self._urls = urls
        self._store = store
        self._links = links
        self._instead = instead
        self._keys_only = keys_only

    def begin(self) -> Sequence[PageRequest]:
        return [self._request(url) for url in self._urls]

    def follow(self, page: Page) -> Sequence[PageRequest]:
        link = self._links.get(page.request.url)
        return [] if link is None else [self._request(link)]

    def store(self, page: Page) -> None:
        self._store(page)

    def refused(self, error: RequestError) -> Sequence[PageRequest]:
        if self._instead is None:
            raise error
        return [self._request(self._instead)]

    def _request(self, url: str) -> PageRequest:
        return PageRequest("things", url, keys_only=self._keys_only)


class Run:
    """Runs a loop and records its events, ends and transactions."""

    def __init__(self, connection, client: Client, workers: int, clock) -> None:
        self.events: list[Event] = []
        self.requests: dict[str, int] = {}
        self.ends: dict[str, EntityError | None] = {}
        self.commits = 0
        self.connection = connection
        event.listen(connection, "commit", self._count)
        self._pool = ThreadPoolExecutor(30)  # it is the loop that holds back
        self._loop = PageLoop(client, self._pool, workers, connection, self._emit, clock=clock)
        self.on_event: Callable[[Event], None] = self.events.append

    def _count(self, _connection: object) -> None:
        self.commits += 1

    def _emit(self, event: Event) -> None:
        self.on_event(event)

    def __call__(self, **jobs: Reads) -> None:
        readers = {name: EntityReader(ENTITY, "https://x/") for name in jobs}
        try:
            self._loop.run(
                {name: Job(readers[name], reads) for name, reads in jobs.items()}, self._end
            )
        finally:
            self._pool.shutdown()
            self.requests = {name: reader.requests for name, reader in readers.items()}

    def _end(self, name: str, error: EntityError | None) -> None:
        assert name not in self.ends
        self.ends[name] = error
        self.connection.exec_driver_sql("INSERT INTO kept VALUES (?)", (f"end of {name}",))


@pytest.fixture
def kept(connection):
    """The table that the jobs write to; created and committed before they begin."""
    connection.exec_driver_sql("CREATE TABLE kept (what TEXT)")
    connection.commit()

    def read() -> list[str]:
        rows = connection.exec_driver_sql("SELECT what FROM kept ORDER BY rowid")
        found = [row[0] for row in rows]
        connection.rollback()
        return found

    return read


@pytest.fixture
def start(connection, kept):
    def start(client: Client, workers: int = 1, clock=time.monotonic) -> Run:
        return Run(connection, client, workers, clock)

    return start


@pytest.fixture
def keep(connection):
    """Writes the url of a page into the table."""

    def keep(page: Page) -> None:
        connection.exec_driver_sql("INSERT INTO kept VALUES (?)", (page.request.url,))

    return keep


@pytest.fixture
def chain(keep):
    def chain(name: str, length: int) -> Reads:
        """Make a read of pages that link to each other."""
        links = {f"{name}{n}": f"{name}{n + 1}" for n in range(1, length)}
        if length:
            yield FakeRead(f"{name}1", store=keep, links=links)

    return chain


def test_every_page_stored_every_job_ended(start, chain, kept):
    client = Client()
    run = start(client, workers=3)

    run(a=chain("a", 3), b=chain("b", 1), c=chain("c", 0))

    assert run.ends == {"a": None, "b": None, "c": None}
    assert sorted(kept()) == ["a1", "a2", "a3", "b1", "end of a", "end of b", "end of c"]
    assert sorted(client.released) == ["a1", "a2", "a3", "b1"]
    assert sorted(event.entity for event in run.events) == ["a", "a", "a", "b"]
    assert {(event.records, event.size) for event in run.events} == {(0, 7)}
    assert run.requests == {"a": 3, "b": 1, "c": 0}


def test_started_entity_goes_before_new_one(start, chain):
    client = Client()
    run = start(client, workers=1)

    run(a=chain("a", 3), b=chain("b", 2), c=chain("c", 1))

    assert client.asked == ["a1", "a2", "a3", "b1", "b2", "c1"]


def test_next_read_goes_before_new_entity(start, keep):
    def two(name: str) -> Reads:
        yield FakeRead(f"{name}1", store=keep)
        yield FakeRead(f"{name}2", f"{name}3", store=keep)

    client = Client()
    run = start(client, workers=1)
    run(a=two("a"), b=two("b"))

    assert client.asked == ["a1", "a2", "a3", "b1", "b2", "b3"]


def test_workers_bound_requests_in_flight(start):
    client = Client(lambda request: time.sleep(0.005) or Page(request, ()))
    run = start(client, workers=3)

    def wide() -> Reads:
        yield FakeRead(*(f"w{n}" for n in range(12)))

    run(wide=wide())

    assert client.most_in_flight == 3
    assert len(client.asked) == 12


def test_entity_error_ends_its_entity_alone(start, chain, kept):
    def answer(request: PageRequest) -> Page:
        if request.url == "a2":
            raise PageError("a, page 2: the answer is not a page")
        return Page(request, ())

    run = start(Client(answer), workers=2)
    run(a=chain("a", 3), b=chain("b", 3))

    assert str(run.ends["a"]) == "a, page 2: the answer is not a page"
    assert run.ends["b"] is None
    assert sorted(kept()) == ["a1", "b1", "b2", "b3", "end of a", "end of b"]


def test_job_may_catch_error_of_read(start, kept, keep):
    def answer(request: PageRequest) -> Page:
        if request.url == "refused":
            raise PageError("no")
        return Page(request, ())

    def job() -> Reads:
        try:
            yield FakeRead("refused")
        except PageError:
            yield FakeRead("fallback", store=keep)

    run = start(Client(answer))
    run(a=job())

    assert kept() == ["fallback", "end of a"]
    assert [event.entity for event in run.events] == ["a"]


@pytest.mark.parametrize(("instead", "stored"), [("other", ["other"]), (None, [])])
def test_read_may_ask_differently_when_refused(start, kept, keep, instead, stored):
    def answer(request: PageRequest) -> Page:
        if request.url == "refused":
            raise RequestError("no", status=400)
        return Page(request, ())

    def job() -> Reads:
        yield FakeRead("refused", store=keep, instead=instead)

    run = start(Client(answer))
    run(a=job())

    assert kept() == [*stored, "end of a"]
    assert (run.ends["a"] is None) == bool(instead)


def test_failed_read_waits_for_its_pages(start, kept, keep):
    late = threading.Event()

    def answer(request: PageRequest) -> Page:
        if request.url == "bad":
            raise PageError("bad")
        if request.url == "slow":
            late.wait(5)
        return Page(request, ())

    def job() -> Reads:
        try:
            yield FakeRead("bad", "slow", "never", store=keep)
        except PageError:
            yield FakeRead("next", store=keep)

    def stop_waiting(page: Page) -> None:
        keep(page)
        late.set()

    def other() -> Reads:
        yield FakeRead("b1", store=stop_waiting)

    client = Client(answer)
    run = start(client, workers=2)
    run(a=job(), b=other())

    assert client.asked == ["bad", "slow", "b1", "next"]
    assert sorted(client.released) == ["b1", "next", "slow"]
    assert kept() == ["b1", "end of b", "next", "end of a"]


def test_failing_store_ends_job_without_event(start, kept, keep):
    def store(page: Page) -> None:
        if page.request.url == "a2":
            raise EntityError("a2 cannot be stored")
        keep(page)

    def job() -> Reads:
        yield FakeRead("a1", store=store, links={"a1": "a2"})

    client = Client()
    run = start(client)
    run(a=job())

    assert kept() == ["a1", "end of a"]
    assert len(run.events) == 1
    assert client.released == ["a1", "a2"]


def test_stored_page_stands_whatever_follows(start, kept, keep):
    def job() -> Reads:
        yield FakeRead("a1", store=keep)
        raise EntityError("the guard")

    run = start(Client())
    run(a=job())

    assert kept() == ["a1", "end of a"]
    assert str(run.ends["a"]) == "the guard"


def test_next_page_under_way_while_storing(start, kept, connection):
    arrived = threading.Event()

    def answer(request: PageRequest) -> Page:
        if request.url == "a2":
            arrived.set()
        return Page(request, ())

    def store(page: Page) -> None:
        asked = page.request.url == "a1" and arrived.wait(10)
        told = f"{page.request.url}, a2 asked: {asked}"
        connection.exec_driver_sql("INSERT INTO kept VALUES (?)", (told,))

    def job() -> Reads:
        yield FakeRead("a1", store=store, links={"a1": "a2"})

    run = start(Client(answer))
    run(a=job())

    assert kept() == ["a1, a2 asked: True", "a2, a2 asked: False", "end of a"]


def test_job_failing_at_once_is_over(start, kept):
    def job() -> Reads:
        raise EntityError("at once")
        yield FakeRead("never")

    run = start(Client())
    run(a=job())

    assert str(run.ends["a"]) == "at once"
    assert kept() == ["end of a"]


def test_read_without_requests_is_passed(start, kept, keep):
    def job() -> Reads:
        yield FakeRead()
        yield FakeRead("a1", store=keep)
        yield FakeRead()

    run = start(Client())
    run(a=job())

    assert kept() == ["a1", "end of a"]


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), AuthError("the secret expired")])
def test_other_error_ends_run_unchanged(start, chain, kept, error):
    def answer(request: PageRequest) -> Page:
        if request.url == "a2":
            raise error
        return Page(request, ())

    run = start(Client(answer))
    with pytest.raises(type(error)) as caught:
        run(a=chain("a", 3), b=chain("b", 1))

    assert caught.value is error
    assert "answer" in [entry.name for entry in caught.traceback]
    assert run.ends == {}
    assert kept() == ["a1"]


def test_bug_in_job_keeps_its_traceback(start, kept):
    def job() -> Reads:
        yield FakeRead("a1")
        _ = 1 / 0

    run = start(Client())
    with pytest.raises(ZeroDivisionError) as caught:
        run(a=job())

    assert "job" in [entry.name for entry in caught.traceback]
    assert run.events == []


@pytest.fixture
def start_when_ready(start, monkeypatch):
    """Start a run in which all pages have arrived before the first is stored."""

    def start_when_ready(width: int, **options: Any) -> Run:
        answered = threading.Semaphore(0)
        listen = PageLoop._listen
        first = [True]

        def answer(request: PageRequest) -> Page:
            answered.release()
            return Page(request, ())

        def listen_late(self: PageLoop) -> Any:
            if first:
                first.clear()
                for _ in range(width):
                    answered.acquire(timeout=5)
                time.sleep(0.02)  # from an answer to the queue
            return listen(self)

        monkeypatch.setattr(PageLoop, "_listen", listen_late)
        run = start(Client(answer), workers=width, **options)
        run(wide=iter_one(FakeRead(*(f"w{n}" for n in range(width)))))
        return run

    return start_when_ready


def iter_one(read: FakeRead) -> Reads:
    yield read


@pytest.mark.parametrize(("width", "commits"), [(20, 2), (21, 3), (45, 4)])
def test_transaction_holds_twenty_waiting_pages(start_when_ready, width, commits):
    run = start_when_ready(width)

    assert run.commits == commits  # the first is that of the start
    assert len(run.events) == width


def test_transaction_ends_after_two_seconds(start_when_ready):
    moments = iter(range(0, 1000, 2))

    run = start_when_ready(4, clock=lambda: next(moments) * 0.75)

    # The clock goes on by 1.5 s a look: one page, and one more after 1.5 s.
    assert run.commits == 1 + 2


@pytest.mark.parametrize(("size", "kept_kib"), [(2**20, 128 * 1024), (9 * 2**20, 64 * 1024)])
def test_wide_pages_leave_sqlite_less_memory(start, chain, connection, size, kept_kib):
    run = start(Client(lambda request: Page(request, (), size=size)))

    run(one=chain("a", 2))

    assert connection.exec_driver_sql("PRAGMA cache_size").scalar() == -kept_kib


def test_waiting_for_service_is_told(start, chain, monkeypatch):
    monkeypatch.setattr(page_loop, "LISTEN_S", 0.01)
    client = Client(lambda request: time.sleep(0.05) or Page(request, ()))
    run = start(client)

    run(a=chain("a", 1))

    assert run.ends == {"a": None}
    assert run.events[0] == StillWaiting(1, 7.5)


def test_event_says_what_was_asked(start):
    run = start(Client())

    def keys() -> Reads:
        yield FakeRead("keys", keys_only=True)
        yield FakeRead("records")

    run(a=keys())

    assert [(event.keys_only, event.waited_s) for event in run.events] == [
        (True, 7.5),
        (False, 7.5),
    ]


def test_events_come_after_the_commit(start, chain, kept):
    seen: list[list[str]] = []
    run = start(Client())
    run.on_event = lambda _event: seen.append(kept())

    run(a=chain("a", 2))

    assert "a1" in seen[0]
    assert seen[1] == ["a1", "a2", "end of a"]


def test_end_may_be_told_as_event(start, chain):
    run = start(Client())
    end = run._end

    def end_and_tell(name: str, error: EntityError | None) -> Event:
        end(name, error)
        return StillWaiting(0, 0.0)

    run._end = end_and_tell
    run(a=chain("a", 1))

    assert [type(event) for event in run.events] == [PageStored, StillWaiting]


def test_unwritable_database_ends_run(start, chain, connection):
    connection.exec_driver_sql("PRAGMA query_only = 1")
    connection.rollback()
    run = start(Client())

    with pytest.raises(StorageError):
        run(a=chain("a", 1))


def test_failed_read_keeps_no_page(start):
    failed: list[EntityError] = []

    def job() -> Reads:
        try:
            yield FakeRead("a1", store=fail)
        except EntityError as error:
            failed.append(error)

    def fail(_page: Page) -> None:
        raise EntityError("cannot be stored") from ValueError("inner")

    run = start(Client())
    run(a=job())

    kept = []
    traceback = failed[0].__traceback__
    while traceback is not None:
        kept += [value for value in traceback.tb_frame.f_locals.values() if isinstance(value, Page)]
        traceback = traceback.tb_next
    assert failed[0].__cause__ is None
    assert not kept
