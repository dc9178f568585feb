"""Two or more bundles side by side.

Bundles are profiled now, in rounds: every round measures each of them once, each time in a process of its own, and
every other round goes backwards, so that a machine that warms up or slows down does so for all. Saved profiles (what
`edge profile --json` wrote) and kept results (by the ID that `edge results` lists) take part as they are. The first
side is what the others are compared with; a ratio above 1 means faster than the first.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from edge import api, results
from edge.bundle import open_bundle
from edge.errors import UsageError
from edge.measurement import BundleFacts, EntryMeasurement, Measurement
from edge.progress import Progress
from edge.report import jsonfile
from edge.runtimes.base import usable_cores

#: Bootstrap resamples (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, ask for 1000 or more for
#: percentile intervals), and the part of them inside the interval.
RESAMPLES = 2000
CONFIDENCE = 0.95
#: Runs of one round that the bootstrap looks at: more would only take time.
MOST_RUNS = 1000


class Ratio(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first side's median over this side's, with the bootstrap's 95 % interval; above 1 is faster."""

    value: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether the interval lies wholly on one side of 1."""
        return self.low > 1.0 or self.high < 1.0


class Cell(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry point on one side, over all its rounds. ``relative`` and ``cosine`` are of the worst output."""

    p50_us: float
    p90_us: float
    first_us: float
    runs: int
    ratio: Ratio | None
    relative: float | None
    cosine: float | None


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry point; a cell for each side, None where the side does not have it."""

    entry: str
    cells: tuple[Cell | None, ...]


class Side(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One bundle or saved profile: medians over its rounds."""

    name: str
    saved: bool
    bundle: BundleFacts
    cpu: str
    threads: int
    load_us: float
    import_us: float
    peak_bytes: int
    model_bytes: int


