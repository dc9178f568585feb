"""TVM's lowering: quantize, import, fuse, schedule or tune, compile, link.

One shared library holds every entry point; kernels and constants that they share are in it once. For a target that this
host cannot run, the same graphs are compiled a second time for the host, so that verification has something to run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from edge.dependencies import require, version
from edge.export.base import Artifact, Captured, Lowered, Lowering, UnsupportedOperator
from edge.export.kernel_form import Packed, packed
from edge.export.kernel_weights import kernel_weights, packing, skip_report
from edge.export.tvm_compile import compile_module, fuse, llvm_target, requirements
from edge.export.tvm_convert import decompose, missing_operators, to_relax
from edge.export.tvm_link import export_library
from edge.export.tvm_quantize import Quantized, quantize, refuse_nothing_quantized
from edge.export.tvm_records import RECORDS, apply_records, load_records, records_for, records_path, write_records
from edge.export.tvm_tune import tune
from edge.manifest import KernelRecord, Notes, RuntimeRecord
from edge.progress import Progress
from edge.runtimes.kernels import load as load_kernels
from edge.runtimes.kernels.binding import ABI
from edge.runtimes.tvm import REQUIREMENTS, Requirements, abi, cpu_flags, host_arch, prepare
from edge.spec import Recipe, Scheme, Target

LIBRARY = "model.so"


class TvmLowering(Lowering):
    """``edge.export.static`` compiles the same graphs to a program: what differs is in the methods without an underscore."""

    runtime: ClassVar[str] = "tvm"
    #: The file of the bundle that every entry point is in.
    artifact: ClassVar[str] = LIBRARY
    schemes: ClassVar[tuple[Scheme, ...]] = (Scheme.FP32, Scheme.FP16, Scheme.INT8, Scheme.INT8_DYNAMIC)
    kernels: ClassVar[Mapping[Scheme, int]] = {Scheme.INT8: 8, Scheme.INT8_DYNAMIC: 8, Scheme.INT4: 4}
    skips: ClassVar[bool] = True

    def unsupported(self, captured: Captured, recipe: Recipe) -> list[UnsupportedOperator]:
        _require()
        return missing_operators(decompose(captured.program))

    def lower(
        self, captured: Sequence[Captured], recipe: Recipe, target: Target, workdir: Path, progress: Progress
    ) -> Lowered:
        _require()
        sentences: tuple[str, ...] = ()
        report: dict[str, float] = {}
        quantized: Mapping[str, Quantized | Packed]
        if recipe.sparse:
            weights, sentences = kernel_weights(captured, self.kernels[recipe.scheme], recipe.skip_up, progress)
            with packing(captured, weights, progress) as counted:
                quantized = {item.entry.name: packed(item, counted) for item in captured}
            report = skip_report(captured, weights)
        else:
            quantized = _quantize(captured, recipe.scheme)
        programs = {
            item.entry.name: quantized[item.entry.name].program if quantized else item.program for item in captured
        }
        functions = {name: to_relax(decompose(program), name) for name, program in programs.items()}
        target = self.compiled_for(target)
        foreign = not runs_here(requirements(target))
        host = self.compiled_for(_host()) if foreign else target
        tuning = _tune(functions, host if foreign and recipe.tune_trials else target, recipe, progress)
        sparse = recipe.sparse
        files, used = self._compile(functions, captured, target, tuning, foreign, workdir / "target", sparse)
        twin = self._compile(functions, captured, host, tuning, foreign, workdir / "twin", sparse)[0] if foreign else None
        return Lowered(
            files=self.packed(files, twin),
            artifacts={name: Artifact(file=self.artifact, method=name) for name in functions},
            runtime=RuntimeRecord(name=self.runtime, version=str(version("apache-tvm")), abi=self.abi()),
            kernels=KernelRecord(version=load_kernels().version, abi=ABI) if sparse else None,
            notes=Notes(
                tuned_trials=recipe.tune_trials if tuning.tasks else 0,
                tuned_tasks=used,
                warnings=(*sentences, *_warnings(target, host, recipe, tuning, used)),
            ),
            twin=twin,
            quantized={name: entry.run for name, entry in quantized.items()} or None,
            report=report,
        )

    def compiled_for(self, target: Target) -> Target:
        """The target as the compiler is to see it."""
        return target

    def abi(self) -> str:
        return abi()

    def packed(self, files: Mapping[str, Path], twin: Mapping[str, Path] | None) -> Mapping[str, Path]:
        """What goes into the bundle."""
        return files

    def build(
        self, module: Any, captured: Sequence[Captured], target: Target, folder: Path, sparse: bool
    ) -> Mapping[str, Path]:
        """Compile and link ``module``, whose kernels are scheduled or not, into ``folder``; the files by name.

        ``sparse`` says whether it calls edge's own kernels.
        """
        export_library(compile_module(module, llvm_target(target)), target, folder / LIBRARY, folder / "objects", sparse)
        return {LIBRARY: folder / LIBRARY}

    def _compile(
        self, functions: Mapping[str, Any], captured: Sequence[Captured], target: Target, tuning: _Tuning, foreign: bool,
        folder: Path, sparse: bool,
    ) -> tuple[Mapping[str, Path], int]:
        """The files for ``target``, and how many kernels have a tuning record."""
        folder.mkdir(parents=True)
        llvm = llvm_target(target)
        module = fuse(functions, llvm)
        records = records_for(module, tuning.database, foreign)
        files = dict(self.build(apply_records(module, records, llvm), captured, target, folder, sparse))
        files[REQUIREMENTS] = folder / REQUIREMENTS
        files[REQUIREMENTS].write_bytes(msgspec.json.encode(requirements(target)))
        if records:
            files[RECORDS] = folder / RECORDS
            write_records(files[RECORDS], records)
        return files, len(records)


@dataclass(frozen=True)
class _Tuning:
    """The records to compile by, and how many kernels were tuned for this export."""

    database: Any
    tasks: int


def _tune(functions: Mapping[str, Any], target: Target, recipe: Recipe, progress: Progress) -> _Tuning:
    """The user's records for ``target``, which runs here if there are trials to spend, with what they add."""
    database = load_records(records_path(target))
    if not recipe.tune_trials:
        return _Tuning(database, 0)
    progress.stage("tune")
    llvm = llvm_target(target)
    tasks = tune(fuse(functions, llvm), target, llvm, recipe.tune_trials, database, progress, recipe.seed)
    return _Tuning(database, len(tasks))


