"""The export pipeline: capture -> quantize -> lower -> verify -> pack, for one model.

In: what the user asked for (``Request``). Out: ``Exported``, a packed and opened bundle with what the stages found.
Nothing is written to the output unless every stage passes.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge import bundle as bundles
from edge._version import __version__
from edge.bundle import Bundle
from edge.dependencies import require
from edge.errors import MismatchError, UnsupportedError, UsageError
from edge.export import localize, verify
from edge.export.base import Captured, Lowered, Lowering, get_lowering
from edge.export.calibration import calibration_for
from edge.export.capture import call, capture, eager
from edge.export.kernel_choice import offers_kernels, skip_up_for, sparse_for
from edge.export.payoff import LARGEST, Payoff, measure, too_large
from edge.families.base import Arrays, Model, ModelFamily, Source, find
from edge.manifest import SCHEMA, EntryRecord, LayerError, Manifest, MetricRecord, StageReport
from edge.npz import read_npz
from edge.progress import Progress
from edge.project import bundle_path
from edge.runtimes.base import Session, runtime_names, session_class, usable_cores
from edge.spec import Recipe, Scheme, Sparse, Target, parse_scheme


@dataclass(frozen=True)
class Exported:
    """A packed bundle, what quantization bought (None in float32), and everything worth saying in a sentence.

    ``left_out`` says what was not done, since the model is large; the manifest's notes have it too.
    """

    bundle: Bundle
    payoff: Payoff | None
    warnings: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def export(
    model: str,
    *,
    target: str | Target,
    runtime: str = "auto",
    quantize: str = "auto",
    checkpoint: Path | None = None,
    config: Path | None = None,
    random_weights: int | None = None,
    part: str | None = None,
    context: int | None = None,
    calibration: Path | None = None,
    tune_trials: int = 0,
    sparse: str = "auto",
    skip_up: str = "off",
    group_size: int = 32,
    allow_mismatch: bool = False,
    output: Path | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Export ``model`` for ``target`` and return the packed bundle.

    ``model`` is a family, a family and variant, or ``package.module:factory``. ``runtime`` and ``quantize`` are names
    or "auto" (the target's own, or what suits the family there). ``output`` ends in ``.edge`` to name the bundle, or is the folder it goes into (the
    current one by default). Raises EdgeError subclasses; nothing is left behind then.
    """
    from edge.devices.targets import load_target

    progress = progress or Progress()
    family, variant = find(model)
    resolved = load_target(target) if isinstance(target, str) else target
    runtime = resolved.runtime if runtime == "auto" else runtime
    if runtime not in runtime_names():
        raise UsageError(f"there is no runtime '{runtime}': choose one of {', '.join(runtime_names())}, or auto.")
    scheme = family.auto_scheme(resolved.scheme) if quantize == "auto" else parse_scheme(quantize)
    require("export", "exporting", "torch", "safetensors")
    lowering = _lowering(runtime)
    if scheme not in lowering.schemes and (scheme not in lowering.kernels or sparse == Sparse.OFF.value):
        raise _lacking(lowering, scheme)
    if tune_trials and lowering.form != "tvm":
        progress.warn(f"tuning trials are for tvm: {runtime} has nothing to tune, so they are left out.")
        tune_trials = 0
    _check_part(family, model, part, context)
    wanted = sparse_for(sparse, lowering, scheme, resolved, group_size)
    skipping = skip_up_for(skip_up, lowering, scheme)
    destination = bundle_path(model, resolved.name, output, part)
    bundles.check_destination(destination)

    progress.stage("load")
    source = Source(
        checkpoint=checkpoint, config=config, random_seed=random_weights, runtime=lowering.form, part=part, context=context,
        sparse=wanted, progress=progress,
    )  # fmt: skip
    built = family.load(model, variant, source)
    recipe = Recipe(
        runtime=runtime,
        scheme=scheme,
        group_size=group_size,
        calibration=bundles.sha256_file(calibration) if calibration and calibration.is_file() else None,
        tune_trials=tune_trials,
        sparse=offers_kernels(model, built, wanted),
        skip_up=skipping,
    )
    if skipping is not None and not recipe.sparse:
        raise UsageError("only edge's own kernels skip up halves: pass --sparse on too, or leave --skip-up out.")
    if scheme not in lowering.schemes and not recipe.sparse:
        raise _lacking(lowering, scheme)
    with tempfile.TemporaryDirectory(prefix="edge-export-") as scratch:
        return _Export(built, lowering, recipe, resolved, Path(scratch), progress).run(
            destination, calibration, allow_mismatch
        )


