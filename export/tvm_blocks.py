"""What the schedule rules ask of a kernel: its blocks, their axes, what they read; and the CPU it is for.

A kernel is a TIR function whose root holds one block a stage, each a nest of loops over spatial and reduction axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edge.export.tvm_int8 import DotKernel, dot_kernels

#: Calls that cost about ten plain operations an element: not to be computed twice.
EXPENSIVE = frozenset(f"tirx.{name}" for name in ("exp", "erf", "tanh", "log", "pow", "sigmoid", "sin", "cos", "sqrt"))
#: Stands for the unknown extent of a dynamic axis when work is estimated.
TYPICAL_EXTENT = 64

_SPATIAL, _REDUCTION = 0, 2


class NotApplicable(Exception):
    """A rule does not fit this kernel; the text says why."""


@dataclass(frozen=True)
class Machine:
    """A CPU as far as schedules depend on it: width of a vector in bytes, registers that may hold a tile's sums, and
    dot product instructions."""

    vector_bytes: int
    accumulators: int
    dots: tuple[DotKernel, ...] = ()

    def lanes(self, item_bytes: int = 4) -> int:
        return self.vector_bytes // item_bytes


def machine_of(llvm: Any) -> Machine:
    """From LLVM's features. AVX-512 and Arm have 32 vector registers, AVX2 and SSE 16; operands take some of them."""
    from tvm.target import codegen

    features = {str(feature) for feature in codegen.llvm_get_cpu_features(llvm)}
    registers = [("avx512f", 64, 16), ("avx2", 32, 12), ("neon", 16, 24)]
    known = ((width, count) for feature, width, count in registers if feature in features)
    width, count = next(known, (16, 8))
    return Machine(vector_bytes=width, accumulators=count, dots=dot_kernels(llvm))


class Block:
    """One stage of a kernel, as it stands in ``schedule`` when asked."""

    def __init__(self, schedule: Any, handle: Any) -> None:
        self.handle = handle
        self.statement = schedule.get(handle)
        self.name = str(self.statement.name_hint)
        self.variables = [axis.var for axis in self.statement.iter_vars]
        self.kinds = [int(axis.iter_type) for axis in self.statement.iter_vars]
        self.extents = [constant(axis.dom.extent) for axis in self.statement.iter_vars]

    @property
    def injective(self) -> bool:
        return all(kind == _SPATIAL for kind in self.kinds)

    @property
    def reduction(self) -> bool:
        """Has reduction axes, and they come after the spatial ones."""
        return _REDUCTION in self.kinds and self.kinds == sorted(self.kinds) and set(self.kinds) <= {0, 2}

    @property
    def spatial(self) -> int:
        """How many axes are spatial; they come first."""
        return self.kinds.count(_SPATIAL)

    @property
    def work(self) -> int:
        """Elements visited, ten times as many where each costs an expensive call."""
        visited = math.prod(extent or TYPICAL_EXTENT for extent in self.extents)
        return visited * (1 + 10 * self.expensive_calls)

    @property
    def expensive_calls(self) -> int:
        import tvm

        return sum(getattr(call.op, "name", "") in EXPENSIVE for call in _found(self.statement.body, tvm.ir.Call))

    @property
    def store(self) -> Any:
        """The store of a block that writes one buffer; NotApplicable for others."""
        from tvm import tirx

        if not isinstance(self.statement.body, tirx.BufferStore):
            raise NotApplicable(f"{self.name} does not write one buffer")
        return self.statement.body

    @property
    def loads(self) -> list[Any]:
        """Loads from other buffers than the one it writes; one for each load in the source."""
        import tvm

        written = self.store.buffer
        return [load for load in _found(self.statement.body, tvm.ir.TensorLoad) if not load.source.same_as(written)]

    @property
    def gathers(self) -> bool:
        """Whether an element it reads is chosen by another that it reads."""
        import tvm

        loads = _found(self.statement.body, tvm.ir.TensorLoad)
        return any(True for load in loads for index in load.indices for _ in _found(index, tvm.ir.TensorLoad))

    def is_identity(self, indices: Any) -> bool:
        """Whether ``indices`` are this block's spatial axes, in order."""
        spatial = self.variables[: self.spatial]
        return len(indices) == len(spatial) and all(
            index.same_as(axis) for index, axis in zip(indices, spatial, strict=True)
        )


