"""Sweeps: what a file means, the Pareto front, and real dask workers, one of them killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measurements import entry, measurement
from pages import parsed
from tiny import make_bundle

from edge import cli, results
from edge.errors import ConfigError, DeviceError, InputError
from edge.progress import Progress
from edge.report import sweeppage
from edge.sweep import pareto, run, tasks
from edge.sweep.pareto import SweepRow
from edge.sweep.plan import Cell, read_plan
from edge.sweep.store import SweepStore
from edge.sweep.tasks import Outcome


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepStore:
    monkeypatch.setenv("EDGE_RESULTS", str(tmp_path / "results"))
    return SweepStore(tmp_path / "found")


def write(folder: Path, text: str) -> Path:
    path = folder / "sweep.toml"
    path.write_text(text)
    return path


# --- the file


def test_a_file_gives_every_combination(tmp_path: Path) -> None:
    make_bundle(tmp_path / "mine.edge")
    plan = read_plan(write(tmp_path, """
        models = ["tspulse", "relu2-mlp"]
        runtimes = ["onnx", "executorch"]
        schemes = ["fp32", "auto"]
        targets = ["cpu", "rpi5"]
        bundles = ["mine.edge"]
        devices = ["local"]
        runs = 7
    """))
    # On `cpu` auto is fp32, the same cell as fp32 itself.
    exported = {(cell.model, cell.runtime, cell.scheme, cell.target) for cell in plan.cells if cell.model}
    assert len(exported) == 2 * 2 * 3 and ("tspulse", "onnx", "int8-dynamic", "rpi5") in exported
    assert [cell.bundle for cell in plan.cells if cell.bundle] == [str(tmp_path / "mine.edge")]
    assert {cell.runs for cell in plan.cells} == {7} and plan.devices == ("local",)
    assert len({cell.id for cell in plan.cells}) == len(plan.cells) == 13
    assert len({cell.export_name for cell in plan.cells if cell.model}) == 12


def test_a_changed_profile_is_another_target(tmp_path: Path) -> None:
    """Else its cells would be taken for done, and its old bundle be measured as the new one."""
    path = write(tmp_path, 'models = ["relu2-mlp"]\ntargets = ["mine.toml", "cpu"]')
    (tmp_path / "mine.toml").write_text('same_as = "rpi5"\n')
    before = read_plan(path).cells
    assert read_plan(path).cells == before
    (tmp_path / "mine.toml").write_text('same_as = "rpi5"\nthreads = 2\n')
    after = read_plan(path).cells
    assert [one.id == other.id for one, other in zip(before, after, strict=True)] == [False, True]
    assert [one.export_name == other.export_name for one, other in zip(before, after, strict=True)] == [False, True]


def test_a_bundle_that_changed_since_the_sweep_began_is_not_measured(tmp_path: Path) -> None:
    make_bundle(tmp_path / "mine.edge")
    (cell,) = read_plan(write(tmp_path, "bundles = ['mine.edge']\nruns = 1\nseconds = 0.0")).cells
    make_bundle(tmp_path / "mine.edge", samples=1)
    outcome = msgspec.json.decode(tasks.measure(msgspec.json.encode(cell), str(tmp_path), str(tmp_path)), type=Outcome)
    assert outcome.measurement is None and "not the bundle that the sweep began with" in str(outcome.refused)
    (tmp_path / "mine.edge" / "manifest.json").unlink()
    outcome = msgspec.json.decode(tasks.measure(msgspec.json.encode(cell), str(tmp_path), str(tmp_path)), type=Outcome)
    assert outcome.measurement is None and outcome.refused


def test_what_runs_on_this_machine_takes_turns() -> None:
    """A worker does one thing at a time: an emulated board that runs beside it would spoil this machine's times."""
    devices = ("ssh://pi@a", "local", "qemu:rpi5", "ssh://pi@b")
    with run._cluster(devices, 2) as cluster:
        offered = [set(spec["options"]["resources"]) for spec in cluster.worker_spec.values()]
    assert {"device:local", "device:qemu:rpi5"} <= offered[0]
    assert set().union(*offered) == {run.resource(device) for device in devices}


