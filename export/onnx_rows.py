"""Flatten what works row by row, so that every linear layer becomes one Gemm on a matrix.

    [1, T, K] -> MatMul -> Add -> Gelu -> MatMul -> Add -> [1, T, N]
    [1, T, K] -> Reshape -> Gemm -> Gelu -> Gemm -> Reshape -> [1, T, N]

ONNX Runtime makes a Gemm of every MatMul with bias too, but wraps each in two Reshapes of its own; here a whole region
shares them. It matters for int8 above all: there only the Gemm form runs in integers (MatMul with bias falls back to
float32 behind a dequantized weight).

A node may join a region if it computes each row of the last axis from the same row alone: elementwise operators whose
operands have the same leading axes, or are constants that repeat with the rows; normalisation, softmax, concatenation
and splitting along the last axis; and MatMul by a constant matrix. Its leading axes may hold one dynamic size. A region
without a MatMul stays as it is; so does, unless ``always``, one that needs more Reshapes than it saves.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

_ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Abs", "Neg", "Sqrt", "Reciprocal", "Exp", "Log"}
_ACTIVATIONS = {"Relu", "LeakyRelu", "Elu", "Gelu", "Erf", "Tanh", "Sigmoid", "Softplus", "HardSigmoid", "HardSwish"}
_ELEMENTWISE = _ARITHMETIC | _ACTIVATIONS | {"Clip", "Identity", "Sin", "Cos", "Floor", "Ceil", "Round", "Sign"}
#: Operators with an ``axis`` attribute that is the last one by default, and those where it is not.
_ALONG_LAST = {"LayerNormalization", "RMSNormalization", "Softmax", "LogSoftmax"}
_ALONG_AXIS = _ALONG_LAST | {"Split", "Concat"}

Lead = tuple[int | str, ...]


def flatten_rows(graph: ir.Graph, always: bool = False) -> None:
    """Flatten every region of ``graph`` that gains by it, and make Gemms of its MatMuls, in place."""
    flat: dict[ir.Value, ir.Value] = {}  # what entered a region, as rows: regions share it
    for lead, nodes in _regions(graph):
        entering, leaving = _boundary(nodes)
        linears = sum(node.op_type == "MatMul" for node in nodes)
        if linears and (always or len(entering) + len(leaving) < 2 * linears):
            _flatten(graph, lead, nodes, flat, entering, leaving)
    for node in list(graph):
        _to_gemm(graph, node)


def _regions(graph: ir.Graph) -> list[tuple[Lead, list[ir.Node]]]:
    """Connected groups of row-wise nodes with equal leading axes, each in the order of the graph."""
    lead_of: dict[ir.Node, Lead] = {}
    parent: dict[ir.Node, ir.Node] = {}

    def root(node: ir.Node) -> ir.Node:
        while parent[node] is not node:
            node = parent[node]
        return node

    for node in graph:
        lead = _row_lead(node)
        if lead is None:
            continue
        lead_of[node], parent[node] = lead, node
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and lead_of.get(producer) == lead:
                parent[root(producer)] = root(node)
    groups: dict[ir.Node, list[ir.Node]] = {}
    for node in lead_of:
        groups.setdefault(root(node), []).append(node)
    return [(lead_of[nodes[0]], nodes) for nodes in groups.values()]


def _row_lead(node: ir.Node) -> Lead | None:
    """The leading axes over which ``node`` works row by row; None if it does not, or they cannot be flattened."""
    if node.domain or not node.outputs or _lead(node.outputs[0]) is None:
        return None
    lead, row = _lead(node.outputs[0]), _last(node.outputs[0])
    assert lead is not None
    if len(lead) < 2 or sum(not isinstance(axis, int) for axis in lead) > 1 or not isinstance(row, int):
        return None
    if any(_lead(value) != lead for value in node.outputs):
        return None
    data = [value for value in node.inputs if value is not None]
    if node.op_type == "MatMul":
        constant = len(data[1].shape or ()) == 2 and data[1].const_value is not None
        return lead if constant and _lead(data[0]) == lead else None
    if node.op_type in _ALONG_AXIS:
        axis = node.attributes.get_int("axis", -1 if node.op_type in _ALONG_LAST else 0)
        if axis % (len(lead) + 1) != len(lead):
            return None
        if node.op_type != "Concat":  # the others take constants beside the data: weights, sizes
            data, constants = data[:1], data[1:]
            if any(value.const_value is None or len(value.shape or ()) > 1 for value in constants):
                return None
        return lead if all(_lead(value) == lead for value in data) else None
    if node.op_type in _ELEMENTWISE:
        return lead if all(_lead(value) == lead or _repeats(value, lead) for value in data) else None
    return None


def _lead(value: ir.Value) -> Lead | None:
    if value.shape is None or len(value.shape) < 1:
        return None
    return tuple(axis if isinstance(axis, int) else str(axis) for axis in tuple(value.shape)[:-1])


def _last(value: ir.Value) -> int | None:
    last = value.shape[-1] if value.shape else None
    return last if isinstance(last, int) else None


def _repeats(value: ir.Value, lead: Lead) -> bool:
    """Whether ``value`` is a constant that is the same for every row."""
    if value.const_value is None:
        return False
    shape = tuple(value.const_value.shape.numpy())
    return len(shape) <= len(lead) + 1 and all(axis == 1 for axis in shape[:-1])


def _boundary(nodes: list[ir.Node]) -> tuple[list[ir.Value], list[ir.Value]]:
    """The values that enter the region as data, and those that leave it, each once, in order."""
    inside = set(nodes)
    entering = {
        value: None
        for node in nodes
        for value in _data_inputs(node)
        if value.producer() not in inside and not _is_row_constant(value, nodes)
    }
    leaving = [
        value
        for node in nodes
        for value in node.outputs
        if value.is_graph_output() or any(use.node not in inside for use in value.uses())
    ]
    return list(entering), leaving


def _data_inputs(node: ir.Node) -> list[ir.Value]:
    data = [value for value in node.inputs if value is not None]
    return data if node.op_type in _ELEMENTWISE or node.op_type == "Concat" else data[:1]


def _is_row_constant(value: ir.Value, nodes: list[ir.Node]) -> bool:
    lead = _lead(nodes[0].outputs[0])
    assert lead is not None
    return _repeats(value, lead) and _lead(value) != lead


def _flatten(
    graph: ir.Graph,
    lead: Lead,
    nodes: list[ir.Node],
    flat: dict[ir.Value, ir.Value],
    entering: list[ir.Value],
    leaving: list[ir.Value],
) -> None:
    import onnx_ir as ir

    fixed = [axis for axis in lead if isinstance(axis, int)]
    rows: int | str = math.prod(fixed) if len(fixed) == len(lead) else "rows"
    for value in entering:
        if value not in flat:
            name = f"/{value.name}.rows" if value.is_graph_input() else f"{value.name}/rows"
            flat[value] = _reshape(graph, value, (-1, _last(value)), name)
            flat[value].shape = ir.Shape([rows, _last(value)])
    inside = set(nodes)
    outside = {value: [use for use in value.uses() if use.node not in inside] for value in leaving}
    for node in nodes:
        for index, read in enumerate(node.inputs):
            if read in flat:
                node.replace_input_with(index, flat[read])
            elif read is not None and _is_row_constant(read, nodes) and len(read.shape or ()) > 1:
                node.replace_input_with(index, _squeezed(graph, read))
        if node.op_type in _ALONG_AXIS:
            node.attributes.add(ir.AttrInt64("axis", -1))
    for node in nodes:
        for value in node.outputs:
            value.shape = ir.Shape([rows, _last(value)])
    for value in leaving:
        producer, name = value.producer(), str(value.name)
        assert producer is not None
        if value.is_graph_output():
            value.name = f"{producer.name}/rows"
        sizes = (*(axis if isinstance(axis, int) else -1 for axis in lead), _last(value))
        back = _reshape(graph, value, sizes, f"{value.name}/back")
        back.shape = ir.Shape([*lead, _last(value)])
        for use in outside[value]:
            use.node.replace_input_with(use.idx, back)
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[index] = back
                back.name = name


def _reshape(graph: ir.Graph, value: ir.Value, sizes: tuple[int | None, ...], name: str) -> ir.Value:
    """``value`` as an array of ``sizes``, as soon as it is there."""
    import onnx_ir as ir

    key = f"/shape.{'x'.join(map(str, sizes))}"
    if key not in graph.initializers:
        graph.register_initializer(ir.val(key, const_value=ir.tensor(np.array(sizes, np.int64), name=key)))
    node = ir.node("Reshape", [value, graph.initializers[key]], name=name)
    node.outputs[0].name, node.outputs[0].type = name, value.type
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, node)
    return node.outputs[0]


def _squeezed(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """``value``, a constant of shape [1, ..., 1, N], as [N]."""
    import onnx_ir as ir

    name = f"{value.name}/row"
    if name not in graph.initializers:
        assert value.const_value is not None
        array = value.const_value.numpy()
        graph.register_initializer(ir.val(name, const_value=ir.tensor(array.reshape(array.shape[-1]), name=name)))
    return graph.initializers[name]


def _to_gemm(graph: ir.Graph, node: ir.Node) -> None:
    """MatMul of a matrix by a constant matrix, with the bias that follows it, -> Gemm."""
    import onnx_ir as ir

    if node.op_type != "MatMul" or node.domain:
        return
    left, right = node.inputs
    product = node.outputs[0]
    if left is None or right is None or right.const_value is None:
        return
    if len(left.shape or ()) != 2 or len(right.shape or ()) != 2:
        return
    uses = list(product.uses())
    add = uses[0].node if len(uses) == 1 and not product.is_graph_output() and uses[0].node.op_type == "Add" else None
    bias = add.inputs[1 - uses[0].idx] if add is not None else None
    if bias is None or bias.const_value is None or tuple(bias.const_value.shape.numpy()) != (_last(product),):
        add = bias = None
    last = node if add is None else add
    gemm = ir.node("Gemm", [left, right] if bias is None else [left, right, bias], name=last.name)
    old, new = last.outputs[0], gemm.outputs[0]
    new.type, new.shape = old.type, old.shape
    graph.insert_before(last, gemm)
    name = old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove([last], safe=True)
    if add is not None:
        graph.remove([node], safe=True)
    new.name = name