class Comparison(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sides: tuple[Side, ...]
    rows: tuple[Row, ...]
    rounds: int
    warnings: tuple[str, ...]


def compare(
    sources: Sequence[Path | str],
    *,
    threads: int | None = None,
    entries: Sequence[str] = (),
    rounds: int = 5,
    runs: int = 20,
    seconds: float = 0.5,
    progress: Progress | None = None,
) -> Comparison:
    """Compare bundles (folders), saved profiles (files) and kept results (their IDs).

    Each bundle is profiled ``rounds`` times for at least ``runs`` runs and ``seconds`` seconds per entry point, all
    with the same number of threads. Raises what ``edge.profile`` raises, and UsageError for fewer than two sides.
    """
    if len(sources) < 2:
        raise UsageError("comparing needs two or more bundles or saved profiles: name another one.")
    if rounds < 1:
        raise UsageError(f"comparing needs at least 1 round, not {rounds}.")
    paths = [Path(source) for source in sources]
    progress = progress or Progress()
    measured: list[list[Measurement]] = [[] if _is_bundle(path) else _saved(path) for path in paths]
    live = [index for index, path in enumerate(paths) if _is_bundle(path)]
    if live:
        used = threads or _common_threads([paths[index] for index in live])
        with progress.bar("profiling in turns", rounds * len(live)) as bar:
            for number in range(rounds):
                for index in live if number % 2 == 0 else reversed(live):
                    measured[index].append(api.profile(
                        paths[index], threads=used, entries=entries, runs=runs, seconds=seconds,
                        operators=False, roofline=False,
                    ))
                    bar.advance()
    return build(_names(paths), [not _is_bundle(path) for path in paths], measured)


def build(names: Sequence[str], saved: Sequence[bool], measured: Sequence[Sequence[Measurement]]) -> Comparison:
    """The comparison of measurements that are already there: one list a side, one measurement a round."""
    order = dict.fromkeys(entry.entry for side in measured for entry in side[0].entries)
    rows = tuple(Row(entry=name, cells=_cells(name, measured, saved)) for name in order)
    sides = tuple(
        Side(
            name=name,
            saved=kept,
            bundle=side[0].bundle,
            cpu=side[0].device.cpu,
            threads=side[0].settings.threads,
            load_us=statistics.median(one.load_us for one in side),
            import_us=statistics.median(one.import_us for one in side),
            peak_bytes=int(statistics.median(one.memory.peak for one in side)),
            model_bytes=int(statistics.median(one.memory.model for one in side)),
        )
        for name, kept, side in zip(names, saved, measured, strict=True)
    )
    rounds = max(len(side) for side in measured)
    return Comparison(sides=sides, rows=rows, rounds=rounds, warnings=_warnings(sides, rows, measured))


def encode(comparison: Comparison) -> bytes:
    return msgspec.json.format(msgspec.json.encode(comparison), indent=1) + b"\n"


def ratio_of_medians(first: Sequence[np.ndarray], other: Sequence[np.ndarray], *, paired: bool, seed: int = 0) -> Ratio:
    """median(first) / median(other) with a percentile bootstrap interval.

    Each side is a list of rounds, each an array of run times. Runs of one process resemble each other, so rounds are
    resampled first, then runs within them; ``paired`` rounds (taken in turns) are drawn together.
    """
    generator = np.random.default_rng(seed)
    sides = [[_thinned(one) for one in side] for side in (first, other)]
    ratios = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        drawn = generator.integers(len(sides[0]), size=len(sides[0]))
        again = drawn if paired else generator.integers(len(sides[1]), size=len(sides[1]))
        medians = [
            np.median(np.concatenate([generator.choice(side[number], len(side[number])) for number in numbers]))
            for side, numbers in zip(sides, (drawn, again), strict=True)
        ]
        ratios[index] = medians[0] / medians[1]
    tail = (1.0 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, (tail, 1.0 - tail))
    value = np.median(np.concatenate(list(first))) / np.median(np.concatenate(list(other)))
    return Ratio(value=float(value), low=float(low), high=float(high))


def _cells(name: str, measured: Sequence[Sequence[Measurement]], saved: Sequence[bool]) -> tuple[Cell | None, ...]:
    found = [[entry for one in side for entry in one.entries if entry.entry == name] for side in measured]
    times = [[np.array([run.duration_us for run in entry.runs]) for entry in side] for side in found]
    cells: list[Cell | None] = []
    for index, side in enumerate(found):
        if not side:
            cells.append(None)
            continue
        together = np.concatenate(times[index])
        ratio = None
        if index > 0 and times[0]:
            paired = not saved[0] and not saved[index]
            ratio = ratio_of_medians(times[0], times[index], paired=paired)
        relative, cosine = _error(side[0])
        cells.append(Cell(
            p50_us=float(np.percentile(together, 50)),
            p90_us=float(np.percentile(together, 90)),
            first_us=statistics.median(entry.first_us for entry in side),
            runs=len(together),
            ratio=ratio,
            relative=relative,
            cosine=cosine,
        ))
    return tuple(cells)


def _error(entry: EntryMeasurement) -> tuple[float | None, float | None]:
    if not entry.errors:
        return None, None
    return max(one.relative for one in entry.errors), min(one.cosine for one in entry.errors)


def _warnings(
    sides: Sequence[Side], rows: Sequence[Row], measured: Sequence[Sequence[Measurement]]
) -> tuple[str, ...]:
    found = []
    if len({side.cpu for side in sides}) > 1:
        found.append("the sides were measured on different machines: their times differ for that reason too.")
    if len({one.settings.threads_text for rounds in measured for one in rounds}) > 1:
        found.append("the sides were measured with different numbers of threads: profile them again with the same.")
    if any(side.saved for side in sides):
        found.append(
            "saved profiles were not measured in turns with the rest: the intervals do not cover how the machine "
            "differed between them."
        )
    if len({side.bundle.model for side in sides}) > 1:
        found.append("the sides are not the same model.")
    if not any(all(row.cells) for row in rows):
        found.append("there is no entry point that all sides have.")
    # A sentence that every round repeats is said once, the last time it was true.
    for side, rounds in zip(sides, measured, strict=True):
        latest = {sentence.split(" (", 1)[0]: sentence for one in rounds for sentence in one.warnings}
        found += [f"{side.name}: {sentence}" for sentence in latest.values()]
    return tuple(found)


def _is_bundle(path: Path) -> bool:
    if path.exists():
        return path.is_dir()
    if not _is_result(path):
        raise UsageError(
            f"there is nothing at {path}: give bundles, files that `edge profile --json` wrote, or IDs of `edge results`."
        )
    return False


def _is_result(path: Path) -> bool:
    """Whether ``path`` is no path but the ID of a kept result, or the beginning of one."""
    return len(path.parts) == 1 and any(name.startswith(path.name) for name in results.identities())


def _saved(path: Path) -> list[Measurement]:
    """What a file holds, one measurement a round, or the result of that ID."""
    return jsonfile.load_all(path) if path.exists() else [results.load(path.name)]


def _common_threads(bundles: Sequence[Path]) -> int:
    """As many threads as every bundle's target uses, within this machine's cores."""
    return max(min([usable_cores(), *(open_bundle(path).manifest.target.threads for path in bundles)]), 1)


def _names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path; whole paths where those are not enough to tell the sides apart."""
    short = [path.resolve().name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


def _thinned(values: np.ndarray) -> np.ndarray:
    if len(values) <= MOST_RUNS:
        return values
    return np.asarray(values[np.linspace(0, len(values) - 1, MOST_RUNS).astype(int)])
