"""``edge targets``: what can be exported for."""

from __future__ import annotations

from edge.cli.options import JsonFlag


def targets(json: JsonFlag = False) -> None:
    """List the targets: those that ship with edge, and those in the folder that EDGE_TARGETS names.

    A target is a .toml profile. To add one, start from another and change what differs:

    \b
      same_as = "rpi5"
      ram_mb = 8192

    \b
    Examples:
      edge targets
      edge targets --json                     with the source of every figure
      edge export tspulse --target ./my-board.toml
      EDGE_TARGETS=~/boards edge targets
    """
    from edge.cli.output import print_json, print_table
    from edge.devices.targets import load_target, target_names

    found = [load_target(name) for name in target_names()]
    if json:
        print_json(found)
        return
    print_table(
        ("target", "what it is", "CPU", "cores", "RAM", "reads", "auto means"),
        [
            (
                target.name,
                target.description,
                target.cpu,
                str(target.cores),
                f"{target.ram_mb} MB" if target.ram_mb < 1024 else f"{target.ram_mb / 1024:.0f} GB",
                f"{target.bandwidth_gbs:g} GB/s" if target.bandwidth_gbs else "-",
                f"{target.runtime} {target.scheme.value}",
            )
            for target in found
        ],
        right=("cores", "RAM", "reads"),
        wrap=("what it is",),
    )
