"""An entry point in its form for edge's own kernels, as every runtime's lowering begins with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge.export.base import Captured
from edge.export.capture import call, to_tensors, trace
from edge.families.base import Arrays

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from edge.runtimes.kernels.weights import Weights


@dataclass(frozen=True)
class Packed:
    """Its graph of ``torch.ops.edge`` with weights packed, and what that computes in torch."""

    program: ExportedProgram
    run: Callable[[Arrays], Arrays]


def packed(captured: Captured, weights: Weights) -> Packed:
    entry = captured.entry
    assert entry.kernels is not None
    module = entry.kernels.build(weights).eval()
    program = trace(entry, module, to_tensors(entry, captured.references[0][0]))
    return Packed(program, lambda sample: call(module, entry, sample))
