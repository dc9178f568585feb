"""From a captured entry point to a plain ONNX graph: torch.onnx's dynamo exporter, then names that mean something.

In: `Captured`. Out: an `onnx_ir.Model` in float32 with static shapes (but for the entry's dynamic dimensions), inputs
and outputs named as the entry's `TensorSpec`s, every node and value named ``MODULE/NODE`` by the module of the model
that it comes from, and nothing in it that differs between two runs or machines (stack traces, doc strings, metadata).
Raises UnsupportedError for a program that ONNX cannot hold.
"""

from __future__ import annotations

import ast
import contextlib
import fnmatch
import functools
import logging
import operator
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from unittest import mock

from edge.errors import UnsupportedError
from edge.export.base import Captured, UnsupportedOperator

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch.export import ExportedProgram
    from torch.fx import Node

#: 23 is the first opset with Attention and RMSNormalization: one kernel each in ONNX Runtime instead of five to eight.
OPSET = 23
#: Nodes from which the exporter's optimiser does without rules whose time grows with their square.
LARGE_GRAPH = 2000


def module_of(name: str) -> str:
    """The module path in a node's or value's name (``blocks.0.up/linear_1`` gives ``blocks.0.up``); '' if it has none.

    Holds for the names that ONNX Runtime derives when it fuses, since it appends to the name of a node or of a value.
    """
    module, slash, _ = name.partition("/")
    return module if slash else ""


def in_modules(name: str, patterns: Sequence[str]) -> bool:
    """Whether the node called ``name`` belongs to a submodule, or a part of one, that one of ``patterns`` matches."""
    parts = module_of(name).split(".")
    paths = [".".join(parts[: end + 1]) for end in range(len(parts))]
    return any(fnmatch.fnmatchcase(path, pattern) for path in paths for pattern in patterns)


def missing_functions(program: ExportedProgram) -> list[UnsupportedOperator]:
    """The operators of ``program`` that have no ONNX function once decomposed as the exporter does, by module."""
    # Private, but there is no public way to ask; torch is pinned where edge exports.
    from torch.onnx._internal.exporter import _fx_passes

    if not _undispatched(program):  # what has a function is not decomposed, and decomposing takes a second
        return []
    with _quiet():
        decomposed = _fx_passes.decompose_with_registry(program, _registry())
        _fx_passes.remove_assertion_nodes(decomposed.graph_module)
    found = Counter((str(node.target), _module_path(node)) for node in _undispatched(decomposed))
    return [
        UnsupportedOperator(operator=name, module=module, count=count)
        for (name, module), count in sorted(found.items())
    ]


@functools.cache
def _registry() -> Any:
    """The exporter's table of ONNX functions by aten operator."""
    from torch.onnx._internal.exporter import _registration

    with _quiet():
        return _registration.ONNXRegistry.from_torchlib(opset_version=OPSET)


def _undispatched(program: ExportedProgram) -> list[Node]:
    from torch.onnx._internal.exporter import _dispatching

    return [
        node
        for graph_module in program.graph_module.modules()
        if hasattr(graph_module, "graph")
        for node in graph_module.graph.nodes
        if node.op == "call_function" and node.target is not operator.getitem
        if _dispatching.dispatch(node, _registry())[0] is None
    ]


def to_onnx(captured: Captured, own: Mapping[Any, Callable[..., Any]] | None = None) -> ir.Model:
    """The entry's graph in ONNX, tidy and not quantized; ``own`` are operators that torch's exporter does not know."""
    import torch

    entry = captured.entry
    try:
        with _quiet(), _quick_rules(len(captured.program.graph.nodes)):
            program = torch.onnx.export(
                captured.program, (), dynamo=True, opset_version=OPSET, optimize=True, verbose=False,
                custom_translation_table=dict(own) if own else None,
            )  # fmt: skip
    except torch.onnx.errors.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = str(cause).strip().partition("\n")[0].rstrip(".")
        raise UnsupportedError(
            f"entry point '{entry.name}' cannot be written as ONNX ({reason}): "
            "change that part of it or use another runtime."
        ) from error
    assert program is not None and program.exported_program is not None
    signature = program.exported_program.graph_signature  # after decompositions, which bring mutations to light
    if kept := [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]:
        raise UnsupportedError(
            f"entry point '{entry.name}' changes '{kept[0]}' in place, which an ONNX graph cannot: "
            "take it as an input and return it as an output, or use another runtime."
        )
    model: ir.Model = program.model
    _name_inside(model)
    _name_ends(model, captured)
    _strip(model)
    return model


def _module_path(node: Node) -> str:
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][0]) if stack else ""


def _name_inside(model: ir.Model) -> None:
    """Name every node and its outputs ``MODULE/NODE``, once, in the order of the graph."""
    used: Counter[str] = Counter()

    def unique(name: str) -> str:
        used[name] += 1
        return name if used[name] == 1 else unique(f"{name}.{used[name] - 1}")

    for node in model.graph.all_nodes():
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
        *modules, source = ast.literal_eval(scopes) if scopes else ["", node.op_type.lower()]
        node.name = unique(f"{modules[-1] if modules else ''}/{source}")
        for index, value in enumerate(node.outputs):
            value.name = node.name if index == 0 else unique(f"{node.name}:{index}")


def _name_ends(model: ir.Model, captured: Captured) -> None:
    """Give inputs and outputs the names of their specs; each output becomes a value of its own."""
    import onnx_ir as ir

    graph, entry = model.graph, captured.entry
    ends = {spec.name for spec in (*entry.inputs, *captured.outputs)}
    assert len(graph.inputs) == len(entry.inputs) and len(graph.outputs) == len(captured.outputs)
    for value in list(graph.initializers.values()):
        if value.name in ends:
            value.name = f"/{value.name}"
    for index, value in enumerate(graph.outputs):
        if value.producer() is None or value in list(graph.outputs)[:index]:
            copy = ir.node("Identity", [value], name=f"/output.{index}")
            copy.outputs[0].type = value.type
            graph.append(copy)
            graph.outputs[index] = copy.outputs[0]
    for values, specs in ((graph.inputs, entry.inputs), (graph.outputs, captured.outputs)):
        for value, spec in zip(values, specs, strict=True):
            value.name = spec.name
    graph.name = entry.name


def _strip(model: ir.Model) -> None:
    """Drop what differs between runs or tells of the machine."""
    model.doc_string = model.graph.doc_string = None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    values: list[Any] = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in model.graph.all_nodes():
        node.doc_string = None
        node.metadata_props.clear()
        values.extend(node.outputs)
    for value in values:
        value.doc_string = None
        value.metadata_props.clear()
        if value.const_value is not None:
            value.const_value.doc_string = None


@contextlib.contextmanager
def _quick_rules(nodes: int) -> Iterator[None]:
    """In a large graph, only the exporter's rewrites that look at one output.

    For the others (two slices into one split) it tries every pair of nodes: minutes for a language model's graph, and
    ONNX Runtime slices as fast as it splits.
    """
    from onnxscript import rewriter

    rules = getattr(rewriter, "_DEFAULT_REWRITE_RULES", None)  # private: without it, exporting is slow and no worse
    if nodes < LARGE_GRAPH or rules is None:
        yield
        return
    single = tuple(rule for rule in rules if rule._matcher.pattern.has_single_output_node)
    with mock.patch.object(rewriter, "_DEFAULT_REWRITE_RULES", single):
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs that torchvision is missing, torch warns of its own pytree: neither is the user's concern."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
