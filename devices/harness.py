"""The measuring itself, in a process that does nothing else: what `edge.devices.worker` runs for a request.

Order: facts of the machine, import of the runtime, load of the bundle, then for each entry point bind, first run,
warm-up and timed runs; the per-operator passes come last, since a runtime's own profiler slows it down and takes
memory. Timed calls have their inputs bound before, garbage collection off, and nothing between two reads of the clock
but the call.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from edge.bundle import Bundle, read_manifest
from edge.conditions import Conditions
from edge.dependencies import version
from edge.devices.facts import device_facts
from edge.errors import InputError, UnsupportedError
from edge.manifest import EntryRecord, ErrorStats
from edge.measurement import DeviceFacts, EntryMeasurement, Latency, Memory, Phase, Roof, Run
from edge.runtimes.base import OperatorTime, Session, check_inputs, session_class

#: Enough calls for lazy initialisation, and for a quarter of the timed seconds, so that clocks and caches settle.
WARMUP_CALLS = 5
WARMUP_PART = 0.25
MOST_WARMUP = 6.0
#: A model too slow for the runs asked for stops here, after three runs at least; so does one too fast to keep rows of.
MOST_SECONDS = 60.0
MOST_RUNS = 100_000
LEAST_RUNS = 3
#: Runs under the runtime's own profiler: enough for a mean, at most about two seconds.
OPERATOR_RUNS = 20
OPERATOR_SECONDS = 2.0
#: Passes at most, until the operators of a run sum to less than so many medians of the unprofiled run.
OPERATOR_PASSES = 3
UNDISTURBED = 1.5


class ProfileRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="profile"):
    """Measure the bundle at ``bundle``; no ``entries`` means all of them. ``runs`` and ``seconds`` are both least.

    ``cool_seconds`` is how long to wait, over the whole profile, for the device to cool down; 0 turns the thermal guard
    off. ``energy`` adds a pass for the device's energy meter, where it has one.
    """

    device: str
    bundle: str
    threads: int
    entries: tuple[str, ...] = ()
    runs: int
    seconds: float
    operators: bool
    cool_seconds: float = 120.0
    energy: bool = True


class RoofRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="roof"):
    """Measure memory bandwidth and float32 peak with ``threads`` threads, or read them from the device's cache."""

    threads: int


class Began(msgspec.Struct, frozen=True, kw_only=True, tag="began"):
    """A phase begins: progress for the user, and where it was if the process dies."""

    phase: str


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The request was refused: the name of the EdgeError's class and its sentence."""

    kind: str
    sentence: str


class Profiled(msgspec.Struct, frozen=True, kw_only=True, tag="profiled"):
    facts: DeviceFacts
    phases: tuple[Phase, ...]
    memory: Memory
    entries: tuple[EntryMeasurement, ...]
    warnings: tuple[str, ...]
    conditions: Conditions = Conditions()


class RoofFound(msgspec.Struct, frozen=True, kw_only=True, tag="roof-found"):
    roof: Roof


Request = ProfileRequest | RoofRequest
Reply = Profiled | RoofFound
Message = Began | Failed | Profiled | RoofFound


def profile(request: ProfileRequest, began: Callable[[str], None]) -> Profiled:
    """Measure; ``began`` hears the name of each phase. Raises whatever loading or running the bundle raises."""
    root = Path(request.bundle)
    manifest = read_manifest(root)
    bundle = Bundle(root, manifest)
    records = [manifest.entry(name) for name in request.entries] or list(manifest.entries)
    inputs = {record.name: _first_sample(bundle, record) for record in records}
    kind = session_class(manifest.runtime.name)
    facts = device_facts(request.device, {})
    clock = _Clock(began)

    baseline = _resident()[0]
    with clock.phase("import"):
        for package in kind.packages:
            # What is not installed is the session's to say, in its own sentence.
            with contextlib.suppress(ImportError):
                importlib.import_module(package)
    imported, import_peak = _resident()
    resets = _reset_peak()
    with clock.phase("load"):
        session = kind(root, manifest, request.threads)
    loaded, load_peak = _resident()
    _reset_peak()
    measured = [_measure(session, record, inputs[record.name], request, clock) for record in records]
    run_peak = _resident()[1]

    warnings = [sentence for _, sentence in measured if sentence]
    entries = [entry for entry, _ in measured]
    if request.operators:
        for index, record in enumerate(records):
            try:
                rows = _operators(session, record, inputs[record.name], entries[index].latency, clock)
                entries[index] = msgspec.structs.replace(entries[index], operators=tuple(rows))
            except UnsupportedError as error:
                warnings.append(f"there is no per-operator table for {record.name}: {error}")
    return Profiled(
        facts=msgspec.structs.replace(facts, versions=_versions(kind)),
        phases=tuple(clock.phases),
        memory=Memory(
            baseline=baseline, imported=imported, loaded=loaded, load_peak=load_peak, run_peak=run_peak,
            peak=max(import_peak, load_peak, run_peak), resets=resets,
        ),
        entries=tuple(entries),
        warnings=tuple(warnings),
    )


