"""``edge doctor``: is everything here?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge.cli.options import JsonFlag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.doctor import Check


def doctor(
    device: Annotated[
        str, typer.Option("--device", metavar="D", help="Examine this device instead (see `edge devices`).")
    ] = "local",
    bundle: Annotated[
        Path | None, typer.Option("--bundle", metavar="BUNDLE", help="With --device: can it load this bundle's code?")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Check Python, the packages of each extra, the compilers, the disk; say the next step for each lack.

    Exit status 0 if the base works, whatever extras are missing; for a device, if it could be examined.

    \b
    Examples:
      edge doctor
      edge doctor --json
      edge doctor --device ssh://pi@raspberrypi.local
      edge doctor --device adb:R58M123ABC --bundle tspulse-android.edge
    """
    from edge.cli.output import print_json, print_table
    from edge.doctor import Status, examine, works
    from edge.errors import EdgeError, UsageError

    if bundle is not None and device == "local":
        raise UsageError("--bundle asks whether a device can load it: name the device with --device.")
    checks = examine() if device == "local" else _examine_device(device, bundle)
    if json:
        print_json(checks)
    else:
        print_table(("", "what", "found", "status"), _rows(checks), wrap=("found",))
        if steps := [check for check in checks if check.next_step]:
            print("\nNext steps:")
            for line in _steps(steps):
                print(f"  {line}")
        else:
            print("\nEverything is here." if device == "local" else "\nEverything is there.")
    if not works(checks):
        lacking = next(check for check in checks if check.essential and check.status is not Status.OK)
        raise EdgeError(f"{lacking.name} is {lacking.found} (edge needs {lacking.needed}): {lacking.next_step}.")


def _examine_device(address: str, bundle: Path | None) -> tuple[Check, ...]:
    from edge.devices.base import find_device
    from edge.devices.examine import examine_device

    return examine_device(find_device(address).facts(), bundle)


def _rows(checks: Sequence[Check]) -> list[tuple[str, str, str, str]]:
    rows, last = [], ""
    for check in checks:
        verdict = "ok" if not check.next_step else f"{check.status.value.upper()} (needs {check.needed})"
        rows.append((check.group if check.group != last else "", check.name, check.found, verdict))
        last = check.group
    return rows


def _steps(checks: Sequence[Check]) -> list[str]:
    """One line for each step; packages that one command brings share it."""
    grouped: dict[str, list[str]] = {}
    for check in checks:
        grouped.setdefault(check.next_step, []).append(check.name)
    return [f"{', '.join(names)}: {step}." for step, names in grouped.items()]
