"""From Relax functions to compiled code: fusion, schedules, LLVM.

In: one Relax function an entry point, of the float or the quantized graph. Out: TVM's executable, with one function for
each, sharing kernels and constants. Kernels with a record in the tuning database are compiled as it says, the others by
``edge.export.tvm_schedule``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from edge.errors import UnsupportedError
from edge.export.tvm_blocks import machine_of
from edge.export.tvm_layout import channels_last
from edge.export.tvm_math import vectorize_math
from edge.export.tvm_pack import pack_products
from edge.export.tvm_schedule import schedule_module
from edge.runtimes.tvm import CPU_FLAGS, Requirements
from edge.spec import Target


def llvm_target(target: Target) -> Any:
    """TVM's target for an edge target; UnsupportedError for a CPU that LLVM does not know."""
    import tvm
    from tvm.target import codegen

    if not codegen.llvm_is_valid_cpu(target.cpu, target.triple):
        raise UnsupportedError(f"LLVM knows no CPU '{target.cpu}' for {target.triple}: correct the target's profile.")
    return tvm.target.Target(
        {
            "kind": "llvm",
            "mtriple": target.triple,
            "mcpu": target.cpu,
            "mattr": list(target.features),
            "num-cores": target.cores,
            "opt-level": 3,
        }
    )


def requirements(target: Target) -> Requirements:
    """What code compiled for ``target`` needs, as far as an operating system can tell."""
    from tvm.target import codegen

    named = CPU_FLAGS.get(target.arch, {})
    features = {str(feature) for feature in codegen.llvm_get_cpu_features(llvm_target(target))}
    flags = sorted(flag for feature, flag in named.items() if feature in features)
    return Requirements(arch=target.arch, cpu=target.cpu, flags=tuple(flags))


def fuse(functions: Mapping[str, Any], llvm: Any) -> Any:
    """One module with a function for each entry point and the fused, unscheduled kernels that they call."""
    import tvm
    from tvm import relax

    machine = machine_of(llvm)
    passes = tvm.transform.Sequential(
        [
            relax.transform.CanonicalizeBindings(),
            relax.transform.EliminateCommonSubexpr(),
            tvm.transform.module_pass(lambda module, _: channels_last(module), opt_level=0, name="ChannelsLast"),
            relax.transform.CanonicalizeBindings(),
            tvm.transform.module_pass(lambda module, _: pack_products(module, machine), opt_level=0, name="Pack"),
            # Fusion stops at a variable that only renames another.
            relax.transform.CanonicalizeBindings(),
            relax.transform.DeadCodeElimination(list(functions)),
            relax.get_pipeline("zero"),
            relax.transform.DeadCodeElimination(list(functions)),
        ]
    )
    with llvm, tvm.transform.PassContext(opt_level=3):
        return passes(tvm.IRModule(dict(functions)))


def compile_module(module: Any, llvm: Any) -> Any:
    """The executable of a fused module; kernels that are not scheduled yet get a schedule here."""
    import tvm

    with compile_context(llvm):
        return tvm.compile(schedule(module, llvm), target=llvm)


def schedule(module: Any, llvm: Any) -> Any:
    """``module`` with every kernel scheduled."""
    return vectorize_math(schedule_module(module, machine_of(llvm)))


@contextmanager
def compile_context(llvm: Any, checked: bool = True) -> Iterator[None]:
    """What every kernel is compiled under; ``checked`` kernels look at their arguments at every call."""
    import tvm

    # Vectors along an axis of odd length leave a rest: the loop is cut in two, so that only the rest has a condition.
    config = {"s_tir.LoopPartition": {"partition_const_loop": True}, "tirx.disable_assert": not checked}
    with llvm, tvm.transform.PassContext(opt_level=3, config=config):
        yield
