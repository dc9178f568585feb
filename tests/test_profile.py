"""Profiling for real: a fresh process that runs ONNX Runtime; and what is said when that process goes wrong."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tiny import SHAPES, make_bundle

import edge
from edge.devices import facts, roofline
from edge.devices.local import COMMAND, converse
from edge.devices.messages import Profiled, ProfileRequest, RoofFound, RoofRequest
from edge.devices.timing import timed, warm_up
from edge.errors import BundleError, DeviceError, EdgeError, UsageError
from edge.manifest import Cost
from edge.measurement import Latency, Measurement, Roof
from edge.progress import Progress
from edge.report import jsonfile
from edge.runtimes.base import usable_cores
from edge.spec import Scheme

RUNS, SECONDS = 30, 0.05


class Listener(Progress):
    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("profile") / "tiny.edge").path


@pytest.fixture(scope="module")
def listener() -> Listener:
    return Listener()


@pytest.fixture(scope="module")
def measured(bundle: Path, listener: Listener) -> Measurement:
    return edge.profile(bundle, threads=1, runs=RUNS, seconds=SECONDS, progress=listener)


# --- what a measurement says


def test_every_run_is_kept_and_enough_of_them(measured: Measurement) -> None:
    assert [entry.entry for entry in measured.entries] == list(SHAPES)
    for entry in measured.entries:
        assert len(entry.runs) == entry.latency.runs >= RUNS
        span = entry.runs[-1].start_us + entry.runs[-1].duration_us - entry.runs[0].start_us
        assert span >= 0.95 * SECONDS * 1e6
        for before, after in itertools.pairwise(entry.runs):
            assert after.start_us >= before.start_us + before.duration_us - 0.01
        assert entry.latency == Latency.of([run.duration_us for run in entry.runs])
        assert entry.first_us > 0 and entry.warmup_runs >= 5
        assert entry.inputs == {"x": SHAPES[entry.entry]}
        assert entry.errors[0].relative == 1e-6  # from the manifest


def test_the_process_is_told_step_by_step(measured: Measurement, listener: Listener) -> None:
    steps = [
        "import", "load",
        *(f"{phase} {entry}" for entry in SHAPES for phase in ("bind", "first run", "warm-up", "runs")),
        *(f"operators {entry}" for entry in SHAPES),
    ]
    assert listener.stages == [*steps, "roofline"]
    assert [f"{phase.name} {phase.entry}" if phase.entry else phase.name for phase in measured.phases] == steps
    for before, after in itertools.pairwise(measured.phases):
        assert after.start_us >= before.start_us + before.duration_us - 0.01
    runs = [phase for phase in measured.phases if phase.name == "runs"]
    for phase, entry in zip(runs, measured.entries, strict=True):
        assert phase.calls == len(entry.runs)
        assert phase.start_us <= entry.runs[0].start_us
        assert phase.start_us + phase.duration_us >= entry.runs[-1].start_us + entry.runs[-1].duration_us - 0.01


def test_the_runtime_is_told_apart_from_the_model(measured: Measurement) -> None:
    """Importing onnxruntime takes tens of milliseconds and tens of megabytes, loading two tiny graphs far less."""
    memory = measured.memory
    assert measured.import_us > 10_000
    assert memory.imported - memory.baseline > 5e6
    assert memory.baseline < memory.imported <= memory.loaded * 1.05
    assert memory.peak >= max(memory.load_peak, memory.run_peak) >= memory.loaded * 0.95
    assert 0 <= memory.model < memory.imported


def test_operators_are_those_of_the_graph(measured: Measurement) -> None:
    for entry in measured.entries:
        kinds = {row.kind for row in entry.operators}
        assert "MatMul" in kinds
        assert sum(row.share for row in entry.operators) == pytest.approx(1.0, abs=0.01)


def test_bundle_and_machine_are_named(bundle: Path, measured: Measurement) -> None:
    manifest = bundle / "manifest.json"
    assert measured.bundle.manifest_sha256 == hashlib.sha256(manifest.read_bytes()).hexdigest()
    sizes = sum((bundle / f"{name}.onnx").stat().st_size for name in SHAPES)
    assert measured.bundle.artifact_bytes == sizes < measured.bundle.total_bytes
    assert measured.device.versions["onnxruntime"] and measured.device.versions["numpy"] == np.__version__
    assert measured.device.device == "local"
    assert measured.settings.threads == 1


def test_a_measurement_survives_json(measured: Measurement) -> None:
    assert jsonfile.decode(jsonfile.encode(measured)) == measured


def test_the_roofline_bounds_the_entries(measured: Measurement) -> None:
    assert measured.roof is not None
    assert measured.roof.threads == 1
    for entry in measured.entries:
        assert entry.bound is not None
        assert entry.bound.arithmetic_us == pytest.approx(entry.cost.flops / measured.roof.peak_gflops / 1e3)
        assert entry.bound.share == pytest.approx(
            max(entry.bound.arithmetic_us, entry.bound.memory_us or 0.0) / entry.latency.p50_us
        )


@pytest.mark.parametrize("changes", [{"seconds": float("nan")}, {"seconds": float("inf")}, {"cool_seconds": float("nan")}, {"seconds": -1.0}])
def test_times_that_are_none_are_refused_before_anything_runs(bundle: Path, changes: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="no negative or endless time"):
        edge.profile(bundle, **changes)  # type: ignore[arg-type]


def test_one_entry_without_extras(bundle: Path) -> None:
    threads = usable_cores() + 1
    measured = edge.profile(
        bundle, threads=threads, entries=["wide"], runs=3, seconds=0.0, operators=False, roofline=False
    )
    assert [entry.entry for entry in measured.entries] == ["wide"]
    assert measured.entries[0].operators == () and measured.entries[0].bound is None and measured.roof is None
    assert any("threads were asked for" in sentence for sentence in measured.warnings)


def test_a_folder_of_the_users_is_not_imported(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker starts in the user's folder, where a file may be called like a module that it needs."""
    (tmp_path / "numpy.py").write_text("raise SystemExit(7)")
    (tmp_path / "edge").mkdir()
    monkeypatch.chdir(tmp_path)
    assert edge.profile(bundle, entries=["small"], runs=1, seconds=0.0, operators=False, roofline=False).entries


