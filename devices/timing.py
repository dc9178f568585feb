"""Timed runs: the loop, the blocks that the thermal guard sets around it, and the pass for the energy meter.

Nothing lies between two reads of the clock but the call; sensors are read between calls, and not more often than
``GLANCE`` seconds.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from edge.conditions import Block, Energy
from edge.devices.energy import Meter
from edge.devices.guard import Guard
from edge.devices.sensors import Throttling
from edge.measurement import Run

#: Enough calls for lazy initialisation, and for a quarter of the timed seconds, so that clocks and caches settle.
WARMUP_CALLS = 5
WARMUP_PART = 0.25
MOST_WARMUP = 6.0
#: A model too slow for the runs asked for stops here, after three runs at least; so does one too fast to keep rows of.
MOST_SECONDS = 60.0
MOST_RUNS = 100_000
LEAST_RUNS = 3
#: Between two looks at the sensors during timed runs, in seconds.
GLANCE = 0.5
#: An entry is timed in blocks of about so many seconds, each beginning on a cool device and told when it is done: short
#: enough not to heat a board through, long enough to be worth the wait.
BLOCK = 2.0
#: Seconds of calls between two blocks, for the clock that a wait let fall and what telling of a block left behind.
RAMP = 0.2
#: How often a block that throttling spoiled is run again, and for how long all blocks of an entry may take.
REPEATS = 3

Row = tuple[int, int]


def warm_up(call: Callable[[], object], seconds: float) -> int:
    """Call it for ``seconds`` and ``WARMUP_CALLS`` times, but not for much longer than a slow model deserves."""
    begun = time.perf_counter()
    calls = 0
    while True:
        call()
        calls += 1
        took = time.perf_counter() - begun
        if (took >= seconds and calls >= WARMUP_CALLS) or took >= max(seconds, MOST_WARMUP):
            return calls


def timed(
    call: Callable[[], object], runs: int, seconds: float, between: Callable[[], None] | None = None
) -> tuple[list[Row], bool]:
    """(start, end) in nanoseconds of each call, until there are ``runs`` of them and ``seconds`` have passed.

    ``between`` is called between two calls every ``GLANCE`` seconds. The second value is False if a limit stopped it
    before.
    """
    now = time.perf_counter_ns
    rows: list[Row] = []
    gc.collect()
    gc.disable()
    try:
        begun = now()
        enough, most = begun + int(seconds * 1e9), begun + int(max(MOST_SECONDS, 2 * seconds) * 1e9)
        most_runs = max(MOST_RUNS, runs)
        glance = int(GLANCE * 1e9)
        look = begun + glance if between else most
        while True:
            start = now()
            call()
            end = now()
            rows.append((start, end))
            if end >= enough and len(rows) >= runs:
                return rows, True
            if len(rows) >= most_runs or (end >= most and len(rows) >= LEAST_RUNS):
                return rows, False
            if end >= look and between:
                between()
                look = now() + glance
    finally:
        gc.enable()


class Timed(Protocol):
    """What runs one entry point: this process, or the native runner on a device."""

    def ramp(self, waited: bool) -> None:
        """Untimed runs before a block that is not the first, or before which the device was waited for."""

    def timed(self, runs: int, seconds: float) -> tuple[list[Run], bool]:
        """A block, and whether it is as much as was asked for (see ``timed``)."""


@dataclass
class Here:
    """``call`` in this process. ``us`` puts a moment of the clock on the measurement's time line; ``between``: see ``timed``."""

    call: Callable[[], object]
    us: Callable[[int], float]
    between: Callable[[], None]

    def ramp(self, waited: bool) -> None:
        if waited:
            warm_up(self.call, RAMP)
        else:
            _settle(self.call)

    def timed(self, runs: int, seconds: float) -> tuple[list[Run], bool]:
        rows, whole = timed(self.call, runs, seconds, self.between)
        return [Run(self.us(start), round((end - start) / 1e3, 3)) for start, end in rows], whole


@dataclass
class Blocks:
    """The timed runs of one entry point: those that count, whether they are as many as asked for, and how it went."""

    runs: list[Run]
    whole: bool
    blocks: list[Block]
    repeated: int = 0
    stayed_hot: bool = False


