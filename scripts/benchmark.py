"""Measure the program: each case as whole processes, alternately with its floor.

    python scripts/benchmark.py --json figures.json --plot figures.svg
    python scripts/benchmark.py --case first40 --runs 9
    python scripts/benchmark.py --quick

``benchmark_source.py`` makes the data, the same every time, and serves it from memory in a
process of its own; ``benchmark_floor.py`` is what is compared with. What counts are the
ratios of runs that followed each other on one machine, not the seconds. No figure makes it
fail: it exits 1 only where a run went wrong.

CPU seconds and peak memory are the process's own, as the system tells them when it ends;
Windows does not, so there they are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import runpy
import shlex
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import IO, Any
from urllib.parse import urlencode

from benchmark_source import API, SetSpec

_ROOT = Path(__file__).resolve().parent.parent

PAGE = 5000  # records, as the service sends them
_MB = 1e6
_LOOK_EVERY_S = 0.1  # at a process that is watched while it runs
_LINE_BITS = 100e6  # a second: the line that compression is judged for

# Case → rows as the targets are stated for, and rows with --quick; in `many` and `nothing`
# they are a table's.
SIZES = {
    "first40": (200_000, 30_000),
    "first180": (50_000, 10_000),
    "lookups": (200_000, 30_000),
    "scale": (2_000_000, 200_000),
    "memory": (1_000_000, 60_000),
    "many": (5_000, 500),
    "segments": (400_000, 100_000),
    "nothing": (5_000, 500),
    "full": (1_000_000, 40_000),
    "gzip": (100_000, 20_000),
    "startup": (0, 0),
}

# How many entity sets the cases with many of them have.
MANY_SETS, CROWD_SETS, WIDE_SETS = 40, 60, 50
DATED_SETS, JUNCTION_SETS = 30, 10


class BenchmarkError(Exception):
    """A process that was measured did not do its work."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One process, from its start to its end."""

    wall_s: float
    cpu_s: float | None = None  # user and system
    peak_mb: float | None = None  # resident, at most
    requests: int = 0  # as the source counted them, and the next two
    sent_mb: float = 0.0
    in_flight: int = 0  # at most at once
    db_mb: float = 0.0  # the database file, afterwards


@dataclass(frozen=True, slots=True)
class Figure:
    """What a case comes to."""

    name: str
    values: tuple[float, ...]  # one a run
    at_most: float | None = None  # the target, where there is one
    at_least: float | None = None

    @property
    def value(self) -> float:
        return median(self.values)

    @property
    def is_met(self) -> bool | None:
        if self.at_most is None and self.at_least is None:
            return None
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )


@dataclass(slots=True)
class Result:
    """One case: what was run, and what follows from it."""

    about: str
    series: dict[str, list[Measured]] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    points: list[tuple[int, float, float]] = field(default_factory=list)  # rows, rows/s, MB


# Processes


def run_process(
    command: Sequence[str],
    environment: Mapping[str, str],
    watch: Callable[[], None] | None = None,
) -> Measured:
    """Run a process to its end; ``watch`` is called now and then meanwhile.

    Raises:
        BenchmarkError: It did not exit with 0.
    """
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603
            command,
            cwd=_ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            usage = _wait(process, watch)
        except BaseException:
            process.kill()
            process.wait()
            raise
        wall_s = time.perf_counter() - began
        if process.returncode:
            output.seek(0)
            said = output.read()[-2000:].decode(errors="replace")
            raise BenchmarkError(f"{shlex.join(command)} exited {process.returncode}:\n{said}")
    if usage is None:
        return Measured(wall_s)
    # This process is kept small: on Linux a child starts with the peak of its parent.
    unit = 1 if sys.platform == "darwin" else 1024
    return Measured(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / _MB)


def _wait(process: subprocess.Popen[bytes], watch: Callable[[], None] | None) -> Any:
    """Wait for the end of a process; returns what it has used, where the system tells."""
    if not hasattr(os, "wait4"):
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_EVERY_S if watch else None)
            if watch:
                watch()
        return None
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG if watch else 0)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage
        if watch:
            watch()
            time.sleep(_LOOK_EVERY_S)