def blocks_of(schedule: Any) -> list[Block]:
    """The kernel's stages, in order."""
    return [Block(schedule, handle) for handle in schedule.get_child_blocks(schedule.get_sblock("root"))]


def uses(expressions: Any, variable: Any) -> bool:
    """Whether ``variable`` is in one of ``expressions``."""
    import tvm

    return any(
        found.same_as(variable) for expression in expressions for found in _found(expression, tvm.ir.Var)
    )


def inline_stages(schedule: Any, keep_products_apart: bool = True) -> None:
    """Inline every injective stage that is not an output into what reads it.

    One that makes an expensive call stays if several stages read it, and so does, with ``keep_products_apart``, the
    producer of a sum of products: it would be computed again for each product.
    """
    from tvm.s_tir.schedule import ScheduleError

    outputs = {
        str(schedule.get(handle).name_hint) for handle in schedule.get_output_blocks(schedule.get_sblock("root"))
    }
    for block in blocks_of(schedule):
        if not block.injective or block.name in outputs:
            continue
        readers = [Block(schedule, handle) for handle in schedule.get_consumers(block.handle)]
        if len(readers) > 1 and block.expensive_calls:
            continue
        if keep_products_apart and any(is_product(reader) for reader in readers):
            continue
        try:
            schedule.compute_inline(block.handle)
        except ScheduleError:
            continue  # TVM inlines no opaque or partial stage; it stays a stage of its own


def is_product(block: Block) -> bool:
    """Whether ``block`` sums products of two different buffers (cast or not)."""
    import tvm
    from tvm import tirx

    if not block.reduction or not isinstance(block.statement.body, tirx.BufferStore):
        return False
    value = block.statement.body.value
    product = _uncast(value.b) if isinstance(value, tirx.Add) else None
    if not isinstance(product, tirx.Mul):
        return False
    left, right = _uncast(product.a), _uncast(product.b)
    loads = isinstance(left, tvm.ir.TensorLoad) and isinstance(right, tvm.ir.TensorLoad)
    return loads and not left.source.same_as(right.source)


def constant(value: Any) -> int | None:
    """A fixed extent; None for a dynamic one."""
    from tvm import tirx

    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, tirx.IntImm) else None


def extent(schedule: Any, loop: Any) -> int | None:
    return constant(schedule.get(loop).extent)


def divisors(value: int) -> list[int]:
    return [candidate for candidate in range(1, value + 1) if value % candidate == 0]


def vector_width(length: int, lanes: int) -> int:
    """The largest power of two, at most ``lanes``, that divides ``length``: TVM loads other widths one by one."""
    width = 1
    while width * 2 <= lanes and length % (width * 2) == 0:
        width *= 2
    return width


def vectorize_tile(schedule: Any, loop: Any, width: int) -> None:
    """``loop`` as vectors of ``width``, unrolled."""
    if extent(schedule, loop) == width:
        schedule.vectorize(loop)
        return
    outer, vector = schedule.split(loop, [None, width])
    schedule.unroll(outer)
    schedule.vectorize(vector)


def finish_start(schedule: Any, handle: Any, loop: Any, unrolled: int) -> None:
    """Set sums to zero before ``loop``, by vectors; the ``unrolled`` loops around the vector are unrolled."""
    start = schedule.decompose_reduction(handle, loop)
    loops = schedule.get_loops(start)
    schedule.vectorize(loops[-1])
    for outer in loops[len(loops) - 1 - unrolled : -1]:
        schedule.unroll(outer)


def _uncast(expression: Any) -> Any:
    from tvm import tirx

    while isinstance(expression, tirx.Cast):
        expression = expression.value
    return expression


def _found(node: Any, kind: type) -> Iterator[Any]:
    import tvm_ffi

    found: list[Any] = []
    tvm_ffi.structural_walk(node, (kind, found.append))
    return iter(found)
