"""What a device's sensors say now: clock frequency, CPU temperature, and whether something holds the clock back.

Files are looked for under ``root`` (a test hands over a recorded tree), programs are asked through ``programs`` (adb's
shell on a phone). What is not there is None, and ``sources`` says why: a zone that may not be the CPU's, or a nominal
frequency, is never taken for the real one.

Throttling is read from whichever of these exist: the Raspberry Pi firmware's ``get_throttled`` (bits 0 to 3 now, 16 to
19 since boot; raspberrypi.com/documentation, "vcgencmd"), Intel's counts of thermal events
(kernel.org, admin-guide/thermal/intel_thermal_throttle), the kernel's cooling devices that cap the CPU's frequency
(driver-api/thermal/sysfs-api), and Android's thermal service (source.android.com, "Thermal mitigation").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edge.conditions import NOT_READABLE, Reading
from edge.devices.files import number, text
from edge.devices.programs import Programs, local_programs

#: Types of thermal zones that are the CPU's: Raspberry Pi and most device trees, Intel, Qualcomm, MediaTek, Exynos.
_CPU_ZONE = re.compile(r"cpu|soc|x86_pkg_temp|tsens|mtktscpu|^(big|little|mid)$", re.IGNORECASE)
#: Drivers of hwmon that report the CPU: Intel, AMD, Raspberry Pi.
_CPU_HWMON = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
#: A CPU that runs is within these; zones that are switched off read 0 or a large negative number.
_PLAUSIBLE_C = (1.0, 130.0)

_FIRMWARE_BITS: Mapping[int, str] = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}
_SINCE_BOOT = 16
_FIRMWARE_FILE = "sys/devices/platform/soc/soc:firmware/get_throttled"
_ANDROID_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")


class Throttling(msgspec.Struct, frozen=True, kw_only=True):
    """``active`` holds the clock back now; ``counts`` only ever grow, so a difference is an event in between."""

    active: tuple[str, ...]
    counts: Mapping[str, int]

    def since(self, before: Throttling) -> tuple[str, ...]:
        """What held the clock back at ``before``, now, or at any time between."""
        grown = [name for name, count in self.counts.items() if count > before.counts.get(name, count)]
        return tuple(dict.fromkeys([*before.active, *self.active, *grown]))


class Sensors:
    """The sensors of one device; finds at the start what there is, then reads only that."""

    def __init__(self, root: Path = Path("/"), programs: Programs = local_programs) -> None:
        self.root = root
        self.programs = programs
        self._frequency, frequency = _frequency_files(root)
        self._temperature, temperature = _temperature_files(root)
        self._android = self._service() is not None
        if not self._temperature and self._android:
            temperature = "Android's thermal service: the hottest of its CPU sensors"
        self._caps = _cooling_devices(root)
        self._events = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count"))
        self._asks_firmware = number_hex(text(root / _FIRMWARE_FILE)) is None and self._firmware_program() is not None
        found = self._throttling_sources()
        self.sources: dict[str, str] = {
            "frequency": frequency,
            "temperature": temperature,
            "throttling": ", ".join(found) or f"{NOT_READABLE}: this kernel offers no count, flag or cooling device",
        }

    def frequencies(self) -> tuple[float, ...]:
        """MHz of each group of cores that shares a clock; empty if not readable."""
        found = [number(path) for path in self._frequency]
        return tuple(value / 1e3 for value in found if value)

    def temperature(self) -> float | None:
        """Degrees Celsius of the CPU, the hottest of its sensors; None if not readable."""
        found = [value / 1e3 for path in self._temperature if (value := number(path)) is not None]
        if not self._temperature and self._android:
            found = cpu_temperatures(self._service() or "")
        plausible = [value for value in found if _PLAUSIBLE_C[0] <= value <= _PLAUSIBLE_C[1]]
        return max(plausible, default=None)

    def throttling(self) -> Throttling | None:
        """What holds the clock back; None if nothing here could tell."""
        if self.sources["throttling"].startswith(NOT_READABLE):
            return None
        active: list[str] = []
        counts: dict[str, int] = {}
        bits = self._firmware()
        if bits is not None:
            active += [name for bit, name in _FIRMWARE_BITS.items() if bits >> bit & 1]
            counts |= {name: bits >> bit + _SINCE_BOOT & 1 for bit, name in _FIRMWARE_BITS.items()}
        events = sum(number(path) or 0 for path in self._events)
        if self._events:
            counts["thermal event"] = events
        if any(number(path) for path in self._caps):
            active.append("frequency capped by the kernel's thermal governor")
        status = thermal_status(self._service() or "") if self._android else None
        if status:
            active.append(f"Android's thermal status {_ANDROID_STATUS[min(status, len(_ANDROID_STATUS) - 1)]}")
        return Throttling(active=tuple(active), counts=counts)

    def glance(self, at_us: float, rss_bytes: int | None = None) -> Reading:
        """What can be read within a fraction of a millisecond: files only."""
        temperature = self.temperature() if self._temperature else None
        return Reading(
            at_us=at_us, frequencies_mhz=self.frequencies(), temperature_c=temperature, rss_bytes=rss_bytes
        )

    def read(self, at_us: float, rss_bytes: int | None = None) -> Reading:
        """Everything; where a program has to be asked, that takes some milliseconds."""
        held = self.throttling()
        return Reading(
            at_us=at_us, frequencies_mhz=self.frequencies(), temperature_c=self.temperature(),
            throttled=None if held is None else held.active, rss_bytes=rss_bytes,
        )

    def _throttling_sources(self) -> list[str]:
        found = []
        if number_hex(text(self.root / _FIRMWARE_FILE)) is not None:
            found.append(f"/{_FIRMWARE_FILE}")
        elif self._asks_firmware:
            found.append("vcgencmd get_throttled")
        if self._events:
            found.append("thermal_throttle counts of the CPU")
        if self._caps:
            found.append("cooling devices of the kernel")
        if self._android:
            found.append("dumpsys thermalservice")
        return found

    def _firmware(self) -> int | None:
        bits = number_hex(text(self.root / _FIRMWARE_FILE))
        return self._firmware_program() if bits is None and self._asks_firmware else bits

    def _firmware_program(self) -> int | None:
        return parse_get_throttled(self.programs(("vcgencmd", "get_throttled")) or "")

    def _service(self) -> str | None:
        found = self.programs(("dumpsys", "thermalservice"))
        return found if found and thermal_status(found) is not None else None


def parse_get_throttled(output: str) -> int | None:
    """The bits of ``vcgencmd get_throttled``, which prints "throttled=0x50005"; None for anything else."""
    found = re.fullmatch(r"throttled=0x([0-9a-fA-F]{1,8})", output.strip())
    return int(found[1], 16) if found else None


def thermal_status(output: str) -> int | None:
    """The level that ``dumpsys thermalservice`` prints as "Thermal Status: 0" (Android 10 and later)."""
    found = re.search(r"^\s*Thermal Status: (\d+)\s*$", output, re.MULTILINE)
    return int(found[1]) if found else None


def cpu_temperatures(output: str) -> list[float]:
    """Temperatures of type CPU (0) under "Current temperatures from HAL" of ``dumpsys thermalservice``."""
    current = output.partition("Current temperatures from HAL:")[2].partition("Current cooling devices")[0]
    return [float(value) for value in re.findall(r"mValue=(-?\d+(?:\.\d+)?), mType=0,", current)]


def number_hex(found: str | None) -> int | None:
    """The kernel's hexadecimal, with or without 0x."""
    try:
        return int(found or "", 16)
    except ValueError:
        return None