# --- the loop itself


def test_the_loop_stops_when_both_are_reached() -> None:
    rows, whole = timed(lambda: None, runs=7, seconds=0.0)
    assert (len(rows), whole) == (7, True)
    rows, whole = timed(lambda: time.sleep(0.002), runs=2, seconds=0.05)
    assert whole and rows[-1][1] - rows[0][0] >= 0.045e9
    assert all(end - start >= 2e6 for start, end in rows)


def test_the_loop_gives_up_on_a_slow_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.devices.timing.MOST_SECONDS", 0.02)
    monkeypatch.setattr("edge.devices.timing.MOST_WARMUP", 0.02)
    rows, whole = timed(lambda: time.sleep(0.01), runs=1000, seconds=0.0)
    assert not whole and 3 <= len(rows) < 10
    assert 1 <= warm_up(lambda: time.sleep(0.03), seconds=0.01) < 5


def test_garbage_collection_is_off_while_timing_and_on_after() -> None:
    import gc

    seen = set()
    timed(lambda: seen.add(gc.isenabled()), runs=3, seconds=0.0)
    assert seen == {False} and gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        timed(lambda: 1 / 0, runs=3, seconds=0.0)
    assert gc.isenabled()


# --- when the process goes wrong


def talk(script: str, timeout: float = 60.0) -> Profiled | RoofFound:
    """``converse`` with a process of ours that goes wrong as ``script`` says."""
    command = (sys.executable, "-c", textwrap.dedent(script))
    return converse(command, os.environ, RoofRequest(threads=1), timeout, Progress())


BEGAN = 'import os, sys; sys.stdout.write(\'{"type":"began","phase":"load"}\\n\'); sys.stdout.flush()\n'


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("import os; os.kill(os.getpid(), 11)", "died by SIGSEGV at its start"),
        (BEGAN + "os.kill(os.getpid(), 6)", "died by SIGABRT during 'load'"),
        (BEGAN + "os.kill(os.getpid(), 9)", r"was killed \(SIGKILL; out of memory is the usual cause\) during 'load'"),
        ("import sys; print('bad kernel', file=sys.stderr); sys.exit(3)", r"exit status 3.*it printed: bad kernel"),
        (BEGAN + "print('half a li', end='')", "ended without an answer"),
    ],
)
def test_a_death_is_told_with_its_cause_and_place(script: str, sentence: str) -> None:
    with pytest.raises(DeviceError, match=sentence):
        talk(script)