def test_a_cell_is_another_when_what_it_means_changes() -> None:
    cell = Cell(device="local", runs=5, seconds=1.0, threads=None, model="m:odd/Name", runtime="onnx", scheme="fp32", target="x/y.toml")
    assert cell.id == msgspec.structs.replace(cell).id
    for change in ({"device": "ssh://pi"}, {"runs": 6}, {"threads": 2}, {"scheme": "int8"}, {"bundle_sha256": "0"}):
        assert msgspec.structs.replace(cell, **change).id != cell.id
    assert "/" not in cell.export_name and cell.export_name.endswith(".edge")
    assert msgspec.structs.replace(cell, device="ssh://pi").export_name == cell.export_name


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "nothing to try"),
        ("models = 3", "Expected `array`"),
        ("model = ['tspulse']", "unknown field `model`"),
        ("models = ['tspuls']", "no model 'tspuls'"),
        ("models = ['tspulse']\nschemes = ['int3']", "no scheme 'int3'"),
        ("models = ['tspulse']\nruntimes = ['caffe']", "no runtime 'caffe'"),
        ("models = ['tspulse']\ntargets = ['rpi9']", "no target 'rpi9'"),
        ("models = ['tspulse']\ndevices = ['serial:1']", "no device 'serial:1'"),
        ("models = ['tspulse']\nruns = 0", "at least 1 run"),
        ("models = ['tspulse']\nseconds = nan", "no negative time"),
        ("models = ['tspulse']\nseconds = inf", "no negative time"),
        ("bundles = ['none.edge']", "no bundle at"),
        ("models = [", "not TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_sentence(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as refusal:
        read_plan(write(tmp_path, text))
    assert "\n" not in str(refusal.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_plan(tmp_path / "none.toml")


# --- the front


def row(p50: float, size: int, error: float | None, name: str = "a", device: str = "local") -> SweepRow:
    return SweepRow(
        cell="0", model=name, entry="forward", device=device, target="cpu", runtime="onnx", scheme="fp32", threads=1,
        p50_us=p50, p90_us=p50, size_bytes=size, peak_bytes=1, error=error, joules=None, stayed_hot=False, front=False,
    )


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=12))
def test_the_front_is_who_nobody_beats(points: list[tuple[int, int, int]]) -> None:
    rows = [row(float(p50), size, error / 10) for p50, size, error in points]  # no error is within rounding but 0
    front = [one for one in rows if pareto._on_front(one, rows)]
    assert front
    for one in rows:
        costs = (one.p50_us, one.size_bytes, one.error)
        beaten = any(
            other is not one
            and (other.p50_us, other.size_bytes, other.error) != costs
            and other.p50_us <= costs[0] and other.size_bytes <= costs[1] and (other.error or 0) <= (costs[2] or 0)
            for other in rows
        )
        assert (one in front) == (not beaten)


def test_fronts_are_taken_among_what_competes() -> None:
    worse = [row(9.0, 9, 0.5), row(9.0, 9, 0.5, name="b"), row(9.0, 9, 0.5, device="ssh://pi")]
    rows = [row(1.0, 1, 0.1), *worse]
    assert [pareto._on_front(one, rows) for one in rows] == [True, False, True, True]
    assert not pareto._on_front(row(1.0, 1, None), rows)  # not verified is worse than any error


