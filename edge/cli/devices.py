"""``edge devices``: where bundles can be run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge.cli.options import JsonFlag

if TYPE_CHECKING:
    from edge.devices.host import HostFacts

#: What each state of `adb devices` asks for; a device that is ready asks for nothing.
ADB_STEPS = {
    "unauthorized": "unlock it and allow USB debugging",
    "offline": "unplug it and plug it in again",
    "no permissions": "see the udev rules of https://developer.android.com/tools/device",
}


@dataclass(frozen=True)
class DeviceRow:
    """A device as ``--json`` prints it; ``facts`` and ``python`` are known of this machine without asking."""

    name: str
    state: str
    facts: HostFacts | None = None
    python: str | None = None


def devices(json: JsonFlag = False) -> None:
    """List the devices that bundles can run on from here: this machine, what adb sees, and emulated boards.

    Boards that ssh reaches are not listed: name them, ssh://user@host. `edge doctor --device D` asks one what it has.

    \b
    Examples:
      edge devices
      edge devices --json
    """
    import platform

    from edge.cli.output import print_json, print_table
    from edge.devices.adb import attached
    from edge.devices.host import host_facts
    from edge.devices.qemu import possible

    rows = [DeviceRow("local", "ready", host_facts(), platform.python_version())]
    for found in attached():
        state = "ready" if found.state == "device" else found.state
        rows.append(DeviceRow(f"adb:{found.serial}", state))
    rows += [DeviceRow(name, step or "ready (emulated: to verify, not to time)") for name, step in possible().items()]
    if json:
        print_json(rows)
        return
    print_table(
        ("device", "state", "model", "CPU", "cores", "RAM", "page", "system", "libc"),
        [_cells(row) for row in rows],
        right=("cores", "RAM", "page"),
        wrap=("state", "model", "CPU", "system"),
    )
    print("\nA board by ssh is named by you: --device ssh://user@host[:port].")


def _cells(row: DeviceRow) -> tuple[str, ...]:
    facts = row.facts
    if facts is None:
        step = next((step for state, step in ADB_STEPS.items() if row.state.startswith(state)), "")
        return (row.name, f"{row.state}: {step}" if step else row.state, *[""] * 7)
    return (
        row.name,
        row.state,
        facts.model,
        " ".join((facts.cpu, *facts.features)),
        str(facts.cores),
        f"{facts.ram_mb / 1024:.0f} GB",
        f"{facts.page_size // 1024} KB",
        facts.system,
        facts.libc,
    )
