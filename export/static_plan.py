"""From a Relax function, lowered and planned, to a plan: which kernels, in which order, on tensors at which places.

In: the fused, scheduled module of ``edge.export.tvm_compile``. After TVM's static memory planning a function is nothing but
storages, tensors in them, calls of kernels, views and names; that is walked once, so that what the virtual machine
would do at each run is done here. Storages lie one behind the other in an arena; what is returned lies in memory of its
own; constants that are equal are one. Refuses (UnsupportedError), all at once, calls of anything that is no kernel, and
shapes that are not fixed.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edge.errors import UnsupportedError
from edge.export.tvm_compile import compile_context

#: Bytes: where kernels expect a tensor to begin.
ALIGNMENT = 64
#: The executor's own kernel (``edge_copy``).
COPY = "edge_copy"

#: Relax's names of what only renames a tensor's memory, and of what has no effect in a planned arena.
_VIEWS = ("relax.reshape", "relax.memory.view", "relax.memory.ensure_zero_offset")
_NOTHING = ("relax.memory.kill_tensor", "relax.memory.kill_storage", "relax.vm.kill_object")


class Place(enum.IntEnum):
    """As in ``runtimes/native/src/static/plan.h``."""

    ARENA = 0
    WEIGHTS = 1
    INPUT = 2
    OUTPUT = 3


@dataclass(frozen=True)
class Placed:
    """A tensor: ``offset`` is in bytes, ``index`` says which input or output; ``dtype`` is numpy's name."""

    place: Place
    shape: tuple[int, ...]
    dtype: str
    offset: int = 0
    index: int = 0

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Step:
    """Kernel ``kernel`` on ``tensors``, inputs first."""

    kernel: str
    tensors: tuple[Placed, ...]


@dataclass(frozen=True)
class EntryPlan:
    name: str
    inputs: tuple[Placed, ...]
    outputs: tuple[Placed, ...]
    steps: tuple[Step, ...]
    arena_bytes: int


@dataclass(frozen=True)
class Plan:
    """Every entry point, the constants as one block, and the kernels (a module of TIR functions) that they call."""

    entries: tuple[EntryPlan, ...]
    weights: bytes
    kernels: Any

    @property
    def arena_bytes(self) -> int:
        """Entry points run one at a time, in one arena."""
        return max(entry.arena_bytes for entry in self.entries)


def make_plan(module: Any, names: Sequence[str], llvm: Any) -> Plan:
    """The plan of the functions ``names`` of a scheduled ``module``."""
    import tvm
    from tvm import relax

    passes = tvm.transform.Sequential([
        relax.transform.LegalizeOps(),
        relax.transform.RewriteDataflowReshape(),
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
        relax.transform.LowerAllocTensor(),
    ])  # fmt: skip
    with compile_context(llvm):
        planned = passes(module)
    weights = Weights()
    walks = [_Walk(name, planned[name], weights) for name in names]
    if unknown := sorted({what for walk in walks for what in walk.unknown}):
        raise UnsupportedError(
            f"a static program cannot do what this model asks of TVM's runtime ({', '.join(unknown)}): export it without --static."
        )
    entries = tuple(walk.entry() for walk in walks)
    called = {step.kernel for entry in entries for step in entry.steps}
    kernels = {
        variable: function.with_attr("global_symbol", variable.name_hint)
        for variable, function in planned.functions_items()
        if variable.name_hint in called
    }
    return Plan(entries, bytes(weights.block), tvm.IRModule(kernels))


@dataclass
class Weights:
    """Constants, each once, one behind the other."""

    block: bytearray = field(default_factory=bytearray)
    known: dict[bytes, int] = field(default_factory=dict)

    def place(self, value: np.ndarray) -> Placed:
        data = np.ascontiguousarray(value).tobytes()
        if data not in self.known:
            self.block += bytes(-len(self.block) % ALIGNMENT)
            self.known[data] = len(self.block)
            self.block += data
        return Placed(Place.WEIGHTS, value.shape, value.dtype.name, self.known[data])


