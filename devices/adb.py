"""``adb:SERIAL``: an Android device that adb reaches, by cable or network, as `adb devices` lists it.

Bundles and programs go to /data/local/tmp, the one place that adb's user may write to and run from. ``EDGE_ADB`` names
another adb program, with options (``EDGE_ADB="adb -P 5038"``).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from edge.devices.base import FORMS, Device
from edge.devices.ssh import said
from edge.errors import DeviceError, UsageError

_ADDRESS = re.compile(r"adb:(?P<serial>[A-Za-z0-9][A-Za-z0-9._:-]*)")
#: What adb prints, at the start of a line, when it and not the device's command failed.
_TROUBLE = re.compile(
    r"^(?:error|adb): (?:device|no devices|more than one|closed|protocol|cannot connect|insufficient|failed to)", re.MULTILINE
)


class Attached(NamedTuple):
    """One line of `adb devices`: ``state`` is device, unauthorized, offline, ..."""

    serial: str
    state: str


class AdbDevice(Device):
    folder = "/data/local/tmp/edge"

    def __init__(self, address: str) -> None:
        super().__init__(address)
        match = _ADDRESS.fullmatch(address)
        if match is None:
            raise UsageError(f"{address!r} is no address of a phone: write {FORMS['adb']}, as `adb devices` lists it.")
        self._serial = match["serial"]

    def command(self, argv: Sequence[str]) -> tuple[str, ...]:
        # -T: no terminal, so that bytes stay bytes. As with ssh, the rest goes to a shell there: one quoted string.
        return (*program(), "-s", self._serial, "shell", "-T", shlex.join(argv))

    def lost(self, status: int, printed: str) -> str | None:
        if "unauthorized" in printed:
            return "does not trust this computer yet: unlock it and allow USB debugging in the dialog that it shows"
        if "offline" in printed:
            return "is offline: unplug it, plug it in again and look at `adb devices`"
        if "not found" in printed and _TROUBLE.search(printed):
            return "is not attached: look at `adb devices`, and turn USB debugging on in its developer options"
        if _TROUBLE.search(printed):
            return f"cannot be reached by adb{said(printed)}: look at `adb devices`"
        return None


def program() -> tuple[str, ...]:
    """adb, or what EDGE_ADB names."""
    return tuple(shlex.split(os.environ.get("EDGE_ADB") or "adb"))


def attached() -> list[Attached]:
    """What `adb devices` lists; nothing where adb is not installed. Starts adb's own server if there is none."""
    try:
        done = subprocess.run((*program(), "devices"), capture_output=True, text=True, timeout=20.0, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        return []
    except subprocess.TimeoutExpired:
        raise DeviceError("adb did not answer within 20 s: run `adb kill-server` and try again.") from None
    pairs = (line.split("\t") for line in done.stdout.splitlines())
    return [Attached(pair[0], pair[1].strip()) for pair in pairs if len(pair) == 2]


DEVICE = AdbDevice
