"""Small repairs of a finished ONNX graph, in place: what is read, what is equal, what must not be shared."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING

from edge.export.base import Captured

if TYPE_CHECKING:
    import onnx


def finish(model: onnx.ModelProto, captured: Captured) -> None:
    """Last of all: the specs' names for dynamic sizes, attributes in order, no shapes of inner values, nothing twice.

    The exporter's attributes come in an order that differs between two runs, and inner shapes use symbols of its own.
    """
    for values, specs in ((model.graph.input, captured.entry.inputs), (model.graph.output, captured.outputs)):
        for value, spec in zip(values, specs, strict=True):
            assert value.name == spec.name
            del value.type.tensor_type.shape.dim[:]
            for axis in spec.shape:
                dim = value.type.tensor_type.shape.dim.add()
                if isinstance(axis, str):
                    dim.dim_param = axis
                else:
                    dim.dim_value = axis
    _order(model.graph)
    _share(model.graph)


def names_read(node: onnx.NodeProto) -> set[str]:
    """What ``node`` reads, the bodies of its branches and loops included."""
    names = set(node.input)
    for body in _bodies(node):
        names.update(name for inner in body.node for name in names_read(inner))
        names.update(value.name for value in body.output)
    return names


def drop_unread(graph: onnx.GraphProto) -> None:
    """Drop the initializers that no node and no output reads."""
    read = {name for node in graph.node for name in names_read(node)} | {value.name for value in graph.output}
    for index in reversed(range(len(graph.initializer))):  # one by one: a new list would be a copy of all weights
        if graph.initializer[index].name not in read:
            del graph.initializer[index]


def part_int8(graph: onnx.GraphProto) -> None:
    """Give every reader of an int8 initializer one of its own; weights.bin has room for equal ones once.

    With exact kernels for x86 without VNNI (``session.x64quantprecision``), ONNX Runtime 1.32 rewrites int8 weights and
    zero points to uint8 once a reader, by name, and fails on the second.
    """
    import onnx

    int8 = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    pairs = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in int8]
    scaled = {node.output[0]: node for node in pairs}
    readers: Counter[str] = Counter()
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            readers[name] += 1
            if name in scaled and readers[name] > 1:
                copy = onnx.NodeProto()
                copy.CopyFrom(scaled[name])
                copy.name = copy.output[0] = node.input[index] = f"{name}.{readers[name]}"
                nodes.append(copy)
        nodes.append(node)
    readers.clear()
    for node in nodes:
        for index, name in enumerate(node.input):
            readers[name] += 1
            if name in int8 and readers[name] > 1:
                tensor = graph.initializer.add()
                tensor.CopyFrom(int8[name])
                tensor.name = node.input[index] = f"{name}.{readers[name]}"
    del graph.node[:]
    graph.node.extend(nodes)


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [
        body
        for attribute in node.attribute
        for body in ([attribute.g] if attribute.HasField("g") else attribute.graphs)
    ]


def _order(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for node in graph.node:
        attributes = sorted(node.attribute, key=lambda attribute: str(attribute.name))
        del node.attribute[:]
        node.attribute.extend(attributes)
        for body in _bodies(node):
            _order(body)


def _share(graph: onnx.GraphProto) -> None:
    """Keep one of several equal initializers, int8 ones apart: see ``part_int8``."""
    import onnx

    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    # Those that are outputs, or read inside a branch or a loop, keep their names.
    fixed = {name for node in graph.node for name in names_read(node) - set(node.input)}
    fixed |= {value.name for value in graph.output}
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.INT8 and tensor.name not in fixed:
            name, tensor.name = tensor.name, ""
            content = hashlib.sha256(tensor.SerializeToString(deterministic=True)).digest()
            same[name] = first.setdefault(content, name)
            tensor.name = name
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
    drop_unread(graph)
