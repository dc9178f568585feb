"""A measurement as a Chrome trace, which opens in Perfetto (ui.perfetto.dev) and in chrome://tracing.

The JSON object form of Google's "Trace Event Format": complete events ("X") for the phases, for every timed run and
for one run's operators per entry point, each kind on a track of its own; counters ("C") for the resident set; metadata
("M") for names. Times are microseconds, as in the measurement. Operators are means over the profiled runs, laid out
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
PHASES, RUNS, OPERATORS = 1, 2, 10  # thread ids; operators take one each from OPERATORS up


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
    for index, entry in enumerate(measurement.entries):
        events += [
            Event(name=entry.entry, cat="run", ph="X", pid=PROCESS, tid=RUNS, ts=run.start_us, dur=run.duration_us)
            for run in entry.runs
        ]
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
            "threads": str(measurement.settings.threads), "created": measurement.created,
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
    return Event(name="resident memory", ph="C", pid=PROCESS, ts=ts, args={"MB": rss_bytes / 1e6})


def _name(kind: str, value: str, track: int | None) -> Event:
    return Event(name=kind, ph="M", pid=PROCESS, tid=track, args={"name": value})
