"""ExecuTorch's edge graph: what XNNPACK took over, what the portable kernels run, what nothing can run.

The functions between ``to_edge`` and ``to_executorch`` only read what the one made, before the other uses it up.
"""

from __future__ import annotations

import contextlib
import logging
import operator
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge.errors import UnsupportedError
from edge.export.base import UnsupportedOperator
from edge.export.executorch_passes import needed_passes
from edge.manifest import DelegateRecord
from edge.quiet import quiet_stderr
from edge.runtimes.executorch import NOISE

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Graph, GraphModule, Node

#: Operators that only say how a neighbour computes: XNNPACK folds them into it, or converts a tensor.
_QUANTIZERS = ("quantized_decomposed.", "torchao.")
#: dtypes that every kernel with a float or integer version takes; others are tried one by one.
_COMMON = ("float32", "int64", "int32", "int8", "uint8", "bool")
#: What has been tried in this process: operators with the dtypes of their arguments.
_RUNS_ALONE: dict[str, bool] = {}


@contextlib.contextmanager
def executorch_tools() -> Iterator[None]:
    """Without gradients, quiet about what executorch and torchao say of themselves, their hand off the root logger."""
    import torch

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with torch.no_grad(), warnings.catch_warnings(), quiet_stderr(*NOISE):
        # Their own use of deprecated torch APIs, and "experimental" marks: nothing a user can act on.
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)


def to_edge(name: str, program: ExportedProgram, partition: bool = True) -> ExportedProgram:
    """``program`` decomposed and (unless told not to) partitioned for XNNPACK.

    Raises UnsupportedError with executorch's own reason if it cannot.
    """
    with executorch_tools():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        try:
            with needed_passes():
                edge = to_edge_transform_and_lower(
                    {name: _own_constants(program)},
                    partitioner=[XnnpackPartitioner()] if partition else None,
                    compile_config=_any_operator(),
                )
        except Exception as error:  # executorch raises whatever its passes run into
            raise UnsupportedError(
                f"executorch cannot lower {name} ({reason(error)}): try another scheme or runtime."
            ) from error
        lowered: ExportedProgram = edge.exported_program(name)
        return lowered


