"""``edge sweep``: every combination of what a file lists, on one machine or many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge.cli.options import JsonFlag


def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.toml", help="What to try.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Where it goes; default: SWEEP.out beside the file.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", metavar="ADDRESS", help="A dask scheduler, tcp://host:8786; default: workers of its own, here."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="Workers of its own; default: as many as cores.")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try again what was refused.")] = False,
    json: JsonFlag = False,
) -> None:
    """Make and measure every combination of models, runtimes, schemes, targets and devices that a file lists.

    What is done already is not done again: a sweep that was stopped goes on. It ends in one page, DIR/sweep.html, with
    latency, size and error and the Pareto front of each model. A worker of your own offers a device as a resource:
    dask worker ADDRESS --nthreads 1 --resources device:local=1

    \b
    An example file:
      models = ["tspulse", "relu2-mlp"]
      runtimes = ["onnx", "executorch"]       # optional: the target's own
      schemes = ["fp32", "int8"]              # optional: the target's own
      targets = ["cpu"]
      bundles = ["mine.edge"]                 # optional: bundles that are there already
      devices = ["local", "ssh://pi@pi5"]     # optional: this machine
      runs = 50
    \b
    Examples:
      edge sweep sweep.toml
      edge sweep sweep.toml --workers 4 -o found --json
      edge sweep sweep.toml --scheduler tcp://10.0.0.5:8786
    """
    from edge.cli.output import print_json, show
    from edge.cli.terminal import terminal_progress
    from edge.report import sweeppage, sweeptable
    from edge.sweep import pareto, run
    from edge.sweep.plan import read_plan
    from edge.sweep.store import SweepStore

    plan = read_plan(file)
    store = SweepStore(output or run.default_folder(file))
    if retry:
        store.forget_refused(plan.cells)
    with terminal_progress() as progress:
        outcomes = run.run(plan, store, scheduler=scheduler, workers=workers, progress=progress)
    found = pareto.report(outcomes)
    page = store.folder / "sweep.html"
    sweeppage.save(file.stem, found, page)
    if json:
        print_json(found)
        return
    show(sweeptable.render(found))
    print(f"wrote {page}")
