"""``edge init``: an edge.toml to start from."""

from __future__ import annotations

from typing import Annotated

import typer

TEMPLATE = """\
# What `edge export` makes when no model is named. Paths are relative to this file.

target = "rpi"                          # see `edge targets`; --target overrides it

[[model]]
name = "tspulse"                        # see `edge models`; your own: "package.module:factory"
# runtime = "onnx"                      # onnx, executorch, tvm or auto (the target's own)
# scheme = "int8-dynamic"               # fp32, fp16, int8, int8-dynamic, int4 or auto (the target's own)
# checkpoint = "weights/tspulse"        # a folder or a file; the demo checkpoint if left out
# config = "weights/tspulse/config.json"
# calibration = "calibration.npz"       # arrays by input name, for int8
# tune_trials = 64                      # tvm: MetaSchedule measurements to spend
# sparse = "on"                         # edge's own kernels; "auto" takes them for large models
# skip_up = "0.99"                      # with them, int4: decode reads low bits of up weights where they matter
# group_size = 32                       # int4: weights that share a scale
# output = "bundles"                    # a folder, or the bundle itself if it ends in .edge

# [[model]]
# name = "relu2-mlp"
"""


def init(
    force: Annotated[bool, typer.Option("--force", help="Replace an edge.toml that is already here.")] = False,
) -> None:
    """Write an edge.toml here, which lists what `edge export` makes when no model is named.

    \b
    Examples:
      edge init
      edge init --force
      edge export                             what the edge.toml lists
      edge export --target rpi4               the same, for another target
    """
    from pathlib import Path

    from edge.errors import UsageError
    from edge.files import write_atomically
    from edge.project import FILE

    path = Path(FILE)
    if path.exists() and not force:
        raise UsageError(f"{FILE} is already here: edit it, or replace it with `edge init --force`.")
    write_atomically(path, TEMPLATE.encode())
    print(f"wrote {FILE}: edit it, then run `edge export`.")