@dataclass(frozen=True)
class _Export:
    model: Model
    lowering: Lowering
    recipe: Recipe
    target: Target
    scratch: Path
    progress: Progress

    def run(self, destination: Path, calibration: Path | None, allow_mismatch: bool) -> Exported:
        self.progress.stage("capture")
        captured = self.capture(calibration)
        self.refuse_unsupported(captured)
        # Before lowering, which may free the float weights of a large model as soon as they are quantized.
        exported = [verify.check_exported(item) for item in captured]
        self.progress.stage("quantize and lower" if self.recipe.scheme is not Scheme.FP32 else "lower")
        lowered = self.lower(captured, self.recipe, "artifacts")
        draft = self.draft(captured, lowered)
        session = self.session(lowered, draft, "host")

        self.progress.stage("verify")
        entries, failures = self.verify(captured, exported, lowered, draft, session)
        if failures and not allow_mismatch:
            raise MismatchError(f"{'; '.join(failures)}: nothing was packed (--allow-mismatch packs it all the same).")
        metrics = () if too_large(captured) else self.metrics(session)  # eager's weights may be gone by now
        payoff = self.payoff(captured, lowered, session)
        left_out = self.left_out(captured, bool(failures))
        manifest = msgspec.structs.replace(
            draft,
            entries=entries,
            metrics=metrics,
            fp32_bytes=payoff.fp32_bytes if payoff else None,
            notes=msgspec.structs.replace(draft.notes, warnings=(*draft.notes.warnings, *left_out)),
            mismatch_allowed=bool(failures),
        )

        self.progress.stage("pack")
        samples = {item.entry.name: item.references for item in captured}
        packed = bundles.write(destination, manifest, {**self.model.assets, **lowered.files}, samples)
        warnings = (*lowered.notes.warnings, *(payoff.warnings if payoff else ()), *failures)
        for sentence in warnings:
            self.progress.warn(sentence)
        return Exported(packed, payoff, warnings, left_out)

    def left_out(self, captured: Sequence[Captured], failed: bool) -> tuple[str, ...]:
        """What is not done for a large model, a sentence for all of it: the bundle has to say it."""
        if not too_large(captured):
            return ()
        parts = [f"its metric ({metric.name}) was not evaluated" for metric in self.model.metrics]
        if self.recipe.scheme is not Scheme.FP32:
            parts.append("it was not compared with fp32")
        if failed:
            parts.append("the layers where its error starts were not looked for")
        return (f"its weights take more than {LARGEST >> 30} GB, so {' and '.join(parts)}.",) if parts else ()

    def capture(self, calibration: Path | None) -> list[Captured]:
        arrays = read_npz(calibration) if calibration else None
        captured = []
        used = False
        for entry in self.model.entries:
            given = calibration_for(entry, arrays, calibration) if arrays is not None and calibration else None
            used = used or given is not None
            captured.append(dataclasses.replace(capture(entry, given), model=self.model.name))
        if arrays is not None and not used:
            names = ", ".join(spec.name for spec in self.model.entries[0].inputs)
            raise UsageError(f"{calibration} holds none of this model's inputs ({names}): name its arrays after them.")
        return captured

    def refuse_unsupported(self, captured: Sequence[Captured]) -> None:
        """One refusal that lists every operator the runtime lacks, with the modules it comes from."""
        found: dict[str, dict[str, int]] = {}
        for item in captured:
            for lack in self.lowering.unsupported(item, self.recipe):
                modules = found.setdefault(lack.operator, {})
                modules[lack.module] = modules.get(lack.module, 0) + lack.count
        if found:
            listed = "; ".join(f"{operator} in {_modules(modules)}" for operator, modules in sorted(found.items()))
            others = ", ".join(name for name in runtime_names() if name != self.recipe.runtime)
            raise UnsupportedError(
                f"{self.recipe.runtime} lacks {len(found)} operator{'s' if len(found) > 1 else ''} of this model ({listed}): "
                f"rewrite those parts, or try another runtime ({others})."
            )

    def lower(self, captured: Sequence[Captured], recipe: Recipe, folder: str) -> Lowered:
        workdir = self.scratch / folder
        workdir.mkdir()
        with bundles.storage_errors("temporary files"):
            return self.lowering.lower(captured, recipe, self.target, workdir, self.progress)

    def session(self, lowered: Lowered, draft: Manifest, folder: str) -> Session:
        """The artifacts opened on this host: themselves, or their host twin."""
        root = self.scratch / f"{folder}-session"
        for name, source in (lowered.twin or lowered.files).items():
            place = root / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(source)
        if lowered.twin is not None:
            draft = msgspec.structs.replace(draft, target=_host())
        return session_class(self.recipe.runtime)(root, draft, usable_cores())

    def draft(self, captured: Sequence[Captured], lowered: Lowered) -> Manifest:
        """The manifest before verification: enough for a session."""
        twin = lowered.twin is not None
        return Manifest(
            schema=SCHEMA,
            edge_version=__version__,
            model=self.model.name,
            family=self.model.family,
            config=self.model.config,
            checkpoint_sha256=self.model.checkpoint_sha256,
            random_seed=self.model.random_seed,
            target=self.target,
            runtime=lowered.runtime,
            kernels=lowered.kernels,
            recipe=self.recipe,
            entries=tuple(
                EntryRecord(
                    name=item.entry.name,
                    inputs=item.entry.inputs,
                    outputs=item.outputs,
                    artifact=lowered.artifacts[item.entry.name].file,
                    method=lowered.artifacts[item.entry.name].method,
                    samples=len(item.references),
                    tolerance=item.entry.tolerance[self.recipe.scheme],
                    cost=item.cost,
                    stages=(),
                )
                for item in captured
            ),
            report={**self.model.report, **lowered.report},
            notes=lowered.notes,
            verified_on=f"host twin (not run on {self.target.arch} yet)" if twin else "this host",
        )

    def verify(
        self, captured: Sequence[Captured], exported: Sequence[StageReport], lowered: Lowered, draft: Manifest, session: Session
    ) -> tuple[tuple[EntryRecord, ...], list[str]]:
        """Every entry's stages, and one sentence for each entry that fails."""
        records, failures = [], []
        where = f"{self.recipe.runtime} on {draft.verified_on}"
        for item, first, record in zip(captured, exported, draft.entries, strict=True):
            name = item.entry.name
            run = _runner(session, name)
            stages = [first]
            quantized = lowered.quantized[name] if lowered.quantized else None
            if quantized is not None:
                stages.append(verify.check(item, "quantized", "the quantized graph on this host", quantized, self.recipe.scheme))
            stages.append(verify.check(item, "lowered", where, run, self.recipe.scheme))
            if quantized is not None:
                stages.append(verify.check_lowering(item, where, quantized, run, self.recipe.scheme))
            failed = verify.first_failure(stages)
            large = too_large(captured)
            errors = self.localize(item, failed) if failed and not large else ()
            if failed:
                failures.append(_failure_sentence(name, failed, errors, large))
            records.append(msgspec.structs.replace(record, stages=tuple(stages), first_error=errors))
        return tuple(records), failures

    def localize(self, item: Captured, failed: StageReport) -> tuple[LayerError, ...]:
        """Where the error of ``failed`` starts; the tapped model takes the same road as the real one did."""
        self.progress.stage("localize the error")

        def stage(tapped: Captured) -> Callable[[Arrays], Arrays]:
            if failed.stage == "exported":
                module = tapped.program.module()
                return lambda sample: call(module, tapped.entry, sample)
            lowered = self.lower([tapped], self.recipe, f"taps-{item.entry.name}")
            if failed.stage == "quantized":
                assert lowered.quantized is not None
                return lowered.quantized[item.entry.name]
            session = self.session(lowered, self.draft([tapped], lowered), f"taps-{item.entry.name}")
            return _runner(session, item.entry.name)

        scheme = Scheme.FP32 if failed.stage == "exported" else self.recipe.scheme
        try:
            return localize.first_error(item.entry, stage, item.entry.tolerance[scheme])
        except UnsupportedError:
            # A graph that also returns every layer can be one that the runtime does not take; the error itself stands.
            return ()

    def metrics(self, session: Session) -> tuple[MetricRecord, ...]:
        """The task's own metric, eager and through the bundle's runtime."""
        entries = {entry.name: entry for entry in self.model.entries}
        return tuple(
            MetricRecord(
                name=metric.name,
                higher_is_better=metric.higher_is_better,
                eager=metric.evaluate(lambda name, inputs: eager(entries[name], inputs)),
                bundle=metric.evaluate(session.run),
                data=metric.data,
            )
            for metric in self.model.metrics
        )

    def payoff(self, captured: Sequence[Captured], lowered: Lowered, session: Session) -> Payoff | None:
        if self.recipe.scheme is Scheme.FP32 or too_large(captured):
            return None
        self.progress.stage("compare with fp32")
        recipe = msgspec.structs.replace(self.recipe, scheme=Scheme.FP32, tune_trials=0, sparse=False, skip_up=None)
        float_lowered = self.lower(captured, recipe, "fp32")
        float_session = self.session(float_lowered, self.draft(captured, float_lowered), "fp32")
        sizes = (_bytes(float_lowered), _bytes(lowered))
        return measure(captured, float_session, session, sizes)


