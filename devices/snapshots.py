"""What a board's kernel files and small programs say, read by one script over its transport: no Python needed there.

A ``View`` lays the files out in a folder of this machine, for what reads such files (``sensors``, ``energy``).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from edge.devices.base import Device
from edge.devices.script import run_script
from edge.errors import DeviceError

# $1: "" or a folder in front of /sys. Each file and program is announced by a line "== NAME".
_HEAD = """
s=$1/sys
tell() { for f; do [ -r "$f" ] && echo "== $f" && cat "$f" 2>/dev/null && echo; done; }
ask() { command -v $1 >/dev/null 2>&1 && echo "== $*" && timeout 5 "$@" 2>/dev/null && echo; }
"""
#: What ``Sensors`` reads.
SENSORS = f"""{_HEAD}c=$s/devices/system/cpu
t=$s/class/thermal
tell "$c"/cpufreq/policy*/scaling_cur_freq "$c"/cpu[0-9]*/cpufreq/scaling_cur_freq
tell "$t"/thermal_zone*/type "$t"/thermal_zone*/temp "$t"/cooling_device*/type "$t"/cooling_device*/cur_state
tell "$s"/class/hwmon/hwmon*/name "$s"/class/hwmon/hwmon*/temp1_input "$c"/cpu[0-9]*/thermal_throttle/*_count
tell "$s/devices/platform/soc/soc:firmware/get_throttled"
ask vcgencmd get_throttled
ask dumpsys thermalservice
true
"""
#: What ``find_meter`` reads.
METERS = f"""{_HEAD}for z in "$s"/class/powercap/intel-rapl:*; do tell "$z/name" "$z/energy_uj" "$z/max_energy_range_uj"; done
for b in "$s"/class/power_supply/*; do tell "$b/type" "$b/scope" "$b/status" "$b/power_now" "$b/current_now" "$b/voltage_now"; done
ask vcgencmd pmic_read_adc
true
"""
#: Files that a board may say something of: it must not choose where on this machine its answers are written.
_FILE = re.compile(r"sys/[A-Za-z0-9_:@-]+(?:/[A-Za-z0-9_:@-]+)*")
_PROGRAMS = ("vcgencmd get_throttled", "dumpsys thermalservice", "vcgencmd pmic_read_adc")


class Snapshot(NamedTuple):
    """What the board's files (by path from its root) and programs (by command line) said."""

    files: Mapping[str, str]
    programs: Mapping[str, str]


def snapshot(device: Device, script: str, root: str = "") -> Snapshot:
    """What ``script`` finds on the device now. Raises LostError."""
    return parse(run_script(device, script, root).decode("utf-8", "replace"), root)


def parse(text: str, root: str = "") -> Snapshot:
    """A script's output; names that are not among those asked for are left out."""
    files, programs = {}, {}
    for part in re.split(r"^== ", text, flags=re.MULTILINE)[1:]:
        name, _, content = part.partition("\n")
        if name in _PROGRAMS:
            programs[name] = content
        elif name.startswith(f"{root}/") and _FILE.fullmatch(path := name[len(root) + 1 :]):
            files[path] = content.strip()
    return Snapshot(files, programs)


class View:
    """The board's files below ``folder``, and its programs, as they were when ``refresh`` looked."""

    def __init__(self, device: Device, script: str, root: str, folder: Path) -> None:
        self.folder = folder
        self._device, self._script, self._root = device, script, root
        self._seen = Snapshot({}, {})

    def refresh(self) -> None:
        """Look again. Raises LostError."""
        before, self._seen = self._seen, snapshot(self._device, self._script, self._root)
        for name, content in self._seen.files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        for name in before.files.keys() - self._seen.files.keys():
            (self.folder / name).unlink()

    def try_refresh(self) -> None:
        """Look again; of a board that does not answer nothing can be read afterwards."""
        try:
            self.refresh()
        except DeviceError:
            for name in self._seen.files:
                with contextlib.suppress(OSError):
                    (self.folder / name).unlink()
            self._seen = Snapshot({}, {})

    def programs(self, command: Sequence[str]) -> str | None:
        """See ``Programs``."""
        return self._seen.programs.get(" ".join(command))
