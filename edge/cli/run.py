"""``edge run``: a bundle at work, on the user's own file or on raw tensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge.cli.options import BundleArgument, JsonFlag, ThreadsOption

if TYPE_CHECKING:
    import numpy as np

    from edge.runtimes.base import Session
    from edge.tasks import Task


def run(
    bundle: BundleArgument,
    task: Annotated[str | None, typer.Option("--task", metavar="NAME", help="The job (see `edge models`).")] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="The data: a header line, then numbers.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="A,B", help="Columns to use; default: all numeric.")
    ] = None,
    npz: Annotated[Path | None, typer.Option("--npz", metavar="FILE", help="Raw input tensors, by input name.")] = None,
    entry: Annotated[str | None, typer.Option("--entry", metavar="NAME", help="The entry point for --npz.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Where results go.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="PNG", help="Draw the result.")] = None,
    reference: Annotated[Path | None, typer.Option("--reference", metavar="CSV", help="search: where to look.")] = None,
    mode: Annotated[str | None, typer.Option("--mode", metavar="A,B", help="anomaly: time, fft, forecast.")] = None,
    aggregation_length: Annotated[
        int, typer.Option("--aggregation-length", metavar="N", min=1, help="anomaly: points a score covers.")
    ] = 32,
    smoothing: Annotated[int, typer.Option("--smoothing", metavar="N", min=1, help="anomaly: moving average.")] = 8,
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, help="How many results to list.")] = 5,
    threads: ThreadsOption = None,
    json: JsonFlag = False,
) -> None:
    """Do the model's own task on your file, or run one entry point on raw tensors.

    \b
    Examples:
      edge run tspulse-rpi.edge --task anomaly --csv sensor.csv --plot out.png -o scores.csv
      edge run tspulse-rpi.edge --task impute --csv holes.csv -o filled.csv
      edge run tspulse-rpi.edge --task search --csv query.csv --reference archive.csv --top 3
      edge run relu2-mlp-rpi.edge --task classify --csv digits.csv
      edge run tspulse-rpi.edge --npz in.npz --entry reconstruct -o out.npz
    """
    from edge import api
    from edge.cli.output import print_json
    from edge.cli.terminal import terminal_progress
    from edge.errors import UsageError
    from edge.tasks import TaskRequest

    if npz is not None and (task is not None or csv is not None):
        raise UsageError("--npz runs an entry point on raw tensors and --task a job on a CSV: give one of them.")
    if npz is None and entry is not None:
        raise UsageError("--entry names the entry point for --npz: give the tensors, or a --task.")
    if npz is not None:
        _run_tensors(api.load(bundle, threads=threads), npz, entry, output, json)
        return
    session, job = _task(bundle, task, threads)
    request = TaskRequest(
        csv=csv,
        columns=_names(columns),
        output=output,
        plot=plot,
        reference=reference,
        modes=_names(mode),
        aggregation_length=aggregation_length,
        smoothing=smoothing,
        top=top,
    )
    with terminal_progress() as progress:
        result = job.run(session, request, progress)
    if json:
        print_json({"task": job.name, **result.values, "written": result.written})
        return
    for line in result.lines:
        print(line)
    for path in result.written:
        print(f"wrote {path}")


def _task(bundle: Path, name: str | None, threads: int | None) -> tuple[Session, Task]:
    """The session and the task, refused before anything is loaded if the bundle cannot do it."""
    from edge import api
    from edge.bundle import open_bundle
    from edge.errors import UsageError
    from edge.families.base import get_family

    manifest = open_bundle(bundle).manifest
    tasks = get_family(manifest.family).tasks()
    known = ", ".join(sorted(tasks))
    if not tasks:
        raise UsageError(f"{bundle.name} holds a model without tasks of its own: run its tensors with --npz.")
    if name is None and len(tasks) > 1:
        raise UsageError(f"which task should {bundle.name} do? Give --task: {known} (or --npz for raw tensors).")
    job = tasks.get(name) if name is not None else next(iter(tasks.values()))
    if job is None:
        raise UsageError(f"{bundle.name} has no task '{name}': choose one of {known}.")
    have = [entry.name for entry in manifest.entries]
    if lacking := [needed for needed in job.needs if needed not in have]:
        raise UsageError(
            f"{bundle.name} lacks the entry point '{lacking[0]}', which {job.name} runs: it has {', '.join(have)}."
        )
    return api.load(bundle, threads=threads), job


def _run_tensors(session: Session, npz: Path, entry: str | None, output: Path | None, json: bool) -> None:
    import io

    import numpy as np

    from edge.cli.output import print_json, print_table
    from edge.errors import UsageError
    from edge.files import write_atomically
    from edge.npz import read_npz

    entries = session.manifest.entries
    if entry is None and len(entries) > 1:
        raise UsageError(f"which entry point? Give --entry: {', '.join(record.name for record in entries)}.")
    name = entry or entries[0].name
    outputs = session.run(name, read_npz(npz))
    if output is not None:
        buffer = io.BytesIO()
        np.savez(buffer, **outputs)  # type: ignore[arg-type]  # numpy types the keywords as its own options
        write_atomically(output, buffer.getvalue())
    if json:
        found = {key: {"dtype": value.dtype.name, "shape": value.shape} for key, value in outputs.items()}
        print_json({"entry": name, "outputs": found, "written": [output] if output else []})
        return
    print_table(
        ("output", "dtype", "shape", "min", "mean", "max"),
        [
            (key, value.dtype.name, str(list(value.shape)), *(f"{figure:.4g}" for figure in _range(value)))
            for key, value in outputs.items()
        ],
        right=("min", "mean", "max"),
    )
    if output is not None:
        print(f"wrote {output}")


def _range(value: np.ndarray) -> tuple[float, float, float]:
    if value.size == 0:
        nothing = float("nan")
        return nothing, nothing, nothing
    return float(value.min()), float(value.mean()), float(value.max())


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()
