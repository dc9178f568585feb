"""How many threads are best for each entry point of a bundle, measured on the device that is to run it.

Profiles with different numbers of threads take turns, each in a process of its own, as they will be. A number of threads
is as good as the fastest where nobody would feel the difference, or where the processes cannot tell it from noise: then
fewer are taken, which leaves cores and energy to others. Raises what ``edge.profile`` raises.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from edge import api
from edge.bundle import open_bundle
from edge.devices.base import find_device
from edge.errors import UsageError
from edge.measurement import DeviceFacts, Measurement
from edge.progress import Progress
from edge.ranks import slowdown
from edge.runtimes.base import session_class
from edge.threads import machine_facts, remember

#: Processes for each number of threads: with three on a side ranks tell a difference at 95 %, if none overlap.
ROUNDS = 3
CONFIDENCE = 0.95
#: So much slower is not felt; and so much slower is never taken for noise.
SAME, NEVER_SAME = 1.02, 1.1


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One entry point: the median of each process by number of threads, in microseconds, and the number that was chosen.

    ``alone`` is what would be best for this entry point alone, where the runtime has one number for all.
    """

    entry: str
    times_us: Mapping[int, tuple[float, ...]]
    chosen: int
    alone: int

    def median_us(self, threads: int) -> float:
        return statistics.median(self.times_us[threads])


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """``apart``: whether entry points can have numbers of their own (see ``Session.takes_apart``)."""

    bundle: str
    device: DeviceFacts
    apart: bool
    rows: tuple[Row, ...]
    warnings: tuple[str, ...]


def tune(
    path: Path | str, *, device: str = "local", rounds: int = ROUNDS, runs: int = 10, seconds: float = 0.5,
    cool_seconds: float = api.COOL_SECONDS, progress: Progress | None = None,
) -> Tuning:
    """Measure the bundle at ``path`` on ``device`` with 1 thread to as many as it has cores, and remember what is best.

    ``rounds`` processes for each number of threads, each with at least ``runs`` runs and ``seconds`` seconds of each entry.
    """
    if rounds < 1:
        raise UsageError(f"tuning needs at least 1 round, not {rounds}.")
    opened = open_bundle(path)
    found = find_device(device)
    tried = numbers(machine_facts(found).cores)
    measured: dict[int, list[Measurement]] = {count: [] for count in tried}
    with (progress or Progress()).bar("profiling", rounds * len(tried)) as bar:
        for turn in range(rounds):
            # Each round begins with another: what one leaves behind (heat, a cache) does not always meet the same next.
            for count in (*tried[turn % len(tried) :], *tried[: turn % len(tried)]):
                measured[count].append(api.profile(
                    path, threads=count, runs=runs, seconds=seconds, device=device, operators=False, roofline=False,
                    energy=False, cool_seconds=cool_seconds,
                ))
                bar.note(f"{count} thread{'' if count == 1 else 's'}")
                bar.advance()
    times = {
        entry.name: {
            count: tuple(one.entry(entry.name).latency.p50_us for one in sides) for count, sides in measured.items()
        }
        for entry in opened.manifest.entries
    }
    apart = session_class(opened.manifest.runtime.name).takes_apart(opened.manifest)
    alone = {name: fewest(by_count) for name, by_count in times.items()}
    chosen = alone if apart else dict.fromkeys(times, fewest(_together(list(times.values()))))
    remember(opened, found, chosen)
    # What every process says of the machine is said once.
    said = {sentence.split(" (", 1)[0]: sentence for sides in measured.values() for one in sides for sentence in one.warnings}
    return Tuning(
        bundle=opened.path.resolve().name,
        device=measured[tried[0]][0].device,
        apart=apart,
        rows=tuple(
            Row(entry=name, times_us=by_count, chosen=chosen[name], alone=alone[name]) for name, by_count in times.items()
        ),
        warnings=tuple(said.values()),
    )


def numbers(cores: int) -> tuple[int, ...]:
    """The numbers of threads to try: all up to 4, then two for each doubling, and all cores."""
    more = (count << power for power in range(1, cores.bit_length()) for count in (3, 4))
    return tuple(sorted({*range(1, min(cores, 4) + 1), *(count for count in more if count <= cores), cores}))


def fewest(times: Mapping[int, Sequence[float]]) -> int:
    """The fewest threads that are as good as the fastest, by each number's medians of processes."""
    medians = {count: statistics.median(found) for count, found in times.items()}
    best = min(medians, key=lambda count: (medians[count], count))
    return min(count for count in times if _as_good(times[best], times[count], medians[count] / medians[best]))


def _as_good(fastest: Sequence[float], other: Sequence[float], ratio: float) -> bool:
    if ratio <= SAME:
        return True
    low = slowdown(fastest, other, CONFIDENCE).low
    # Where there are too few processes to tell, the medians stand.
    return ratio < NEVER_SAME and low is not None and low <= 1.0


def _together(entries: Sequence[Mapping[int, Sequence[float]]]) -> dict[int, list[float]]:
    """Each number's times as one: the geometric mean over entry points, since a second of one is none of another."""
    return {
        count: [math.exp(statistics.fmean(math.log(value) for value in one)) for one in zip(*(times[count] for times in entries), strict=True)]
        for count in entries[0]
    }
