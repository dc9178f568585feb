"""``edge export``: models to bundles, with one summary at the end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge.cli.options import JsonFlag

if TYPE_CHECKING:
    from edge.cli.export_summary import ExportRow
    from edge.cli.terminal import TerminalProgress
    from edge.project import ModelPlan
    from edge.spec import Target


def export(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A family, a variant, or package.module:factory.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", metavar="T", help="A name (see `edge targets`), or a .toml profile.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option("--runtime", metavar="R", help="onnx, executorch, tvm, static or auto.")
    ] = None,
    quantize: Annotated[
        str | None, typer.Option("--quantize", metavar="S", help="fp32, fp16, int8, int8-dynamic, int4 or auto.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="PATH", help="Weights: a folder or a file; default: the demo's."),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE.json", help="The model's config.")] = None,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", metavar="FILE.npz", help="int8: your own inputs, by input name.")
    ] = None,
    random_weights: Annotated[
        int | None, typer.Option("--random-weights", metavar="SEED", min=0, help="Random weights, no checkpoint.")
    ] = None,
    part: Annotated[
        str | None, typer.Option("--part", metavar="NAME", help="interformer: encode or click, a bundle each.")
    ] = None,
    context: Annotated[
        int | None, typer.Option("--context", metavar="N", min=1, help="plm: tokens that the bundle can hold.")
    ] = None,
    tune_trials: Annotated[
        int | None, typer.Option("--tune-trials", metavar="N", min=0, help="tvm: MetaSchedule measurements to spend.")
    ] = None,
    static: Annotated[
        bool, typer.Option("--static", help="tvm: one program that holds the model and needs nothing installed.")
    ] = False,
    sparse: Annotated[
        str | None,
        typer.Option("--sparse", metavar="auto|on|off", help="edge's own kernels, which skip what squared ReLUs make zero."),
    ] = None,
    skip_up: Annotated[
        str | None,
        typer.Option("--skip-up", metavar="SHARE|off", help="int4, own kernels: skip low bits of up weights, keep this share (0.999)."),
    ] = None,
    group_size: Annotated[
        int | None, typer.Option("--group-size", metavar="N", min=1, help="int4: weights that share a scale (32).")
    ] = None,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="Pack a bundle even if it fails its tolerance.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="PATH", help="A folder, or the bundle itself (NAME.edge).")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Export a model for a target: capture, quantize, lower, verify on real samples, pack.

    Without MODEL, everything that the nearest edge.toml lists is exported; flags override what it says.

    \b
    Examples:
      edge export --target rpi                           what edge.toml lists
      edge export tspulse --target rpi                   runtime and scheme as the target suggests
      edge export tspulse --target cpu --runtime tvm --quantize fp32 --tune-trials 64
      edge export tspulse --target android --runtime tvm --static
      edge export relu2-mlp --target rpi5 --runtime executorch --quantize int8 --calibration mine.npz
      edge export mypkg.mymodel:factory --target cpu --runtime onnx -o build/mine.edge
    """
    from edge.cli.export_summary import print_summary
    from edge.cli.output import print_json
    from edge.cli.terminal import terminal_progress
    from edge.errors import EdgeError

    flags = Flags(
        runtime=_program(runtime) if static else runtime,
        scheme=quantize,
        checkpoint=checkpoint,
        config=config,
        calibration=calibration,
        random_weights=random_weights,
        part=part,
        context=context,
        tune_trials=tune_trials,
        sparse=sparse,
        skip_up=skip_up,
        group_size=group_size,
        output=output,
    )
    job = named(model, target, flags) if model is not None else listed(target, flags)
    with terminal_progress() as progress:
        rows = list(_export_all(job, allow_mismatch, progress))
    if json:
        print_json(rows)
    else:
        print_summary(rows)
    if failed := [row.model for row in rows if row.error is not None]:
        raise EdgeError(f"{len(failed)} of {len(rows)} models failed ({', '.join(failed)}): the reasons are above.")