class _Clock:
    """One time line for the process, in microseconds, and the phases on it."""

    def __init__(self, began: Callable[[str], None]) -> None:
        self.origin = time.perf_counter_ns()
        self.phases: list[Phase] = []
        self._began = began
        self.calls = 0

    def us(self, ns: int) -> float:
        return round((ns - self.origin) / 1e3, 3)

    @contextlib.contextmanager
    def phase(self, name: str, entry: str | None = None) -> Iterator[None]:
        self._began(f"{name} {entry}" if entry else name)
        self.calls = 0
        start = time.perf_counter_ns()
        yield
        end = time.perf_counter_ns()
        self.phases.append(Phase(
            name=name, entry=entry, start_us=self.us(start), duration_us=round((end - start) / 1e3, 3),
            rss_bytes=_resident()[0], calls=self.calls,
        ))


def _measure(
    session: Session, record: EntryRecord, inputs: list[np.ndarray], request: ProfileRequest, clock: _Clock
) -> tuple[EntryMeasurement, str | None]:
    """Bind, first run, warm-up and timed runs of one entry; and a sentence if the runs had to stop early."""
    name = record.name
    with clock.phase("bind", name):
        call = session.bind(record, inputs)
    with clock.phase("first run", name):
        call()
        clock.calls = 1
    with clock.phase("warm-up", name):
        warmup = _warm_up(call, WARMUP_PART * request.seconds)
        clock.calls = warmup
    with clock.phase("runs", name):
        rows, whole = _timed(call, request.runs, request.seconds)
        clock.calls = len(rows)
    runs = tuple(Run(clock.us(start), round((end - start) / 1e3, 3)) for start, end in rows)
    bind, first = (clock.phases[index].duration_us for index in (-4, -3))
    took = (rows[-1][1] - rows[0][0]) / 1e9
    short = f"{name} was stopped after {len(rows)} runs and {took:.1f} s, short of what was asked for."
    return EntryMeasurement(
        entry=name,
        inputs={spec.name: value.shape for spec, value in zip(record.inputs, inputs, strict=True)},
        bind_us=bind,
        first_us=first,
        warmup_runs=warmup,
        latency=Latency.of([run.duration_us for run in runs]),
        runs=runs,
        operators=(),
        cost=record.cost,
        errors=_verified(record),
    ), None if whole else short


def _warm_up(call: Callable[[], object], seconds: float) -> int:
    """Call it for ``seconds`` and ``WARMUP_CALLS`` times, but not for much longer than a slow model deserves."""
    begun = time.perf_counter()
    calls = 0
    while True:
        call()
        calls += 1
        took = time.perf_counter() - begun
        if (took >= seconds and calls >= WARMUP_CALLS) or took >= max(seconds, MOST_WARMUP):
            return calls


def _timed(call: Callable[[], object], runs: int, seconds: float) -> tuple[list[tuple[int, int]], bool]:
    """(start, end) in nanoseconds of each call, until there are ``runs`` of them and ``seconds`` have passed.

    The second value is False if a limit stopped it before.
    """
    now = time.perf_counter_ns
    rows: list[tuple[int, int]] = []
    gc.collect()
    gc.disable()
    try:
        begun = now()
        enough, most = begun + int(seconds * 1e9), begun + int(max(MOST_SECONDS, 2 * seconds) * 1e9)
        most_runs = max(MOST_RUNS, runs)
        while True:
            start = now()
            call()
            end = now()
            rows.append((start, end))
            if end >= enough and len(rows) >= runs:
                return rows, True
            if len(rows) >= most_runs or (end >= most and len(rows) >= LEAST_RUNS):
                return rows, False
    finally:
        gc.enable()


def _operators(
    session: Session, record: EntryRecord, inputs: list[np.ndarray], latency: Latency, clock: _Clock
) -> list[OperatorTime]:
    """The per-operator table; of a few passes the least disturbed: one interruption can outweigh all operators."""
    runs = int(min(max(OPERATOR_SECONDS * 1e6 / latency.p50_us, LEAST_RUNS), OPERATOR_RUNS))
    passes: list[list[OperatorTime]] = []
    with clock.phase("operators", record.name):
        while len(passes) < OPERATOR_PASSES:
            passes.append(session.operators(record, inputs, runs))
            if _per_run(passes[-1]) < UNDISTURBED * latency.p50_us:
                break
        clock.calls = runs * len(passes)
    return min(passes, key=_per_run)


def _per_run(rows: Sequence[OperatorTime]) -> float:
    return sum(row.mean_us * row.calls_per_run for row in rows)


def _first_sample(bundle: Bundle, record: EntryRecord) -> list[np.ndarray]:
    samples = bundle.samples(record.name)
    if not samples:
        raise InputError(f"{bundle.path.name} has no stored sample of '{record.name}' to run: export it again.")
    return check_inputs(record, samples[0][0])


def _verified(record: EntryRecord) -> tuple[ErrorStats, ...]:
    """What export found for the artifact itself."""
    return next((stage.outputs for stage in record.stages if stage.stage == "lowered"), ())


def _versions(kind: type[Session]) -> dict[str, str]:
    """Installed versions of numpy and of the runtime's packages, by import name."""
    found = {"numpy": np.__version__}
    for name in dict.fromkeys(package.split(".", 1)[0] for package in kind.packages):
        with contextlib.suppress(ImportError):
            known = getattr(importlib.import_module(name), "__version__", None) or version(name)
            if known:
                found[name] = str(known)
    return found


def _resident() -> tuple[int, int]:
    """(resident set now, its high-water mark) of this process in bytes; VmRSS and VmHWM of proc(5)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    now, peak = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


def _reset_peak() -> bool:
    """Set VmHWM to VmRSS ("5" to clear_refs, proc(5)); False where the kernel or the container forbids it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