def test_the_page_shows_rows_fronts_and_refusals() -> None:
    cell = Cell(device="local", runs=1, seconds=0.0, threads=1, model="demo", runtime="onnx", scheme="fp32", target="cpu")
    outcomes = [
        Outcome(cell=cell, measurement=measurement(entry("forward", [10.0] * 5), entry("decode", [3.0]))),
        Outcome(cell=msgspec.structs.replace(cell, scheme="int4"), refused="<script>no</script>"),
    ]
    found = pareto.report(outcomes)
    assert [one.front for one in found.rows] == [True, True] and len(found.refused) == 1
    page = sweeppage.encode("sweep", found)
    text = " ".join(parsed(page).text)
    assert "demo: decode on local" in text and "<script>no</script>" in text and "10.0 µs" in text
    assert b"<script" not in page.lower() and b"http" not in page.lower()
    assert "Nothing was measured" in " ".join(parsed(sweeppage.encode("none", pareto.report([]))).text)
    many = [row(10.0**power, 10 ** (9 - power), 10.0**-power) for power in range(1, 7)]
    assert str(sweeppage.scatter(many)).count("<circle") == 6


# --- running


def test_a_sweep_here_is_resumed_and_ends_in_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGE_RESULTS", str(tmp_path / "results"))
    make_bundle(tmp_path / "a.edge")
    make_bundle(tmp_path / "b.edge", samples=1)
    path = write(tmp_path, """
        models = ["relu2-mlp"]
        runtimes = ["tvm"]
        schemes = ["int4"]
        bundles = ["a.edge", "b.edge"]
        runs = 5
        seconds = 0.05
        threads = 1
    """)
    assert cli.invoke(["sweep", str(path), "--workers", "2", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert len(found["rows"]) == 4 and {one["entry"] for one in found["rows"]} == {"small", "wide"}
    (refused,) = found["refused"]
    assert "tvm cannot do int4" in refused["reason"] and said.err.count("tvm cannot do int4") == 1
    assert len(results.identities()) == 2
    page = tmp_path / "sweep.out" / "sweep.html"
    assert "tiny: wide on local" in page.read_text()

    # Nothing is done again: no cluster is started, no file changes.
    before = {one: one.stat().st_mtime_ns for one in (tmp_path / "sweep.out" / "cells").iterdir()}
    monkeypatch.setattr(run, "_client", None)
    assert cli.invoke(["sweep", str(path)]) == 0
    said = capsys.readouterr()
    assert "Refused: relu2-mlp tvm int4 for cpu on local" in said.out and f"wrote {page}" in said.out
    assert {one: one.stat().st_mtime_ns for one in (tmp_path / "sweep.out" / "cells").iterdir()} == before
    SweepStore(tmp_path / "sweep.out").forget_refused(read_plan(path).cells)
    assert len(list((tmp_path / "sweep.out" / "cells").iterdir())) == 2
    next(iter((tmp_path / "sweep.out" / "cells").iterdir())).write_text("{")
    assert cli.invoke(["sweep", str(path)]) == 2
    assert "delete it, the cell is measured again" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_is_made_and_measured(tmp_path: Path, store: SweepStore) -> None:
    plan = read_plan(write(tmp_path, "models = ['relu2-mlp']\nruntimes = ['onnx']\nschemes = ['int8']\nruns = 3\nseconds = 0.0"))
    outcomes = run.run(plan, store, scheduler=None, workers=1, progress=Progress())
    assert [outcome.measurement is not None for outcome in outcomes] == [True]
    (made,) = [one for one in store.bundles.iterdir() if one.suffix == ".edge"]
    assert made.name == plan.cells[0].export_name
    (found,) = pareto.report(outcomes).rows
    assert found.scheme == "int8" and found.error is not None and found.front


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """A dask scheduler of its own, on loopback."""
    file = tmp_path / "scheduler.json"
    command = ["dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    process = dask(command)
    try:
        for _ in range(300):
            if file.exists() and file.read_text().strip().endswith("}"):
                break
            assert process.poll() is None
            time.sleep(0.1)
        yield json.loads(file.read_text())["address"]
    finally:
        process.kill()
        process.wait()


def dask(command: list[str]) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-P", "-m", f"distributed.cli.{command[0]}", *command[1:]]
    return subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def worker(address: str, folder: Path, *resources: str) -> subprocess.Popen[bytes]:
    common = ["--no-nanny", "--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard", "--local-directory", str(folder)]
    return dask(["dask_worker", address, *common, *resources])


@pytest.mark.slow
def test_a_worker_dies_and_every_cell_is_done_once(tmp_path: Path, store: SweepStore, scheduler: str) -> None:
    from distributed import Client

    names = [f"bundle{number}.edge" for number in range(6)]
    for name in names:
        make_bundle(tmp_path / name)
    plan = read_plan(write(tmp_path, f"bundles = {json.dumps(names)}\nruns = 5\nseconds = 1.0\nthreads = 1"))
    workers = [worker(scheduler, tmp_path, "--resources", "device:local=1") for _ in range(2)]
    found: list[Outcome] = []
    sweep = threading.Thread(
        target=lambda: found.extend(run.run(plan, store, scheduler=scheduler, workers=None, progress=Progress()))
    )
    try:
        with Client(scheduler, timeout=30) as client:
            client.wait_for_workers(2, timeout=60)
            pids = client.run(os.getpid)
            assert set(pids.values()) == {process.pid for process in workers}
            sweep.start()
            victim, key = None, ""
            deadline = time.monotonic() + 120
            while victim is None and time.monotonic() < deadline:
                time.sleep(0.05)
                if not (store.cells.is_dir() and any(store.cells.glob("*.json"))):
                    continue  # let a first cell be done
                for address, keys in client.processing().items():
                    if keys:
                        victim, key = pids[address], str(keys[0])
            assert victim is not None
            time.sleep(0.3)
            os.kill(victim, signal.SIGKILL)
            sweep.join(180)
            assert not sweep.is_alive()
            survivors = set(client.run(os.getpid).values())
    finally:
        for process in workers:
            process.kill()
            process.wait()
    assert survivors == {process.pid for process in workers} - {victim}
    assert [outcome.cell for outcome in found] == list(plan.cells)
    assert all(outcome.measurement is not None for outcome in found)
    assert key.removeprefix("measure-") in {cell.id for cell in plan.cells}
    assert sorted(path.stem for path in store.cells.iterdir()) == sorted(cell.id for cell in plan.cells)
    assert len(results.identities()) == len(plan.cells)


@pytest.mark.slow
def test_a_device_that_no_worker_offers_is_refused(tmp_path: Path, store: SweepStore, scheduler: str) -> None:
    make_bundle(tmp_path / "a.edge")
    plan = read_plan(write(tmp_path, "bundles = ['a.edge']\nruns = 1\nseconds = 0.0"))
    idle = worker(scheduler, tmp_path)
    try:
        with pytest.raises(DeviceError, match=r"no worker of .* offers local: start one .*--resources device:local=1"):
            run.run(plan, store, scheduler=scheduler, workers=None, progress=Progress())
    finally:
        idle.kill()
        idle.wait()
    assert not store.cells.exists()


def test_a_scheduler_that_is_not_there_is_said(tmp_path: Path, store: SweepStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PATIENCE", 1)
    make_bundle(tmp_path / "a.edge")
    plan = read_plan(write(tmp_path, "bundles = ['a.edge']"))
    with pytest.raises(DeviceError, match=r"no dask scheduler at tcp://127\.0\.0\.1:9"):
        run.run(plan, store, scheduler="tcp://127.0.0.1:9", workers=None, progress=Progress())


def test_a_damaged_cell_is_said(tmp_path: Path, store: SweepStore) -> None:
    make_bundle(tmp_path / "a.edge")
    (cell,) = read_plan(write(tmp_path, "bundles = ['a.edge']")).cells
    assert store.outcome(cell) is None
    store.keep(Outcome(cell=cell, refused="no."))
    assert store.outcome(cell) == Outcome(cell=cell, refused="no.")
    (store.cells / f"{cell.id}.json").write_bytes(b"\xff")
    with pytest.raises(InputError, match="delete it"):
        store.outcome(cell)
