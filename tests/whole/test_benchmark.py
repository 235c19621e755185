"""Every case of the benchmark runs; no speed is tested."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from dataverse_sync import cli
from dataverse_sync.sync import ranges

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def benchmark(
    no_settings: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[ModuleType]:
    """The script as a module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setattr(os, "sync", lambda: None, raising=False)  # waits for the whole machine
    on_stop = signal.getsignal(signal.SIGTERM)
    import benchmark

    yield benchmark
    signal.signal(signal.SIGTERM, on_stop)


@pytest.fixture
def in_process(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the commands in this process, which is faster; the source keeps its own process."""
    import benchmark_floor

    def run(
        command: Sequence[str],
        environment: Mapping[str, str],
        watch: Callable[[], None] = lambda: None,
    ) -> object:
        _, what, *arguments = command
        status = 0
        if what == "-m":
            try:
                status = cli.main(arguments[1:])
            except SystemExit as ended:  # --version
                status = ended.code
        elif what.endswith("benchmark_floor.py"):
            status = benchmark_floor.main(arguments)
        assert status == 0
        (watch or (lambda: None))()
        return benchmark.Measured(wall_s=1.0, cpu_s=0.5, peak_mb=50.0)

    monkeypatch.setattr(benchmark, "run_process", run)
    for name in ("MANY_SETS", "CROWD_SETS", "WIDE_SETS", "DATED_SETS", "JUNCTION_SETS"):
        monkeypatch.setattr(benchmark, name, 3)
    monkeypatch.setattr(ranges, "ROWS_PER_RANGE", 100)


def test_help_names_every_case(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["--help"])

    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(name in said for name in benchmark.CASES)
    assert set(benchmark.CASES) == set(benchmark.SIZES)


def test_case_run_as_processes_writes_json(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "figures.json"

    options = ["--case", "first180", "--runs", "1", "--rows", "40", "--json", str(path)]
    status = benchmark.main(options)

    document = json.loads(path.read_text())
    case = document["cases"]["first180"]
    (program,), (floor,) = case["series"]["program"], case["series"]["floor"]
    assert status == 0
    assert document["runs"] == 1
    assert program["requests"] == 6 + 2 + 3  # and of rights and labels
    assert floor["requests"] == 1
    assert program["wall_s"] > 0
    assert (program["cpu_s"] is None) == (not hasattr(os, "wait4"))
    assert "wall, program / floor" in capsys.readouterr().out


@pytest.mark.usefixtures("in_process")
def test_every_other_case_gives_figures(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [name for name in benchmark.CASES if name not in ("first180", "segments")]
    path, plot = tmp_path / "figures.json", tmp_path / "figures.svg"
    options = [option for name in names for option in ("--case", name)]

    options += ["--runs", "1", "--rows", "40", "--json", str(path), "--plot", str(plot)]
    status = benchmark.main(options)

    cases = json.loads(path.read_text())["cases"]
    said = capsys.readouterr().out
    assert status == 0
    assert list(cases) == names
    for name in names:
        assert f"{name}: " in said
        assert cases[name]["series"]
        assert cases[name]["figures"]
    figures = {one["name"]: one for one in cases["nothing"]["figures"]}
    assert figures["requests"]["median"] == 3 + 2 * 3 + 3 + 1 + 2  # the organization, keys, rights
    assert figures["tables whose rows differ afterwards"]["median"] == 0
    assert cases["gzip"]["figures"][0]["median"] < 0.9
    assert len(cases["memory"]["points"]) == 4
    assert ET.parse(plot).getroot().tag.endswith("svg")


@pytest.mark.usefixtures("in_process")
def test_ranges_bring_every_record_once(benchmark: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "figures.json"

    options = ["--case", "segments", "--runs", "1", "--rows", "600", "--json", str(path)]
    status = benchmark.main([*options, "--quick", "--seconds-per-page", "0.001"])

    (figures,) = (case["figures"] for case in json.loads(path.read_text())["cases"].values())
    assert status == 0
    assert figures[1]["name"] == "ranges read at once"
    assert figures[1]["median"] > 1


@pytest.mark.usefixtures("benchmark")
def test_failed_run_ends_benchmark(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import benchmark

    options = ["--case", "first40", "--runs", "1", "--rows", "5", "--sync-args=--workers none"]

    assert benchmark.main(options) == 1
    assert re.search(r"error: .*exited 2", capsys.readouterr().err)


def test_source_serves_half_open_ranges(benchmark: ModuleType) -> None:
    import benchmark_source

    spec = benchmark_source.SetSpec("vin_rows", 50, 8, undated=0.1)
    site = benchmark_source.Site([spec], 7, compress=False)
    site.base = "http://127.0.0.1:1"
    middle = benchmark_source.to_text(site._data[spec.shape].created[20])

    def read(filter: str) -> list[str]:
        target = f"{benchmark_source.API}vin_rows?$filter={filter.replace(' ', '%20')}"
        keys = []
        while target:
            page = json.loads(b"".join(site.answer(target, {})[0]))
            keys += [record["vin_rowid"] for record in page["value"]]
            target = page.get("@odata.nextLink", "").removeprefix(site.base)
        return keys

    early, late = read(f"createdon lt {middle}"), read(f"createdon ge {middle}")
    undated = read("createdon eq null")

    assert (len(early), len(late), len(undated)) == (20, 25, 5)
    assert [*early, *late, *undated] == read("")
    with pytest.raises(benchmark_source.RefusedError):
        read("vin_col000 eq 'x'")


def test_benchmark_does_not_import_program() -> None:
    """On Linux a child's peak memory is at least its parent's, so the parent must stay small."""
    text = (SCRIPTS / "benchmark.py").read_text(encoding="utf-8")

    assert not re.search(r"^\s*(from|import) dataverse_sync", text, re.MULTILINE)
    assert sys.executable  # what the processes are started with


def test_variants_alternate_which_starts(benchmark: ModuleType, tmp_path: Path) -> None:
    ran: list[str] = []

    def run(name: str) -> object:
        ran.append(name)
        return benchmark.Measured(wall_s=float(len(ran)))

    bench = benchmark.Bench(runs=4, folder=tmp_path)
    series = bench.alternate({name: lambda name=name: run(name) for name in "abc"})

    assert "".join(ran) == "abcbcacababc"
    assert [one.wall_s for one in series["b"]] == [2, 4, 9, 11]
