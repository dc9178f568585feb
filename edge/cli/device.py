"""``edge device``: upkeep of one device."""

from __future__ import annotations

from typing import Annotated

import typer

DeviceArgument = Annotated[str, typer.Argument(metavar="DEVICE", help="ssh://user@host[:port] or adb:SERIAL.")]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.callback(invoke_without_command=True)
def device(context: typer.Context) -> None:
    """Look after a device: remove what was pushed to it.

    \b
    Examples:
      edge device clean ssh://pi@raspberrypi.local
    """
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("clean", short_help="Remove what was pushed to a device.")
def clean(device: DeviceArgument) -> None:
    """Remove the bundles and programs that edge pushed to a device, and nothing else.

    \b
    Examples:
      edge device clean ssh://pi@raspberrypi.local
      edge device clean adb:R58M123ABC
    """
    from edge.devices.base import find_device
    from edge.devices.clean import clean as clean_device
    from edge.errors import UsageError

    found = find_device(device)
    if device == "local":
        raise UsageError("nothing is pushed to local: name a board or a phone.")
    freed = clean_device(found)
    print(f"{device}: {freed / 1e6:.1f} MB removed" if freed else f"{device}: nothing of edge's was there")
