"""Schedules for kernels that no tuning record covers: tiles in registers, vectors, threads where they pay.

Every fused kernel is tried against three rules, by what is in it:

    contraction   a sum of products (matmul, convolution): a tile of outputs in registers, its epilogue fused behind it
    rows          reductions and what stands around them (softmax, LayerNorm, mean): one row after the other
    elementwise   the rest: vectors along the last axis

A rule that does not fit, or that TVM's scheduler refuses, leaves the kernel to the next one; a kernel that none fits
stays as it is. What a kernel computes does not change, only the order of float additions in ``rows``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edge.export.tvm_blocks import (
    Block,
    Machine,
    NotApplicable,
    blocks_of,
    divisors,
    extent,
    finish_start,
    inline_stages,
    is_product,
    uses,
    vector_width,
    vectorize_tile,
)
from edge.export.tvm_contraction import contraction

#: Elements or multiply-adds below which starting threads costs more than it saves: some microseconds' worth.
PARALLEL_WORK = 1 << 18
#: A loop's vectors are unrolled this far where it reduces over an outer axis.
UNROLLED_VECTORS = 8


def schedule_module(module: Any, machine: Machine) -> Any:
    """``module`` with its unscheduled kernels scheduled."""
    import tvm
    from tvm import tirx

    updated = tvm.IRModule(dict(module.functions_items()), attrs=module.attrs)
    for variable, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc) and not is_scheduled(function):
            updated[variable] = schedule_kernel(function, machine)
    return updated


def schedule_kernel(function: Any, machine: Machine) -> Any:
    """``function`` by the first rule that fits; unchanged if none does."""
    schedule = traced_schedule(function, machine)
    return function if schedule is None else schedule.mod["main"].with_attr("tirx.is_scheduled", True)


def traced_schedule(function: Any, machine: Machine) -> Any:
    """The schedule of the first rule that fits, with its trace; None if none does."""
    from tvm import s_tir
    from tvm.s_tir.schedule import ScheduleError

    for rule in RULES:
        schedule = s_tir.Schedule(function)
        try:
            rule(schedule, machine)
        except (NotApplicable, ScheduleError):
            continue
        return schedule
    return None


def is_scheduled(function: Any) -> bool:
    return bool(function.attrs and function.attrs.get("tirx.is_scheduled", False))


def products(schedule: Any, machine: Machine) -> None:
    """One sum of products, what comes before it, and its epilogue."""
    found = [block for block in blocks_of(schedule) if block.reduction]
    if len(found) != 1 or not is_product(found[0]):
        raise NotApplicable("not one sum of products")
    inline_stages(schedule)
    done = contraction(schedule, found[0].name, machine, found[0].work >= PARALLEL_WORK)
    for block in blocks_of(schedule):
        if block.injective and block.name not in done:
            _vectorize_stage(schedule, block, machine)


def elementwise(schedule: Any, machine: Machine) -> None:
    """No reduction at all."""
    if not all(block.injective for block in blocks_of(schedule)):
        raise NotApplicable("reduces")
    inline_stages(schedule)
    for block in blocks_of(schedule):
        _vectorize_stage(schedule, block, machine)


def _vectorize_stage(schedule: Any, block: Block, machine: Machine) -> None:
    """Threads over the outer axes, vectors along the last (joined with those before it while they are narrow)."""
    loops = schedule.get_loops(block.handle)
    lanes = machine.lanes()
    cut = len(loops) - 1
    width = extent(schedule, loops[cut])
    while cut > 0 and width is not None and width < lanes:
        before = extent(schedule, loops[cut - 1])
        if before is None:
            break
        cut, width = cut - 1, width * before
    inner = schedule.fuse(*loops[cut:]) if cut < len(loops) - 1 else loops[cut]
    threaded = block.work >= PARALLEL_WORK
    if cut:
        outer = schedule.fuse(*loops[:cut]) if cut > 1 else loops[0]
        if threaded:
            schedule.parallel(outer)
        _vectorize(schedule, inner, lanes, whole=block.gathers)
    elif threaded and width and vector_width(width, lanes) == lanes and width > lanes:
        outer, vector = schedule.split(inner, [None, lanes])
        schedule.parallel(outer)
        schedule.vectorize(vector)
    else:
        _vectorize(schedule, inner, lanes, whole=block.gathers)


def _vectorize(schedule: Any, loop: Any, lanes: int, whole: bool = False) -> None:
    """Vectors along ``loop``; what is left over of an odd length is split off when the kernel is compiled.

    ``whole`` leaves an odd length as it is: TVM cannot compile what is left over of elements chosen by int64 indices.
    """
    length = extent(schedule, loop)
    if length is None or length == 1:
        return
    width = vector_width(length, lanes)
    if width == length:
        schedule.vectorize(loop)
        return
    if width < min(8, lanes):
        if whole:
            return
        width = 1 << (min(length, lanes).bit_length() - 1)
    outer, vector = schedule.split(loop, [None, width])
    if length % width:
        schedule.annotate(outer, "pragma_loop_partition_hint", 1)
    schedule.vectorize(vector)


def rows(schedule: Any, machine: Machine) -> None:
    """Reductions over the same leading axes: all stages of a row together, so that it stays in the cache."""
    found = blocks_of(schedule)
    if not any(block.reduction for block in found):
        raise NotApplicable("reduces nothing")
    if not all(block.injective or (block.reduction and not is_product(block)) for block in found):
        raise NotApplicable("has other stages")
    inline_stages(schedule)
    stages = blocks_of(schedule)
    if len(schedule.get_output_blocks(schedule.get_sblock("root"))) != 1:
        raise NotApplicable("several outputs")
    last = stages[-1]
    threaded = sum(block.work for block in stages) >= PARALLEL_WORK
    across = {block.name for block in stages if block.reduction and _reduces_outer_axis(block)}
    partial = {
        block.name: handle
        for block in stages
        if block.reduction and block.name not in across and (handle := _in_lanes(schedule, block, machine)) is not None
    }
    leading = _common_leading(stages)
    if last.injective or across:
        # One axis stays inside a row for the vectors.
        leading = min(leading, last.spatial - 1)
    row = _row_loop(schedule, last, leading, threaded)
    if row is not None:
        for block in reversed(stages):
            if block is not last:
                schedule.compute_at(block.handle, row, preserve_unit_loops=True)
            if block.name in partial:
                schedule.compute_at(partial[block.name], row, preserve_unit_loops=True)
    for block in stages:
        if block.injective:
            inner = schedule.get_loops(block.handle)[1 if row is not None else 0 :]
            if inner:
                _vectorize(schedule, inner[-1], machine.lanes())
        elif block.name in partial:
            _vectorize_partial(schedule, partial[block.name])
            _unroll_last(schedule, block)
        elif block.name in across:
            _vectorize_across(schedule, block, leading if block is last else 0, machine)


def _row_loop(schedule: Any, last: Block, leading: int, threaded: bool) -> Any:
    """The loop over rows: the leading axes of the last stage as one; None if there is none."""
    loops = schedule.get_loops(last.handle)
    if leading <= 0:
        return None
    row = schedule.fuse(*loops[:leading]) if leading > 1 else loops[0]
    if threaded:
        schedule.parallel(row)
    return row


def _common_leading(stages: list[Block]) -> int:
    """How many leading spatial axes every stage has in common with the last, by extent."""
    last = stages[-1]
    counts = []
    for block in stages:
        shared = 0
        limit = min(block.spatial, last.spatial)
        while shared < limit and block.extents[shared] is not None and block.extents[shared] == last.extents[shared]:
            shared += 1
        counts.append(shared)
    return min(counts)


def _reduces_outer_axis(block: Block) -> bool:
    """Whether the last axis of what it reads is a spatial one."""
    try:
        largest = max(block.loads, key=lambda load: len(load.indices))
    except (NotApplicable, ValueError):
        return False
    return not any(uses([largest.indices[-1]], axis) for axis in block.variables[block.spatial :])


def _in_lanes(schedule: Any, block: Block, machine: Machine) -> Any:
    """Split a reduction along the last axis into one partial result a lane; the new stage, or None if it stays whole.

    Float additions may not be reordered by LLVM, so it cannot do this.
    """
    from tvm.s_tir.schedule import ScheduleError

    loop = schedule.get_loops(block.handle)[-1]
    length = extent(schedule, loop)
    if length is None:
        return None
    width = vector_width(length, machine.lanes())
    if width < 4 or length // width < 2:
        return None
    try:
        _, lane = schedule.split(loop, [None, width])
        return schedule.rfactor(lane, block.spatial)
    except ScheduleError:
        return None  # not one plain sum, maximum or minimum


def _vectorize_partial(schedule: Any, handle: Any) -> None:
    """A stage that ``rfactor`` made: the lane is its first axis."""
    block = Block(schedule, handle)
    loops = schedule.get_loops(handle)[-len(block.kinds) :]
    lane = loops[0]
    reductions = [loop for loop, kind in zip(loops, block.kinds, strict=True) if kind]
    schedule.reorder(*reductions, lane)
    schedule.vectorize(lane)
    finish_start(schedule, handle, reductions[0], 0)


def _unroll_last(schedule: Any, block: Block) -> None:
    """Unroll the one remaining reduction, over the lanes; its loop comes first after ``compute_at``."""
    stage = Block(schedule, block.handle)
    for loop in schedule.get_loops(block.handle):
        if extent(schedule, loop) == stage.extents[stage.kinds.index(2)]:
            schedule.unroll(loop)
            return


def _vectorize_across(schedule: Any, block: Block, fused: int, machine: Machine) -> None:
    """Vectors along the last spatial axis, the reduction around them; ``fused`` axes are in the loop over rows."""
    kinds = block.kinds[fused:]
    loops = schedule.get_loops(block.handle)[-len(kinds) :]
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if not kind]
    reductions = [loop for loop, kind in zip(loops, kinds, strict=True) if kind]
    length = extent(schedule, spatial[-1]) if spatial else None
    if length is None:
        return
    width = vector_width(length, machine.lanes())
    if width < 4:
        return
    vectors = max(count for count in divisors(length // width) if count <= UNROLLED_VECTORS)
    outer, inner = schedule.split(spatial[-1], [None, vectors * width])
    schedule.reorder(*spatial[:-1], outer, *reductions, inner)
    vectorize_tile(schedule, inner, width)
    finish_start(schedule, block.handle, reductions[0], int(vectors > 1))


Rule = Callable[[Any, Machine], None]
RULES: tuple[Rule, ...] = (products, rows, elementwise)
