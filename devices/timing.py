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

from edge.conditions import Block, Energy
from edge.devices.energy import Meter
from edge.devices.guard import Guard
from edge.devices.sensors import Sensors, Throttling

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


@dataclass
class Blocks:
    """The timed runs of one entry point: rows that count, whether they are as many as asked for, and how it went."""

    rows: list[Row]
    whole: bool
    blocks: list[Block]
    repeated: int = 0
    stayed_hot: bool = False


def in_blocks(
    call: Callable[[], object],
    runs: int,
    seconds: float,
    sensors: Sensors,
    guard: Guard,
    look: Callable[[bool], None],
    us: Callable[[int], float],
    done: Callable[[Sequence[Row], Sequence[Block]], None],
) -> Blocks:
    """``timed`` in blocks that begin on a cool device; a block that throttling spoiled is run again.

    ``look`` takes a reading (True: of everything); ``us`` puts a moment of the clock on the measurement's time line;
    ``done`` hears, after each block that counts, its rows and the blocks since the one before.
    """
    watched = guard.budget > 0 and (guard.active or sensors.throttling() is not None)
    count = max(math.ceil(seconds / BLOCK), 1)
    found = Blocks([], True, [])
    told = 0
    begun = time.perf_counter()
    while sum(block.kept for block in found.blocks) < count:
        waited = guard.wait()
        if waited:
            warm_up(call, RAMP)
        elif found.rows:
            _settle(call)
        before = sensors.throttling()
        look(True)
        rows, whole = timed(call, math.ceil(runs / count), seconds / count, lambda: look(False))
        after = sensors.throttling()
        look(True)
        spoiled = _spoiled(before, after)
        in_time = time.perf_counter() - begun < max(MOST_SECONDS, 2 * seconds) + guard.waited
        again = bool(spoiled) and watched and found.repeated < REPEATS and in_time
        found.blocks.append(Block(
            start_us=us(rows[0][0]), duration_us=round((rows[-1][1] - rows[0][0]) / 1e3, 3), runs=len(rows),
            waited_s=round(waited, 3), spoiled=spoiled, kept=not again,
        ))
        if again:
            found.repeated += 1
            continue
        found.rows += rows
        found.whole &= whole
        found.stayed_hot |= bool(spoiled)
        done(rows, found.blocks[told:])
        told = len(found.blocks)
        took = sum(block.duration_us for block in found.blocks if block.kept) / 1e6
        if not whole:
            break
        if len(found.rows) >= max(MOST_RUNS, runs) or took >= max(MOST_SECONDS, 2 * seconds):
            found.whole = sum(block.kept for block in found.blocks) == count
            break
    return found


def metered(call: Callable[[], object], meter: Meter, idle_watts: float | None, typical_us: float) -> Energy | None:
    """A pass of ``meter.least_seconds`` and ``LEAST_RUNS`` runs at least; None if the meter failed."""
    runs = 0
    meter.start()
    begun = time.perf_counter()
    # The clock is read once in a while, so that short runs are not half made of reading it.
    stride = max(int(1e4 / max(typical_us, 0.1)), 1)
    while runs < LEAST_RUNS or time.perf_counter() - begun < meter.least_seconds:
        for _ in range(stride):
            call()
        runs += stride
    seconds = time.perf_counter() - begun
    joules = meter.stop()
    if joules is None:
        return None
    net = None if idle_watts is None else max(joules - idle_watts * seconds, 0.0) / runs
    return Energy(
        method=meter.method, joules=joules / runs, net_joules=net, watts=joules / seconds, idle_watts=idle_watts,
        runs=runs, seconds=round(seconds, 3),
    )


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
