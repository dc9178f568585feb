"""``edge devices``: where bundles can be run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge.cli.options import JsonFlag

if TYPE_CHECKING:
    from edge.devices.host import HostFacts


@dataclass(frozen=True)
class DeviceRow:
    """A device as ``--json`` prints it."""

    name: str
    facts: HostFacts
    python: str


def devices(json: JsonFlag = False) -> None:
    """List the devices that bundles can run on from here, with their facts.

    \b
    Examples:
      edge devices
      edge devices --json
    """
    import platform

    from edge.cli.output import print_json, print_table
    from edge.devices.host import host_facts

    local = DeviceRow(name="local", facts=host_facts(), python=platform.python_version())
    if json:
        print_json([local])
        return
    facts = local.facts
    print_table(
        ("device", "model", "CPU", "cores", "RAM", "page", "system", "libc"),
        [
            (
                local.name,
                facts.model,
                " ".join((facts.cpu, *facts.features)),
                str(facts.cores),
                f"{facts.ram_mb / 1024:.0f} GB",
                f"{facts.page_size // 1024} KB",
                facts.system,
                facts.libc,
            )
        ],
        right=("cores", "RAM", "page"),
        wrap=("model", "CPU", "system"),
    )