class Source:
    """The source's process, as this one sees it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}{API}"
        self._connection = HTTPConnection("127.0.0.1", port)

    def control(self, **settings: float) -> dict[str, int]:
        """Change its latency or compression; returns what it counted since the last time."""
        self._connection.request("GET", f"/_control?{urlencode(settings)}")
        counted: dict[str, int] = json.loads(self._connection.getresponse().read())
        return counted

    def close(self) -> None:
        self._connection.close()


@contextmanager
def open_source(
    sets: Sequence[SetSpec], page_size: int = PAGE, compress: bool = False
) -> Iterator[Source]:
    """Start a source with these entity sets, and stop it at the end."""
    script = Path(__file__).with_name("benchmark_source.py")
    described = {"sets": [asdict(spec) for spec in sets], "page_size": page_size}
    with subprocess.Popen(  # noqa: S603
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        ends: tuple[IO[str], IO[str]] = (process.stdin, process.stdout)  # type: ignore[assignment]
        print(json.dumps(described | {"compress": compress}), file=ends[0], flush=True)
        if not (port := ends[1].readline()):
            raise BenchmarkError("the source did not start")
        source = Source(int(port))
        try:
            yield source
        finally:
            source.close()


@dataclass(frozen=True, slots=True)
class Bench:
    """How to measure: how often, how much, and where."""

    runs: int
    folder: Path
    rows: int | None = None  # instead of a case's own
    quick: bool = False
    seconds_per_page: float = 1.0
    sync_args: tuple[str, ...] = ()

    def size(self, case: str) -> int:
        stated, quick = SIZES[case]
        return self.rows or (quick if self.quick else stated)

    def db(self, name: str) -> Path:
        return self.folder / f"{name}.db"

    def sync(
        self,
        source: Source,
        db: Path,
        sets: Sequence[SetSpec],
        *more: str,
        fresh: bool = True,
        watch: Callable[[], None] | None = None,
    ) -> Measured:
        """One run of the program, of these entity sets; a first one where ``fresh``."""
        if fresh:
            _remove(db)
            db.with_suffix(".schema").unlink(missing_ok=True)
        config = db.with_suffix(".json")
        config.write_text(json.dumps({"entities": [{"name": spec.name} for spec in sets]}))
        command = [sys.executable, "-m", "dataverse_sync", "sync", "-q", "--no-progress"]
        for option, path in (
            ("--env-file", self._write_env(source)),
            ("--config", config),
            ("--schema", db.with_suffix(".schema")),
            ("--db", db),
        ):
            command += [option, str(path)]
        return self._run(source, db, [*command, *more, *self.sync_args], watch)

    def floor(self, source: Source, made: Path, *more: str) -> Measured:
        """The floor, over the tables of a database that the program made."""
        db = self.db("floor")
        _remove(db)
        script = Path(__file__).with_name("benchmark_floor.py")
        command = [sys.executable, str(script), source.url, str(made), str(db), *more]
        measured = self._run(source, db, command)
        if count_rows(db) != count_rows(made):
            raise BenchmarkError(f"{db} and {made} do not hold the same number of rows")
        return measured

    def alternate(
        self, variants: Mapping[str, Callable[[], Measured]]
    ) -> dict[str, list[Measured]]:
        """Each variant in turn, so that what slows the machine down slows all of them.

        Each round begins with another one: what a run leaves behind weighs on the next.
        """
        series: dict[str, list[Measured]] = {name: [] for name in variants}
        for round_ in range(self.runs):
            first = round_ % len(variants)
            for name, run in [*variants.items()][first:] + [*variants.items()][:first]:
                if hasattr(os, "sync"):
                    os.sync()  # what is still to be written must not weigh on the next
                series[name].append(run())
        return series

    def _run(
        self,
        source: Source,
        db: Path,
        command: Sequence[str],
        watch: Callable[[], None] | None = None,
    ) -> Measured:
        source.control()
        measured = run_process(command, clean_environment(), watch)
        counted = source.control()
        return Measured(
            measured.wall_s,
            measured.cpu_s,
            measured.peak_mb,
            counted["requests"],
            counted["bytes_sent"] / _MB,
            counted["most_in_flight"],
            db.stat().st_size / _MB,
        )

    def _write_env(self, source: Source) -> Path:
        path = self.folder / "benchmark.env"
        path.write_text(
            f"DATAVERSE_API_URL={source.url}\n"
            "DATAVERSE_CLIENT_ID=benchmark\nDATAVERSE_CLIENT_SECRET=benchmark-secret\n"
        )
        return path


def clean_environment() -> dict[str, str]:
    """This process's environment without the program's own settings.

    Bytecode may be kept, as it is where the program is installed.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("DATAVERSE_")
        and name not in ("SQLITE_DB_PATH", "PYTHONDONTWRITEBYTECODE")
    }


