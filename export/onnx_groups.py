"""Widen the narrow groups of a convolution for int8.

    Conv, groups of 16 channels -> Conv, half as many groups of 32: the weights between the two that share one are zero

ONNX Runtime computes a quantized convolution as one matrix product a group, whose fixed cost exceeds the arithmetic
where groups are narrow: groups of 16 channels took 1.6 times as long as groups of 32 with twice the products. Depthwise
convolutions have a kernel of their own and stay, as do groups that are wide already or have other widths in and out.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from edge.export.onnx_tidy import drop_unread

if TYPE_CHECKING:
    import onnx

#: Channels a group that are enough.
WIDTH = 32


def widen_groups(graph: onnx.GraphProto, chosen: Collection[str]) -> None:
    """Rewrite those of the nodes called ``chosen`` that gain by it, in place."""
    import onnx

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        groups = next((attribute for attribute in node.attribute if attribute.name == "group"), None)
        if node.op_type != "Conv" or node.name not in chosen or groups is None or node.input[1] not in tensors:
            continue
        weight = onnx.numpy_helper.to_array(tensors[node.input[1]])
        outputs, width = weight.shape[0] // groups.i, weight.shape[1]
        together = joined(groups.i, width)
        if outputs != width or together == 1:
            continue
        groups.i //= together
        node.input[1] = f"{node.input[1]}/groups"
        tensors[node.input[1]] = graph.initializer.add()
        tensors[node.input[1]].CopyFrom(onnx.numpy_helper.from_array(widened(weight, together), node.input[1]))
    drop_unread(graph)


def joined(groups: int, width: int) -> int:
    """How many groups of ``width`` channels become one; 1 leaves them as they are."""
    if groups == 1 or width == 1:
        return 1
    return max(count for count in range(1, max(1, WIDTH // width) + 1) if groups % count == 0)


def widened(weight: np.ndarray, together: int) -> np.ndarray:
    """[channels, width, ...] to [channels, together * width, ...], each group's weights at its own place."""
    channels, width = weight.shape[:2]
    wide = np.zeros((channels // width, width, together, *weight.shape[1:]), weight.dtype)
    group = np.arange(channels // width)
    wide[group, :, group % together] = weight.reshape(channels // width, width, *weight.shape[1:])
    return wide.reshape(channels, together * width, *weight.shape[2:])
