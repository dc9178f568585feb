"""Linear layers with narrow weights for TVM: the captured graph with integer products, or with weights in float16.

TVM's importers compute quantized models in float, so the graph is rewritten here, before the import:

    linear(x, W, b)  ->  float(int8_matmul(q(x), Wq)) * (sx * sw) + b      int8, int8-dynamic
    linear(x, W, b)  ->  half_matmul(x, half(W)) + b                       fp16: computed in float32

and a 1 x 1 convolution, which is a linear layer over channels, alike, by ``int8_pointwise`` and ``half_pointwise``.

``Wq`` has a scale ``sw`` for each output channel (symmetric, 127 levels a side). ``q`` is affine with one scale and
zero point from the calibration samples (int8), or symmetric with one scale a row, found at run time (int8-dynamic).
Every ``linear``, ``matmul`` with a constant 2-D matrix and 1 x 1 convolution is rewritten, except in the modules that ``keep_float`` names
and where input or output is narrower than ``NARROW``. A model without such a layer is refused (UnsupportedError).
"""

from __future__ import annotations

import fnmatch
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge.errors import UnsupportedError
from edge.export.base import Captured
from edge.export.capture import call, to_tensors
from edge.export.tvm_convert import module_of
from edge.families.base import Arrays
from edge.spec import Scheme

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node

#: Narrower products than this cost more to quantize than they save, and are often means written as products.
NARROW = 8
#: The smallest scale of a row: a row of zeros must not divide by zero.
TINY = 1e-12


@dataclass(frozen=True)
class Quantized:
    """The rewritten entry as a program to lower, the same graph to run in torch, and how many layers are rewritten."""

    program: ExportedProgram
    run: Callable[[Arrays], Arrays]
    layers: int


def quantize(captured: Captured, scheme: Scheme) -> Quantized:
    """The captured graph with its linear layers rewritten; ``scheme`` is any but FP32 and INT4."""
    import torch

    entry = captured.entry
    register_operators()
    graph_module = captured.program.module(check_guards=False)
    products = find_products(graph_module, entry.keep_float)
    arguments = to_tensors(entry, captured.references[0][0])
    with torch.no_grad():
        if scheme is Scheme.INT8:
            ranges = observe(graph_module, products, [to_tensors(entry, sample) for sample in captured.calibration])
            _rewrite(graph_module, products, lambda seen, x, _: _affine(graph_module, x, ranges[seen]))
        elif scheme is Scheme.INT8_DYNAMIC:
            _rewrite(graph_module, products, lambda _, x, axis: _by_row(graph_module, x, axis))
        else:
            _halve(graph_module, products)
        with warnings.catch_warnings():
            # As in capture: torch's tracer warns of its own internals.
            warnings.simplefilter("ignore")
            program = torch.export.export(graph_module, arguments, dynamic_shapes=_dynamic_shapes(captured))
    return Quantized(program, lambda sample: call(graph_module, entry, sample), len(products))


def refuse_nothing_quantized(quantized: Sequence[Quantized], scheme: Scheme) -> None:
    if not any(entry.layers for entry in quantized):
        raise UnsupportedError(
            f"{scheme.value} on tvm covers linear layers and 1 x 1 convolutions (of at least {NARROW} inputs and outputs) and "
            "this model has none outside keep_float: choose fp32, or another runtime."
        )


@dataclass(frozen=True)
class Product:
    """A matrix product with a constant: its node, its input, the weight as [N, K], the bias's node, and along which axis
    of the input it sums: -1, or 1 where channels come first."""

    node: Node
    x: Node
    weight: torch.Tensor
    bias: Node | None
    axis: int = -1

    @property
    def per_output(self) -> list[int]:
        """The shape in which one value an output channel meets the product."""
        return [-1] if self.axis == -1 else [1, -1, 1, 1]


def find_products(graph_module: GraphModule, keep_float: tuple[str, ...]) -> list[Product]:
    """Every product to quantize, in order."""
    import torch

    aten = torch.ops.aten
    found = []
    for node in graph_module.graph.nodes:
        if node.op != "call_function" or node.target not in (
            aten.linear.default, aten.matmul.default, aten.conv2d.default,
        ):  # fmt: skip
            continue
        x, weight = node.args[0], _constant(graph_module, node.args[1])
        if weight is None or weight.dtype != torch.float32 or x.op == "get_attr":
            continue
        axis = -1
        if node.target is aten.conv2d.default:
            if not _is_pointwise(node, weight):
                continue
            weight, axis = weight[:, :, 0, 0], 1
        elif weight.ndim != 2:
            continue
        elif node.target is aten.matmul.default:
            weight = weight.t()
        if min(weight.shape) < NARROW or _kept(module_of(node), keep_float):
            continue
        bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
        if bias is not None and _constant(graph_module, bias) is None:
            continue
        found.append(Product(node, x, weight.detach(), bias, axis))
    return found


