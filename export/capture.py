"""Capture: an entry point becomes a graph (torch.export), with what eager computes for every sample.

In: an ``EntryPoint``. Out: ``Captured``. Refuses (UnsupportedError) a module that torch.export cannot trace and
(InputError) samples that do not fit the entry's own input specs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.errors import InputError, UnsupportedError
from edge.export.base import Captured
from edge.export.cost import count_cost
from edge.families.base import Arrays, EntryPoint
from edge.spec import DTYPES, TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram


def capture(entry: EntryPoint, calibration: Sequence[Arrays] | None = None) -> Captured:
    """Trace ``entry`` at the shapes of its first sample; ``calibration`` replaces the entry's own if given."""
    import torch

    if not entry.samples:
        raise InputError(f"entry point '{entry.name}' has no sample inputs: give at least one real one.")
    samples = [complete(entry, sample) for sample in entry.samples]
    chosen = entry.calibration if calibration is None else calibration
    calibrating = tuple(complete(entry, sample) for sample in chosen)
    entry.module.eval()
    with torch.no_grad():
        references = [(sample, eager(entry, sample)) for sample in samples]
    program = trace(entry, entry.module, to_tensors(entry, samples[0]))
    return Captured(
        entry=entry,
        program=program,
        outputs=_output_specs(entry, program, references[0][1]),
        references=tuple(references),
        calibration=calibrating or tuple(samples),
        read=entry.read if entry.read and calibration is None else _reading(entry, calibrating),
        cost=count_cost(entry, program, to_tensors(entry, samples[0])),
    )


def _reading(entry: EntryPoint, samples: Sequence[Arrays]) -> Callable[[], None] | None:
    def read() -> None:
        for sample in samples:
            eager(entry, sample)

    return read if samples else None


def eager(entry: EntryPoint, sample: Arrays) -> dict[str, np.ndarray]:
    """Outputs of the entry's own module, by name, as fresh arrays."""
    return call(entry.module, entry, sample)


def call(function: Any, entry: EntryPoint, sample: Arrays) -> dict[str, np.ndarray]:
    """Outputs, by name, of anything that is called as the entry's module is (the module, an exported graph)."""
    import torch

    with torch.no_grad():
        outputs = function(*to_tensors(entry, sample))
    listed = (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)
    if len(listed) != len(entry.outputs):
        raise UnsupportedError(
            f"entry point '{entry.name}' returns {len(listed)} tensors but names {len(entry.outputs)} outputs "
            f"({', '.join(entry.outputs)}): name each output."
        )
    return {name: np.array(value.detach().numpy()) for name, value in zip(entry.outputs, listed, strict=True)}


def to_tensors(entry: EntryPoint, sample: Arrays) -> tuple[torch.Tensor, ...]:
    """The sample as the module's positional arguments."""
    import torch

    return tuple(torch.from_numpy(np.array(sample[spec.name])) for spec in entry.inputs)


def complete(entry: EntryPoint, sample: Arrays) -> Arrays:
    """The sample checked against the entry's specs, inputs with a ``fill`` added where it leaves them out."""
    return {
        spec.name: spec.check(sample[spec.name]) if spec.name in sample else _filled(entry, spec)
        for spec in entry.inputs
    }


def _filled(entry: EntryPoint, spec: TensorSpec) -> np.ndarray:
    if spec.fill is None:
        raise InputError(f"a sample of entry point '{entry.name}' lacks the input '{spec.name}': add it.")
    return spec.default()


def trace(entry: EntryPoint, module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> ExportedProgram:
    """``module``, which takes ``entry``'s inputs (its own module, or a rewritten graph of it), as an exported program.

    The entry's dynamic dimensions stay dynamic. Raises UnsupportedError with torch.export's reason.
    """
    import torch

    names = [spec.name for spec in entry.inputs]
    dims = {
        dynamic.name: torch.export.Dim(dynamic.name, min=dynamic.min, max=dynamic.max) for dynamic in entry.dynamic
    }
    shapes: list[dict[int, Any] | None] = [
        {dynamic.axis: dims[dynamic.name] for dynamic in entry.dynamic if dynamic.input == name} or None
        for name in names
    ]
    try:
        with warnings.catch_warnings():
            # torch's tracer warns of its own internals (deprecated pytree names); nothing a user can act on.
            warnings.simplefilter("ignore")
            return torch.export.export(module, arguments, dynamic_shapes=tuple(shapes) if dims else None)
    except Exception as error:  # torch.export raises a dozen unrelated types for what it cannot trace
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UnsupportedError(
            f"entry point '{entry.name}' cannot be captured by torch.export ({type(error).__name__}: {reason[:300]}): "
            "rewrite that part without data-dependent Python control flow."
        ) from error


def _output_specs(entry: EntryPoint, program: ExportedProgram, reference: Arrays) -> tuple[TensorSpec, ...]:
    """Name, dtype and shape of each output; a symbolic axis keeps its symbol's name."""
    output = next(node for node in program.graph.nodes if node.op == "output")
    nodes = [node for node in output.args[0] if node is not None]
    specs = []
    for name, node in zip(entry.outputs, nodes[-len(entry.outputs) :], strict=True):
        array = reference[name]
        if array.dtype.name not in DTYPES:
            raise UnsupportedError(
                f"output '{name}' of '{entry.name}' is {array.dtype.name}, which no runtime here returns: cast it to float32."
            )
        symbolic = tuple(node.meta["val"].shape) if "val" in node.meta else array.shape
        shape = tuple(axis if isinstance(axis, int) else str(axis) for axis in symbolic)
        specs.append(TensorSpec(name=name, dtype=array.dtype.name, shape=shape))
    return tuple(specs)