def _warnings(target: Target, host: Target, recipe: Recipe, tuning: _Tuning, used: int) -> tuple[str, ...]:
    if recipe.tune_trials and not tuning.tasks:
        return ("there was nothing to tune: no float matrix product or convolution takes a part of the time.",)
    if recipe.tune_trials and host is not target:
        return (
            f"schedules were measured on this host's {host.cpu}, not on {target.cpu}: they are correct there, and "
            "perhaps not the fastest.",
        )
    if not used:
        return (
            f"no kernel is tuned for {target.cpu}: it is compiled by edge's default schedules, which --tune-trials may "
            "improve on.",
        )
    return ()


def _require() -> None:
    require("tvm", "exporting to tvm", "tvm", "torch", "ziglang")
    prepare()


def _quantize(captured: Sequence[Captured], scheme: Scheme) -> dict[str, Quantized]:
    if scheme is Scheme.FP32:
        return {}
    quantized = {item.entry.name: quantize(item, scheme) for item in captured}
    refuse_nothing_quantized(list(quantized.values()), scheme)
    return quantized


def runs_here(needs: Requirements) -> bool:
    flags = cpu_flags()
    return needs.arch == host_arch() and (flags is None or set(needs.flags) <= flags)


def _host() -> Target:
    from edge.devices.targets import load_target

    return load_target("cpu")


LOWERING = TvmLowering()
