"""A board's sensors and thermal guard around the blocks that its native runner times: no Python needed there.

The runner reads no sensor: it asks before each block of timed runs, and is told from here when to begin. One small
script reads the same files and asks the same programs there as ``sensors`` does, before and after each block; the guard
waits here for the board to cool, and a block that throttling spoiled is run again, by the same rules as in Python
(``timing.in_blocks``). While a block runs nobody looks.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge.conditions import Block, Conditions, Energy, Reading
from edge.devices import timing
from edge.devices.base import Device
from edge.devices.conversation import Pace
from edge.devices.energy import NOT_ASKED, Meter, find_meter
from edge.devices.guard import COOLING, Guard, remember_band, remembered_band
from edge.devices.messages import Go, Profiled, ProfileRequest, Repeated, Reply, Sampled, Waiting
from edge.devices.sensors import Sensors, Throttling
from edge.devices.snapshots import METERS, SENSORS, View
from edge.measurement import DeviceFacts, Latency, Run
from edge.progress import Progress

#: Seconds between two readings of a meter over a connection: each starts a shell there, which takes energy too.
SLOW = 0.5


class Look(NamedTuple):
    reading: Reading
    throttling: Throttling | None
    sources: Mapping[str, str]


def watched(
    device: Device, request: ProfileRequest, measure: Callable[[Pace], Reply], progress: Progress, root: str = ""
) -> Profiled:
    """What ``measure`` gives, its blocks paced by the board's sensors. ``root`` is in front of the board's /sys."""
    with tempfile.TemporaryDirectory(prefix="edge-meter-") as folder:
        watch = _Watch(device, request, progress, root, View(device, METERS, root, Path(folder)))
        profiled = measure(watch.pace)
    assert isinstance(profiled, Profiled)
    return watch.completed(profiled)


class _Watch:
    """One profile: the guard, the readings on the runner's time line, blocks and energy of each entry point."""

    def __init__(self, device: Device, request: ProfileRequest, progress: Progress, root: str, meters: View) -> None:
        self._device, self._request, self._root = device, request, root
        self._guard = Guard(
            lambda: self._look().reading.temperature_c, request.cool_seconds, remembered_band(_known_as(device)),
            waiting=lambda: progress.stage(COOLING),
        )
        self._last: Look | None = None
        self._readings: list[Reading] = []
        self._told = 0
        self._found: dict[str, timing.Blocks] = {}
        self._progress, self._meters = progress, meters
        self._meter: Meter | str | None = None
        self._idle_watts: float | None = None
        self._energy: dict[str, Energy | None] = {}

    def pace(self, waiting: Waiting, ask: Callable[[Go], Sampled | Repeated], keep: Callable[[Sampled], None]) -> None:
        """See ``Pace``: the timed runs of one entry point, or its pass for the energy meter."""
        if waiting.phase == "energy":
            self._spend(waiting.entry, ask)
            return
        runner = _There(ask, waiting.at_us, time.monotonic())

        def reading() -> None:
            if self._last is not None:
                self._readings.append(msgspec.structs.replace(self._last.reading, at_us=runner.now_us()))

        def done(runs: Sequence[Run], blocks: Sequence[Block]) -> None:
            assert runner.sampled is not None
            keep(self._kept(runner.sampled, runs, blocks))

        self._found[waiting.entry] = timing.in_blocks(
            runner, self._request.runs, self._request.seconds, lambda: self._look().throttling, self._guard, reading, done
        )

    def _spend(self, entry: str, ask: Callable[[Go], Sampled | Repeated]) -> None:
        """The entry's pass for the energy meter, where the board has one."""
        if self._meter is None:
            self._meters.refresh()
            self._meter = find_meter(self._meters.folder, self._meters.programs, self._meters.try_refresh, SLOW)
            if isinstance(self._meter, Meter):
                self._progress.stage("idle power")
                self._idle_watts = timing.idle_watts(self._meter)
                self._progress.stage(f"energy {entry}")
        if isinstance(self._meter, str):
            return

        def repeat(seconds: float) -> tuple[int, float]:
            repeated = ask(Go(runs=timing.LEAST_RUNS, seconds=seconds, ramp=0.0))
            assert isinstance(repeated, Repeated)
            return repeated.runs, repeated.seconds

        self._energy[entry] = timing.metered(repeat, self._meter, self._idle_watts)

    def completed(self, profiled: Profiled) -> Profiled:
        """The runner's reply with the runs that count, the conditions, and what there is to say of them."""
        warnings = list(profiled.warnings)
        for name, found in self._found.items():
            warnings += timing.short(name, found)
        if self._guard.gave_up:
            warnings.append(self._guard.gave_up_sentence())
        if self._guard.band is not None:
            remember_band(self._guard.band, _known_as(self._device))
        warnings += [timing.unmetered(name) for name, energy in self._energy.items() if energy is None]
        entries = []
        for entry in profiled.entries:
            found = self._found[entry.entry]
            entries.append(msgspec.structs.replace(
                entry, runs=tuple(found.runs), latency=Latency.of([run.duration_us for run in found.runs]),
                blocks=tuple(found.blocks), energy=self._energy.get(entry.entry),
            ))
        conditions = msgspec.structs.replace(
            self._conditions(),
            readings=tuple(self._readings),
            repeated=sum(found.repeated for found in self._found.values()),
            stayed_hot=self._guard.gave_up or any(found.stayed_hot for found in self._found.values()),
        )
        return msgspec.structs.replace(
            profiled, facts=self._facts(profiled.facts), entries=tuple(entries), conditions=conditions, warnings=tuple(warnings)
        )

    def _look(self) -> Look:
        self._last = look(self._device, self._root)
        return self._last

    def _kept(self, sampled: Sampled, runs: Sequence[Run], blocks: Sequence[Block]) -> Sampled:
        """A block's message with the blocks before it that do not count, and the readings since the last."""
        readings, self._told = tuple(self._readings[self._told :]), len(self._readings)
        return msgspec.structs.replace(
            sampled,
            facts=self._facts(sampled.facts),
            entry=msgspec.structs.replace(sampled.entry, runs=tuple(runs), blocks=tuple(blocks)),
            conditions=msgspec.structs.replace(self._conditions(), readings=readings),
        )

    def _conditions(self) -> Conditions:
        sources = dict(self._last.sources) if self._last is not None else {}
        if self._meter is not None:
            sources["energy"] = self._meter.method if isinstance(self._meter, Meter) else self._meter
        elif not self._request.energy:
            sources["energy"] = NOT_ASKED
        return Conditions(
            sources=sources,
            idle=self._guard.band, waited_s=round(self._guard.waited, 3),
        )

    def _facts(self, facts: DeviceFacts) -> DeviceFacts:
        """With what the sensors said first: the runner's own facts take the first thermal zone, whatever it is. And with
        the board's name, where the kernel told the runner none."""
        if facts.cpu == facts.arch:
            board = self._device.facts()
            facts = msgspec.structs.replace(facts, cpu=f"{board.model} ({board.cpu})" if board.model else board.cpu)
        if not self._readings:
            return facts
        first = self._readings[0]
        return msgspec.structs.replace(
            facts, temperature_c=first.temperature_c, frequency_mhz=max(first.frequencies_mhz, default=None)
        )


