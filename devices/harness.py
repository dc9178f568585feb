"""The measuring itself, in a process that does nothing else: what `edge.devices.worker` runs for a request.

Order: facts of the machine and its sensors, import of the runtime, load of the bundle, then for each entry point bind,
first run, warm-up and timed runs; then the energy meter's passes, and the per-operator passes last, since a runtime's
own profiler slows it down and takes memory. Timed calls have their inputs bound before, garbage collection off, and
nothing between two reads of the clock but the call (see ``timing``).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from edge.bundle import Bundle, read_manifest
from edge.conditions import Block, Conditions, Energy, Reading
from edge.dependencies import version
from edge.devices import timing
from edge.devices.energy import NOT_ASKED, Meter, find_meter
from edge.devices.facts import BUSY, busy_share, device_facts
from edge.devices.guard import COOLING, Guard, remember_band, remembered_band
from edge.devices.messages import Profiled, ProfileRequest, Sampled
from edge.devices.programs import Programs, local_programs
from edge.devices.resident import proportional, reset_peak, resident, resident_now
from edge.devices.sensors import Sensors
from edge.errors import InputError, UnsupportedError
from edge.manifest import EntryRecord, ErrorStats, Manifest
from edge.measurement import EntryMeasurement, Latency, Memory, Phase, Run
from edge.runtimes.base import OperatorTime, Session, check_inputs, session_class

#: Runs under the runtime's own profiler: enough for a mean, at most about two seconds.
OPERATOR_RUNS = 20
OPERATOR_SECONDS = 2.0
#: Passes at most, until the operators of a run sum to less than so many medians of the unprofiled run.
OPERATOR_PASSES = 3
UNDISTURBED = 1.5


def profile(
    request: ProfileRequest,
    began: Callable[[str], None],
    root: Path = Path("/"),
    programs: Programs = local_programs,
    sampled: Callable[[Sampled], None] = lambda _: None,
) -> Profiled:
    """Measure; ``began`` hears the name of each phase, ``sampled`` what is done after each block of timed runs.

    Raises whatever loading or running the bundle raises. ``root`` is where the kernel's files are read, ``programs`` what is asked beside them.
    """
    folder = Path(request.bundle)
    manifest = read_manifest(folder)
    bundle = Bundle(folder, manifest)
    records = [manifest.entry(name) for name in request.entries] or list(manifest.entries)
    inputs = {record.name: _first_sample(bundle, record) for record in records}
    kind = session_class(manifest.runtime.name)
    facts = device_facts(request.device, {}, root)
    watch = _Watch(began, request, root, programs)

    baseline = resident()[0]
    with watch.phase("import"):
        for package in kind.packages:
            # What is not installed is the session's to say, in its own sentence.
            with contextlib.suppress(ImportError):
                importlib.import_module(package)
    imported, import_peak = resident()
    resets = reset_peak()
    with watch.phase("load"):
        session = kind(folder, manifest, request.threads, request.apart)
    loaded, load_peak = resident()
    reset_peak()
    facts = msgspec.structs.replace(facts, versions=_versions(kind))
    before_runs = Memory(
        baseline=baseline, imported=imported, loaded=loaded, load_peak=load_peak, run_peak=loaded,
        peak=max(import_peak, load_peak), resets=resets, loaded_pss=watch.phases[1].pss_bytes,
    )

    def tell(entry: EntryMeasurement) -> None:
        memory = _with_runs(before_runs, watch.phases)
        sampled(Sampled(facts=facts, phases=tuple(watch.phases), memory=memory, entry=entry, conditions=watch.news()))

    entries = [_measure(session, record, inputs[record.name], request, watch, tell) for record in records]
    memory = _with_runs(before_runs, watch.phases)

    if request.energy:
        entries = _with_energy(session, records, inputs, entries, watch)
    if request.operators:
        for index, record in enumerate(records):
            try:
                rows = _operators(session, record, inputs[record.name], entries[index].latency, watch)
                entries[index] = msgspec.structs.replace(entries[index], operators=tuple(rows))
            except UnsupportedError as error:
                watch.warnings.append(f"there is no per-operator table for {record.name}: {error}")
    return Profiled(
        facts=facts,
        phases=tuple(watch.phases),
        memory=memory,
        entries=tuple(entries),
        conditions=watch.conditions(),
        warnings=tuple(watch.warnings),
    )


def with_operators(profiled: Profiled, folder: Path, manifest: Manifest) -> Profiled:
    """``profiled`` with the tables of what the native runner traced; ``folder`` is the bundle on this machine."""
    kind = session_class(manifest.runtime.name)
    tables = {
        trace.entry: tuple(kind.operators_of(folder, manifest.entry(trace.entry), trace.runs))
        for trace in profiled.traces
    }
    entries = [
        msgspec.structs.replace(entry, operators=tables[entry.entry]) if entry.entry in tables else entry
        for entry in profiled.entries
    ]
    return msgspec.structs.replace(profiled, entries=tuple(entries), traces=())


class _Watch:
    """One time line for the process, in microseconds; the phases on it, the sensors, and the guard."""

    def __init__(self, began: Callable[[str], None], request: ProfileRequest, root: Path, programs: Programs) -> None:
        self.origin = time.perf_counter_ns()
        self.phases: list[Phase] = []
        self.readings: list[Reading] = []
        self._told = 0
        self.warnings: list[str] = []
        self.calls = 0
        self.repeated = 0
        self.stayed_hot = False
        self._began = began
        self.sensors = Sensors(root, programs)
        known = remembered_band() if root == Path("/") else None
        self.guard = Guard(
            self.sensors.temperature, request.cool_seconds, known, busy=lambda: busy_share(root) > BUSY,
            waiting=lambda: began(COOLING),
        )
        self.meter = find_meter(root, programs) if request.energy else NOT_ASKED
        self.idle_watts: float | None = None
        self.look(whole=True)

    def us(self, ns: int) -> float:
        return round((ns - self.origin) / 1e3, 3)

    def look(self, whole: bool) -> None:
        """Take a reading: of everything, or of what costs next to nothing."""
        take = self.sensors.read if whole else self.sensors.glance
        self.readings.append(take(self.us(time.perf_counter_ns()), resident_now()))

    @contextlib.contextmanager
    def phase(self, name: str, entry: str | None = None) -> Iterator[None]:
        self._began(f"{name} {entry}" if entry else name)
        self.calls = 0
        start = time.perf_counter_ns()
        yield
        end = time.perf_counter_ns()
        self.phases.append(Phase(
            name=name, entry=entry, start_us=self.us(start), duration_us=round((end - start) / 1e3, 3),
            rss_bytes=resident()[0], calls=self.calls, pss_bytes=proportional(),
        ))

    def news(self) -> Conditions:
        """The readings since this was last asked, and what is known of the rest."""
        readings, self._told = tuple(self.readings[self._told :]), len(self.readings)
        return Conditions(
            readings=readings, sources=dict(self.sensors.sources), idle=self.guard.band,
            waited_s=round(self.guard.waited, 3),
        )

    def conditions(self) -> Conditions:
        """What the sensors said; called when everything has been measured."""
        self.look(whole=True)
        guard = self.guard
        if guard.gave_up:
            self.warnings.append(guard.gave_up_sentence())
        if guard.band is not None and self.sensors.root == Path("/"):
            remember_band(guard.band)
        energy = self.meter if isinstance(self.meter, str) else self.meter.method
        return Conditions(
            readings=tuple(self.readings),
            sources={**self.sensors.sources, "energy": energy},
            idle=guard.band,
            waited_s=round(guard.waited, 3),
            repeated=self.repeated,
            stayed_hot=self.stayed_hot or guard.gave_up,
        )


def _measure(
    session: Session, record: EntryRecord, inputs: list[np.ndarray], request: ProfileRequest, watch: _Watch,
    tell: Callable[[EntryMeasurement], None],
) -> EntryMeasurement:
    """Bind, first run, warm-up and timed runs of one entry; what went short is among the watch's warnings."""

    def measurement(runs: Sequence[Run], blocks: Sequence[Block]) -> EntryMeasurement:
        return EntryMeasurement(
            entry=name,
            inputs={spec.name: value.shape for spec, value in zip(record.inputs, inputs, strict=True)},
            bind_us=bind,
            first_us=first,
            warmup_runs=warmup,
            latency=Latency.of([run.duration_us for run in runs]),
            runs=tuple(runs),
            operators=(),
            cost=record.cost,
            errors=_verified(record),
            blocks=tuple(blocks),
        )

    name = record.name
    with watch.phase("bind", name):
        call = session.bind(record, inputs)
    with watch.phase("first run", name):
        call()
        watch.calls = 1
    with watch.phase("warm-up", name):
        warmup = timing.warm_up(call, timing.WARMUP_PART * request.seconds)
        watch.calls = warmup
    bind, first = (phase.duration_us for phase in watch.phases[-3:-1])
    with watch.phase("runs", name):
        found = timing.in_blocks(
            timing.Here(call, watch.us, lambda: watch.look(False)), request.runs, request.seconds,
            watch.sensors.throttling, watch.guard, lambda: watch.look(True),
            lambda runs, blocks: tell(measurement(runs, blocks)),
        )
        watch.calls = sum(block.runs for block in found.blocks)
    watch.repeated += found.repeated
    watch.stayed_hot |= found.stayed_hot
    watch.warnings += timing.short(name, found)
    return measurement(found.runs, found.blocks)


