"""``edge estimate``: what a bundle may take on a target that is not at hand."""

from __future__ import annotations

from typing import Annotated

import typer

from edge.cli.options import BundleArgument, JsonFlag, ThreadsOption


def estimate(
    bundle: BundleArgument,
    target: Annotated[
        str | None, typer.Option("--target", metavar="T", help="A target or a .toml profile; default: the bundle's own.")
    ] = None,
    threads: ThreadsOption = None,
    json: JsonFlag = False,
) -> None:
    """Estimate latency and memory on a target from its published figures: a range, and never a measurement.

    The low end is what no runtime can beat there, the high end adds what runtimes lose on small models. For `cpu`, this
    machine's own limits are measured.

    \b
    Examples:
      edge estimate tspulse-rpi.edge --target rpi5
      edge estimate plm-rpi.edge --target rpi-zero2w --json
    """
    from edge import api
    from edge.cli.output import print_json, show
    from edge.cli.terminal import terminal_progress
    from edge.report import estimatetable

    with terminal_progress() as progress:
        found = api.estimate(bundle, target=target, threads=threads, progress=progress)
    if json:
        print_json(found)
    else:
        show(estimatetable.render(found))
