"""``edge device``: upkeep of one device."""

from __future__ import annotations

from typing import Annotated

import typer

DeviceArgument = Annotated[str, typer.Argument(metavar="DEVICE", help="ssh://user@host[:port] or adb:SERIAL.")]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.callback(invoke_without_command=True)
def device(context: typer.Context) -> None:
    """Look after a device: remove what was pushed to it, build the system that an emulated one needs.

    \b
    Examples:
      edge device clean ssh://pi@raspberrypi.local
      edge device root
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

    found = find_device(device)
    freed = clean_device(found)
    print(f"{device}: {freed / 1e6:.1f} MB removed" if freed else f"{device}: nothing of edge's was there")


@app.command("root", short_help="Build the arm64 system that qemu devices run in.")
def root() -> None:
    """Put an arm64 Debian with Python and ONNX Runtime into a folder, for --device qemu:rpi4 and the like.

    Takes 150 MB from Debian and PyPI and 300 MB of disk, no root rights, and changes nothing else on this machine.
    EDGE_ARM64_ROOT names the folder; default: edge's cache.

    \b
    Examples:
      edge device root
      EDGE_ARM64_ROOT=/big/disk edge device root
    """
    from edge.cli.terminal import terminal_progress
    from edge.devices.arm64root import build_root

    with terminal_progress() as progress:
        folder = build_root(progress)
    print(f"{folder} is ready: try `edge verify BUNDLE --device qemu:rpi5`")
