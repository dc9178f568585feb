"""``edge tune``: how many threads are best for a bundle on a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge.cli.options import BundleArgument, DeviceOption, JsonFlag

if TYPE_CHECKING:
    from edge.tune import Tuning


def tune(
    bundle: BundleArgument,
    device: DeviceOption = "local",
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="Processes for each number of threads.")] = 3,
    runs: Annotated[int, typer.Option("--runs", metavar="N", min=1, help="At least so many runs in each.")] = 10,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="T", min=0.0, help="And at least so many seconds in each.")
    ] = 0.5,
    cool: Annotated[
        float,
        typer.Option("--cool", metavar="T", min=0.0, help="Each process waits so long at most for a hot device; 0: not at all."),
    ] = 120.0,
    json: JsonFlag = False,
) -> None:
    """Find how many threads are best for each entry point of a bundle, on the device that runs it, and remember it.

    From then on `edge run`, `edge profile` and `edge.load` take those, on this device and others like it, unless --threads says
    otherwise. Of numbers that are equally fast the smallest is taken.

    \b
    Examples:
      edge tune plm-rpi5.edge
      edge tune plm-rpi5.edge --device ssh://pi@raspberrypi.local
      edge tune plm-rpi5.edge --rounds 5 --json
    """
    from edge.cli.output import print_json
    from edge.cli.terminal import terminal_progress
    from edge.tune import tune as find

    with terminal_progress() as progress:
        tuning = find(
            bundle, device=device, rounds=rounds, runs=runs, seconds=seconds, cool_seconds=cool, progress=progress
        )
    if json:
        print_json(tuning)
        return
    _print(tuning)


def say_tuned(bundle: Path, threads: int | None) -> None:
    """A line on standard error where the threads that will run ``bundle`` here are those that were found for it."""
    import sys

    from edge.bundle import Bundle, read_manifest
    from edge.devices.base import find_device
    from edge.threads import remembered

    if threads is None and (found := remembered(Bundle(bundle, read_manifest(bundle)), find_device("local"))):
        print(f"edge: {found}, as `edge tune` found", file=sys.stderr)


def _print(tuning: Tuning) -> None:
    from edge.cli.output import print_table
    from edge.report import units

    tried = list(tuning.rows[0].times_us)
    columns = [units.plural(count, "thread") for count in tried]
    print_table(
        ("entry point", *columns, "chosen"),
        [
            (row.entry, *(units.duration(row.median_us(count)) for count in tried), units.plural(row.chosen, "thread"))
            for row in tuning.rows
        ],
        right=columns,
    )
    if any(row.chosen != row.alone for row in tuning.rows):
        alone = ", ".join(f"{row.entry} {row.alone}" for row in tuning.rows)
        print(f"The runtime has one number for all entry points; by themselves they would take: {alone}.")
    for sentence in tuning.warnings:
        print(f"Warning: {sentence}")
    print(f"remembered for {tuning.bundle} on {tuning.device.cpu}: `edge run` and `edge profile` take it unless --threads says otherwise")
