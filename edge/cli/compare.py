"""``edge compare``: bundles, or profiles of them, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge.cli.options import JsonFlag, ThreadsOption


def compare(
    sides: Annotated[
        list[Path], typer.Argument(metavar="A B...", help="Bundles, or files that `edge profile --json` wrote.")
    ],
    threads: ThreadsOption = None,
    entry: Annotated[
        list[str] | None, typer.Option("--entry", metavar="NAME", help="Only this entry point; may be repeated.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="Turns that each bundle gets.")] = 5,
    runs: Annotated[int, typer.Option("--runs", metavar="N", min=1, help="At least so many runs a turn.")] = 20,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="T", min=0.0, help="And at least so many seconds a turn.")
    ] = 0.5,
    json: JsonFlag = False,
) -> None:
    """Put two or more bundles or profiles side by side: latency, error, the task's metric, size, memory.

    Bundles are profiled here, taking turns; saved profiles take part as they are. The first is what the others are
    compared with.

    \b
    Examples:
      edge compare a.edge b.edge
      edge compare tspulse-fp32.edge tspulse-int8.edge --entry reconstruct --rounds 9
      edge compare fp32.json int8.json int4.json
      edge compare a.edge b.edge --json
    """
    import sys

    from edge import compare as comparing
    from edge.cli.output import show
    from edge.cli.terminal import terminal_progress
    from edge.report import sidebyside

    with terminal_progress() as progress:
        found = comparing.compare(
            sides,
            threads=threads,
            entries=tuple(entry or ()),
            rounds=rounds,
            runs=runs,
            seconds=seconds,
            progress=progress,
        )
    if json:
        sys.stdout.write(comparing.encode(found).decode())
    else:
        show(sidebyside.render(found))
