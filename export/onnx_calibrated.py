"""Which nodes static int8 takes, and which of their readers go back to float32 values.

Chosen are Gemm (of a constant matrix) and Conv, and what can stay in uint8 between convolutions. Everything else stays
float32: QLinear forms of normalisation or softmax do not exist or cost accuracy, and quantizing the residual stream of
a mixer made it 1.5 times slower than quantizing its Gemms alone.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from edge.export.onnx_graph import in_modules
from edge.export.onnx_tidy import drop_unread, names_read
from edge.families.base import EntryPoint

if TYPE_CHECKING:
    import onnx

#: Operators that ONNX Runtime computes in uint8 at about the cost of copying.
_CARRIERS = {"Relu", "Clip", "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Pad"}
_CARRIERS |= {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Resize"}
#: Carriers that become part of the node before them: their range is the quantized range.
_CLAMPS = {"Relu", "Clip"}
_SAME_SHAPE = "/shape.same"  # of a matrix, for Reshape: the first axis as it is, the rest


def quantized_nodes(graph: onnx.GraphProto, entry: EntryPoint) -> tuple[list[onnx.NodeProto], list[str]]:
    """The nodes of ``graph`` to quantize, in its order, and a sentence if linear layers had to stay float32."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producer = {name: node.name for node in graph.node for name in node.output}
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
    free = [node for node in graph.node if not in_modules(node.name, entry.keep_float)]
    heavy = {
        node.name: node.op_type
        for node in free
        if node.op_type in ("Gemm", "Conv") and node.input[1] in constants and node.input[0] not in constants
    }
    carriers = {node.name: node for node in free if node.op_type in _CARRIERS}
    # A clamp of a linear layer's result carries it to the next layer only: sums of such results stay float32, as they
    # are residual streams.
    clamps = {
        name
        for name, node in carriers.items()
        if node.op_type in _CLAMPS and heavy.get(producer.get(node.input[0], "")) == "Gemm"
    }

    def stays(node: onnx.NodeProto) -> bool:
        sources = [producer.get(name, "") for name in node.input if name and name not in constants]
        if not sources:
            return False
        read = {reader for name in node.output for reader in readers.get(name, [])}
        if node.name in clamps:
            return bool(read & heavy.keys())
        spatial = all(heavy.get(source) == "Conv" or source in carriers.keys() - clamps for source in sources)
        absorbed = node.op_type in _CLAMPS and heavy.get(sources[0]) == "Conv"
        return spatial and (absorbed or bool(read & (heavy.keys() | carriers.keys())))

    # A carrier needs quantized values on both sides, which other carriers may bring: drop until nothing changes.
    while dropped := [name for name, node in carriers.items() if not stays(node)]:
        for name in dropped:
            del carriers[name]
    chosen = [node for node in graph.node if node.name in heavy or node.name in carriers]
    left = [node for node in free if node.op_type == "MatMul" and any(name in constants for name in node.input)]
    sentences = []
    if left:
        sentences.append(
            f"entry point '{entry.name}': {len(left)} matrix product(s) that are no plain linear layer (the weight is "
            "the left operand, or has more than two axes, or several sizes are dynamic) stay float32."
        )
    return chosen, sentences


def read_in_float(quantized: onnx.GraphProto, chosen: list[onnx.NodeProto], original: onnx.GraphProto) -> None:
    """Let float32 nodes read float32 values past QuantizeLinear -> DequantizeLinear, in place.

    The quantizer puts such a pair on a value for all of its readers. Where the value is float32 anyway (it does not
    come from a convolution, or from a clamp that the pair replaces), those that are not quantized lose accuracy and
    time by it: the residual beside a linear layer, raw inputs before their normalisation, the result itself.
    """
    taken = {node.name: node for node in chosen}
    integer = {name for node in chosen if node.op_type != "Gemm" for name in node.output}
    known = {name for node in original.node for name in node.output} | {value.name for value in original.input}
    ends = {value.name for value in quantized.output}
    source = {name: node for node in quantized.node for name in node.output}
    renamed: dict[str, str] = {}
    for node in quantized.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in source:
            continue
        before = source[node.input[0]].input[0]
        value = before if before in known else node.output[0]
        if value in known and value not in integer:
            renamed[node.output[0]] = before
    for node in quantized.node:
        if node.name not in taken:
            for index, name in enumerate(node.input):
                node.input[index] = renamed.get(name, name)
    for end in ends & renamed.keys():
        _take_name(quantized, source[renamed[end]], renamed[end], end)
    _drop_dead(quantized)
    _part_readers(quantized)


def _part_readers(graph: onnx.GraphProto) -> None:
    """Where both a QuantizeLinear and others read a Gemm's result, a Reshape that changes nothing parts them.

    ONNX Runtime makes a QGemm only if all readers of the result are QuantizeLinear nodes or none is; a Gemm with both
    kinds would run in float32 behind dequantized weights.
    """
    import onnx

    gemms = {node.output[0] for node in graph.node if node.op_type == "Gemm"}
    reads = Counter(name for node in graph.node for name in node.input)
    reads.update(value.name for value in graph.output)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        name = node.input[0] if node.op_type == "QuantizeLinear" else ""
        if name in gemms and reads[name] > 1:
            if all(tensor.name != _SAME_SHAPE for tensor in graph.initializer):
                graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, -1], np.int64), _SAME_SHAPE))
            apart = f"{name}/apart"
            nodes.append(onnx.helper.make_node("Reshape", [name, _SAME_SHAPE], [apart], apart))
            node.input[0] = apart
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _take_name(graph: onnx.GraphProto, producer: onnx.NodeProto, name: str, end: str) -> None:
    """``name``, the value that ``producer`` computes, becomes the graph output ``end``, which a node gave until now."""
    for node in graph.node:
        for index, output in enumerate(node.output):
            if output == end:
                node.output[index] = f"{end}/dequantized"
        for index, read in enumerate(node.input):
            if read == end:
                node.input[index] = f"{end}/dequantized"
            elif read == name:
                node.input[index] = end
    producer.output[list(producer.output).index(name)] = end


def _drop_dead(graph: onnx.GraphProto) -> None:
    """Drop nodes that nothing reads, last first, then initializers that nothing reads."""
    used = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(name in used for name in node.output):
            kept.append(node)
            used.update(names_read(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))
    drop_unread(graph)
