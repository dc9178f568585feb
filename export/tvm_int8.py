"""int8 by int8 products on the CPU's own instructions: which there are, how weights are laid out for them, and how TVM
is told.

A kernel takes ``depth`` neighbours along the reduction of one row of activations, and as many of each of ``lanes``
columns of weights, and adds their products to ``lanes`` int32 sums. Weights are stored in that order,
[N / lanes, K / depth, lanes, depth], so that each step reads one vector.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np


@dataclass(frozen=True)
class DotKernel:
    """``intrinsic`` is LLVM's; ``activation`` the dtype of its first operand; ``body`` the sum after one step.

    In ``body``, written in TVM's script, {c} are the sums, {a} the row's values and {b} the weights.
    """

    name: str
    lanes: int
    depth: int
    activation: str
    intrinsic: str
    body: str

    @property
    def tensor_intrinsic(self) -> str:
        return f"edge_{self.name}_{self.lanes}x{self.depth}"


def _vnni(lanes: int) -> DotKernel:
    """vpdpbusd: four unsigned by four signed bytes a lane, exact in int32 (Intel SDM, volume 2)."""
    wide = f'T.reinterpret("uint8x{4 * lanes}", T.broadcast(T.reinterpret("int32", {{a}}), {lanes}))'
    return DotKernel(
        name="vnni",
        lanes=lanes,
        depth=4,
        activation="uint8",
        intrinsic=f"llvm.x86.avx512.vpdpbusd.{32 * lanes}",
        body=f'T.call_llvm_pure_intrin("int32x{lanes}", {{intrinsic}}, {{c}}, {wide}, {{b}})',
    )


#: sdot: four signed by four signed bytes a lane (Armv8.2 dot product extension).
_SDOT = DotKernel(
    name="sdot",
    lanes=4,
    depth=4,
    activation="int8",
    intrinsic="llvm.aarch64.neon.sdot",
    body=(
        'T.call_llvm_pure_intrin("int32x4", {intrinsic}, {c}, '
        'T.reinterpret("int8x16", T.broadcast(T.reinterpret("int32", {a}), 4)), {b})'
    ),
)

#: smull and sadalp: products in int16, where two bytes' product always fits, then pairs of them added to int32.
_SADALP = DotKernel(
    name="sadalp",
    lanes=4,
    depth=2,
    activation="int8",
    intrinsic="llvm.aarch64.neon.saddlp",
    body=(
        '{c} + T.call_llvm_pure_intrin("int32x4", {intrinsic}, T.Cast("int16x8", '
        'T.reinterpret("int8x8", T.broadcast(T.reinterpret("int16", {a}), 4))) * T.Cast("int16x8", {b}))'
    ),
)


def _pmaddwd(lanes: int, intrinsic: str) -> DotKernel:
    """pmaddwd: pairs of int16 products added to int32; the bytes are widened on the way."""
    wide = f'T.reinterpret("int16x{2 * lanes}", T.broadcast(T.reinterpret("int32", T.Cast("int16x2", {{a}})), {lanes}))'
    return DotKernel(
        name="pmaddwd",
        lanes=lanes,
        depth=2,
        activation="int8",
        intrinsic=intrinsic,
        body=(
            f'{{c}} + T.call_llvm_pure_intrin("int32x{lanes}", {{intrinsic}}, {wide}, '
            f'T.Cast("int16x{2 * lanes}", {{b}}))'
        ),
    )


def dot_kernels(llvm: Any) -> tuple[DotKernel, ...]:
    """The kernels of a CPU, the widest first; empty where TVM's generic code has to do."""
    from tvm.target import codegen

    features = {str(feature) for feature in codegen.llvm_get_cpu_features(llvm)}
    triple = str(llvm.attrs["mtriple"])
    if triple.startswith("x86_64"):
        if "avx512vnni" in features and "avx512vl" in features:
            return _vnni(16), _vnni(8), _vnni(4)
        if "avxvnni" in features:
            return _vnni(8), _vnni(4)
        if "avx2" in features:
            return _pmaddwd(8, "llvm.x86.avx2.pmadd.wd"), _pmaddwd(4, "llvm.x86.sse2.pmadd.wd")
        return (_pmaddwd(4, "llvm.x86.sse2.pmadd.wd"),)
    if triple.startswith("aarch64") and "neon" in features:
        return (_SDOT,) if "dotprod" in features else (_SADALP,)
    return ()