def test_a_hang_ends_at_the_timeout_with_its_children() -> None:
    script = BEGAN + """
import subprocess, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
sys.stdout.write('{"type":"began","phase":"child %d"}\\n' % child.pid); sys.stdout.flush()
time.sleep(600)
"""
    begun = time.monotonic()
    with pytest.raises(DeviceError, match=r"was stopped during 'child .*', after 2 s") as caught:
        talk(script, timeout=2.0)
    assert time.monotonic() - begun < 30
    child = int(str(caught.value).split("'child ")[1].split("'")[0])
    for _ in range(100):  # init reaps it in its own time
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the child is still running")


def test_a_refusal_keeps_its_class_and_sentence() -> None:
    send = 'import sys; sys.stdin.read(); print(\'{"type":"failed","kind":"%s","sentence":"no."}\'); sys.exit(2)'
    with pytest.raises(BundleError, match=r"^no\.$"):
        talk(send % "BundleError")
    for odd in ("MissingDependencyError", "Nonsense", "annotations"):
        with pytest.raises(EdgeError, match=r"^no\.$"):
            talk(send % odd)


def test_a_real_worker_refuses_in_one_sentence(tmp_path: Path) -> None:
    request = ProfileRequest(device="local", bundle=str(tmp_path), threads=1, runs=1, seconds=0.0, operators=False)
    with pytest.raises(BundleError, match="is not a bundle"):
        converse(COMMAND, os.environ, request, 60.0, Progress())


def test_what_a_real_worker_did_not_foresee_is_still_one_sentence(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "cut.edge").path
    (path / "samples.npz").write_bytes(b"not a zip")  # past the check that the parent makes
    request = ProfileRequest(device="local", bundle=str(path), threads=1, runs=1, seconds=0.0, operators=False)
    with pytest.raises(DeviceError, match=r"^the measuring process failed with .*Error: ") as caught:
        converse(COMMAND, os.environ, request, 60.0, Progress())
    assert "\n" not in str(caught.value)


def test_the_worker_answers_on_the_plain_command_line(bundle: Path) -> None:
    request = ProfileRequest(
        device="ssh://pi", bundle=str(bundle), threads=1, entries=("small",), runs=2, seconds=0.0, operators=False
    )
    done = subprocess.run(COMMAND, input=msgspec.json.encode(request), capture_output=True, check=True, timeout=120)
    lines = done.stdout.splitlines()
    assert msgspec.json.decode(lines[0]) == {"type": "began", "phase": "import"}
    last = msgspec.json.decode(lines[-1], type=Profiled)
    assert last.facts.device == "ssh://pi" and last.entries[0].latency.runs == 2


# --- facts of the machine