def _with_energy(
    session: Session,
    records: Sequence[EntryRecord],
    inputs: dict[str, list[np.ndarray]],
    entries: list[EntryMeasurement],
    watch: _Watch,
) -> list[EntryMeasurement]:
    """``entries`` with the energy of a run each, where the device has a meter."""
    meter = watch.meter
    if not isinstance(meter, Meter):
        return entries
    with watch.phase("idle power"):
        watch.idle_watts = timing.idle_watts(meter)
    found = []
    for record, entry in zip(records, entries, strict=True):
        call = session.bind(record, inputs[record.name])
        with watch.phase("energy", record.name):
            repeat = functools.partial(timing.repeated, call, entry.latency.p50_us)
            energy: Energy | None = timing.metered(repeat, meter, watch.idle_watts)
            watch.calls = energy.runs if energy else 0
        if energy is None:
            watch.warnings.append(timing.unmetered(record.name))
        found.append(msgspec.structs.replace(entry, energy=energy))
    return found


def _operators(
    session: Session, record: EntryRecord, inputs: list[np.ndarray], latency: Latency, watch: _Watch
) -> list[OperatorTime]:
    """The per-operator table; of a few passes the least disturbed: one interruption can outweigh all operators.

    Raises UnsupportedError if there is none: ONNX Runtime's profiler reads the wall clock, which may be set meanwhile.
    """
    runs = int(min(max(OPERATOR_SECONDS * 1e6 / latency.p50_us, timing.LEAST_RUNS), OPERATOR_RUNS))
    passes: list[list[OperatorTime]] = []
    with watch.phase("operators", record.name):
        for done in range(1, OPERATOR_PASSES + 1):
            watch.calls = runs * done
            begun = time.perf_counter()
            rows = session.operators(record, inputs, runs)
            longest = (time.perf_counter() - begun) * 1e6
            if all(0 <= row.mean_us <= longest for row in rows):
                passes.append(rows)
                if _per_run(rows) < UNDISTURBED * latency.p50_us:
                    break
    if not passes:
        raise UnsupportedError("the system's clock was set while the runtime's profiler looked at it, so profile again.")
    return min(passes, key=_per_run)


def _per_run(rows: Sequence[OperatorTime]) -> float:
    return sum(row.mean_us * row.calls_per_run for row in rows)


def _first_sample(bundle: Bundle, record: EntryRecord) -> list[np.ndarray]:
    samples = bundle.samples(record.name)
    if not samples:
        raise InputError(f"{bundle.path.name} has no stored sample of '{record.name}' to run: export it again.")
    return check_inputs(record, samples[0][0])


def _with_runs(memory: Memory, phases: Sequence[Phase]) -> Memory:
    """``memory`` with what the runs took until now."""
    peak = resident()[1]
    pss = [phase.pss_bytes for phase in phases if phase.pss_bytes is not None]
    return msgspec.structs.replace(
        memory, run_peak=peak, peak=max(memory.peak, peak), peak_pss=max(pss, default=None)
    )


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
