"""The thermal guard: timed runs begin on a device as cool as it is when it has nothing to do.

What "cool" means is the board's own business (a Pi without a heat sink idles at 55 degrees Celsius, one with a fan at
35), so it is learned: an idle device settles, and where its temperature no longer falls is its idle band. The band is
kept in the cache; a device that was warmer or colder then, because the room was, is learned anew.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from edge.cache import read_cached, write_cached
from edge.conditions import IdleBand
from edge.devices.host import host_facts

#: A device has settled when its mean temperature falls by less than FALL degrees from the first to the last quarter of
#: SETTLE seconds. With the time constant of a bare board, about two minutes, that leaves it within four degrees of
#: where it would end: 0.5 / (15 s / 120 s).
SETTLE = 20.0
FALL = 0.5
#: Seconds between readings while waiting.
STEP = 0.5
#: What the user is told meanwhile.
COOLING = "wait for the device to cool"
#: How far above the settled temperature still counts as idle: sensors step by half a degree and more.
MARGIN = 2.0


@dataclass
class Guard:
    """Waits, at most ``budget`` seconds in all, until ``temperature`` is within the idle band.

    ``busy`` says whether others use the device: what is learned while they do would be no idle band. ``waiting`` is
    called before a wait, so that the user knows. ``clock`` and ``sleep`` are in seconds.
    """

    temperature: Callable[[], float | None]
    budget: float
    band: IdleBand | None = None
    busy: Callable[[], bool] = lambda: False
    waiting: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    waited: float = 0.0
    gave_up: bool = field(default=False)

    @property
    def active(self) -> bool:
        return self.budget > 0 and self.temperature() is not None

    def wait(self) -> float:
        """Wait for a cool device; the seconds that it took. ``gave_up`` if the budget ended before."""
        if self.budget <= 0 or (now := self.temperature()) is None:
            return 0.0
        if self.band is not None and now <= self.band.high_c:
            if now < self.band.low_c - FALL and not self.busy():
                self.band = IdleBand(low_c=now, high_c=now + MARGIN)
            return 0.0
        if not self.gave_up:
            self.waiting()
        begun = self.clock()
        seen = [(begun, now)]
        while not self._cool(seen):
            if self.waited + seen[-1][0] - begun >= self.budget:
                self.gave_up = True
                break
            self.sleep(STEP)
            later = self.temperature()
            if later is None:
                break
            seen.append((self.clock(), later))
        took = self.clock() - begun
        self.waited += took
        return took

    def gave_up_sentence(self) -> str:
        return (
            f"the device did not cool down to its idle temperature within {self.budget:.0f} s: let it rest and profile "
            "again, or raise --cool."
        )

    def _cool(self, seen: list[tuple[float, float]]) -> bool:
        """Whether the last reading is within the band, or has settled, which makes a new band."""
        now, latest = seen[-1]
        if self.band is not None and latest <= self.band.high_c:
            return True
        if now - seen[0][0] < SETTLE:
            return False
        window = [value for at, value in seen if at > now - SETTLE]
        quarter = max(len(window) // 4, 1)
        first, last = sum(window[:quarter]) / quarter, sum(window[-quarter:]) / quarter
        if abs(first - last) >= FALL or self.busy():
            return False
        self.band = IdleBand(low_c=min(window[-quarter:]), high_c=max(window[-quarter:]) + MARGIN)
        return True


def remembered_band(device: str = "") -> IdleBand | None:
    """The idle band of the device at an address ("": this machine), as it was learned last."""
    raw = read_cached(_name(device))
    try:
        return None if raw is None else msgspec.json.decode(raw, type=IdleBand)
    except msgspec.DecodeError:
        return None  # written by another version: learn again


def remember_band(band: IdleBand, device: str = "") -> None:
    write_cached(_name(device), msgspec.json.encode(band))


def _name(device: str) -> str:
    key = hashlib.sha256((device or f"{host_facts().model}|{platform.node()}").encode()).hexdigest()[:16]
    return f"thermal/{key}.json"