def in_blocks(
    model: Timed,
    runs: int,
    seconds: float,
    throttling: Callable[[], Throttling | None],
    guard: Guard,
    look: Callable[[], None],
    done: Callable[[Sequence[Run], Sequence[Block]], None],
) -> Blocks:
    """``timed`` in blocks that begin on a cool device; a block that throttling spoiled is run again.

    ``look`` takes a reading of everything; ``done`` hears, after each block that counts, its runs and the blocks since
    the one before.
    """
    watched = guard.budget > 0 and (guard.active or throttling() is not None)
    count = max(math.ceil(seconds / BLOCK), 1)
    found = Blocks([], True, [])
    told = 0
    begun = time.perf_counter()
    while sum(block.kept for block in found.blocks) < count:
        waited = guard.wait()
        if waited or found.runs:
            model.ramp(waited > 0)
        before = throttling()
        look()
        block, whole = model.timed(math.ceil(runs / count), seconds / count)
        after = throttling()
        look()
        spoiled = _spoiled(before, after)
        in_time = time.perf_counter() - begun < max(MOST_SECONDS, 2 * seconds) + guard.waited
        again = bool(spoiled) and watched and found.repeated < REPEATS and in_time
        start, last = block[0].start_us, block[-1]
        found.blocks.append(Block(
            start_us=start, duration_us=round(last.start_us + last.duration_us - start, 3), runs=len(block),
            waited_s=round(waited, 3), spoiled=spoiled, kept=not again,
        ))
        if again:
            found.repeated += 1
            continue
        found.runs += block
        found.whole &= whole
        found.stayed_hot |= bool(spoiled)
        done(block, found.blocks[told:])
        told = len(found.blocks)
        took = sum(block.duration_us for block in found.blocks if block.kept) / 1e6
        if not whole:
            break
        if len(found.runs) >= max(MOST_RUNS, runs) or took >= max(MOST_SECONDS, 2 * seconds):
            found.whole = sum(block.kept for block in found.blocks) == count
            break
    return found


def short(entry: str, found: Blocks) -> list[str]:
    """What went short or hot in the runs of ``entry``, a sentence each."""
    sentences = []
    if not found.whole:
        took = sum(block.duration_us for block in found.blocks if block.kept) / 1e6
        sentences.append(f"{entry} was stopped after {len(found.runs)} runs and {took:.1f} s, short of what was asked for.")
    if found.stayed_hot:
        why = ", ".join(dict.fromkeys(reason for block in found.blocks if block.kept for reason in block.spoiled))
        sentences.append(f"{entry} was measured while the device held its clock back ({why}): its times are too long.")
    return sentences


def metered(repeat: Callable[[float], tuple[int, float]], meter: Meter, idle_watts: float | None) -> Energy | None:
    """A pass of ``meter.least_seconds`` at least; None if the meter failed.

    ``repeat`` runs the model for so many seconds, and says how often it did and the seconds that this took: where it
    does so on a device, the way there is metered too, at ``idle_watts``.
    """
    meter.start()
    begun = time.perf_counter()
    runs, seconds = repeat(meter.least_seconds)
    way = max(time.perf_counter() - begun - seconds, 0.0)
    joules = meter.stop()
    if joules is None:
        return None
    if idle_watts is None:
        joules *= seconds / (seconds + way)
        net = None
    else:
        joules -= idle_watts * way
        net = max(joules - idle_watts * seconds, 0.0) / runs
    return Energy(
        method=meter.method, joules=joules / runs, net_joules=net, watts=joules / seconds, idle_watts=idle_watts,
        runs=runs, seconds=round(seconds, 3),
    )


def repeated(call: Callable[[], object], typical_us: float, seconds: float) -> tuple[int, float]:
    """Call it for so many seconds and ``LEAST_RUNS`` times at least: how often, and the seconds that it took."""
    runs = 0
    begun = time.perf_counter()
    # The clock is read once in a while, so that short runs are not half made of reading it.
    stride = max(int(1e4 / max(typical_us, 0.1)), 1)
    while runs < LEAST_RUNS or time.perf_counter() - begun < seconds:
        for _ in range(stride):
            call()
        runs += stride
    return runs, time.perf_counter() - begun


def unmetered(entry: str) -> str:
    """What is said where ``metered`` found nothing."""
    return f"the energy meter failed while {entry} ran: profile again."


def idle_watts(meter: Meter) -> float | None:
    """Watts that the device draws while this process sleeps, over the meter's least time."""
    meter.start()
    begun = time.perf_counter()
    time.sleep(meter.least_seconds)
    seconds = time.perf_counter() - begun
    joules = meter.stop()
    return None if joules is None else joules / seconds


def _settle(call: Callable[[], object]) -> None:
    """Call it for ``RAMP`` seconds, once at least."""
    begun = time.perf_counter()
    while True:
        call()
        if time.perf_counter() - begun >= RAMP:
            return


def _spoiled(before: Throttling | None, after: Throttling | None) -> tuple[str, ...]:
    return after.since(before) if before is not None and after is not None else ()
