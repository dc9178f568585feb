"""What one inference costs, counted on the captured graph: operations and bytes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edge.families.base import EntryPoint
from edge.manifest import Cost

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram
    from torch.fx import Node


def count_cost(entry: EntryPoint, program: ExportedProgram, arguments: tuple[torch.Tensor, ...]) -> Cost:
    """FLOPs of matrix products and convolutions (torch's own counter), bytes of weights and of activations.

    Elementwise work is left out of ``flops``: beside the products it is small, and no two runtimes do it alike.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        entry.module(*arguments)
    weights = {**program.state_dict, **program.constants}
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    return Cost(
        flops=int(counter.get_total_flops()),
        weight_bytes=sum(value.nbytes for value in weights.values() if isinstance(value, torch.Tensor)),
        activation_bytes=sum(_node_bytes(node) + sum(map(_node_bytes, node.all_input_nodes)) for node in calls),
        operators=len(calls),
    )


def _node_bytes(node: Node) -> int:
    import torch

    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or node.op == "placeholder":
        return 0
    return math.prod(size if isinstance(size, int) else 1 for size in value.shape) * value.element_size()
