"""The gate for continuous integration: has a bundle become slower than its baseline by more than is allowed?

A baseline is what `edge gate --update` wrote: a measurement a line, each of a process of its own. Runs of one process
resemble each other more than those of two (memory lies where it lies, the clock is where it is), so the unit of the
test is the process: its median. Where there are too few processes to decide anything, stretches of consecutive runs
stand in, and the verdict says that it does not know how processes differ.

A regression is what the lower bound of the slowdown says (see ``edge.ranks``), not a difference of two means: of two
equal bundles at most one in twenty is called slower, whatever the distribution, and that before ``allowed`` is added.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from edge import api, results
from edge.errors import InputError, UsageError
from edge.measurement import EntryMeasurement, Measurement
from edge.progress import Progress
from edge.ranks import decidable, slowdown
from edge.report import jsonfile

CONFIDENCE = 0.95
#: Stretches of consecutive runs that a process is cut into where processes are too few to be the unit.
STRETCHES = 20


class Verdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry point. ``slowdown`` is how many times longer it takes now, with one-sided 95 % bounds (None: no bound).

    ``unit`` is what was compared: "process", or "stretch of runs".
    """

    entry: str
    baseline_us: float
    now_us: float
    slowdown: float
    low: float | None
    high: float | None
    unit: str
    baseline_units: int
    now_units: int
    regressed: bool


class GateReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    allowed: float
    verdicts: tuple[Verdict, ...]
    warnings: tuple[str, ...]

    @property
    def regressed(self) -> bool:
        return any(verdict.regressed for verdict in self.verdicts)


def parse_share(text: str) -> float:
    """ "5%" or "0.05" as 0.05; UsageError for anything else, "5" too, and for what is negative or above 1000 %."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", text.strip())
    share = float(found[1]) / (100 if found[2] else 1) if found else 0.0
    if found is None or share > 10 or (share >= 1 and not found[2]):
        raise UsageError(f"'{text}' is no share: write 5% or 0.05.")
    return share


def measure(
    bundle: Path, *, rounds: int, runs: int, seconds: float, threads: int | None, entries: Sequence[str], device: str,
    progress: Progress,
) -> list[Measurement]:
    """``rounds`` profiles of ``bundle``, each in a process of its own."""
    found = []
    with progress.bar("profiling", rounds) as bar:
        for _ in range(rounds):
            found.append(api.profile(
                bundle, threads=threads, entries=entries, runs=runs, seconds=seconds, device=device, operators=False,
                roofline=False, energy=False,
            ))
            bar.advance()
    return found


def saved(source: Path, step: str = "give a bundle, a file that `edge profile --json` wrote, or an ID") -> list[Measurement]:
    """The measurements in a file, or the kept result with that ID. Raises InputError, which ends with ``step`` if there is neither."""
    if source.exists():
        return jsonfile.load_all(source)
    if len(source.parts) == 1 and any(name.startswith(source.name) for name in results.identities()):
        return [results.load(source.name)]
    raise InputError(f"there is nothing at {source}: {step}.")


def judge(
    baseline: Sequence[Measurement], now: Sequence[Measurement], allowed: float, *, any_machine: bool = False
) -> GateReport:
    """Compare; every entry point of ``now`` must be in the baseline. Raises InputError for what cannot be compared."""
    warnings = _comparable(baseline, now, any_machine)
    verdicts = []
    for name in dict.fromkeys(entry.entry for one in now for entry in one.entries):
        sides = [_entries(side, name) for side in (baseline, now)]
        if not sides[0]:
            raise InputError(f"the baseline has no entry point '{name}': write a new one with --update.")
        verdicts.append(_verdict(name, sides[0], sides[1], allowed))
    gone = {entry.entry for one in baseline for entry in one.entries} - {verdict.entry for verdict in verdicts}
    if gone:
        warnings.append(f"the baseline also has {', '.join(sorted(gone))}, which was not measured now.")
    if any(verdict.unit != "process" for verdict in verdicts):
        warnings.append(
            f"there are too few processes to compare ({len(baseline)} and {len(now)}): stretches of their runs were, which "
            "does not cover how processes differ; write the baseline with `edge gate --update`, which takes several."
        )
    return GateReport(allowed=allowed, verdicts=tuple(verdicts), warnings=tuple(warnings))


def _verdict(name: str, before: list[EntryMeasurement], now: list[EntryMeasurement], allowed: float) -> Verdict:
    sides = [[float(np.median(_times(one))) for one in side] for side in (before, now)]
    unit = "process"
    if not decidable(len(before), len(now), CONFIDENCE):
        unit = "stretch of runs"
        sides = [[median for one in side for median in stretches(_times(one))] for side in (before, now)]
    found = slowdown(sides[0], sides[1], CONFIDENCE)
    return Verdict(
        entry=name,
        baseline_us=float(np.median(sides[0])),
        now_us=float(np.median(sides[1])),
        slowdown=found.ratio,
        low=found.low,
        high=found.high,
        unit=unit,
        baseline_units=len(sides[0]),
        now_units=len(sides[1]),
        regressed=found.low is not None and found.low > 1.0 + allowed,
    )


def stretches(times: np.ndarray) -> list[float]:
    """Medians of ``STRETCHES`` parts of consecutive runs; the runs themselves if there are no more than that."""
    parts = np.array_split(times, min(STRETCHES, len(times)))
    return [float(np.median(part)) for part in parts]


def _comparable(baseline: Sequence[Measurement], now: Sequence[Measurement], any_machine: bool) -> list[str]:
    if not baseline or not now:
        raise InputError("there is no measurement to compare: write a baseline with --update.")
    before, after = baseline[0], now[0]
    facts = (
        ("model", before.bundle.model, after.bundle.model),
        ("number of threads", before.settings.threads_text, after.settings.threads_text),
        ("CPU", before.device.cpu, after.device.cpu),
    )
    warnings = []
    for what, old, new in facts:
        if old == new:
            continue
        if what == "CPU" and any_machine:
            warnings.append(f"the baseline was measured on another CPU ({old}, now {new}): part of any difference is that.")
            continue
        hint = " (or pass --any-machine)" if what == "CPU" else ""
        raise InputError(f"the baseline has another {what} ({old}, now {new}): write a new one with --update{hint}.")
    for entry in after.entries:
        shapes = [one.inputs for one in before.entries if one.entry == entry.entry]
        if shapes and shapes[0] != entry.inputs:
            raise InputError(f"'{entry.entry}' was measured on inputs of another shape: write a new baseline with --update.")
    hot = sum(one.conditions.stayed_hot for one in (*baseline, *now))
    if hot:
        warnings.append(f"{hot} of the measurements were made on a hot device: their times are too long.")
    cut = sum(one.cut_short for one in (*baseline, *now))
    if cut:
        warnings.append(f"{cut} of the measurements were cut short: runs or entry points may be missing (see `edge results ID`).")
    busy = {sentence for one in now for sentence in one.warnings if sentence.startswith("the machine was busy")}
    return warnings + sorted(busy)[:1]


def _entries(side: Sequence[Measurement], name: str) -> list[EntryMeasurement]:
    return [entry for one in side for entry in one.entries if entry.entry == name]


def _times(entry: EntryMeasurement) -> np.ndarray:
    return np.array([run.duration_us for run in entry.runs])