def _is_pointwise(node: Node, weight: torch.Tensor) -> bool:
    """Whether a conv2d with a batch axis is 1 x 1, in one group, without stride or padding."""
    defaults = (("stride", 3, 1), ("padding", 4, 0), ("groups", 6, 1))
    for name, position, plain in defaults:
        value = node.args[position] if len(node.args) > position else node.kwargs.get(name, plain)
        if set(value if isinstance(value, list | tuple) else [value]) != {plain}:
            return False
    return tuple(weight.shape[2:]) == (1, 1) and len(node.meta["val"].shape) == 4


def observe(
    graph_module: GraphModule, products: Sequence[Product], samples: Sequence[tuple[torch.Tensor, ...]]
) -> Mapping[Node, tuple[float, float]]:
    """Least and greatest value (0 included, so that it is exact) of each product's input over the samples."""
    import torch

    watched = {product.x for product in products}
    ranges = dict.fromkeys(watched, (0.0, 0.0))

    class Observer(torch.fx.Interpreter):
        def run_node(self, n: Node) -> Any:
            value = super().run_node(n)
            if n in watched:
                low, high = torch.aminmax(value)
                known = ranges[n]
                ranges[n] = (min(known[0], float(low)), max(known[1], float(high)))
            return value

    for sample in samples:
        Observer(graph_module).run(*sample)
    return ranges


#: Takes a product's input as it was observed and as it stands now and the axis of its sums, emits the nodes that quantize
#: it, and gives the int8 node, the factor of the product (a number or a node) and the zero point.
_Quantizer = Callable[["Node", "Node", int], tuple["Node", "float | Node", int]]


def _affine(graph_module: GraphModule, x: Node, observed: tuple[float, float]) -> tuple[Node, float, int]:
    """q = clamp(round(x / scale) + zero, -128, 127); 255 steps cover the observed range."""
    import torch

    aten = torch.ops.aten
    low, high = observed
    scale = max((high - low) / 255.0, TINY)
    zero = max(-128, min(127, round(-128 - low / scale)))
    new = graph_module.graph.call_function
    steps = new(aten.round.default, (new(aten.mul.Tensor, (x, 1.0 / scale)),))
    clamped = new(aten.clamp.default, (steps, -128.0 - zero, 127.0 - zero))
    shifted = new(aten.add.Tensor, (clamped, float(zero)))
    return new(aten._to_copy.default, (shifted,), {"dtype": torch.int8}), scale, zero


def _by_row(graph_module: GraphModule, x: Node, axis: int) -> tuple[Node, Node, int]:
    """q = round(x / scale) with scale = max|x| / 127 over the axis of the sums."""
    import torch

    aten = torch.ops.aten
    new = graph_module.graph.call_function
    largest = new(aten.amax.default, (new(aten.abs.default, (x,)), [axis], True))
    scale = new(aten.clamp.default, (new(aten.mul.Tensor, (largest, 1.0 / 127.0)), TINY))
    steps = new(aten.round.default, (new(aten.mul.Tensor, (x, new(aten.reciprocal.default, (scale,)))),))
    return new(aten._to_copy.default, (steps,), {"dtype": torch.int8}), scale, 0


def _rewrite(graph_module: GraphModule, products: Sequence[Product], quantizer: _Quantizer) -> None:
    import torch

    aten, graph = torch.ops.aten, graph_module.graph
    quantized: dict[tuple[Node, int], tuple[Node, float | Node, int]] = {}
    values: dict[Node, Node] = {}  # what stands for a product that is gone already
    for index, product in enumerate(products):
        # An input that several products share (a query, a key, a value) is quantized once, where the first stands.
        with graph.inserting_before(product.node):
            key = product.x, product.axis
            if key not in quantized:
                quantized[key] = quantizer(product.x, values.get(product.x, product.x), product.axis)
            q, factor, zero = quantized[key]
            weight, scale = quantize_weight(product.weight)
            shift = torch.zeros(len(scale), dtype=torch.float64)
            if product.bias is not None:
                shift += _constant_of(graph_module, product.bias).double()
            if isinstance(factor, float):
                scale = scale * factor
                shift -= zero * weight.sum(1).double() * scale
            name = f"int8_product_{index}"
            operators = torch.ops.edge_tvm
            integer = operators.int8_matmul.default if product.axis == -1 else operators.int8_pointwise.default
            accumulated = graph.call_function(integer, (q, _buffer(graph_module, f"{name}_weight", weight)))
            shape = product.per_output
            value = graph.call_function(aten._to_copy.default, (accumulated,), {"dtype": torch.float32})
            if not isinstance(factor, float):
                value = graph.call_function(aten.mul.Tensor, (value, factor))
            value = graph.call_function(
                aten.mul.Tensor, (value, _buffer(graph_module, f"{name}_scale", scale.float().reshape(shape)))
            )
            if product.bias is not None or zero:
                value = graph.call_function(
                    aten.add.Tensor, (value, _buffer(graph_module, f"{name}_shift", shift.float().reshape(shape)))
                )
        values[product.node] = value
        product.node.replace_all_uses_with(value)
        graph.erase_node(product.node)
    graph.eliminate_dead_code()
    graph_module.recompile()


