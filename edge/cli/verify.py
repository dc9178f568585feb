"""``edge verify``: does a bundle still compute what the model computed?"""

from __future__ import annotations

from edge.cli.options import BundleArgument, DeviceOption, JsonFlag, ThreadsOption


def verify(
    bundle: BundleArgument, device: DeviceOption = "local", threads: ThreadsOption = None, json: JsonFlag = False
) -> None:
    """Run a bundle's stored samples and compare with what the model gave in PyTorch; exit status 2 if they differ.

    \b
    Examples:
      edge verify tspulse-rpi.edge
      edge verify tspulse-rpi.edge --threads 1 --json
      edge verify tspulse-rpi.edge --device ssh://pi@raspberrypi.local
    """
    from edge import api
    from edge.cli.output import print_json, show
    from edge.cli.terminal import terminal_progress
    from edge.errors import MismatchError
    from edge.report.table import render_checks

    with terminal_progress() as progress:
        checks = api.verify(bundle, threads=threads, device=device, progress=progress)
    if json:
        print_json(checks)
    else:
        show(render_checks(checks))
    off = [f"{check.entry}/{output.output}" for check in checks for output in check.outputs if not output.passed]
    if off:
        raise MismatchError(f"{bundle.name} does not compute what the model does ({', '.join(off)}): export it again.")