class _Walk:
    """One function, binding by binding."""

    def __init__(self, name: str, function: Any, weights: Weights) -> None:
        self.name, self.weights = name, weights
        self.unknown: set[str] = set()
        self.values: dict[Any, Placed | tuple[Any, ...]] = {}
        self.storages: dict[Any, tuple[int, int]] = {}  # offset, bytes
        self.arena = 0
        self.steps: list[Step] = []
        self.inputs: list[Placed] = []
        for index, parameter in enumerate(function.params):
            shape = self.fixed(parameter.ty.shape)
            self.inputs.append(Placed(Place.INPUT, shape, str(parameter.ty.dtype), index=index))
            self.values[parameter] = self.inputs[-1]
        for block in function.body.blocks:
            for binding in block.bindings:
                self.bind(binding.var, binding.value)
        self.returned = [] if self.unknown else list(_flat(self.value(function.body.body)))

    def bind(self, variable: Any, value: Any) -> None:
        import tvm
        from tvm import relax

        if not isinstance(value, relax.Call):
            self.values[variable] = self.value(value)
            return
        if isinstance(value.op, tvm.ir.GlobalVar):
            tensors = [self.value(argument) for argument in value.args]
            placed = tuple(one for one in tensors if isinstance(one, Placed))
            if len(placed) != len(tensors):
                self.unknown.add(f"{value.op.name_hint} of something other than tensors")
            self.steps.append(Step(value.op.name_hint, placed))
            return
        name = value.op.name if isinstance(value.op, tvm.ir.Op) else str(getattr(value.op, "global_symbol", value.op))
        if name == "relax.memory.alloc_storage":
            (size,) = self.fixed(value.args[0])
            self.storages[variable] = (self.arena, size)
            self.arena += -(-size // ALIGNMENT) * ALIGNMENT
        elif name == "relax.memory.alloc_tensor":
            storage, offset, shape, dtype = value.args[:4]
            start = self.storages[storage][0] + int(offset)
            self.values[variable] = Placed(Place.ARENA, self.fixed(shape), str(dtype.value), start)
        elif name in _VIEWS:
            seen = self.value(value.args[0])
            assert isinstance(seen, Placed)
            self.values[variable] = replace(seen, shape=self.fixed(variable.ty.shape))
        elif name not in _NOTHING:
            self.unknown.add(name)

    def value(self, expression: Any) -> Any:
        import tvm
        from tvm import relax

        if isinstance(expression, relax.Var):
            return self.values.get(expression)
        if isinstance(expression, relax.Tuple):
            return tuple(self.value(one) for one in expression.fields)
        if isinstance(expression, relax.TupleGetItem):
            whole = self.value(expression.tuple_value)
            return whole[expression.index] if isinstance(whole, tuple) else None
        if isinstance(expression, tvm.ir.GenericConst) and hasattr(expression.value, "numpy"):
            return self.weights.place(expression.value.numpy())
        self.unknown.add(type(expression).__name__)
        return None

    def fixed(self, shape: Any) -> tuple[int, ...]:
        sizes = list(shape.values if hasattr(shape, "values") else shape)
        try:
            return tuple(int(size) for size in sizes)
        except (TypeError, ValueError):
            self.unknown.add(f"the dynamic shape {[str(size) for size in sizes]} in '{self.name}'")
            return tuple(1 for _ in sizes)

    def entry(self) -> EntryPlan:
        """What is returned moves from the arena to the outputs' own memory, or is copied there at the end."""
        moved: dict[int, int] = {}  # a storage's offset in the arena: which output it is
        outputs, copies = [], []
        for index, tensor in enumerate(self.returned):
            outputs.append(Placed(Place.OUTPUT, tensor.shape, tensor.dtype, index=index))
            size = next((size for offset, size in self.storages.values() if offset == tensor.offset), None)
            if tensor.place is Place.ARENA and size == tensor.bytes and tensor.offset not in moved:
                moved[tensor.offset] = index
            else:
                copies.append(Step(COPY, (tensor, outputs[-1])))
        steps = tuple(replace(step, tensors=tuple(_move(one, moved) for one in step.tensors)) for step in (*self.steps, *copies))
        steps, arena = _compact(steps, self.storages.values(), moved)
        return EntryPlan(self.name, tuple(self.inputs), tuple(outputs), steps, arena)


def _flat(value: Any) -> Iterator[Placed]:
    if isinstance(value, tuple):
        for one in value:
            yield from _flat(one)
    else:
        assert isinstance(value, Placed)
        yield value


def _move(tensor: Placed, moved: Mapping[int, int]) -> Placed:
    if tensor.place is not Place.ARENA or tensor.offset not in moved:
        return tensor
    return replace(tensor, place=Place.OUTPUT, offset=0, index=moved[tensor.offset])


def _compact(
    steps: Sequence[Step], storages: Any, moved: Mapping[int, int]
) -> tuple[tuple[Step, ...], int]:
    """The arena without the storages that became outputs, and its size."""
    places: dict[int, int] = {}
    arena = 0
    kept = sorted((offset, size) for offset, size in storages if offset not in moved)
    for offset, size in kept:
        places[offset] = arena
        arena += -(-size // ALIGNMENT) * ALIGNMENT

    def shifted(tensor: Placed) -> Placed:
        if tensor.place is not Place.ARENA:
            return tensor
        start = max(offset for offset, _ in kept if offset <= tensor.offset)
        return replace(tensor, offset=places[start] + tensor.offset - start)

    return tuple(replace(step, tensors=tuple(map(shifted, step.tensors))) for step in steps), arena