def _lowering(runtime: str) -> Lowering:
    packages = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "executorch": ("executorch", "torchao"), "tvm": ("tvm",), "static": ("tvm", "ziglang")}
    require("export", f"exporting to {runtime}", *packages.get(runtime, ()))
    return get_lowering(runtime)


def _lacking(lowering: Lowering, scheme: Scheme) -> UnsupportedError:
    known = ", ".join(known.value for known in lowering.schemes)
    kernels = " (but by edge's own kernels: --sparse on, for PLM and squared-ReLU MLPs)" if scheme in lowering.kernels else ""
    return UnsupportedError(
        f"{lowering.runtime} cannot do {scheme.value}{kernels}: choose one of {known}, or another runtime."
    )


def _check_part(family: ModelFamily, model: str, part: str | None, context: int | None) -> None:
    if part is not None and part not in family.parts:
        known = f"it has {', '.join(family.parts)}" if family.parts else "it is exported whole"
        raise UsageError(f"{model} has no part '{part}': {known}.")
    if context is not None and not family.has_context:
        raise UsageError(f"{model} is no language model, so it has no context to set: leave --context out.")


def _runner(session: Session, name: str) -> Callable[[Arrays], Arrays]:
    return lambda sample: session.run(name, sample)


def _host() -> Target:
    from edge.devices.targets import load_target

    return load_target("cpu")


def _modules(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{module or 'the top level'} ({count}x)" for module, count in counts.items())


def _bytes(lowered: Lowered) -> int:
    """Size of what the runtime loads (not the tuning database, which only the next export reads)."""
    loaded = {artifact.file for artifact in lowered.artifacts.values()}
    return sum(path.stat().st_size for name, path in lowered.files.items() if name in loaded or name.startswith("weights"))


def _failure_sentence(entry: str, failed: StageReport, errors: Sequence[LayerError], large: bool) -> str:
    worst = max((output for output in failed.outputs if not output.passed), key=lambda output: output.relative)
    layers = ", ".join(f"{error.module} ({error.operator})" for error in errors)
    start = f", starting in {layers}" if errors else ""
    if large:
        start = f", and the layers were not searched, since its weights take more than {LARGEST >> 30} GB"
    return (
        f"entry point '{entry}' is wrong after the stage '{failed.stage}': output '{worst.output}' is off by "
        f"{worst.relative:.3g} of its root mean square (cosine {worst.cosine:.5f}){start}"
    )
