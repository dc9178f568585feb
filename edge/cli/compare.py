"""``edge compare``: bundles, or profiles of them, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge.cli.options import JsonFlag


def compare(
    sides: Annotated[list[Path], typer.Argument(metavar="A B...", help="Bundles, or files of `edge profile --json`.")],
    json: JsonFlag = False,
) -> None:
    """Put two or more bundles or profiles side by side: size, error, the task's metric, latency, memory.

    \b
    Examples:
      edge compare a.edge b.edge
      edge compare fp32.json int8.json int4.json
      edge compare a.edge b.edge --json
    """
    raise NotImplementedError
