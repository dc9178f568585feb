"""int4 weights in groups, on the exporter's graph while its weights are still torch's: no float copy is ever made.

    Gemm, MatMul with a constant matrix   ->  MatMulNBits (com.microsoft), symmetric; activations int8 at run time
    Gather of rows of a constant matrix   ->  GatherBlockQuantized, with the very same bytes where the two are tied

A look-up table is quantized only if a matrix product reads it too, or if it is large: an embedding, not a list of
constants. Modules that match the entry's ``keep_float`` are left alone. The last group of a matrix's columns is padded
with zeros; a table whose rows do not divide into groups stays in float.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge.errors import UnsupportedError
from edge.export.onnx_graph import in_modules

if TYPE_CHECKING:
    import onnx_ir as ir

#: Block sizes of MatMulNBits.
GROUPS = (16, 32, 64, 128, 256)
_DOMAIN = "com.microsoft"
#: Level 4 is int8 activations; below it, the kernel widens the weights first and is slower than float32.
_ACCURACY = 4
#: Rows that are quantized at a time, so that the transposed copy stays small.
_ROWS = 8192
#: Elements from which a table counts as large.
_TABLE = 1 << 16


def group_weights(model: ir.Model, keep_float: tuple[str, ...], group: int) -> None:
    """Quantize ``model`` in place; UnsupportedError for a group size that there is no kernel for."""
    if group not in GROUPS:
        known = ", ".join(map(str, GROUPS))
        raise UnsupportedError(f"ONNX Runtime has no int4 groups of {group} weights: choose one of {known}.")
    graph = model.graph
    made: dict[tuple[str, bool], tuple[ir.Value, ir.Value]] = {}
    products = [node for node in graph if not in_modules(node.name or "", keep_float) and _weight(node) is not None]
    tied = {weight.name for node in products if (weight := _weight(node)) is not None}
    tables = [node for node in graph if not in_modules(node.name or "", keep_float) and _is_table(node, tied, group)]
    for node in products:
        weight = _weight(node)
        assert weight is not None
        rows_last = node.op_type == "Gemm" and _integer(node, "transB") == 1
        packed, scales, (outputs, inputs) = _stored(graph, made, weight, rows_last, group)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        _become(node, "MatMulNBits", [node.inputs[0], packed, scales, *([None, None, bias] if bias is not None else [])], {
            "K": inputs, "N": outputs, "bits": 4, "block_size": group, "accuracy_level": _ACCURACY,
        })  # fmt: skip
    for node in tables:
        table = node.inputs[0]
        assert table is not None
        packed, scales, (rows, width) = _stored(graph, made, table, True, group)
        data = _initializer(graph, f"{table.name}/rows", _array(packed).reshape(rows, width // 2))
        steps = _initializer(graph, f"{table.name}/row_scales", _array(scales).reshape(rows, width // group))
        _become(node, "GatherBlockQuantized", [data, node.inputs[1], steps], {
            "gather_axis": 0, "quantize_axis": 1, "block_size": group, "bits": 4,
        })  # fmt: skip
    if products or tables:
        model.opset_imports.setdefault(_DOMAIN, 1)
    outputs_of_graph = set(graph.outputs)
    for value in list(graph.initializers.values()):
        if not value.uses() and value not in outputs_of_graph:
            del graph.initializers[str(value.name)]


def pack(weight: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [N, K] as MatMulNBits stores it: nibbles [N, groups, group / 2] uint8 and scales [N, groups] float32."""
    from onnxruntime.capi._pybind_state import quantize_matmul_4bits

    outputs, inputs = weight.shape
    groups = -(-inputs // group)
    packed = np.zeros((outputs, groups, group // 2), np.uint8)
    scales = np.zeros((outputs, groups), np.float32)
    for start in range(0, outputs, _ROWS):
        part = weight[start : start + _ROWS]
        padded = np.zeros((groups * group, len(part)), np.float32)
        padded[:inputs] = part.T
        zeros = np.zeros((len(part), -(-groups // 2)), np.uint8)
        here, steps = packed[start : start + _ROWS], scales[start : start + _ROWS]
        quantize_matmul_4bits(here, padded, steps, zeros, group, len(part), inputs, True)
    return packed, scales


def _weight(node: ir.Node) -> ir.Value | None:
    """The constant matrix that ``node`` multiplies by, if it is a plain linear layer."""
    if node.domain or node.op_type not in ("Gemm", "MatMul"):
        return None
    value = node.inputs[1]
    if value is None or value.const_value is None or len(value.const_value.shape) != 2:
        return None
    if value.const_value.dtype.name != "FLOAT":
        return None
    if node.op_type == "Gemm":
        plain = _number(node, "alpha") == _number(node, "beta") == 1.0 and not _integer(node, "transA")
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        row = bias is None or (bias.const_value is not None and len(bias.const_value.shape) == 1)
        return value if plain and row else None
    return value


def _is_table(node: ir.Node, tied: set[str | None], group: int) -> bool:
    if node.domain or node.op_type != "Gather" or _integer(node, "axis"):
        return False
    table = node.inputs[0]
    if table is None or table.const_value is None or table.const_value.dtype.name != "FLOAT":
        return False
    shape = [int(axis) for axis in table.const_value.shape.numpy()]
    return len(shape) == 2 and shape[1] % group == 0 and (table.name in tied or shape[0] * shape[1] >= _TABLE)


def _stored(
    graph: ir.Graph, made: dict[tuple[str, bool], tuple[ir.Value, ir.Value]], weight: ir.Value, rows_last: bool, group: int
) -> tuple[ir.Value, ir.Value, tuple[int, int]]:
    """Initializers with the packed weight and its scales, made once, and [N, K]."""
    first, second = (int(axis) for axis in weight.const_value.shape.numpy())  # type: ignore[union-attr]
    shape = (first, second) if rows_last else (second, first)
    key = (str(weight.name), rows_last)
    if key not in made:
        array = _array(weight)
        packed, scales = pack(array if rows_last else array.T, group)
        suffix = "" if rows_last else "/transposed"
        made[key] = (
            _initializer(graph, f"{weight.name}{suffix}_Q4", packed),
            _initializer(graph, f"{weight.name}{suffix}_scales", scales),
        )
    return *made[key], shape


def _array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


def _initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    import onnx_ir as ir

    if name in graph.initializers:
        return graph.initializers[name]
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _become(node: ir.Node, kind: str, inputs: list[ir.Value | None], attributes: dict[str, int]) -> None:
    """Turn ``node`` into another operator with the same outputs."""
    import onnx_ir as ir

    node.domain, node.op_type = _DOMAIN, kind
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)
    node.attributes.clear()
    for name, number in attributes.items():
        node.attributes[name] = ir.AttrInt64(name, number)


def _integer(node: ir.Node, name: str) -> int:
    found = node.attributes.get(name)
    return 0 if found is None else found.as_int()


def _number(node: ir.Node, name: str) -> float:
    found = node.attributes.get(name)
    return 1.0 if found is None else found.as_float()