@dataclass
class _There:
    """``timing.Timed`` by a runner that waits at ``at_us`` of its time line, which is ``since`` of this machine's clock."""

    ask: Callable[[Go], Sampled | Repeated]
    at_us: float
    since: float
    sampled: Sampled | None = field(default=None)

    def now_us(self) -> float:
        return round(self.at_us + (time.monotonic() - self.since) * 1e6, 3)

    def ramp(self, waited: bool) -> None:
        """With each block: what read the sensors ran on the same cores."""

    def timed(self, runs: int, seconds: float) -> tuple[list[Run], bool]:
        sampled = self.ask(Go(runs=runs, seconds=seconds, ramp=timing.RAMP))
        assert isinstance(sampled, Sampled)
        self.sampled = sampled
        last = sampled.entry.runs[-1]
        self.at_us, self.since = last.start_us + last.duration_us, time.monotonic()
        return list(sampled.entry.runs), sampled.whole


def _known_as(device: Device) -> str:
    """The name of its idle band: this machine has one, whoever measures."""
    return "" if device.address == "local" else device.address


def look(device: Device, root: str = "") -> Look:
    """All that the board's sensors say now. Raises LostError."""
    with tempfile.TemporaryDirectory(prefix="edge-sensors-") as folder:
        view = View(device, SENSORS, root, Path(folder))
        view.refresh()
        sensors = Sensors(view.folder, view.programs)
        return Look(sensors.read(0.0), sensors.throttling(), dict(sensors.sources))
