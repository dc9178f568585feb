"""``edge run``: a bundle at work, on the user's own file or on raw tensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge.cli.options import BundleArgument, DeviceOption, JsonFlag, ThreadsOption

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
    prompt: Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="plm: what to go on from.")] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", min=1, help="plm: where to stop at the latest.")
    ] = 64,
    chat: Annotated[bool, typer.Option("--chat", help="plm: the prompt is a user's turn (ChatML).")] = False,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="T", min=0, help="plm: 0 takes the likeliest token.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option("--top-p", metavar="P", min=0, max=1, help="plm: sample from this much probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="plm: of the sampling.")] = 0,
    stats: Annotated[bool, typer.Option("--stats", help="plm: time to first token, tokens/s, memory.")] = False,
    image: Annotated[Path | None, typer.Option("--image", metavar="FILE", help="The picture: PNG or JPEG.")] = None,
    encode: Annotated[
        Path | None, typer.Option("--encode", metavar="FILE", help="interformer: the picture to encode, to -o.")
    ] = None,
    features: Annotated[
        Path | None, typer.Option("--features", metavar="FILE", help="interformer: what --encode wrote.")
    ] = None,
    click: Annotated[
        list[str] | None, typer.Option("--click", metavar="X,Y,+|-", help="interformer: on (+) or off (-) the object.")
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option("--overlay", metavar="PNG", help="interformer: the picture with its mask.")
    ] = None,
    device: DeviceOption = "local",
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
      edge run plm-rpi.edge --prompt "Once upon a time" --max-new-tokens 64 --stats
      edge run fmvit-rpi.edge --image a.png --top 5
      edge run interformer-encode-rpi.edge --encode image.png -o image.features
      edge run interformer-click-rpi.edge --features image.features --click 120,80,+ --click 30,200,- -o mask.png
      edge run tspulse-rpi.edge --npz in.npz --entry reconstruct -o out.npz
      edge run tspulse-rpi.edge --npz in.npz --entry reconstruct -o out.npz --device ssh://pi@raspberrypi.local
    """
    from edge.cli.output import print_json
    from edge.cli.terminal import terminal_progress
    from edge.errors import UsageError
    from edge.tasks import ImageRequest, TaskRequest, TextRequest

    if npz is not None and (task is not None or csv is not None):
        raise UsageError("--npz runs an entry point on raw tensors and --task a job on a CSV: give one of them.")
    if npz is None and device != "local":
        raise UsageError(f"only raw tensors are run on {device}: give --npz, or leave --device out.")
    if npz is None and entry is not None:
        raise UsageError("--entry names the entry point for --npz: give the tensors, or a --task.")
    if npz is not None:
        _run_tensors(bundle, npz, entry, output, json, device, threads)
        return
    # A flag that only one task knows names it.
    named = task or ("encode" if encode is not None else "click" if click else None)
    session, job = _task(bundle, named, threads)
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
        text=TextRequest(
            prompt=prompt,
            max_new_tokens=max_new_tokens,
            chat=chat,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stats=stats,
        ),
        image=ImageRequest(image=encode or image, features=features, clicks=tuple(click or ()), overlay=overlay),
    )
    with terminal_progress(result=not json) as progress:
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
    from edge.cli.tune import say_tuned
    from edge.errors import UsageError
    from edge.families.base import get_family

    manifest = open_bundle(bundle).manifest
    tasks = get_family(manifest.family).tasks()
    known = ", ".join(sorted(tasks))
    if not tasks:
        raise UsageError(f"{bundle.name} holds a model without tasks of its own: run its tensors with --npz.")
    have = [entry.name for entry in manifest.entries]
    if name is None:
        able = [task.name for task in tasks.values() if set(task.needs) <= set(have)] or sorted(tasks)
        if len(able) > 1:
            choices = ", ".join(sorted(able))
            raise UsageError(f"which task should {bundle.name} do? Give --task: {choices} (or --npz for raw tensors).")
        name = able[0]
    job = tasks.get(name)
    if job is None:
        raise UsageError(f"{bundle.name} has no task '{name}': choose one of {known}.")
    if lacking := [needed for needed in job.needs if needed not in have]:
        raise UsageError(
            f"{bundle.name} lacks the entry point '{lacking[0]}', which {job.name} runs: it has {', '.join(have)}."
        )
    say_tuned(bundle, threads)
    return api.load(bundle, threads=threads), job


def _run_tensors(
    bundle: Path, npz: Path, entry: str | None, output: Path | None, json: bool, device: str, threads: int | None
) -> None:
    from edge import api
    from edge.bundle import read_manifest
    from edge.cli.output import print_json, print_table
    from edge.cli.terminal import terminal_progress
    from edge.cli.tune import say_tuned
    from edge.files import write_atomically
    from edge.npz import encode_npz, read_npz

    if device == "local":
        say_tuned(bundle, threads)
        session = api.load(bundle, threads=threads)
        name = entry or api.only_entry(session.manifest)
        outputs = session.run(name, read_npz(npz))
    else:
        with terminal_progress() as progress:
            name = entry or api.only_entry(read_manifest(bundle))
            outputs = api.run_on(bundle, name, read_npz(npz), device=device, threads=threads, progress=progress)
    if output is not None:
        write_atomically(output, encode_npz(outputs))
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
