"""Energy meters: joules between two moments, where a device can say so.

- RAPL: counters of the CPU package and of memory (kernel.org, power/powercap/powercap).
- The Raspberry Pi 5's power management chip: volts and amperes of the rails that it feeds, through
  ``vcgencmd pmic_read_adc``. What it does not feed (USB ports, HATs on 5 V, the conversion's own loss) is not in it.
- A battery that is being discharged: a phone or a laptop on no charger (kernel.org, ABI/testing/sysfs-class-power).

``find_meter`` gives the first of them that works, or says why there is none.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from edge.conditions import NOT_READABLE
from edge.devices.files import number, text
from edge.devices.programs import Programs, local_programs

#: How long a pass must be: the PMIC is asked ten times a second, a fuel gauge averages over about a second.
PMIC_SECONDS = 3.0
BATTERY_SECONDS = 10.0
#: What is said of the meter where energy is not asked for.
NOT_ASKED = "not asked for"


class Meter(ABC):
    """``method`` says what is metered and how; ``least_seconds`` is how long a pass must be to mean something."""

    method: str
    least_seconds: float

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def stop(self) -> float | None:
        """Joules since ``start``; None if the meter failed meanwhile."""


class Rapl(Meter):
    """Running Average Power Limit: counters in microjoules that wrap at a known value."""

    def __init__(self, zones: list[Path], refresh: Callable[[], None] = lambda: None, least_seconds: float = 1.0) -> None:
        names = ", ".join(text(zone / "name") or zone.name for zone in zones)
        self.method = f"RAPL counters ({names})"
        self.zones = zones
        self.least_seconds = least_seconds
        self._refresh = refresh
        self._before: list[int | None] = []

    def start(self) -> None:
        self._refresh()
        self._before = [number(zone / "energy_uj") for zone in self.zones]

    def stop(self) -> float | None:
        self._refresh()
        total = 0
        for zone, before in zip(self.zones, self._before, strict=True):
            after = number(zone / "energy_uj")
            if before is None or after is None:
                return None
            # At 100 W the counter of a usual package wraps after 40 minutes: at most once in a pass.
            total += after - before if after >= before else after - before + (number(zone / "max_energy_range_uj") or 0)
        return total / 1e6


class Sampled(Meter):
    """Integrates watts that are read every ``period`` seconds by a thread of its own (trapezoids)."""

    def __init__(self, watts: Callable[[], float | None], method: str, period: float, least_seconds: float) -> None:
        self.watts = watts
        self.method = f"{method}, read every {period:g} s"
        self.period = period
        self.least_seconds = least_seconds
        self._samples: list[tuple[float, float | None]] = []
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._samples, self._done = [], threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        self._read()  # last, so that what is metered begins when this returns

    def stop(self) -> float | None:
        assert self._thread is not None
        asked = time.perf_counter()
        self._done.set()
        self._thread.join()
        self._read()
        joules = 0.0
        for (before, low), (after, high) in itertools.pairwise(sorted(self._samples, key=lambda sample: sample[0])):
            if low is None or high is None:
                return None
            # What was drawn while the thread was waited for is not the runs'.
            joules += max(min(after, asked) - before, 0.0) * (low + high) / 2
        return joules

    def _sample(self) -> None:
        while not self._done.wait(self.period):
            self._read()

    def _read(self) -> None:
        watts = self.watts()
        self._samples.append((time.perf_counter(), watts))


def find_meter(
    root: Path = Path("/"), programs: Programs = local_programs, refresh: Callable[[], None] = lambda: None,
    slowest: float = 0.0,
) -> Meter | str:
    """The device's meter, or "not readable" and why.

    Where ``root`` and ``programs`` show another device, ``refresh`` has them look at it again, before each reading;
    ``slowest`` is the least time in seconds between two of those.
    """
    zones = rapl_zones(root)
    readable = [zone for zone in zones if number(zone / "energy_uj") is not None]
    if readable:
        return Rapl(readable, refresh, max(1.0, 10 * slowest))

    def pmic() -> float | None:
        refresh()
        return pmic_watts(programs(("vcgencmd", "pmic_read_adc")) or "")

    if pmic() is not None:
        method = "Raspberry Pi 5 PMIC (vcgencmd pmic_read_adc): the sum of its rails, without USB and what 5 V feeds directly"
        return Sampled(pmic, method, period=max(0.1, slowest), least_seconds=max(PMIC_SECONDS, 10 * slowest))
    battery = discharging_battery(root)
    if isinstance(battery, Path):
        found = battery

        def watts() -> float | None:
            refresh()
            return battery_watts(found)

        return Sampled(
            watts, f"battery {battery.name} while discharging: the whole device", period=max(0.25, slowest),
            least_seconds=BATTERY_SECONDS,
        )
    if zones:
        return f"{NOT_READABLE}: RAPL's counters are here but not for this user (energy_uj is for root alone)"
    return f"{NOT_READABLE}: {battery}"


def rapl_zones(root: Path) -> list[Path]:
    """Zones that do not count the same joules twice: packages, and memory, which lies outside of them."""
    found = []
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        name = text(zone / "name") or ""
        depth = zone.name.count(":")
        if (depth == 1 and name.startswith("package")) or (depth == 2 and name == "dram"):
            found.append(zone)
    return found


def pmic_watts(output: str) -> float | None:
    """Watts over all rails that have both a current and a voltage in ``vcgencmd pmic_read_adc``; None if there is none.

    Lines are like "VDD_CORE_A current(7)=0.75012000A" and "VDD_CORE_V volt(15)=0.86065850V".
    """
    rails: dict[str, dict[str, float]] = {}
    for rail, kind, value in re.findall(r"^\s*(\S+)_([AV]) (?:current|volt)\(\d+\)=(\d+(?:\.\d+)?)[AV]\s*$", output, re.MULTILINE):
        rails.setdefault(rail, {})[kind] = float(value)
    powers = [found["A"] * found["V"] for found in rails.values() if len(found) == 2]
    return sum(powers) if powers else None


def discharging_battery(root: Path) -> Path | str:
    """The folder of the battery that feeds this device now, or why no battery can tell."""
    for supply in sorted((root / "sys/class/power_supply").glob("*")):
        if text(supply / "type") == "Battery" and text(supply / "scope") != "Device":
            if text(supply / "status") != "Discharging":
                return f"the battery is not being discharged (status {text(supply / 'status') or 'unknown'}): unplug the charger"
            if battery_watts(supply) is None:
                return f"the battery {supply.name} gives no current and voltage"
            return supply
    return "no RAPL counters, no Raspberry Pi 5 PMIC, no battery"


def battery_watts(supply: Path) -> float | None:
    """Watts drawn from the battery: ``power_now``, or ``current_now`` (its sign differs by driver) times ``voltage_now``."""
    power = number(supply / "power_now")
    if power is not None:
        return abs(power) / 1e6
    current, voltage = number(supply / "current_now"), number(supply / "voltage_now")
    return None if current is None or voltage is None else abs(current) * voltage / 1e12