def _remove(db: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{db}{suffix}").unlink(missing_ok=True)


# Databases


def _open(db: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{db.absolute().as_uri()}?mode=ro", uri=True)


def list_tables(connection: sqlite3.Connection) -> list[str]:
    """The tables of entities: not the program's own."""
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return [name for (name,) in names if not name.startswith(("_", "sqlite_"))]


def count_rows(db: Path) -> int:
    with closing(_open(db)) as connection:
        return sum(
            connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]  # noqa: S608
            for name in list_tables(connection)
        )


def digest_rows(db: Path) -> dict[str, str]:
    """A hash of each table's rows, row ids and moments included."""
    with closing(_open(db)) as connection:
        digests = {}
        for name in list_tables(connection):
            digest = hashlib.sha256()
            rows = connection.execute(f'SELECT rowid, * FROM "{name}" ORDER BY rowid')  # noqa: S608
            for row in rows:
                digest.update(repr(row).encode())
            digests[name] = digest.hexdigest()
        return digests


def digest_pages(db: Path) -> dict[int, bytes]:
    """A hash of each page of the entities' tables and indexes; empty where SQLite cannot tell."""
    with closing(_open(db)) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        try:
            numbers = connection.execute(
                "SELECT s.pageno FROM dbstat s JOIN sqlite_master m ON m.name = s.name "
                "WHERE m.tbl_name NOT LIKE '\\_%' ESCAPE '\\'"
            ).fetchall()
        except sqlite3.OperationalError:  # built without dbstat
            return {}
    with db.open("rb") as file:
        pages = {}
        for (number,) in numbers:
            file.seek((number - 1) * size)
            pages[number] = hashlib.sha256(file.read(size)).digest()
        return pages


@dataclass(slots=True)
class Growth:
    """How many rows there were when, seen from outside while a run goes on."""

    db: Path
    began: float = field(default_factory=time.perf_counter)
    marks: list[tuple[float, int]] = field(default_factory=list)  # seconds, rows

    def look(self) -> None:
        with suppress(sqlite3.Error), closing(_open(self.db)) as connection:
            sql = "SELECT total(records_added) FROM _sync_log"  # count(*) would slow the run
            (rows,) = connection.execute(sql).fetchone()
            if not self.marks or rows != self.marks[-1][1]:
                self.marks.append((time.perf_counter() - self.began, int(rows)))

    def rate(self, first: float, last: float) -> float:
        """Rows a second between two numbers of rows."""
        return (last - first) / max(self._when(last) - self._when(first), 1e-9)

    def _when(self, rows: float) -> float:
        before = (0.0, 0)
        for mark in self.marks:
            if mark[1] >= rows:
                if mark[1] == before[1]:
                    return mark[0]
                share = (rows - before[1]) / (mark[1] - before[1])
                return before[0] + share * (mark[0] - before[0])
            before = mark
        return before[0]


# Figures


def ratio(
    name: str, above: Sequence[float | None], below: Sequence[float | None], **target: float
) -> list[Figure]:
    """The ratio run by run; none where something could not be measured."""
    pairs = zip(above, below, strict=True)
    values = tuple(one / other for one, other in pairs if one is not None and other)
    return [Figure(name, values, **target)] if values else []


def walls(series: Sequence[Measured]) -> list[float | None]:
    return [measured.wall_s for measured in series]


def cpus(series: Sequence[Measured]) -> list[float | None]:
    return [measured.cpu_s for measured in series]


def peaks(series: Sequence[Measured]) -> list[float | None]:
    return [measured.peak_mb for measured in series]


def known(name: str, values: Sequence[float | None], **target: float) -> list[Figure]:
    there = tuple(value for value in values if value is not None)
    return [Figure(name, there, **target)] if there else []


# Cases


def run_first40(bench: Bench) -> Result:
    """A first sync of a table with 40 columns, against the floor, and row by row.

    Row by row has rounds of its own. It leaves the largest file in the system's cache: the
    floor takes its place, but what comes next to it has to be given other memory, which a
    virtual machine may have to ask its host for.
    """
    spec = SetSpec("vin_rows", bench.size("first40"))
    result = _run_first(bench, spec)
    with open_source([spec]) as source:
        made = bench.db("program")
        beside = bench.alternate(
            {
                "program": lambda: bench.sync(source, made, [spec]),
                "row by row": lambda: bench.floor(source, made, "--row-by-row"),
            }
        )
    program, naive = beside["program"], beside["row by row"]
    result.series |= {"row by row": naive, "program beside it": program}
    result.figures += ratio(
        "wall, row by row / program", walls(naive), walls(program), at_least=1.5
    )
    return result


def run_first180(bench: Bench) -> Result:
    """A first sync of a table with 180 columns, 70 % of them null, against the floor."""
    return _run_first(bench, SetSpec("vin_rows", bench.size("first180"), 180, 0.7))


def _run_first(bench: Bench, spec: SetSpec) -> Result:
    with open_source([spec]) as source:
        made = bench.db("program")
        series = bench.alternate(
            {
                "program": lambda: bench.sync(source, made, [spec]),
                "floor": lambda: bench.floor(source, made),
            }
        )
    program, floor = series["program"], series["floor"]
    figures = ratio("wall, program / floor", walls(program), walls(floor), at_most=1.15)
    figures += ratio("CPU, program / floor", cpus(program), cpus(floor), at_most=1.3)
    return Result(f"{spec.rows:,} rows, {spec.columns} columns", series, figures)


def run_lookups(bench: Bench) -> Result:
    """The same records with 4 lookups to a table that is synced, and to one that is not."""
    linked = SetSpec("vin_rows", bench.size("lookups"), lookups=4, target="vin_row")
    plain = replace(linked, name="vin_plains", target="vin_elsewhere")
    with open_source([linked, plain]) as source:
        series = bench.alternate(
            {
                "indexed": lambda: bench.sync(source, bench.db("indexed"), [linked]),
                "plain": lambda: bench.sync(source, bench.db("plain"), [plain]),
            }
        )
    indexed, without = series["indexed"], series["plain"]
    figures = ratio("wall, indexed / plain", walls(indexed), walls(without), at_most=1.15)
    figures += ratio("CPU, indexed / plain", cpus(indexed), cpus(without))
    figures += ratio("peak, indexed / plain", peaks(indexed), peaks(without))
    return Result(f"{linked.rows:,} rows, 40 columns, 4 of them lookups", series, figures)


def run_scale(bench: Bench) -> Result:
    """A first sync of a long, narrow table: as fast at its end as at its beginning?"""
    spec = SetSpec("vin_rows", bench.size("scale"), 8)
    quarter = spec.rows / 4
    grown: list[Growth] = []

    def run() -> Measured:
        grown.append(Growth(bench.db("program")))
        return bench.sync(source, grown[-1].db, [spec], watch=grown[-1].look)

    with open_source([spec]) as source:
        series = bench.alternate({"program": run})
    first = [growth.rate(0, quarter) for growth in grown]
    last = [growth.rate(3 * quarter, spec.rows) for growth in grown]
    figures = [
        Figure("rows/s of the first quarter", tuple(first)),
        Figure("rows/s of the last quarter", tuple(last)),
        *ratio("rows/s, last / first quarter", last, first, at_least=0.5),
    ]
    return Result(f"{spec.rows:,} rows, 8 columns", series, figures)


def run_memory(bench: Bench) -> Result:
    """Peak memory against the size of a table, and with 50 tables of large pages at once."""
    rows = bench.size("memory")
    sizes = sorted({max(1, rows * share // 20) for share in (2, 5, 10, 20)})
    specs = {f"{size:,} rows": SetSpec(f"vin_rows{size}", size) for size in sizes}
    with open_source(list(specs.values())) as source:
        series = bench.alternate(
            {
                name: lambda spec=spec: bench.sync(source, bench.db("program"), [spec])
                for name, spec in specs.items()
            }
        )
    smallest, *_, largest = series.values()
    figures = ratio(
        f"peak, {sizes[-1]:,} / {sizes[0]:,} rows", peaks(largest), peaks(smallest), at_most=1.2
    )
    points = [
        (size, size / median(one.wall_s for one in runs), median(one.peak_mb or 0 for one in runs))
        for size, runs in zip(sizes, series.values(), strict=True)
    ]
    wide = [
        SetSpec(f"vin_wide{at:02d}", min(PAGE, max(1, rows // 50)), 180, 0.35)
        for at in range(WIDE_SETS)
    ]
    with open_source(wide) as source:
        source.control(latency_s=0.1)
        series |= bench.alternate({"wide": lambda: bench.sync(source, bench.db("wide"), wide)})
    figures += known(
        f"peak MB, {WIDE_SETS} tables of 180 columns", peaks(series["wide"]), at_most=300
    )
    pages = [one.sent_mb / max(1, one.requests) for one in series["wide"]]
    figures.append(Figure("MB a request there", tuple(pages)))
    return Result(f"up to {rows:,} rows, 40 columns", series, figures, points)


def run_many(bench: Bench) -> Result:
    """40 entity sets at 100 ms a request, against the storing floor at none."""
    rows = bench.size("many")
    specs = [SetSpec(f"vin_rows{at:02d}", rows) for at in range(MANY_SETS)]
    crowd = [SetSpec(f"vin_crowd{at:02d}", max(1, rows // 10)) for at in range(CROWD_SETS)]
    made = bench.db("program")

    def program(*more: str) -> Measured:
        source.control(latency_s=0.1)
        return bench.sync(source, made, specs, *more)

    def floor() -> Measured:
        source.control(latency_s=0)
        return bench.floor(source, made)

    with open_source([*specs, *crowd]) as source:
        series = bench.alternate({"program": program, "floor": floor})
        source.control(page_latency_s=0.1 if bench.rows else 1)  # long enough to meet in
        series["crowd"] = [bench.sync(source, bench.db("crowd"), crowd)]
        source.control(page_latency_s=0)
        series["16 workers"] = [program("--workers", "16")]
    # The longest chain: challenge, token, metadata, counts, and the pages of one table.
    chain_s = 0.1 * (4 + -(-rows // PAGE))
    bound = [max(chain_s, one.wall_s) for one in series["floor"]]
    figures = [
        *ratio(
            "wall, program / larger of floor and latency",
            walls(series["program"]),
            bound,
            at_most=1.5,
        ),
        Figure(f"most in flight, {CROWD_SETS} sets", (series["crowd"][0].in_flight,), at_least=50),
        Figure("most in flight, 16 workers", (series["16 workers"][0].in_flight,), 16, 16),
    ]
    return Result(
        f"{MANY_SETS} sets of {rows:,} rows, 40 columns, 100 ms a request", series, figures
    )


def run_segments(bench: Bench) -> Result:
    """One large table, slow to answer: 16 ranges against one chain of pages."""
    rows = bench.size("segments")
    pages = 50 if bench.quick else 200
    seconds = min(bench.seconds_per_page, 0.2) if bench.quick else bench.seconds_per_page
    spec = SetSpec("vin_rows", rows, 8, undated=0.005)
    made = bench.db("program")

    def run(segments: int) -> Measured:
        measured = bench.sync(source, made, [spec], "--segments", str(segments))
        with closing(_open(made)) as connection:
            fetched, stored = connection.execute(
                "SELECT (SELECT records_fetched FROM _sync_log), (SELECT count(*) FROM vin_rows)"
            ).fetchone()
        if fetched != rows or stored != rows:
            raise BenchmarkError(f"of {rows} records {fetched} were fetched and {stored} stored")
        return measured

    with open_source([spec], page_size=max(1, rows // pages)) as source:
        source.control(page_latency_s=seconds)
        series = bench.alternate({"16 ranges": lambda: run(16), "one chain": lambda: run(1)})
    ranges = series["16 ranges"]
    figures = ratio(
        "wall, one chain / 16 ranges", walls(series["one chain"]), walls(ranges), at_least=8
    )
    figures.append(Figure("ranges read at once", tuple(one.in_flight for one in ranges)))
    about = f"{rows:,} rows, 8 columns, {pages} pages at {seconds:g} s"
    return Result(about, series, figures)


def run_nothing(bench: Bench) -> Result:
    """A second sync of 40 entity sets, 10 of them junctions, where nothing has changed."""
    rows = bench.size("nothing")
    specs = [SetSpec(f"vin_rows{at:02d}", rows, 20, tracked=True) for at in range(DATED_SETS)]
    specs += [SetSpec(f"vin_links{at:02d}", rows, junction=True) for at in range(JUNCTION_SETS)]
    made = bench.db("program")
    with open_source(specs) as source:
        bench.sync(source, made, specs)
        before, pages = digest_rows(made), digest_pages(made)
        source.control(latency_s=0.1)
        series = bench.alternate(
            {
                "program": lambda: bench.sync(source, made, specs, fresh=False),
                "start-up": _start_up,
            }
        )
        after, later = digest_rows(made), digest_pages(made)
    trips = [
        (run.wall_s - start.wall_s) / 0.1
        for run, start in zip(series["program"], series["start-up"], strict=True)
    ]
    most = 4 + 2 * DATED_SETS + JUNCTION_SETS
    rewritten = sum(before[name] != after.get(name) for name in before)
    figures = [
        Figure("round trips beyond start-up", tuple(trips), at_most=6),
        Figure("seconds", tuple(one.wall_s for one in series["program"])),
        Figure("requests", tuple(one.requests for one in series["program"]), at_most=most),
        Figure("tables whose rows differ afterwards", (rewritten,), at_most=0),
    ]
    if pages:
        differ = len(pages.items() ^ later.items())
        figures.append(Figure("pages of tables and indexes that differ", (differ,), at_most=0))
    about = f"{len(specs)} sets of {rows:,} rows, 100 ms a request"
    return Result(about, series, figures)


def run_full(bench: Bench) -> Result:
    """``--full`` where nothing has changed, against the first sync; also with change tracking."""
    rows = bench.size("full")
    plain = SetSpec("vin_rows", rows)
    tracked = SetSpec("vin_tracked", rows, tracked=True)
    with open_source([plain, tracked]) as source:
        series = bench.alternate(
            {
                f"{what}{how}": lambda spec=spec, fresh=fresh, more=more: bench.sync(
                    source, bench.db(spec.name), [spec], *more, fresh=fresh
                )
                for spec, how in ((plain, ""), (tracked, ", tracked"))
                for what, fresh, more in (("first", True, ()), ("--full", False, ("--full",)))
            }
        )
    figures = []
    for how in ("", ", tracked"):
        first, full = series[f"first{how}"], series[f"--full{how}"]
        figures += ratio(f"wall, --full / first{how}", walls(full), walls(first), at_most=0.5)
        grown = tuple(
            100 * (late.db_mb / early.db_mb - 1) for early, late in zip(first, full, strict=True)
        )
        figures.append(Figure(f"growth of the file, %{how}", grown, at_most=1))
    return Result(f"{rows:,} rows, 40 columns", series, figures)


def run_gzip(bench: Bench) -> Result:
    """Bytes on the wire and seconds, with and without compression."""
    spec = SetSpec("vin_rows", bench.size("gzip"))

    def run(compress: bool) -> Measured:
        source.control(gzip=int(compress))
        return bench.sync(source, bench.db("program"), [spec], "--segments", "1")

    with open_source([spec], compress=True) as source:
        series = bench.alternate({"gzip": lambda: run(True), "plain": lambda: run(False)})
    packed, plain = series["gzip"], series["plain"]
    figures = [
        *ratio("bytes, gzip / plain", [r.sent_mb for r in packed], [r.sent_mb for r in plain]),
        *ratio("wall, gzip / plain", walls(packed), walls(plain)),
        *ratio("CPU, gzip / plain", cpus(packed), cpus(plain)),
    ]
    for name, runs in series.items():
        line_s = tuple(one.sent_mb * _MB * 8 / _LINE_BITS for one in runs)
        figures.append(Figure(f"seconds on a line of 100 Mbit/s, {name}", line_s))
    # Reading and storing go on at once: what takes longer decides.
    figures.append(
        Figure(
            "seconds at 100 Mbit/s, gzip / plain",
            tuple(
                max(a.wall_s, a.sent_mb * _MB * 8 / _LINE_BITS)
                / max(b.wall_s, b.sent_mb * _MB * 8 / _LINE_BITS)
                for a, b in zip(packed, plain, strict=True)
            ),
        )
    )
    return Result(f"{spec.rows:,} rows, 40 columns", series, figures)


def run_startup(bench: Bench) -> Result:
    """What a command costs before it does anything."""
    missing = str(bench.db("missing"))
    status = [sys.executable, "-m", "dataverse_sync", "status", "--db", missing]
    series = bench.alternate(
        {
            "--version": _start_up,
            "status": lambda: run_process(status, clean_environment()),
            "bare Python": lambda: run_process([sys.executable, "-c", "pass"], clean_environment()),
        }
    )
    figures = [
        *known("seconds, --version", walls(series["--version"]), at_most=0.4),
        *known("seconds, status without a database", walls(series["status"]), at_most=0.4),
    ]
    return Result("imports included", series, figures)


def _start_up() -> Measured:
    return run_process([sys.executable, "-m", "dataverse_sync", "--version"], clean_environment())


CASES: dict[str, Callable[[Bench], Result]] = {
    "first40": run_first40,
    "first180": run_first180,
    "lookups": run_lookups,
    "scale": run_scale,
    "memory": run_memory,
    "many": run_many,
    "segments": run_segments,
    "nothing": run_nothing,
    "full": run_full,
    "gzip": run_gzip,
    "startup": run_startup,
}


# What is shown and written


def format_result(name: str, result: Result) -> str:
    """A table of the runs (median, least and most), then the figures."""
    heads = ("", "wall s", "CPU s", "peak MB", "requests", "MB sent", "in flight")
    rows = [heads]
    for variant, runs in result.series.items():
        cells = [
            _spread([getattr(one, column) for one in runs], digits)
            for column, digits in (
                ("wall_s", 2),
                ("cpu_s", 2),
                ("peak_mb", 0),
                ("requests", 0),
                ("sent_mb", 1),
                ("in_flight", 0),
            )
        ]
        rows.append((variant, *cells))
    widths = [max(len(row[at]) for row in rows) for at in range(len(heads))]
    lines = [f"{name}: {result.about}"]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append(f"  {row[0].ljust(widths[0])}  {'  '.join(cells)}".rstrip())
    for figure in result.figures:
        verdict = {None: "", True: "  met", False: "  MISSED"}[figure.is_met]
        lines.append(f"  {figure.name}: {_spread(figure.values, 2)}{_target(figure)}{verdict}")
    return "\n".join(lines)


def _spread(values: Sequence[float | None], digits: int) -> str:
    there = [value for value in values if value is not None]
    if not there:
        return "-"
    middle, least, most = (f"{f(there):,.{digits}f}" for f in (median, min, max))
    return middle if least == most else f"{middle} ({least}-{most})"


def _target(figure: Figure) -> str:
    if figure.at_most == figure.at_least:
        return "" if figure.at_most is None else f"  [{figure.at_most:g}]"
    if figure.at_most is not None:
        return f"  [at most {figure.at_most:g}]"
    return f"  [at least {figure.at_least:g}]"


def build_document(bench: Bench, results: Mapping[str, Result]) -> dict[str, Any]:
    """All that was measured, for a file."""
    return {
        "machine": {
            "system": platform.platform(),
            "processors": os.cpu_count(),
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "dataverse_sync": _find_version(),
        },
        "runs": bench.runs,
        "quick": bench.quick,
        "cases": {
            name: {
                "about": result.about,
                "series": {
                    variant: [asdict(one) for one in runs]
                    for variant, runs in result.series.items()
                },
                "figures": [
                    asdict(figure) | {"median": figure.value, "is_met": figure.is_met}
                    for figure in result.figures
                ],
                "points": result.points,
            }
            for name, result in results.items()
        },
    }


def _find_version() -> str:
    """The program's version, without importing the program: see ``run_process``."""
    return str(runpy.run_path(str(_ROOT / "dataverse_sync" / "version.py"))["__version__"])


def draw_plot(points: Sequence[tuple[int, float, float]]) -> str:
    """An SVG image: rows a second, and peak memory, against the rows of a table."""
    speeds = [(rows, speed) for rows, speed, _ in points]
    memory = [(rows, peak) for rows, _, peak in points]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 260" font-family="sans-serif" '
        'font-size="11">\n<rect width="640" height="260" fill="white"/>\n'
        + _draw_panel(speeds, "Rows a second, first sync", 60, "#1f6feb")
        + _draw_panel(memory, "Peak memory, MB", 380, "#bc4c00")
        + "</svg>\n"
    )


def _draw_panel(points: Sequence[tuple[int, float]], title: str, left: int, color: str) -> str:
    """Axes from zero, four steps each, a line and its points."""
    width, top, bottom = 230, 40, 210
    across = _round_up(max(rows for rows, _ in points))
    high = _round_up(max(value for _, value in points) or 1)
    places = [
        (left + width * rows / across, bottom - (bottom - top) * value / high)
        for rows, value in points
    ]
    parts = [f'<text x="{left}" y="22" font-size="13" font-weight="bold">{title}</text>']
    for step in range(5):
        x, y = left + width * step / 4, bottom - (bottom - top) * step / 4
        parts += [
            f'<path d="M{left} {y:.1f}H{left + width}" stroke="#ddd"/>',
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{high * step / 4:,.0f}</text>',
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">'
            f"{across * step / 4:,.0f}</text>",
        ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>' for x, y in places]
    middle = left + width / 2
    parts.append(
        f'<text x="{middle}" y="{bottom + 38}" text-anchor="middle">rows, 40 columns</text>'
    )
    return "\n".join(parts) + "\n"


def _round_up(value: float) -> float:
    """The next number that four steps divide well."""
    unit = 10 ** (len(str(int(value))) - 1)
    return next(unit * times for times in (1, 2, 4, 6, 8, 10) if unit * times >= value)


# The command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure the program against its floors, as whole processes, alternately."
    )
    parser.add_argument(
        "--case",
        action="append",
        choices=CASES,
        metavar="NAME",
        help=f"only this case; repeatable: {', '.join(CASES)} (default: all)",
    )
    parser.add_argument(
        "--runs", type=_positive, metavar="N", help="runs of each (default: 5, with --quick 1)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small sizes, in two minutes; the targets are not for them",
    )
    parser.add_argument("--rows", type=_positive, metavar="N", help="rows, instead of a case's own")
    parser.add_argument(
        "--seconds-per-page",
        type=float,
        metavar="S",
        default=1.0,
        help="how long a page of the case segments takes (default: %(default)s)",
    )
    parser.add_argument(
        "--sync-args", type=shlex.split, metavar="ARGS", default=(), help="more options of sync"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="PATH",
        help="where the databases are made, in a folder that is removed (default: temporary)",
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every figure there")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="PATH.svg",
        help="draw speed and memory against table size there (from the case memory)",
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(argv)
    names = list(dict.fromkeys(options.case or CASES))
    if options.plot and "memory" not in names:
        parser.error("--plot draws what the case memory measures")
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.folder) as folder:
        bench = Bench(
            options.runs or (1 if options.quick else 5),
            Path(folder),
            options.rows,
            options.quick,
            options.seconds_per_page,
            tuple(options.sync_args),
        )
        try:
            for name in names:
                results[name] = CASES[name](bench)
                print(format_result(name, results[name]), flush=True)
        except BenchmarkError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    if options.json:
        document = build_document(bench, results)
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        options.plot.write_text(draw_plot(results["memory"].points), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
