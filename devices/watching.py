"""A board's sensors around a measurement that its native runner makes, asked from here: no Python needed there.

The runner measures at once and reads no sensor. So one small script reads the same files and asks the same programs as
``sensors`` does, before and after; the thermal guard waits here for the board to cool; and a measurement that throttling
spoiled is made again. Between two runs nobody looks, and the energy meters are not read.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge.conditions import NOT_READABLE, Conditions, Reading
from edge.devices.base import Device
from edge.devices.guard import COOLING, Guard, remember_band, remembered_band
from edge.devices.messages import Profiled, ProfileRequest, Reply
from edge.devices.script import run_script
from edge.devices.sensors import Sensors, Throttling
from edge.errors import DeviceError
from edge.progress import Progress

#: Measurements made again after throttling, at most: each is a whole profile.
REPEATS = 2

# $1: "" or a folder in front of /sys. Each file and program is announced by a line "== NAME".
_SCRIPT = """
s=$1/sys
c=$s/devices/system/cpu
t=$s/class/thermal
tell() { [ -r "$1" ] && echo "== $1" && cat "$1" 2>/dev/null && echo; }
for f in "$c"/cpufreq/policy*/scaling_cur_freq "$c"/cpu[0-9]*/cpufreq/scaling_cur_freq; do tell "$f"; done
for f in "$t"/thermal_zone*/type "$t"/thermal_zone*/temp "$t"/cooling_device*/type "$t"/cooling_device*/cur_state; do tell "$f"; done
for f in "$s"/class/hwmon/hwmon*/name "$s"/class/hwmon/hwmon*/temp1_input "$c"/cpu[0-9]*/thermal_throttle/*_count; do tell "$f"; done
tell "$s/devices/platform/soc/soc:firmware/get_throttled"
for p in "vcgencmd get_throttled" "dumpsys thermalservice"; do command -v ${p%% *} >/dev/null 2>&1 && echo "== $p" && timeout 5 $p 2>/dev/null && echo; done
true
"""
#: Files that a board may say something of: it must not choose where on this machine its answers are written.
_FILE = re.compile(r"sys/[A-Za-z0-9_:@-]+(?:/[A-Za-z0-9_:@-]+)*")
_PROGRAMS = ("vcgencmd get_throttled", "dumpsys thermalservice")


class Snapshot(NamedTuple):
    """What the board's files (by path from its root) and programs (by command line) said."""

    files: Mapping[str, str]
    programs: Mapping[str, str]


class Look(NamedTuple):
    reading: Reading
    throttling: Throttling | None
    sources: Mapping[str, str]


def watched(
    device: Device, request: ProfileRequest, measure: Callable[[], Reply], progress: Progress, root: str = ""
) -> Profiled:
    """``measure`` on a cool board, with what its sensors said before and after. ``root`` is in front of the board's /sys."""
    guard = Guard(
        lambda: look(device, root).reading.temperature_c, request.cool_seconds, remembered_band(device.address),
        waiting=lambda: progress.stage(COOLING),
    )
    repeated = 0
    while True:
        if guard.budget > 0:
            progress.stage("sensors")
        guard.wait()
        before = look(device, root)
        profiled = measure()
        assert isinstance(profiled, Profiled)
        try:
            after = look(device, root)
        except DeviceError as error:
            error.partial = profiled
            raise
        spoiled = after.throttling.since(before.throttling) if before.throttling and after.throttling else ()
        if not spoiled or repeated == REPEATS or guard.budget <= 0:
            break
        repeated += 1
    if guard.band is not None:
        remember_band(guard.band, device.address)
    return _with_conditions(profiled, before, after, guard, repeated, spoiled)


def look(device: Device, root: str = "") -> Look:
    """All that the board's sensors say now. Raises LostError."""
    with _sensors(snapshot(device, root)) as sensors:
        return Look(sensors.read(0.0), sensors.throttling(), dict(sensors.sources))


def snapshot(device: Device, root: str = "") -> Snapshot:
    return parse(run_script(device, _SCRIPT, root).decode("utf-8", "replace"), root)


def parse(text: str, root: str = "") -> Snapshot:
    """``_SCRIPT``'s output; names that are not among those asked for are left out."""
    files, programs = {}, {}
    for part in re.split(r"^== ", text, flags=re.MULTILINE)[1:]:
        name, _, content = part.partition("\n")
        if name in _PROGRAMS:
            programs[name] = content
        elif name.startswith(f"{root}/") and _FILE.fullmatch(path := name[len(root) + 1 :]):
            files[path] = content.strip()
    return Snapshot(files, programs)


@contextlib.contextmanager
def _sensors(found: Snapshot) -> Iterator[Sensors]:
    """Sensors over a snapshot, its files laid out in a temporary folder."""

    def programs(command: Sequence[str]) -> str | None:
        return found.programs.get(" ".join(command))

    with tempfile.TemporaryDirectory(prefix="edge-sensors-") as folder:
        for name, content in found.files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        yield Sensors(Path(folder), programs)


def _with_conditions(
    profiled: Profiled, before: Look, after: Look, guard: Guard, repeated: int, spoiled: tuple[str, ...]
) -> Profiled:
    end = max((phase.start_us + phase.duration_us for phase in profiled.phases), default=0.0)
    warnings = list(profiled.warnings)
    if guard.gave_up:
        warnings.append(
            f"the device did not cool down to its idle temperature within {guard.budget:.0f} s: let it rest and profile "
            "again, or raise --cool."
        )
    if spoiled:
        warnings.append(f"the device held its clock back while it measured ({', '.join(spoiled)}): the times are too long.")
    clocks = before.reading.frequencies_mhz
    return msgspec.structs.replace(
        profiled,
        # The runner's own facts take the first thermal zone, whatever it is.
        facts=msgspec.structs.replace(
            profiled.facts, temperature_c=before.reading.temperature_c, frequency_mhz=max(clocks, default=None)
        ),
        conditions=Conditions(
            readings=(
                msgspec.structs.replace(before.reading, at_us=0.0),
                msgspec.structs.replace(after.reading, at_us=end),
            ),
            sources={**before.sources, "energy": f"{NOT_READABLE}: the native runner has no pass for the energy meters"},
            idle=guard.band,
            waited_s=round(guard.waited, 3),
            repeated=repeated,
            stayed_hot=guard.gave_up or bool(spoiled),
        ),
        warnings=tuple(warnings),
    )
