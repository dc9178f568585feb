"""A measurement as a Chrome trace, which opens in Perfetto (ui.perfetto.dev) and in chrome://tracing.

The JSON object form of Google's "Trace Event Format": complete events ("X") for the phases, for every timed run and
for one run's operators per entry point, each kind on a track of its own, and for the blocks that the thermal guard made
of the runs; counters ("C") for the resident set, the CPU's temperature and each group of cores' clock; metadata ("M")
for names. Times are microseconds, as in the measurement. Operators are means over the profiled runs, laid out
from the start of the pass that found them; where means would overlap, the later one is moved back, since events of one
track must nest (their arguments keep what was measured).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge.files import write_atomically
from edge.measurement import EntryMeasurement, Measurement
from edge.runtimes.base import OperatorTime

PROCESS = 1
PHASES, RUNS, BLOCKS, OPERATORS = 1, 2, 3, 10  # thread ids; operators take one each from OPERATORS up


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    ph: str
    pid: int
    ts: float | None = None
    tid: int | None = None
    dur: float | None = None
    cat: str | None = None
    args: dict[str, str | float | int] = {}


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    traceEvents: tuple[Event, ...]
    displayTimeUnit: str
    otherData: dict[str, str]


def encode(measurement: Measurement) -> bytes:
    return msgspec.json.encode(build(measurement)) + b"\n"


def save(measurement: Measurement, path: Path) -> None:
    """Write ``path``. Raises StorageError."""
    write_atomically(path, encode(measurement))


def build(measurement: Measurement) -> Trace:
    events = [
        _name("process_name", f"edge profile {measurement.bundle.name}", None),
        _name("thread_name", "phases", PHASES),
        _name("thread_name", "timed runs", RUNS),
    ]
    events += _phases(measurement)
    events += _sensors(measurement)
    if any(entry.blocks for entry in measurement.entries):
        events.append(_name("thread_name", "blocks of runs", BLOCKS))
    for index, entry in enumerate(measurement.entries):
        events += [
            Event(name=entry.entry, cat="run", ph="X", pid=PROCESS, tid=RUNS, ts=run.start_us, dur=run.duration_us)
            for run in entry.runs
        ]
        events += _blocks(entry)
        if entry.operators:
            track = OPERATORS + index
            events.append(_name("thread_name", f"operators of one run: {entry.entry}", track))
            events += _operators(entry, _operators_start(measurement, entry), track)
    bundle, device = measurement.bundle, measurement.device
    return Trace(
        traceEvents=tuple(events),
        displayTimeUnit="ms",
        otherData={
            "bundle": bundle.name, "manifest_sha256": bundle.manifest_sha256,
            "runtime": f"{bundle.runtime} {bundle.runtime_version}", "scheme": bundle.scheme, "device": device.cpu,
            "threads": measurement.settings.threads_text, "created": measurement.created,
        },
    )


def _phases(measurement: Measurement) -> list[Event]:
    events = [_resident(0.0, measurement.memory.baseline)]
    for phase in measurement.phases:
        label = f"{phase.name}: {phase.entry}" if phase.entry else phase.name
        events.append(Event(
            name=label, cat="phase", ph="X", pid=PROCESS, tid=PHASES, ts=phase.start_us, dur=phase.duration_us,
            args={"calls": phase.calls, "rss_mb": phase.rss_bytes / 1e6},
        ))
        events.append(_resident(phase.start_us + phase.duration_us, phase.rss_bytes))
    return events


def _blocks(entry: EntryMeasurement) -> list[Event]:
    return [
        Event(
            name=f"{entry.entry}{'' if block.kept else ' (run again)'}", cat="block", ph="X", pid=PROCESS, tid=BLOCKS,
            ts=block.start_us, dur=block.duration_us,
            args={"runs": block.runs, "waited_s": block.waited_s, "spoiled": ", ".join(block.spoiled)},
        )
        for block in entry.blocks
    ]


def _sensors(measurement: Measurement) -> list[Event]:
    """A counter for each sensor that was readable; moments before the process' own time line are left out."""
    events = []
    for reading in measurement.conditions.readings:
        if reading.at_us < 0:
            continue
        if reading.temperature_c is not None:
            events.append(_counter("temperature", reading.at_us, {"°C": reading.temperature_c}))
        if reading.frequencies_mhz:
            groups: dict[str, str | float | int] = {
                f"cores {index} MHz": value for index, value in enumerate(reading.frequencies_mhz)
            }
            events.append(_counter("clock", reading.at_us, groups))
        if reading.throttled is not None:
            events.append(_counter("throttled", reading.at_us, {"reasons": len(reading.throttled)}))
    return events


def _operators_start(measurement: Measurement, entry: EntryMeasurement) -> float:
    return next(
        phase.start_us for phase in measurement.phases if phase.name == "operators" and phase.entry == entry.entry
    )


def _operators(entry: EntryMeasurement, origin: float, track: int) -> list[Event]:
    return [
        Event(
            name=row.name, cat=row.kind or "operator", ph="X", pid=PROCESS, tid=track,
            ts=origin + start, dur=row.mean_us,
            args={
                "kind": row.kind, "provider": row.provider, "module": row.module, "share": row.share,
                "calls_per_run": row.calls_per_run, "measured_start_us": row.start_us,
            },
        )
        for row, start in laid_out(entry.operators)
    ]


def laid_out(operators: Sequence[OperatorTime]) -> list[tuple[OperatorTime, float]]:
    """Operators by start, each with a start (us) that is not before the end of the one before it."""
    placed: list[tuple[OperatorTime, float]] = []
    end = 0.0
    for row in sorted(operators, key=lambda row: row.start_us):
        start = max(row.start_us, end)
        placed.append((row, start))
        end = start + row.mean_us
    return placed


def _resident(ts: float, rss_bytes: int) -> Event:
    return _counter("resident memory", ts, {"MB": rss_bytes / 1e6})


def _counter(name: str, ts: float, values: dict[str, str | float | int]) -> Event:
    return Event(name=name, ph="C", pid=PROCESS, ts=ts, args=values)


def _name(kind: str, value: str, track: int | None) -> Event:
    return Event(name=kind, ph="M", pid=PROCESS, tid=track, args={"name": value})
