"""An entry point in the form for edge's own kernels, as ``executorch_quantize`` makes one for XNNPACK."""

from __future__ import annotations

from edge.export.base import Captured
from edge.export.capture import to_tensors, trace
from edge.export.executorch_quantize import Quantized


def packed(captured: Captured, bits: int) -> Quantized:
    """Weights packed in ``bits``, the graph made of ``torch.ops.edge``; it computes in torch what it will when lowered."""
    entry = captured.entry
    assert entry.kernels is not None
    module = entry.kernels(bits).eval()
    program = trace(entry, module, to_tensors(entry, captured.references[0][0]))
    layers = [node for node in program.graph.nodes if getattr(node.target, "namespace", "") == "edge"]
    return Quantized(program, module, len(layers), ())
