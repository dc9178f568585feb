"""Lower to ExecuTorch: one program, a method for each entry point, with XNNPACK for what it takes.

Weights are stored once however many methods use them (XNNPACK's constants are keyed by their content), and the program
runs on any CPU that ExecuTorch's runtime is built for, so there is no host twin. fp16 is left out: XNNPACK's half
kernels need arithmetic that a Cortex-A72 does not have, and are slower than float32 where it is emulated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

from edge.dependencies import require, version
from edge.errors import UnsupportedError
from edge.export.base import Artifact, Captured, Lowered, Lowering, UnsupportedOperator
from edge.export.capture import call
from edge.export.executorch_graph import (
    delegation,
    operator_modules,
    planned_bytes,
    sources,
    to_edge,
    to_executorch,
    unsupported,
)
from edge.export.executorch_quantize import Quantized, Shared, quantize, release
from edge.export.executorch_sparse import packed
from edge.export.kernel_weights import kernel_weights, packing, skip_report
from edge.export.payoff import too_large
from edge.families.base import Arrays
from edge.manifest import KernelRecord, Notes, RuntimeRecord
from edge.progress import Progress
from edge.runtimes.executorch import MODULES_FILE, XNNPACK, schema_identifier
from edge.runtimes.kernels import load as load_kernels
from edge.runtimes.kernels.binding import ABI
from edge.runtimes.kernels.executorch import load as load_operators
from edge.spec import Recipe, Scheme, Target

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

PROGRAM_FILE = "model.pte"


class ExecuTorchLowering(Lowering):
    runtime: ClassVar[str] = "executorch"
    schemes: ClassVar[tuple[Scheme, ...]] = (Scheme.FP32, Scheme.INT8, Scheme.INT8_DYNAMIC, Scheme.INT4)
    kernels: ClassVar[Mapping[Scheme, int]] = {Scheme.INT8: 8, Scheme.INT8_DYNAMIC: 8, Scheme.INT4: 4}
    skips: ClassVar[bool] = True

    def __init__(self) -> None:
        #: Captured programs that ``unsupported`` has partitioned already: ``lower`` takes them out, as it uses them up.
        self._partitioned: WeakKeyDictionary[ExportedProgram, ExportedProgram] = WeakKeyDictionary()

    def unsupported(self, captured: Captured, recipe: Recipe) -> list[UnsupportedOperator]:
        _require()
        if recipe.sparse or (recipe.scheme is not Scheme.FP32 and too_large([captured])):
            return []  # lowering takes minutes, and ``lower`` asks the same of the quantized graph
        edge = to_edge(captured.entry.name, captured.program)
        self._partitioned[captured.program] = edge
        return unsupported(edge.graph_module)

    def lower(
        self, captured: Sequence[Captured], recipe: Recipe, target: Target, workdir: Path, progress: Progress
    ) -> Lowered:
        _require()
        quantized: dict[str, Quantized] = {}
        sentences: tuple[str, ...] = ()
        report: dict[str, float] = {}
        if recipe.sparse:
            load_operators()
            weights, sentences = kernel_weights(captured, self.kernels[recipe.scheme], recipe.skip_up, progress)
            with packing(captured, weights, progress) as counted:
                quantized = {item.entry.name: packed(item, counted) for item in captured}
            report = skip_report(captured, weights)
        elif recipe.scheme is not Scheme.FP32:
            shared: Shared = {}
            quantized = {item.entry.name: quantize(item, recipe, shared, progress) for item in captured}
            if not any(item.layers for item in quantized.values()):
                raise UnsupportedError(
                    f"{recipe.scheme.value} finds no layer of this model that it can quantize: choose fp32, or another "
                    "scheme."
                )
            if too_large(captured):
                release(shared)
        programs = {
            item.entry.name: quantized[item.entry.name].program if quantized else item.program for item in captured
        }
        edge: dict[str, ExportedProgram] = {}
        with progress.bar("XNNPACK", len(programs)) as bar:
            for name, program in programs.items():
                edge[name] = self._partition(name, program, recipe)
                bar.advance()
        modules = {name: program.graph_module for name, program in edge.items()}
        _refuse(modules)
        delegations = tuple(delegation(name, module) for name, module in modules.items())
        origins = {name: sources(module) for name, module in modules.items()}
        executorch = to_executorch(edge)
        files = {PROGRAM_FILE: workdir / PROGRAM_FILE, MODULES_FILE: workdir / MODULES_FILE}
        files[PROGRAM_FILE].write_bytes(executorch.buffer)
        described = operator_modules(origins, executorch)
        files[MODULES_FILE].write_text(json.dumps(described, sort_keys=True) + "\n", encoding="utf-8")
        return Lowered(
            files=files,
            artifacts={name: Artifact(PROGRAM_FILE, name) for name in edge},
            runtime=RuntimeRecord(
                name=self.runtime,
                version=version("executorch") or "0",
                abi=f"{schema_identifier()}/{XNNPACK}",
            ),
            kernels=KernelRecord(version=load_kernels().version, abi=ABI) if recipe.sparse else None,
            notes=Notes(
                delegation=delegations,
                planned_bytes=planned_bytes(executorch),
                warnings=(*sentences, *(sentence for item in quantized.values() for sentence in item.warnings)),
            ),
            quantized={item.entry.name: _eager(item, quantized[item.entry.name]) for item in captured}
            if quantized
            else None,
            report=report,
        )

    def _partition(self, name: str, program: ExportedProgram, recipe: Recipe) -> ExportedProgram:
        if program in self._partitioned:
            return self._partitioned.pop(program)
        # What lies between the kernels is too little to be worth a delegate's calls.
        return to_edge(name, program, partition=not recipe.sparse)


def _require() -> None:
    require("executorch", "exporting to ExecuTorch", "torch", "executorch", "torchao")


def _refuse(modules: Mapping[str, GraphModule]) -> None:
    """What quantizing brought in and nothing can run; the float operators were asked about before."""
    lacks = [(name, item) for name, module in modules.items() for item in unsupported(module)]
    if lacks:
        listed = "; ".join(
            f"{item.operator} in {item.module or 'the top level'} of {name} ({item.count}x)" for name, item in lacks
        )
        raise UnsupportedError(f"executorch lacks {listed}: rewrite those parts, or try another scheme or runtime.")


def _eager(captured: Captured, quantized: Quantized) -> Callable[[Arrays], Arrays]:
    return lambda sample: call(quantized.module, captured.entry, sample)


LOWERING = ExecuTorchLowering()
