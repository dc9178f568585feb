"""An entry point in the form for edge's own kernels, as ``executorch_quantize`` makes one for XNNPACK."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.export.base import Captured
from edge.export.capture import to_tensors, trace
from edge.export.executorch_quantize import Quantized

if TYPE_CHECKING:
    from edge.runtimes.kernels.weights import Weights


def packed(captured: Captured, weights: Weights) -> Quantized:
    """Weights packed, the graph made of ``torch.ops.edge``; it computes in torch what it will when lowered."""
    entry = captured.entry
    assert entry.kernels is not None
    module = entry.kernels.build(weights).eval()
    program = trace(entry, module, to_tensors(entry, captured.references[0][0]))
    layers = [node for node in program.graph.nodes if getattr(node.target, "namespace", "") == "edge"]
    return Quantized(program, module, len(layers), ())