def _program(runtime: str | None) -> str:
    """The runtime that --static means."""
    from edge.errors import UsageError

    if runtime not in (None, "tvm", "static"):
        raise UsageError(f"a static program is compiled by tvm, not by {runtime}: pass --runtime tvm, or leave --static out.")
    return "static"


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What the command line says of a plan; None leaves the plan as it is."""

    runtime: str | None = None
    scheme: str | None = None
    checkpoint: Path | None = None
    config: Path | None = None
    calibration: Path | None = None
    random_weights: int | None = None
    part: str | None = None
    context: int | None = None
    tune_trials: int | None = None
    sparse: str | None = None
    skip_up: str | None = None
    group_size: int | None = None
    output: Path | None = None

    def over(self, plan: ModelPlan) -> ModelPlan:
        """``plan`` with what was given; paths become absolute, since a project is exported in its own folder."""
        import msgspec

        given = {
            key: Path.cwd() / value.expanduser() if isinstance(value, Path) else value
            for key, value in vars(self).items()
            if value is not None
        }
        return msgspec.structs.replace(plan, **given)


@dataclass(frozen=True)
class Job:
    """What to export, for which target, and the folder that ``package.module:factory`` is looked up in."""

    plans: tuple[ModelPlan, ...]
    target: Target
    folder: Path
    several: bool  # a list, in which one model's failure does not stop the others


def named(model: str, target: str | None, flags: Flags) -> Job:
    """The one model that the command line names."""
    from edge.devices.targets import load_target, target_names
    from edge.errors import UsageError
    from edge.project import ModelPlan

    if target is None:
        raise UsageError(f"which device is it for? Give --target: {', '.join(target_names())}, or a .toml profile.")
    return Job((flags.over(ModelPlan(name=model)),), load_target(target), Path.cwd(), several=False)


def listed(target: str | None, flags: Flags) -> Job:
    """What the nearest edge.toml lists, with the flags laid over it."""
    from edge.devices.targets import load_target, target_names
    from edge.errors import UsageError
    from edge.project import find_project, read_project, refuse_collisions

    path = find_project(Path.cwd())
    project = read_project(path)
    chosen = target or project.target
    if chosen is None:
        raise UsageError(f"{path} names no target: give --target ({', '.join(target_names())}), or add it there.")
    if len(project.models) > 1 and (flags.checkpoint or flags.config):
        raise UsageError(f"--checkpoint and --config belong to one model and {path} lists several: name it.")
    # A profile of the project's own is given relative to it, one on the command line relative to here.
    with contextlib.nullcontext() if target else contextlib.chdir(project.folder):
        resolved = load_target(chosen)
    plans = tuple(flags.over(plan) for plan in project.models)
    refuse_collisions(plans, resolved.name)
    return Job(plans, resolved, project.folder, several=True)


def _export_all(job: Job, allow_mismatch: bool, progress: TerminalProgress) -> Iterator[ExportRow]:
    from edge.cli import debugging, one_line, unexpected
    from edge.cli.export_summary import failed_row
    from edge.errors import EdgeError

    for plan in job.plans:
        if job.several:
            progress.begin(plan.name)
        try:
            yield _export(plan, job, allow_mismatch, progress)
        except Exception as error:
            if not job.several or debugging():
                raise
            sentence = one_line(str(error)) if isinstance(error, EdgeError) else unexpected(error)
            progress.warn(f"failed: {sentence}")
            yield failed_row(plan.name, sentence)


def _export(plan: ModelPlan, job: Job, allow_mismatch: bool, progress: TerminalProgress) -> ExportRow:
    # Before torch is loaded: its OpenMP threads would spin while they wait for each other, and on a machine that has
    # other work too an export took three times as long for it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from edge.cli.export_summary import summarise
    from edge.export import pipeline

    here = Path.cwd()
    with contextlib.chdir(job.folder):
        exported = pipeline.export(
            plan.name,
            target=job.target,
            runtime=plan.runtime,
            quantize=plan.scheme,
            checkpoint=plan.checkpoint,
            config=plan.config,
            calibration=plan.calibration,
            random_weights=plan.random_weights,
            part=plan.part,
            context=plan.context,
            tune_trials=plan.tune_trials,
            sparse=plan.sparse,
            skip_up=plan.skip_up,
            group_size=plan.group_size,
            allow_mismatch=allow_mismatch,
            output=plan.output or here,
            progress=progress,
        )
    return summarise(exported, here)
