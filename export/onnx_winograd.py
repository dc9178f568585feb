"""3x3 convolutions of large maps with half the multiplications, by Winograd's F(4, 3) along the rows, for float32 on x86.

    Conv 3x3  ->  6 depthwise Conv 6x1 with stride 4, 6 Conv 1x3, Adds, Concat

Four rows of the result need six products a column tap instead of twelve (S. Winograd, Arithmetic Complexity of
Computations, 1980; A. Lavin and S. Gray, arXiv 1509.09308, for convolutions). The three matrices are those of the points
0, 1, -1, 2, -2. Along the rows only: there a tile's results are put together by copying whole rows, and the transforms
are operators that ONNX Runtime runs in its blocked layout. Both directions at once would be a fourth of the
multiplications, but leave single numbers to be put in order.

A convolution is rewritten if it has one group, stride and dilation 1, a border of 1, constant weights, a height that
four divides, channels for the blocked layout, and enough arithmetic to pay for some thirty small operators.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge.spec import Target

if TYPE_CHECKING:
    import onnx_ir as ir

#: Multiplications and channels from which it pays: 64 to 64 channels at 128x128 took 14 % less time, half as many did not gain.
LEAST_WORK, LEAST_CHANNELS = 1 << 28, 64
#: ONNX Runtime's blocks of channels on x86.
BLOCK = 16
TILE = 4
#: Rows of the input to six sums.
INPUT = (
    (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1),
)  # fmt: skip
#: The three row taps to six weights.
KERNEL = (
    (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1),
)  # fmt: skip


def halve_convolutions(graph: ir.Graph, target: Target) -> None:
    """Rewrite every convolution of ``graph`` that gains by it, in place; none for CPUs without ONNX Runtime's blocks."""
    if target.triple.startswith("x86_64"):
        for node in list(graph):
            if reason_against(node) is None:
                _rewrite(graph, node)


def reason_against(node: ir.Node) -> str | None:
    """Why ``node`` stays as it is; None if it gains."""
    if node.op_type != "Conv" or node.domain:
        return "no convolution"
    weight, x = node.inputs[1], node.inputs[0]
    if weight is None or weight.const_value is None or (len(node.inputs) > 2 and _array(node.inputs[2]) is None):
        return "weights are no constants"
    sizes = tuple(weight.const_value.shape.numpy())
    if len(sizes) != 4 or sizes[2:] != (3, 3):
        return "not 3x3"
    attributes = node.attributes
    plain = (
        attributes.get_int("group", 1) == 1
        and set(attributes.get_ints("strides", [1])) == {1}
        and set(attributes.get_ints("dilations", [1])) == {1}
        and set(attributes.get_ints("pads", [0])) == {1}
        and attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    )
    if not plain:
        return "groups, steps or another border"
    shape = _fixed(x)
    if len(shape) != 4 or shape[2] % TILE:
        return "the height is dynamic or not a multiple of four"
    out, channels = sizes[:2]
    if min(out, channels) < LEAST_CHANNELS or out % BLOCK or channels % BLOCK:
        return "too few channels"
    if shape[0] * out * channels * 9 * shape[2] * shape[3] < LEAST_WORK:
        return "too little work"
    return None


def _rewrite(graph: ir.Graph, node: ir.Node) -> None:
    import onnx_ir as ir

    x, old = node.inputs[0], node.outputs[0]
    kernel, bias = _array(node.inputs[1]), _array(node.inputs[2]) if len(node.inputs) > 2 else None
    assert x is not None and kernel is not None
    batch, channels, height, width = _fixed(x)
    out = kernel.shape[0]

    def constant(name: str, array: np.ndarray) -> ir.Value:
        key = f"{node.name}/{name}"
        graph.register_initializer(ir.val(key, const_value=ir.tensor(np.ascontiguousarray(array), name=key)))
        return graph.initializers[key]

    def emit(kind: str, inputs: list[ir.Value], name: str, **attributes: int | list[int]) -> ir.Value:
        made = ir.node(kind, inputs, attributes=attributes, name=f"{node.name}/{name}")
        made.outputs[0].name, made.outputs[0].type = made.name, old.type
        graph.insert_before(node, made)
        return made.outputs[0]

    products = []
    for point, (sums, taps) in enumerate(zip(INPUT, KERNEL, strict=True)):
        rows = np.broadcast_to(np.array(sums, np.float32)[:, None], (channels, 1, len(sums), 1))
        tile = emit(
            "Conv", [x, constant(f"rows.{point}", rows)], f"tile.{point}",
            group=channels, kernel_shape=[len(sums), 1], strides=[TILE, 1], pads=[1, 0, 1, 0],
        )  # fmt: skip
        mixed = np.einsum("r,ocrs->ocs", np.array(taps), kernel.astype(np.float64))
        inputs = [tile, constant(f"taps.{point}", mixed[:, :, None, :].astype(np.float32))]
        # Each of the four results has the second product once: the bias goes there.
        if point == 1 and bias is not None:
            inputs.append(constant("bias", bias))
        products.append(emit("Conv", inputs, f"product.{point}", kernel_shape=[1, 3], pads=[0, 1, 0, 1]))
    first, one, minus_one, two, minus_two, last = products
    ones, ones_apart = emit("Add", [one, minus_one], "ones"), emit("Sub", [one, minus_one], "ones.apart")
    twos, twos_apart = emit("Add", [two, minus_two], "twos"), emit("Sub", [two, minus_two], "twos.apart")

    def doubled(value: ir.Value, name: str) -> ir.Value:
        return emit("Add", [value, value], name)

    apart2 = doubled(twos_apart, "twos.apart.2")
    apart8 = doubled(doubled(apart2, "twos.apart.4"), "twos.apart.8")
    results = [
        emit("Add", [emit("Add", [first, ones], "row.0.part"), twos], "row.0"),
        emit("Add", [ones_apart, apart2], "row.1"),
        emit("Add", [ones, doubled(doubled(twos, "twos.2"), "twos.4")], "row.2"),
        emit("Add", [emit("Add", [ones_apart, apart8], "row.3.part"), last], "row.3"),
    ]
    lying = constant("row", np.array([batch * out, height // TILE, 1, width]))
    standing = constant("map", np.array([batch, out, height, width]))
    listed = [emit("Reshape", [row, lying], f"row.{index}.flat") for index, row in enumerate(results)]
    new = emit("Reshape", [emit("Concat", listed, "rows", axis=2), standing], "rows.map")
    new.shape = old.shape
    name = old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove([node], safe=True)
    new.name = name


def _fixed(value: ir.Value | None) -> tuple[int, ...]:
    """The sizes of ``value``; empty if one is not known."""
    shape = tuple(value.shape or ()) if value is not None else ()
    known = tuple(axis for axis in shape if isinstance(axis, int))
    return known if len(known) == len(shape) else ()


def _array(value: ir.Value | None) -> np.ndarray | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()