def fake_root(root: Path) -> Path:
    def put(name: str, text: str) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    put("proc/loadavg", "1.50 0.75 0.25 1/100 4242\n")
    put("proc/stat", "cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 1 2 3\n")
    put("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n")
    put("sys/devices/system/cpu/cpu0/cpufreq/scaling_driver", "cpufreq-dt\n")
    put("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1500000\n")
    put("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "2400000\n")
    put("sys/class/thermal/thermal_zone0/temp", "54321\n")
    for index, (kind, level, size) in enumerate([("Data", 1, "64K"), ("Instruction", 1, "64K"), ("Unified", 2, "2M")]):
        for name, value in (("type", kind), ("level", level), ("size", size)):
            put(f"sys/devices/system/cpu/cpu0/cache/index{index}/{name}", f"{value}\n")
    return root


def test_facts_are_read_from_the_kernel(tmp_path: Path) -> None:
    found = facts.device_facts("local", {"numpy": "2"}, fake_root(tmp_path))
    assert (found.frequency_mhz, found.max_frequency_mhz) == (1500.0, 2400.0)
    assert found.temperature_c == pytest.approx(54.321)
    assert found.caches == {"L1d": 2**16, "L2": 2**21}
    assert facts.last_level_cache(found.caches) == 2**21
    assert found.load_average == (1.5, 0.75, 0.25)
    assert found.governor == "powersave (cpufreq-dt)"
    assert any("governor" in sentence for sentence in facts.warnings(found, 1))
    usual = msgspec.structs.replace(found, governor="powersave (intel_pstate)", busy=0.0)
    assert facts.warnings(usual, found.cores) == ()
    assert "busy (80 %" in facts.warnings(msgspec.structs.replace(usual, busy=0.8), 1)[0]


def test_a_kernel_that_says_nothing_is_no_error(tmp_path: Path) -> None:
    found = facts.device_facts("local", {}, tmp_path)
    assert found.governor is None and found.frequency_mhz is None and found.temperature_c is None
    assert found.caches == {} and found.busy == 0.0


def test_a_busy_core_shows() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        assert facts.busy_share(seconds=0.3) > 0.5 / os.cpu_count()  # type: ignore[operator]
    finally:
        busy.kill()
        busy.wait()


# --- roofline


def cost(flops: int, weight_bytes: int) -> Cost:
    return Cost(flops=flops, weight_bytes=weight_bytes, activation_bytes=0, operators=1)


ROOF = Roof(
    threads=1, bandwidth_gbs=10.0, peak_gflops=50.0, bandwidth_method="", peak_method="", last_level_cache=2 * 2**20
)


def test_a_large_model_is_bound_by_memory() -> None:
    found = roofline.bound(cost(20_000_000, 10_000_000), 2000.0, ROOF, Scheme.FP32)
    assert (found.memory_us, found.arithmetic_us, found.kind) == (1000.0, 400.0, "memory")
    assert found.share == 0.5
    assert "do not fit" in found.note


def test_a_cached_model_is_not() -> None:
    found = roofline.bound(cost(2_000_000, 1_000_000), 400.0, ROOF, Scheme.FP32)
    assert found.memory_us is None and found.kind == "arithmetic"
    assert found.share == pytest.approx(0.1)
    assert "stay in the last-level cache (2 MiB)" in found.note


def test_what_the_figures_cannot_say_is_said() -> None:
    unknown = msgspec.structs.replace(ROOF, last_level_cache=0)
    assert "does not say" in roofline.bound(cost(1, 1), 1.0, unknown, Scheme.FP32).note
    assert "int8 arithmetic can pass" in roofline.bound(cost(10**6, 1), 100.0, ROOF, Scheme.INT8).note
    assert "above 100 %" in roofline.bound(cost(10**8, 1), 100.0, ROOF, Scheme.FP32).note


def test_the_machine_is_measured_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr(roofline, "SECONDS", 0.02)
    monkeypatch.setattr(roofline, "busy_share", lambda: 1.0)
    first = roofline.machine_roof(1)
    assert 0.2 < first.bandwidth_gbs < 5000 and 0.2 < first.peak_gflops < 50_000
    assert "numpy" in first.bandwidth_method and "matmul" in first.peak_method
    assert not list(tmp_path.rglob("*.json"))  # a busy machine's figures are not kept
    monkeypatch.setattr(roofline, "busy_share", lambda: 0.0)
    kept = roofline.machine_roof(1)
    (file,) = tmp_path.rglob("*.json")
    assert roofline.machine_roof(1) == kept == msgspec.json.decode(file.read_bytes(), type=Roof)
    file.write_text("{}")
    assert roofline.machine_roof(1).threads == 1


def test_no_room_for_the_cache_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.cache import read_cached, write_cached

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "file" / "below"))
    write_cached("a/b.json", b"1")
    assert read_cached("a/b.json") is None


def test_latency_is_numpys() -> None:
    values = list(np.random.default_rng(0).exponential(10, 101))
    found = Latency.of(values)
    assert found.p50_us == pytest.approx(sorted(values)[50])
    assert found.p90_us == pytest.approx(sorted(values)[90])
    assert (found.min_us, found.max_us, found.runs) == (min(values), max(values), 101)
    assert found.mean_us == pytest.approx(sum(values) / 101)


def test_an_unknown_entry_of_a_measurement(measured: Measurement) -> None:
    assert measured.entry("wide").entry == "wide"
    with pytest.raises(UsageError, match="it has small, wide"):
        measured.entry("decode")