def _halve(graph_module: GraphModule, products: Sequence[Product]) -> None:
    import torch

    graph = graph_module.graph
    for index, product in enumerate(products):
        with graph.inserting_before(product.node):
            weight = _buffer(graph_module, f"half_product_{index}_weight", product.weight.half())
            operators = torch.ops.edge_tvm
            half = operators.half_matmul.default if product.axis == -1 else operators.half_pointwise.default
            value = graph.call_function(half, (product.node.args[0], weight))
            if product.bias is not None:
                bias = _constant_of(graph_module, product.bias).reshape(product.per_output)
                bias_node = _buffer(graph_module, f"half_product_{index}_bias", bias)
                value = graph.call_function(torch.ops.aten.add.Tensor, (value, bias_node))
        product.node.replace_all_uses_with(value)
        graph.erase_node(product.node)
    graph.eliminate_dead_code()
    graph_module.recompile()


def quantize_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [N, K] and float64 scales [N], symmetric in each row."""
    import torch

    scale = (weight.abs().amax(1).double() / 127.0).clamp_min(TINY)
    return torch.round(weight.double() / scale[:, None]).to(torch.int8), scale


@functools.cache
def register_operators() -> None:
    """Define in torch what the rewritten graphs call; all are exact.

    ``edge_tvm::int8_matmul``: int8 [..., K] by int8 [N, K] to int32 [..., N].
    ``edge_tvm::int8_pointwise``: int8 [B, K, H, W] by int8 [N, K] to int32 [B, N, H, W].
    ``edge_tvm::half_matmul``: float32 [..., K] by float16 [N, K] to float32 [..., N].
    ``edge_tvm::half_pointwise``: float32 [B, K, H, W] by float16 [N, K] to float32 [B, N, H, W].
    """
    import torch

    def integer(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        product = x.reshape(-1, x.shape[-1]).int() @ weight.int().t()
        return product.reshape(*x.shape[:-1], weight.shape[0])

    def half(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, weight.float())

    def integer_pointwise(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return integer(x.movedim(1, -1), weight).movedim(-1, 1).contiguous()

    def half_pointwise(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return half(x.movedim(1, -1), weight).movedim(-1, 1).contiguous()

    operators = (
        ("int8_matmul", integer, torch.int32, -1),
        ("int8_pointwise", integer_pointwise, torch.int32, 1),
        ("half_matmul", half, torch.float32, -1),
        ("half_pointwise", half_pointwise, torch.float32, 1),
    )
    for name, compute, dtype, axis in operators:

        def fake(
            x: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype = dtype, axis: int = axis
        ) -> torch.Tensor:
            shape = list(x.shape)
            shape[axis] = weight.shape[0]
            return x.new_empty(shape, dtype=dtype)

        operator = torch.library.custom_op(
            f"edge_tvm::{name}", compute, mutates_args=(), schema="(Tensor x, Tensor weight) -> Tensor"
        )
        operator.register_fake(fake)


def _dynamic_shapes(captured: Captured) -> tuple[dict[int, Any] | None, ...] | None:
    import torch

    entry = captured.entry
    if not entry.dynamic:
        return None
    dims = {dim.name: torch.export.Dim(dim.name, min=dim.min, max=dim.max) for dim in entry.dynamic}
    return tuple(
        {dim.axis: dims[dim.name] for dim in entry.dynamic if dim.input == spec.name} or None for spec in entry.inputs
    )


def _kept(path: str, patterns: tuple[str, ...]) -> bool:
    """Whether a pattern names the module at ``path`` or one that contains it."""
    parts = path.split(".")
    ancestors = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return any(fnmatch.fnmatchcase(ancestor, pattern) for ancestor in ancestors for pattern in patterns)


def _constant(graph_module: GraphModule, argument: Any) -> torch.Tensor | None:
    import torch

    if not isinstance(argument, torch.fx.Node) or argument.op != "get_attr":
        return None
    value: Any = graph_module
    for part in str(argument.target).split("."):
        value = getattr(value, part)
    return value if isinstance(value, torch.Tensor) else None


def _constant_of(graph_module: GraphModule, node: Node) -> torch.Tensor:
    value = _constant(graph_module, node)
    assert value is not None
    return value


def _buffer(graph_module: GraphModule, name: str, value: torch.Tensor) -> Node:
    graph_module.register_buffer(name, value)
    return graph_module.graph.get_attr(name)
