"""Matrix products with constant weights, laid out for the CPU: a pass over Relax functions, before fusion.

    matmul(q int8, W int8)   ->  integer_product(q', packed W) - shift
    matmul(x, float32(W float16))  ->  half_product(x, W), which widens W as it is read
    matmul(x, W) with an odd number of columns  ->  matmul(x, W padded with zeros)[..., :N]

The integer product is on the CPU's dot product instructions (``edge.export.tvm_int8``). q' is q, shifted by 128 to
unsigned where the instruction wants that; ``shift`` takes it out again, exactly. A product whose weights are not a
constant 2-D matrix stays as it is.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edge.export.tvm_blocks import TYPICAL_EXTENT, Machine, constant, vector_width
from edge.export.tvm_int8 import DotKernel, choose_kernel, integer_product, pack_weights

#: relax::OpPatternKind::kOutEWiseFusable.
OUT_ELEMENTWISE_FUSIBLE = 4
#: Multiply-adds below which a product with an odd number of columns is cheaper than cutting off its padding.
PADDING_WORK = 1 << 15


def pack_products(module: Any, machine: Machine) -> Any:
    """``module`` with its constant products rewritten."""
    import tvm
    from tvm import relax
    from tvm.relax.expr_functor import PyExprMutator, mutator

    matmul = tvm.ir.Op.get("relax.matmul")

    @mutator
    class Packer(PyExprMutator):  # type: ignore[misc]
        def visit_call_(self, call: Any) -> Any:
            call = self.visit_expr_post_order(call)
            if not isinstance(call, relax.Call) or call.op != matmul:
                return call
            weight = self.matrix(call.args[1])
            if weight is None:
                return call
            x, emit = call.args[0], self.builder_.emit
            dtypes = (str(x.ty.dtype), str(weight.dtype))
            if dtypes == ("int8", "int8"):
                kernel = choose_kernel(machine.dots, weight.shape[1])
                return call if kernel is None else _integer_product(self.builder_, x, weight, kernel)
            if dtypes[0] != "float32" or dtypes[1] not in ("float16", "float32"):
                return call
            padding = _padding(x, weight.shape, machine)
            padded = relax.const(np.pad(weight, ((0, 0), (0, padding))))
            if dtypes[1] == "float16":
                product = _emit_product(self.builder_, half_product, x, padded)
            elif padding:
                product = emit(relax.op.matmul(x, padded))
            else:
                return call
            return _columns(product, weight.shape[1]) if padding else product

        def matrix(self, expression: Any) -> np.ndarray | None:
            """The values of a constant matrix, transposed or widened on the way or not."""
            bound = self.bound(expression)
            if isinstance(bound, relax.Call) and bound.op.name == "relax.astype":
                bound = self.bound(bound.args[0])
            transposed = isinstance(bound, relax.Call) and bound.op.name == "relax.permute_dims"
            if transposed:
                bound = self.bound(bound.args[0])
            if not isinstance(bound, tvm.ir.GenericConst) or bound.ty.ndim != 2:
                return None
            values: np.ndarray = bound.value.numpy()
            return values.T if transposed else values

        def bound(self, expression: Any) -> Any:
            return self.lookup_binding(expression) if isinstance(expression, relax.Var) else expression

    packer = Packer(module)
    for variable, function in module.functions_items():
        if isinstance(function, relax.Function):
            packer.builder_.update_func(variable, packer.visit_expr(function))
    return packer.builder_.finalize()


def _integer_product(builder: Any, q: Any, weight: np.ndarray, kernel: DotKernel) -> Any:
    from tvm import relax

    depth, columns = weight.shape
    packed = pack_weights(weight, kernel)
    if kernel.activation == "uint8":
        wide = builder.emit(relax.op.add(builder.emit(relax.op.astype(q, "int32")), relax.const(128, "int32")))
        q = builder.emit(relax.op.astype(wide, "uint8"))
    if filling := packed.shape[1] * packed.shape[3] - depth:
        q = builder.emit(relax.op.nn.pad(q, [0, 0] * (q.ty.ndim - 1) + [0, filling]))
    product = _emit_product(builder, integer_product, q, relax.const(packed))
    if packed.shape[0] * packed.shape[2] != columns:
        product = builder.emit(_columns(product, columns))
    if kernel.activation == "uint8":
        shift = 128 * weight.astype(np.int32).sum(0, dtype=np.int32)
        product = builder.emit(relax.op.subtract(product, relax.const(shift)))
    return product


def _emit_product(builder: Any, compute: Any, x: Any, weight: Any) -> Any:
    """A kernel of its own, marked so that what follows element by element is fused to it as to a matmul."""
    pattern = {"op_pattern": OUT_ELEMENTWISE_FUSIBLE}
    return builder.emit_te(compute, x, weight, primfunc_name_hint=compute.__name__, primfunc_attrs=pattern)


def half_product(x: Any, weight: Any) -> Any:
    """TE: float32 [.., K] by float16 [K, N] to float32 [.., N]."""
    from tvm import te

    k = te.reduce_axis((0, weight.shape[0]), "k")

    def product(*axes: Any) -> Any:
        *outer, n = axes
        return te.sum(x[(*outer, k)] * weight[k, n].astype("float32"), axis=k)

    return te.compute((*x.shape[:-1], weight.shape[1]), product, name="half_product")


def _columns(x: Any, columns: int) -> Any:
    """The first ``columns`` along the last axis."""
    from tvm import relax

    return relax.op.strided_slice(x, axes=[x.ty.ndim - 1], begin=[0], end=[columns])


def _padding(x: Any, shape: tuple[int, ...], machine: Machine) -> int:
    """How many columns of zeros make whole vectors of a product that is large enough to gain by it."""
    depth, columns = shape
    lanes = machine.lanes()
    if columns < lanes or vector_width(columns, lanes) >= min(8, lanes):
        return 0
    rows = math.prod(constant(size) or TYPICAL_EXTENT for size in list(x.ty.shape)[:-1])
    return -columns % lanes if rows * depth * columns >= PADDING_WORK else 0
