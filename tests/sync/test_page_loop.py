"""The page loop: in which order, how many at once, and what one transaction holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event

from dataverse_sync.errors import AuthError, EntityError, PageError, StorageError
from dataverse_sync.model import Page, PageRequest, PageStored, StillWaiting
from dataverse_sync.sync import page_loop as pages
from dataverse_sync.sync.page_loop import Ahead, PageLoop, Steps


class Client:
    """Answers each request with an empty page, or as it is told to."""

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


class Run:
    """What a loop did: events, ends, transactions."""

    def __init__(self, connection, client: Client, workers: int, clock) -> None:
        self.events: list[PageStored] = []
        self.ends: dict[str, EntityError | None] = {}
        self.commits = 0
        self.connection = connection
        event.listen(connection, "commit", self._count)
        self._pool = ThreadPoolExecutor(30)  # it is the loop that holds back
        self._loop = PageLoop(
            client, self._pool, workers, connection, self.events.append, clock=clock
        )

    def _count(self, _connection: object) -> None:
        self.commits += 1

    def __call__(self, **jobs: Steps) -> None:
        try:
            self._loop.run(jobs, self._end)
        finally:
            self._pool.shutdown()

    def _end(self, name: str, error: EntityError | None) -> None:
        assert name not in self.ends
        self.ends[name] = error
        self.connection.exec_driver_sql("INSERT INTO kept VALUES (?)", (f"end of {name}",))


@pytest.fixture
def kept(connection):
    """The table that the jobs of these tests write to; committed before they begin."""
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
def chain(connection):
    def chain(name: str, length: int) -> Steps:
        """Ask for pages one after the other, and note each."""
        for n in range(1, length + 1):
            yield [PageRequest(name, f"{name}{n}")]
            connection.exec_driver_sql("INSERT INTO kept VALUES (?)", (f"{name}{n}",))

    return chain


def test_every_page_is_stored_and_every_job_ends(start, chain, kept):
    client = Client()
    run = start(client, workers=3)

    run(a=chain("a", 3), b=chain("b", 1), c=chain("c", 0))

    assert run.ends == {"a": None, "b": None, "c": None}
    assert sorted(kept()) == ["a1", "a2", "a3", "b1", "end of a", "end of b", "end of c"]
    assert sorted(client.released) == ["a1", "a2", "a3", "b1"]
    assert sorted(event.entity for event in run.events) == ["a", "a", "a", "b"]
    assert {(event.records, event.size) for event in run.events} == {(0, 7)}


def test_a_started_entity_goes_before_a_new_one(start, chain):
    client = Client()
    run = start(client, workers=1)

    run(a=chain("a", 3), b=chain("b", 2), c=chain("c", 1))

    assert client.asked == ["a1", "a2", "a3", "b1", "b2", "c1"]


def test_no_more_than_workers_are_asked_for_at_once(start):
    client = Client(lambda request: time.sleep(0.005) or Page(request, ()))
    run = start(client, workers=3)

    def wide() -> Steps:
        yield [PageRequest("wide", f"w{n}") for n in range(12)]
        for _ in range(11):
            yield []

    run(wide=wide())

    assert client.most_in_flight == 3
    assert len(client.asked) == 12


def test_an_entitys_error_ends_it_alone(start, chain, kept):
    def answer(request: PageRequest) -> Page:
        if request.url == "a2":
            raise PageError("a, page 2: the answer is not a page")
        return Page(request, ())

    run = start(Client(answer), workers=2)
    run(a=chain("a", 3), b=chain("b", 3))

    assert str(run.ends["a"]) == "a, page 2: the answer is not a page"
    assert run.ends["b"] is None
    assert sorted(kept()) == ["a1", "b1", "b2", "b3", "end of a", "end of b"]


def test_a_job_may_go_on_after_an_error(start, kept, connection):
    def answer(request: PageRequest) -> Page:
        if request.url == "refused":
            raise PageError("no")
        return Page(request, ())

    def job() -> Steps:
        try:
            yield [PageRequest("a", "refused")]
        except PageError:
            yield [PageRequest("a", "fallback")]
        connection.exec_driver_sql("INSERT INTO kept VALUES ('fallback')")

    run = start(Client(answer))
    run(a=job())

    assert kept() == ["fallback", "end of a"]
    assert [event.entity for event in run.events] == ["a"]


def test_pages_that_come_after_an_entitys_end_are_let_go(start, chain, kept):
    late = threading.Event()

    def answer(request: PageRequest) -> Page:
        if request.url == "bad":
            raise PageError("bad")
        if request.url == "slow":
            late.wait(5)
        return Page(request, ())

    def job() -> Steps:
        yield [PageRequest("a", "bad"), PageRequest("a", "slow"), PageRequest("a", "never")]

    client = Client(answer)
    run = start(client, workers=2)
    ended = run._end
    run._end = lambda name, error: (ended(name, error), late.set())
    run(a=job())

    assert client.asked == ["bad", "slow"]
    assert client.released == ["slow"]
    assert run.events == []
    assert kept() == ["end of a"]


def test_a_step_that_fails_ends_its_job_and_tells_of_no_page(start, kept, connection):
    def job() -> Steps:
        yield [PageRequest("a", "a1")]
        connection.exec_driver_sql("INSERT INTO kept VALUES ('a1')")
        yield [PageRequest("a", "a2")]
        raise EntityError("a2 cannot be stored")

    run = start(Client())
    run(a=job())

    assert kept() == ["a1", "end of a"]
    assert len(run.events) == 1


def test_what_a_step_wrote_stands_whatever_follows(start, kept, connection):
    def job() -> Steps:
        yield [PageRequest("a", "a1")]
        connection.exec_driver_sql("INSERT INTO kept VALUES ('a1')")
        raise EntityError("the guard")

    run = start(Client())
    run(a=job())

    assert kept() == ["a1", "end of a"]
    assert str(run.ends["a"]) == "the guard"


def test_what_is_asked_for_ahead_is_on_its_way_while_a_page_is_stored(start, kept, connection):
    arrived = threading.Event()

    def answer(request: PageRequest) -> Page:
        if request.url == "a2":
            arrived.set()
        return Page(request, ())

    def job() -> Steps:
        yield [PageRequest("a", "a1")]
        yield Ahead([PageRequest("a", "a2")])
        was_asked = arrived.wait(10)
        connection.exec_driver_sql("INSERT INTO kept VALUES (?)", (f"a1, a2 asked: {was_asked}",))
        yield []
        connection.exec_driver_sql("INSERT INTO kept VALUES ('a2')")

    run = start(Client(answer))
    run(a=job())

    assert kept() == ["a1, a2 asked: True", "a2", "end of a"]


def test_a_job_that_fails_at_once_is_over(start, kept):
    def job() -> Steps:
        raise EntityError("at once")
        yield []

    run = start(Client())
    run(a=job())

    assert str(run.ends["a"]) == "at once"
    assert kept() == ["end of a"]


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), AuthError("the secret expired")])
def test_anything_else_ends_the_run_as_it_is(start, chain, kept, error):
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


def test_a_bug_in_a_job_ends_the_run_with_its_traceback(start, kept):
    def job() -> Steps:
        yield [PageRequest("a", "a1")]
        _ = 1 / 0

    run = start(Client())
    with pytest.raises(ZeroDivisionError) as caught:
        run(a=job())

    assert "job" in [entry.name for entry in caught.traceback]
    assert run.events == []


def wide_and_ready(width: int) -> tuple[Callable[[Client], None], Callable[[PageRequest], Page]]:
    """A client whose pages all wait before the first is stored."""
    answered = threading.Semaphore(0)

    def answer(request: PageRequest) -> Page:
        answered.release()
        return Page(request, ())

    def wait(_client: Client) -> None:
        for _ in range(width):
            answered.acquire(timeout=5)
        time.sleep(0.02)  # from an answer to the queue

    return wait, answer


@pytest.mark.parametrize(("width", "commits"), [(20, 2), (21, 3), (45, 4)])
def test_pages_that_wait_share_a_transaction_of_at_most_twenty(
    start, kept, connection, monkeypatch, width, commits
):
    wait, answer = wide_and_ready(width)
    client = Client(answer)
    run = start(client, workers=width)
    listen = PageLoop._listen
    first = [True]

    def listen_late(self, arrived, in_flight):
        if first:
            first.clear()
            wait(client)
        return listen(self, arrived, in_flight)

    monkeypatch.setattr(PageLoop, "_listen", listen_late)

    def wide() -> Steps:
        yield [PageRequest("wide", f"w{n}") for n in range(width)]
        for _ in range(width - 1):
            yield []

    run(wide=wide())

    assert run.commits == commits  # the first is that of the start
    assert len(run.events) == width


def test_a_transaction_ends_after_two_seconds(start, monkeypatch):
    wait, answer = wide_and_ready(4)
    client = Client(answer)
    moments = iter(range(0, 1000, 2))
    run = start(client, workers=4, clock=lambda: next(moments) * 0.75)
    listen = PageLoop._listen
    first = [True]

    def listen_late(self, arrived, in_flight):
        if first:
            first.clear()
            wait(client)
        return listen(self, arrived, in_flight)

    monkeypatch.setattr(PageLoop, "_listen", listen_late)

    def wide() -> Steps:
        yield [PageRequest("wide", f"w{n}") for n in range(4)]
        for _ in range(3):
            yield []

    run(wide=wide())

    # The clock goes on by 1.5 s a look: one page, and one more after 1.5 s.
    assert run.commits == 1 + 2


@pytest.mark.parametrize(("size", "kept_kib"), [(2**20, 128 * 1024), (9 * 2**20, 64 * 1024)])
def test_sqlite_makes_do_with_less_memory_beside_wide_pages(
    start, chain, connection, size, kept_kib
):
    run = start(Client(lambda request: Page(request, (), size=size)))

    run(one=chain("a", 2))

    assert connection.exec_driver_sql("PRAGMA cache_size").scalar() == -kept_kib


def test_a_wait_for_the_service_can_be_interrupted(start, chain, monkeypatch):
    monkeypatch.setattr(pages, "LISTEN_S", 0.01)
    client = Client(lambda request: time.sleep(0.05) or Page(request, ()))
    run = start(client)

    run(a=chain("a", 1))

    assert run.ends == {"a": None}
    assert run.events[0] == StillWaiting(1, 7.5)


def test_a_page_is_told_of_with_what_it_was_asked_for(start):
    run = start(Client())

    def keys() -> Steps:
        yield [PageRequest("a", "keys", keys_only=True)]
        yield [PageRequest("a", "records")]

    run(a=keys())

    assert [(event.keys_only, event.waited_s) for event in run.events] == [
        (True, 7.5),
        (False, 7.5),
    ]


def test_events_come_after_the_commit(start, chain, kept, connection):
    seen: list[list[str]] = []
    run = start(Client())
    run.events = None
    run._loop._emit = lambda _event: seen.append(kept())

    run(a=chain("a", 2))

    assert seen == [["a1"], ["a1", "a2", "end of a"]]


def test_a_database_that_cannot_be_written_ends_the_run(start, chain, connection):
    connection.exec_driver_sql("PRAGMA query_only = 1")
    connection.rollback()
    run = start(Client())

    with pytest.raises(StorageError):
        run(a=chain("a", 1))