def _frequency_files(root: Path) -> tuple[list[Path], str]:
    cpu = root / "sys/devices/system/cpu"
    for pattern in ("cpufreq/policy[0-9]*/scaling_cur_freq", "cpu[0-9]*/cpufreq/scaling_cur_freq"):
        found = [path for path in sorted(cpu.glob(pattern), key=_natural) if number(path)]
        if found:
            return found, f"/sys/devices/system/cpu/{pattern}"
    return [], f"{NOT_READABLE}: the kernel has no cpufreq driver here (a virtual machine, usually)"


def _temperature_files(root: Path) -> tuple[list[Path], str]:
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone[0-9]*"), key=_natural)
    readable = [(zone, text(zone / "type") or "") for zone in zones if number(zone / "temp") is not None]
    named = [(zone, kind) for zone, kind in readable if _CPU_ZONE.search(kind)]
    if not named and len(readable) == 1 and readable[0][1] in ("", "thermal_zone0"):
        named = readable  # one zone without a name: small boards have the CPU's and no other
    if named:
        kinds = ", ".join(dict.fromkeys(kind or zone.name for zone, kind in named))
        return [zone / "temp" for zone, _ in named], f"/sys/class/thermal, zones {kinds}"
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon[0-9]*"), key=_natural):
        name = text(chip / "name")
        if name in _CPU_HWMON and number(chip / "temp1_input") is not None:
            return [chip / "temp1_input"], f"/sys/class/hwmon, {name}"
    reason = "no thermal zone is the CPU's" if readable else "the kernel offers no thermal zone"
    return [], f"{NOT_READABLE}: {reason}"


def _cooling_devices(root: Path) -> list[Path]:
    """States of the cooling devices that cap the CPU's frequency; above 0 is capped."""
    devices = sorted((root / "sys/class/thermal").glob("cooling_device[0-9]*"), key=_natural)
    kinds = ("cpufreq", "thermal-cpufreq", "Processor")
    return [one / "cur_state" for one in devices if (text(one / "type") or "").startswith(kinds)]


def _natural(path: Path) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", str(path))]
