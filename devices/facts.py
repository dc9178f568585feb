"""The state of this machine just before a measurement: what explains a number besides the model.

Reads /proc and /sys (``root`` lets a test or a chroot stand in); a fact that the kernel does not offer is None.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from pathlib import Path

from edge.devices.files import text as _text
from edge.devices.host import host_facts
from edge.devices.programs import no_programs
from edge.devices.sensors import Sensors
from edge.measurement import DeviceFacts

#: Others' use of the cores above which timings mean little: half of one core out of four, say.
BUSY = 0.15
#: How long to watch /proc/stat, in seconds; its clock ticks every 10 ms.
WATCH = 0.25


def device_facts(device: str, versions: Mapping[str, str], root: Path = Path("/")) -> DeviceFacts:
    """Facts of this machine; takes ``WATCH`` seconds to see whether others are using it."""
    host = host_facts()
    cpufreq = root / "sys/devices/system/cpu/cpu0/cpufreq"
    sensors = Sensors(root, no_programs)
    return DeviceFacts(
        device=device,
        system=host.system,
        arch=host.arch,
        cpu=host.model,
        cores=host.cores,
        governor=_governor(cpufreq),
        frequency_mhz=max(sensors.frequencies(), default=None),
        max_frequency_mhz=_scaled(cpufreq / "cpuinfo_max_freq", 1e-3),
        temperature_c=sensors.temperature(),
        caches=caches(root),
        ram_bytes=host.ram_mb * 2**20,
        load_average=_load_average(root),
        busy=busy_share(root),
        python=platform.python_version(),
        versions=versions,
    )


def caches(root: Path = Path("/")) -> dict[str, int]:
    """Size in bytes of one instance of each data cache that core 0 uses, by name: L1d, L2, L3."""
    found = {}
    for index in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind, level, size = (_text(index / name) for name in ("type", "level", "size"))
        if kind in ("Data", "Unified") and level and size:
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = _size(size)
    return found


def last_level_cache(found: Mapping[str, int]) -> int:
    """The size of the largest cache, 0 if none is known."""
    return max(found.values(), default=0)


def busy_share(root: Path = Path("/"), seconds: float = WATCH) -> float:
    """Share (0 to 1) of all cores' time that was not idle over ``seconds``; the load average lags by a minute."""
    before = _cpu_ticks(root)
    time.sleep(seconds)
    after = _cpu_ticks(root)
    if before is None or after is None or after[0] <= before[0]:
        return 0.0
    return min(max(1.0 - (after[1] - before[1]) / (after[0] - before[0]), 0.0), 1.0)


def warnings(facts: DeviceFacts, threads: int) -> tuple[str, ...]:
    """What in ``facts`` makes a timing doubtful, a sentence each."""
    found = []
    if facts.busy > BUSY:
        found.append(
            f"the machine was busy ({100 * facts.busy:.0f} % of its cores, load {facts.load_average[0]:.1f}) before "
            "measuring: close other work and profile again."
        )
    if threads > facts.cores:
        found.append(f"{threads} threads were asked for on {facts.cores} usable cores: they wait for each other.")
    # intel_pstate and amd-pstate call their normal mode powersave; with other drivers it is the lowest frequency.
    if facts.governor and facts.governor.startswith("powersave") and "pstate" not in facts.governor:
        found.append("the CPU's governor is powersave: set it to performance for repeatable times.")
    return tuple(found)


def _governor(cpufreq: Path) -> str | None:
    """The frequency governor with its driver: "ondemand (cpufreq-dt)"."""
    governor, driver = _text(cpufreq / "scaling_governor"), _text(cpufreq / "scaling_driver")
    return f"{governor} ({driver})" if governor and driver else governor


def _cpu_ticks(root: Path) -> tuple[int, int] | None:
    """(all, idle) ticks of all cores since boot; field order of /proc/stat from proc(5)."""
    line = _text(root / "proc/stat")
    if not line or not line.startswith("cpu "):
        return None
    ticks = [int(value) for value in line.splitlines()[0].split()[1:9]]  # guest time is already in user time
    return sum(ticks), ticks[3] + ticks[4]


def _load_average(root: Path) -> tuple[float, float, float]:
    text = _text(root / "proc/loadavg")
    one, five, fifteen = (float(value) for value in text.split()[:3]) if text else (0.0, 0.0, 0.0)
    return one, five, fifteen


def _size(text: str) -> int:
    """Bytes of the kernel's "512K" or "8M"."""
    factor = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1].upper())
    return int(text[:-1]) * factor if factor else int(text)


def _scaled(path: Path, factor: float) -> float | None:
    text = _text(path)
    return float(text) * factor if text else None
