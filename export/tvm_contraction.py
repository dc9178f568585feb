"""The schedule of a sum of products: a tile of outputs stays in registers while the reduction runs.

    out[.., i, .., j] += left[.., i, .., k] * right[.., k, j]   (and convolutions, whose ``right`` is the image)

``j`` is the last axis of the output: vectors. ``i`` is the axis that ``right`` does not depend on: each vector loaded
from ``right`` serves a whole column of the tile. Around the tile go the outer loops, on threads; behind it goes the
epilogue, while the sums are still in registers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge.export.tvm_blocks import (
    Block,
    Machine,
    NotApplicable,
    constant,
    divisors,
    finish_start,
    uses,
    vector_width,
    vectorize_tile,
)
from edge.export.tvm_int8 import DotKernel, register

#: TVM keeps a buffer on the stack, and LLVM then in registers, up to this many bytes (kMaxStackAlloca).
STACK_BYTES = 1024
#: A sum is a float32 or an int32.
SUM_BYTES = 4
#: Multiply-adds and loads that a core starts in a cycle, and the additions in flight that hide their latency of four.
ISSUE, CHAINS = 2, 8


@dataclass(frozen=True)
class Tile:
    """Rows, vectors a row, lanes a vector."""

    rows: int
    vectors: int
    lanes: int

    @property
    def columns(self) -> int:
        return self.vectors * self.lanes


def choose_tile(rows: int | None, columns: int, machine: Machine, lanes: int) -> Tile:
    """The tile that does the most products a cycle, among those that divide both axes and fit the registers.

    Cycles a step of the reduction: the larger of multiply-adds and loads (a vector for each column of vectors, a
    broadcast for each row) over what a core issues, and of the latency where there are too few sums in flight.
    """
    best: tuple[tuple[float, float], Tile] | None = None
    for vectors in divisors(columns // lanes):
        for height in divisors(rows) if rows else [1]:
            sums = height * vectors
            if sums > machine.accumulators or sums * lanes * SUM_BYTES > STACK_BYTES:
                continue
            cycles = max(sums / ISSUE, (height + vectors) / ISSUE, CHAINS / ISSUE)
            score = (sums * lanes / cycles, -(height + vectors) / sums)
            if best is None or score > best[0]:
                best = (score, Tile(height, vectors, lanes))
    assert best is not None  # one row of one vector always fits
    return best[1]


@dataclass(frozen=True)
class Axes:
    """Positions among the block's spatial axes: the vector axis, the tile's other axis (if any), and the order of the
    loops around the tile."""

    column: int
    row: int | None
    around: tuple[int, ...]


def find_axes(block: Block) -> Axes:
    """Which axes the tile spans; NotApplicable where the output is not written in the order of the axes."""
    if not block.is_identity(block.store.indices):
        raise NotApplicable("the output is not in the order of the axes")
    count = block.spatial
    wide = [axis for axis in range(count) if block.extents[axis] != 1]
    column = wide[-1] if wide else count - 1
    if block.extents[column] is None:
        raise NotApplicable("the last axis is dynamic")
    operands = _distinct(block.loads)
    if len(operands) != 2:
        raise NotApplicable("not two operands")
    moving = [load for load in operands if uses(load.indices, block.variables[column])]
    if not moving:
        raise NotApplicable("no operand has the last axis")
    others = [axis for axis in range(count) if axis != column]
    fixed = [axis for axis in others if block.extents[axis] is not None and axis in wide]
    reusing = [
        axis for axis in fixed if not all(uses(load.indices, block.variables[axis]) for load in moving)
    ]
    candidates = reusing or fixed
    row = max(candidates, key=lambda axis: block.extents[axis] or 0) if candidates else None
    rest = [axis for axis in others if axis != row]
    batch = [axis for axis in rest if all(uses(load.indices, block.variables[axis]) for load in operands)]
    free = [axis for axis in rest if axis not in batch]
    panel = not any(uses(moving[0].indices, block.variables[axis]) for axis in others)
    rows = [] if row is None else [row]
    # A matrix's panel of columns stays in the cache while the rows pass; a filter stays while the image passes.
    around = [*batch, column, *free, *rows] if panel else [*batch, *rows, *free, column]
    return Axes(column, row, tuple(around))


def contraction(schedule: Any, name: str, machine: Machine, threaded: bool) -> set[str]:
    """Schedule the block called ``name``; gives the names of the blocks that are done with that."""
    block = Block(schedule, schedule.get_sblock(name))
    axes = find_axes(block)
    kernel = _packed_kernel(block, machine)
    height = block.extents[axes.row] if axes.row is not None else 1
    width = block.extents[axes.column]
    assert width is not None
    tile = choose_tile(height, width, machine, kernel.lanes if kernel else vector_width(width, machine.lanes()))
    epilogue = _fusible_epilogue(schedule, block)
    tail = epilogue if epilogue is not None else schedule.cache_write(block.handle, 0, "local")

    loops = list(schedule.get_loops(tail))
    column_inner = row_inner = None
    loops[axes.column], column_inner = schedule.split(loops[axes.column], [None, tile.columns])
    if axes.row is not None:
        loops[axes.row], row_inner = schedule.split(loops[axes.row], [None, tile.rows])
    around = [loops[axis] for axis in axes.around]
    schedule.reorder(*around, *([] if row_inner is None else [row_inner]), column_inner)
    outer = schedule.fuse(*around) if len(around) > 1 else around[0]
    if threaded:
        schedule.parallel(outer)

    schedule.compute_at(block.handle, outer, preserve_unit_loops=True)
    if epilogue is not None:
        schedule.set_scope(block.handle, 0, "local")
    inner = schedule.get_loops(block.handle)[-len(block.kinds) :]
    spatial, reductions = inner[: block.spatial], inner[block.spatial :]
    unit = [spatial[axis] for axis in range(block.spatial) if axis not in (axes.row, axes.column)]
    row = [] if axes.row is None else [spatial[axes.row]]
    if kernel is not None:
        _integer_steps(schedule, block, kernel, unit, reductions[0], row, spatial[axes.column])
    else:
        schedule.reorder(*unit, *reductions, *row, spatial[axes.column])
        vectorize_tile(schedule, spatial[axes.column], tile.lanes)
        finish_start(schedule, block.handle, reductions[0], len(row) + int(tile.vectors > 1))
    for loop in row:
        schedule.unroll(loop)
    if row_inner is not None:
        schedule.unroll(row_inner)
    vectorize_tile(schedule, column_inner, tile.lanes)
    return {name, f"{name}_init", f"{name}_update", str(schedule.get(tail).name_hint)}


def _packed_kernel(block: Block, machine: Machine) -> DotKernel | None:
    """The dot product instruction that the weights of ``block`` are packed for; None for other products."""
    if not block.name.startswith("integer_product"):
        return None
    # Activations can have four axes too, but the last of them is wider than any kernel is deep.
    shapes = [tuple(constant(size) for size in load.source.shape)[2:] for load in block.loads if len(load.indices) == 4]
    return next((kernel for kernel in machine.dots if (kernel.lanes, kernel.depth) in shapes), None)


def _integer_steps(
    schedule: Any, block: Block, kernel: DotKernel, unit: list[Any], reduction: Any, row: list[Any], column: Any
) -> None:
    """One instruction for ``lanes`` columns and ``depth`` steps; a tile of them unrolled."""
    vectors, lane = schedule.split(column, [None, kernel.lanes])
    steps, depth = schedule.split(reduction, [None, kernel.depth])
    schedule.reorder(*unit, steps, *row, vectors, lane, depth)
    schedule.unroll(vectors)
    finish_start(schedule, block.handle, steps, len(row) + 1)
    schedule.tensorize(lane, register(kernel))


def _fusible_epilogue(schedule: Any, block: Block) -> Any:
    """The one stage that reads the sums element by element, in the order of the axes; None if there is none."""
    readers = schedule.get_consumers(block.handle)
    if len(readers) != 1:
        return None
    reader = Block(schedule, readers[0])
    if not reader.injective or reader.extents != block.extents[: block.spatial]:
        return None
    try:
        same_order = reader.is_identity(reader.store.indices) and all(
            reader.is_identity(load.indices) for load in reader.loads if load.source.same_as(block.store.buffer)
        )
    except NotApplicable:
        return None
    return readers[0] if same_order else None


def _distinct(loads: list[Any]) -> list[Any]:
    """One load of each buffer."""
    found: list[Any] = []
    for load in loads:
        if not any(load.source.same_as(known.source) for known in found):
            found.append(load)
    return found