def choose_kernel(kernels: tuple[DotKernel, ...], columns: int) -> DotKernel | None:
    """The widest kernel that divides ``columns``, or else (columns are padded then) the widest that is not wider."""
    exact = [kernel for kernel in kernels if columns % kernel.lanes == 0]
    narrow = [kernel for kernel in kernels if kernel.lanes <= columns]
    return next(iter(exact or narrow or kernels[-1:]), None)


def pack_weights(weight: np.ndarray, kernel: DotKernel) -> np.ndarray:
    """int8 [K, N] to int8 [N / lanes, K / depth, lanes, depth], both axes filled with zeros to whole steps."""
    depth, columns = weight.shape
    padded = np.zeros((-depth % kernel.depth + depth, -columns % kernel.lanes + columns), np.int8)
    padded[:depth, :columns] = weight
    steps = padded.reshape(padded.shape[0] // kernel.depth, kernel.depth, -1, kernel.lanes)
    return np.ascontiguousarray(steps.transpose(2, 0, 3, 1))


def integer_product(activation: Any, weight: Any) -> Any:
    """TE: activations [.., K] by packed weights to int32 [.., N], both as padded."""
    from tvm import te

    blocks, steps, lanes, depth = (int(size) for size in weight.shape)
    k = te.reduce_axis((0, steps * depth), "k")

    def product(*axes: Any) -> Any:
        *outer, n = axes
        value = activation[(*outer, k)].astype("int32")
        return te.sum(value * weight[n // lanes, k // depth, n % lanes, k % depth].astype("int32"), axis=k)

    return te.compute((*activation.shape[:-1], blocks * lanes), product, name="integer_product")


@functools.cache
def register(kernel: DotKernel) -> str:
    """Make the kernel known to TVM's scheduler; gives its name there."""
    from tvm.s_tir import TensorIntrin
    from tvm.script import from_source
    from tvm.target import codegen

    lanes, depth = kernel.lanes, kernel.depth
    buffers = (
        f'a: T.Buffer(({depth},), "{kernel.activation}", offset_factor=1), '
        f'b: T.Buffer(({lanes}, {depth}), "int8", offset_factor=1), '
        f'c: T.Buffer(({lanes},), "int32", offset_factor=1, scope="local")'
    )
    head = f"""
@T.prim_func(s_tir=True)
def kernel({buffers}):
    with T.sblock("root"):
        T.reads(c[0:{lanes}], a[0:{depth}], b[0:{lanes}, 0:{depth}])
        T.writes(c[0:{lanes}])
"""
    meaning = f"""
        for i, k in T.grid({lanes}, {depth}):
            with T.sblock("update"):
                vi, vk = T.axis.remap("SR", [i, k])
                c[vi] = c[vi] + T.Cast("int32", a[vk]) * T.Cast("int32", b[vi, vk])
"""
    sums = f"c[T.ramp(T.int32(0), 1, {lanes})]"
    body = kernel.body.format(
        intrinsic=f'T.uint32({codegen.llvm_lookup_intrinsic_id(kernel.intrinsic)})',
        a=f"a[T.ramp(T.int32(0), 1, {depth})]",
        b=f"b[0, T.ramp(T.int32(0), 1, {lanes * depth})]",
        c=sums,
    )
    step = f"        {sums} = {body}\n"
    with quick_parsing():
        TensorIntrin.register(
            kernel.tensor_intrinsic, from_source(head + meaning), from_source(head + step), override=True
        )
    return kernel.tensor_intrinsic


@contextmanager
def quick_parsing() -> Iterator[None]:
    """TVM's script parser asks for the call stack of each function it reads, with the source around every caller.

    Where torch is loaded, finding that source takes a second a function, and minutes for the intrinsics that
    MetaSchedule imports. The parser only wants it to recognise functions in classes, of which there are none.
    """
    stack = inspect.stack
    inspect.stack = _stack_without_source
    try:
        yield
    finally:
        inspect.stack = stack


def _stack_without_source(context: int = 1) -> list[inspect.FrameInfo]:
    found = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        found.append(inspect.FrameInfo(frame, code.co_filename, frame.f_lineno, code.co_name, None, None))
        frame = frame.f_back
    return found