def reason(error: Exception) -> str:
    """An error's type and first line."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
    return f"{type(error).__name__}: {line[:300]}"


def to_executorch(programs: Mapping[str, ExportedProgram]) -> Any:
    """Partitioned programs as one ``ExecutorchProgramManager``, a method each; the programs themselves are used up."""
    with executorch_tools():
        from executorch.exir import EdgeProgramManager, ExecutorchBackendConfig
        from executorch.exir.passes import MemoryPlanningPass

        # Inputs are read where the caller has them: planned memory for them would be filled by a copy before each run.
        planning = MemoryPlanningPass(alloc_graph_input=False)
        config = ExecutorchBackendConfig(memory_planning_pass=planning)
        return EdgeProgramManager(dict(programs), None, _any_operator()).to_executorch(config)


def planned_bytes(executorch: Any) -> dict[str, int]:
    """Bytes that each method of an ``ExecutorchProgramManager`` has planned for what it computes on the way."""
    return {plan.name: sum(plan.non_const_buffer_sizes) for plan in executorch.executorch_program.execution_plan}


def delegation(entry: str, module: GraphModule) -> DelegateRecord:
    """How a partitioned method divides between XNNPACK and the portable kernels."""
    delegated = [
        node
        for lowered in delegates(module)
        for node in lowered.original_module.graph.nodes
        if _computes(node) and not _is_quantizer(node)
    ]
    left = Counter(_name(node) for graph in _graphs(module) for node in graph.nodes if _is_kernel_call(node))
    return DelegateRecord(
        entry=entry,
        delegates=len(delegates(module)),
        delegated=len(delegated),
        portable=dict(sorted(left.items())),
    )


def unsupported(module: GraphModule) -> list[UnsupportedOperator]:
    """Every operator of a partitioned method that has no kernel in the installed runtime, in order of first use.

    An operator lacks a kernel if XNNPACK did not take it and the runtime's registry has no out-variant of it, or (for
    complex, double and half tensors) if the kernel that is there refuses its dtypes when it is run on ones.
    """
    from edge.runtimes.executorch import kernel_names

    registered = kernel_names()
    found: Counter[tuple[str, str]] = Counter()
    for graph in _graphs(module):
        for node in graph.nodes:
            if not _is_kernel_call(node):
                continue
            lacks = _kernel(node) not in registered
            if not lacks and _is_uncommon(node):
                key = f"{_name(node)}{[_signature(argument) for argument in (*node.args, *node.kwargs.values())]}"
                if key not in _RUNS_ALONE:
                    _RUNS_ALONE[key] = _runs_alone(node)
                lacks = not _RUNS_ALONE[key]
            if lacks:
                found[_name(node), module_path(node)] += 1
    return [UnsupportedOperator(name, path, count) for (name, path), count in found.items()]


@dataclass(frozen=True)
class Sources:
    """A partitioned method's operators, each as [operator, module path]: by debug handle those of the portable kernels,
    and by delegate, in order, what XNNPACK took."""

    portable: Mapping[int, list[str]]
    delegated: Sequence[list[list[str]]]


def sources(module: GraphModule) -> Sources:
    """To be asked before ``to_executorch`` uses the program up."""
    portable = {
        int(node.meta["debug_handle"]): _described(node)
        for graph in _graphs(module)
        for node in graph.nodes
        if _is_kernel_call(node) and "debug_handle" in node.meta
    }
    delegated = [
        [_described(node) for node in lowered.original_module.graph.nodes if _computes(node)]
        for lowered in delegates(module)
    ]
    return Sources(portable, delegated)


def operator_modules(methods: Mapping[str, Sources], executorch: Any) -> dict[str, dict[str, list[list[str]]]]:
    """For each method and instruction of an ``ExecutorchProgramManager``: its operators, each with its module's path.

    A portable kernel's instruction has one operator, a delegate's has all that it took over, in order.
    """
    found: dict[str, dict[str, list[list[str]]]] = {}
    for method, known in methods.items():
        taken = sorted(executorch.delegate_map.get(method, {}))
        instructions = dict(zip(taken, known.delegated, strict=True))
        for instruction, handle in executorch.debug_handle_map.get(method, {}).items():
            if instruction not in instructions and handle in known.portable:
                instructions[instruction] = [known.portable[handle]]
        found[method] = {str(instruction): operators for instruction, operators in sorted(instructions.items())}
    return found


def delegates(module: GraphModule) -> list[Any]:
    """The ``LoweredBackendModule`` of each delegate, in order of execution."""
    from executorch.exir.delegate import executorch_call_delegate

    return [
        getattr(graph.owning_module, str(node.args[0].target))
        for graph in _graphs(module)
        for node in graph.nodes
        if node.target is executorch_call_delegate
    ]


def module_path(node: Node) -> str:
    """The path in the model of the module that ``node`` comes from; a quantizer's is its neighbour's."""
    if _is_quantizer(node):
        near = [*node.all_input_nodes[:1], *node.users]
        node = next((other for other in near if other.meta.get("nn_module_stack") and not _is_quantizer(other)), node)
    return module_paths(node)[-1] if module_paths(node) else ""


def module_paths(node: Node) -> list[str]:
    """Paths from the outermost module to the one that made ``node``; "" is the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    # torch.export marks a module's second call with "@1".
    return [str(path).split("@")[0] for path, _ in stack.values()]


