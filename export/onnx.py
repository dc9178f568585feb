"""ONNX Runtime: each captured entry point becomes ``ENTRY.onnx``, all of them share ``weights.bin``.

What is shipped is the plain graph, not one that ONNX Runtime has optimised: its optimiser picks layouts and fused
kernels for the CPU that it runs on, so it does that on the device, when the session loads. Done here is what it does
not do itself: linear layers as Gemms over flattened rows (`onnx_rows`), large convolutions by half the multiplications
(`onnx_winograd`), quantization (`onnx_quantize`), weights stored
once (`onnx_weights`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

import numpy as np

from edge.dependencies import require
from edge.errors import UnsupportedError
from edge.export.base import Artifact, Captured, Lowered, Lowering, UnsupportedOperator
from edge.export.kernel_form import Packed, packed
from edge.export.kernel_weights import kernel_weights, packing
from edge.export.onnx_graph import OPSET, missing_functions, to_onnx
from edge.export.onnx_int4 import group_weights
from edge.export.onnx_quantize import quantize
from edge.export.onnx_rows import flatten_rows
from edge.export.onnx_sparse import translations
from edge.export.onnx_tidy import finish
from edge.export.onnx_weights import WEIGHTS, WeightFile
from edge.export.onnx_winograd import halve_convolutions
from edge.export.payoff import too_large
from edge.families.base import Arrays
from edge.manifest import KernelRecord, Notes, RuntimeRecord
from edge.progress import Progress
from edge.runtimes.kernels import load as load_kernels
from edge.runtimes.kernels.binding import ABI
from edge.runtimes.kernels.onnx import register
from edge.runtimes.kernels.onnx.matrices import INDEX
from edge.spec import Recipe, Scheme, Target

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    from onnxruntime import InferenceSession
    from torch.export import ExportedProgram


_PACKAGES = ("torch", "onnx", "onnxruntime", "onnxscript")
_PURPOSE = "exporting to ONNX Runtime"


class OnnxLowering(Lowering):
    runtime: ClassVar[str] = "onnx"
    schemes: ClassVar[tuple[Scheme, ...]] = (Scheme.FP32, Scheme.FP16, Scheme.INT8, Scheme.INT8_DYNAMIC, Scheme.INT4)
    kernels: ClassVar[Mapping[Scheme, int]] = {Scheme.INT8: 8, Scheme.INT8_DYNAMIC: 8, Scheme.INT4: 4}

    def __init__(self) -> None:
        # The same program is lowered again, in float32, to see what quantization bought.
        self._plain: WeakKeyDictionary[ExportedProgram, ir.Model] = WeakKeyDictionary()

    def unsupported(self, captured: Captured, recipe: Recipe) -> list[UnsupportedOperator]:
        require("export", _PURPOSE, *_PACKAGES)
        return missing_functions(captured.program)

    def lower(
        self, captured: Sequence[Captured], recipe: Recipe, target: Target, workdir: Path, progress: Progress
    ) -> Lowered:
        require("export", _PURPOSE, *_PACKAGES)
        import onnxruntime

        files: dict[str, Path] = {}
        warnings: list[str] = []
        ours: dict[str, Packed] = {}
        if recipe.sparse:
            rounded, about = kernel_weights(captured, self.kernels[recipe.scheme], None, progress)
            warnings.extend(about)
            with packing(captured, rounded, progress) as counted:
                ours = {one.entry.name: packed(one, counted) for one in captured}
            if too_large(captured):
                self._release(captured)
        with WeightFile(workdir / WEIGHTS) as weights, progress.bar("ONNX", len(captured)) as bar:
            for one in captured:
                if ours:
                    model = _finished(dataclasses.replace(one, program=ours[one.entry.name].program))
                else:
                    if one.program not in self._plain:
                        self._plain[one.program] = to_onnx(one)
                    model, sentences = _build(self._plain[one.program].clone(), one, recipe, target)
                    warnings.extend(sentences)
                weights.take(model, one.entry.name)
                name = f"{one.entry.name}.onnx"
                files[name] = workdir / name
                files[name].write_bytes(model.SerializeToString(deterministic=True))
                ir_version = model.ir_version
                bar.advance()
        for one in captured:
            _check(workdir / f"{one.entry.name}.onnx", one, recipe.sparse)
        if weights.path.exists():
            files[WEIGHTS] = weights.path
        if ours:
            files[INDEX] = workdir / INDEX
            files[INDEX].write_bytes(weights.index())
        if not ours and recipe.scheme is not Scheme.FP32 and too_large(captured):
            self._release(captured)
        quantized = {name: one.run for name, one in ours.items()} or None
        if not ours and recipe.scheme not in (Scheme.FP32, Scheme.FP16):
            # One of them loaded at a time: a language model's weights are in each.
            load = functools.lru_cache(maxsize=1)(functools.partial(_session, optimize=False))
            quantized = {one.entry.name: _reference(files[f"{one.entry.name}.onnx"], load) for one in captured}
        return Lowered(
            files=files,
            artifacts={
                one.entry.name: Artifact(file=f"{one.entry.name}.onnx", method=one.entry.name) for one in captured
            },
            runtime=RuntimeRecord(
                name="onnx", version=str(onnxruntime.__version__), abi=f"opset {OPSET}, ir {ir_version}"
            ),
            kernels=KernelRecord(version=load_kernels().version, abi=ABI) if ours else None,
            notes=Notes(warnings=tuple(warnings)),
            quantized=quantized,
        )

    def _release(self, captured: Sequence[Captured]) -> None:
        """Free the float weights: what is left to do needs the quantized ones."""
        for one in captured:
            self._plain.pop(one.program, None)
            # The captured program's weights are the module's own or share their memory, so both let go of it.
            for weight in (*one.program.state_dict.values(), *one.entry.module.parameters()):
                weight.data = weight.data.new_empty(0)


LOWERING = OnnxLowering()


def _build(plain: ir.Model, captured: Captured, recipe: Recipe, target: Target) -> tuple[onnx.ModelProto, list[str]]:
    """The finished graph of one entry, its weights still inside, and sentences for the manifest."""
    import onnx_ir as ir

    if recipe.scheme in (Scheme.FP32, Scheme.FP16, Scheme.INT8):
        flatten_rows(plain.graph, always=recipe.scheme == Scheme.INT8)
    if recipe.scheme == Scheme.FP32:
        halve_convolutions(plain.graph, target)
    if recipe.scheme == Scheme.INT4:
        group_weights(plain, captured.entry.keep_float, recipe.group_size)
    model, sentences = quantize(ir.to_proto(plain), captured, recipe)
    finish(model, captured)
    return model, sentences


def _finished(captured: Captured) -> onnx.ModelProto:
    """The graph of an entry in its form for the kernels."""
    import onnx_ir as ir

    model = ir.to_proto(to_onnx(captured, translations()))
    finish(model, captured)
    return model


def _check(path: Path, captured: Captured, sparse: bool) -> None:
    """The ONNX checker's verdict, then ONNX Runtime's: does it have a kernel for every node?"""
    import onnx
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    onnx.checker.check_model(path, full_check=False)
    try:
        _session(path, optimize=True, sparse=sparse)
    except (errors.NotImplemented, errors.InvalidGraph, errors.Fail) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise UnsupportedError(
            f"ONNX Runtime cannot run entry point '{captured.entry.name}' ({reason}): "
            "change that part of it or use another runtime."
        ) from error


def _session(path: Path, optimize: bool, sparse: bool = False) -> InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it raises what it logs as an error
    options.intra_op_num_threads = 1
    if sparse:
        register(options)
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _reference(path: Path, load: Callable[[Path], InferenceSession]) -> Callable[[Arrays], Arrays]:
    """Runs the quantized graph operator by operator as written: what ONNX Runtime's fusions start from."""
    def run(inputs: Arrays) -> Arrays:
        session = load(path)
        names = [output.name for output in session.get_outputs()]
        values = session.run(names, dict(inputs))
        return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}

    return run
