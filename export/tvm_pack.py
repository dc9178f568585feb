"""Matrix products with constant weights, laid out for the CPU: a pass over Relax functions, before fusion.

    matmul(q int8, W int8)   ->  integer_product(q', packed W) - shift
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
from edge.export.tvm_int8 import DotKernel, choose_kernel, pack_weights, packed_product

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
            padding = _padding(x, weight.shape, machine) if dtypes == ("float32", "float32") else 0
            if not padding:
                return call
            padded = relax.const(np.pad(weight, ((0, 0), (0, padding))))
            return _columns(emit(relax.op.matmul(x, padded)), weight.shape[1])

        def matrix(self, expression: Any) -> np.ndarray | None:
            """The values of a constant matrix, transposed on the way or not."""
            bound = self.lookup_binding(expression) if isinstance(expression, relax.Var) else expression
            transposed = isinstance(bound, relax.Call) and bound.op.name == "relax.permute_dims"
            if transposed:
                bound = bound.args[0]
            if not isinstance(bound, tvm.ir.GenericConst) or bound.ty.ndim != 2:
                return None
            values: np.ndarray = bound.value.numpy()
            return values.T if transposed else values

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
    product = builder.emit_te(
        packed_product,
        q,
        relax.const(packed),
        primfunc_name_hint="integer_product",
        # As a matmul's: what follows element by element is fused. The analysis does not see through the packed layout.
        primfunc_attrs={"op_pattern": OUT_ELEMENTWISE_FUSIBLE},
    )
    if packed.shape[0] * packed.shape[2] != columns:
        product = builder.emit(_columns(product, columns))
    if kernel.activation == "uint8":
        shift = 128 * weight.astype(np.int32).sum(0, dtype=np.int32)
        product = builder.emit(relax.op.subtract(product, relax.const(shift)))
    return product


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