def _own_constants(program: ExportedProgram) -> ExportedProgram:
    """``program`` with dictionaries of its own: lowering takes out of them what a delegate has swallowed."""
    from torch.export import ExportedProgram

    return ExportedProgram(
        root=program.graph_module,
        graph=program.graph,
        graph_signature=program.graph_signature,
        state_dict=dict(program.state_dict),
        range_constraints=dict(program.range_constraints),
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=dict(program.constants),
        verifiers=program.verifiers,
    )


def _any_operator() -> Any:
    """Without the validity check, which stops at the first operator that is not core ATen."""
    from executorch.exir import EdgeCompileConfig

    return EdgeCompileConfig(_check_ir_validity=False)


def _graphs(module: GraphModule) -> list[Graph]:
    """The graph, and those that its control flow calls."""
    from torch.fx import GraphModule

    graphs = [module.graph]
    for node in module.graph.nodes:
        inner = getattr(module, str(node.target), None) if node.op == "get_attr" else None
        if isinstance(inner, GraphModule):
            graphs.extend(_graphs(inner))
    return graphs


def _computes(node: Node) -> bool:
    return node.op == "call_function" and node.target is not operator.getitem


def _is_quantizer(node: Node) -> bool:
    return _name(node).startswith(_QUANTIZERS)


def _is_kernel_call(node: Node) -> bool:
    from executorch.exir.passes import to_out_var_skiplist
    from executorch.exir.passes.executorch_prim_ops_registry import is_sym_op

    return node.op == "call_function" and node.target not in to_out_var_skiplist and not is_sym_op(node.target)


def _name(node: Node) -> str:
    """``aten.linear.default``, as torch prints it."""
    return str(getattr(node.target, "_op", node.target)) if node.op == "call_function" else ""


def _described(node: Node) -> list[str]:
    parts = _name(node).split(".")
    return [parts[1] if len(parts) > 1 else parts[0], module_path(node)]


def _kernel(node: Node) -> str | None:
    """The registered name of the kernel that would run ``node``; None if torch itself knows no out-variant."""
    from executorch.exir.operator.convert import to_out_variant

    target: Any = getattr(node.target, "_op", node.target)
    schema = getattr(target, "_schema", None)
    if schema is None:
        return None
    if any(argument.is_out or (argument.alias_info and argument.alias_info.is_write) for argument in schema.arguments):
        return str(target.name())
    try:
        return str(to_out_variant(target)[0].name())
    except RuntimeError:
        return None


def _is_uncommon(node: Node) -> bool:
    import torch

    values = [other.meta.get("val") for other in (*node.all_input_nodes, node)]
    flat = [item for value in values for item in (value if isinstance(value, tuple | list) else (value,))]
    return any(isinstance(item, torch.Tensor) and str(item.dtype).split(".")[1] not in _COMMON for item in flat)


def _signature(argument: Any) -> Any:
    import torch

    if isinstance(argument, list | tuple):
        return [_signature(item) for item in argument]
    value = getattr(argument, "meta", {}).get("val", argument)
    return (value.dtype, value.dim()) if isinstance(value, torch.Tensor) else value


def _runs_alone(node: Node) -> bool:
    """Whether the runtime executes ``node`` by itself, on tensors of ones of its dtypes and shapes."""
    import torch

    from edge.runtimes.executorch import execute_once

    inputs = node.all_input_nodes
    values = [other.meta["val"] for other in inputs]
    ones = tuple(torch.ones([int(size) for size in value.shape], dtype=value.dtype) for value in values)
    target: Any = getattr(node.target, "_op", node.target)

    class Alone(torch.nn.Module):
        def forward(self, *tensors: torch.Tensor) -> Any:
            given = dict(zip(inputs, tensors, strict=True))
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda other: given[other])
            return target(*args, **kwargs)

    try:
        with torch.no_grad():
            program = torch.export.export(Alone(), ones)
        lowered = to_executorch({"forward": to_edge("forward", program, partition=False)})
        execute_once(lowered.buffer, "forward", ones)
    except (RuntimeError, UnsupportedError):
        return False
    return True
