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
import logging
import operator
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from edge.errors import UnsupportedError
from edge.export.base import Captured, UnsupportedOperator

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    from torch.export import ExportedProgram
    from torch.fx import Node

#: 23 is the first opset with Attention and RMSNormalization: one kernel each in ONNX Runtime instead of five to eight.
OPSET = 23


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
    from torch.onnx._internal.exporter import _dispatching, _fx_passes, _registration

    with _quiet():
        registry = _registration.ONNXRegistry.from_torchlib(opset_version=OPSET)
        decomposed = _fx_passes.decompose_with_registry(program, registry)
        _fx_passes.remove_assertion_nodes(decomposed.graph_module)
        found: Counter[tuple[str, str]] = Counter()
        for graph_module in decomposed.graph_module.modules():
            for node in graph_module.graph.nodes:
                if node.op == "call_function" and node.target is not operator.getitem:
                    function, _ = _dispatching.dispatch(node, registry)
                    if function is None:
                        found[str(node.target), _module_path(node)] += 1
    return [
        UnsupportedOperator(operator=name, module=module, count=count)
        for (name, module), count in sorted(found.items())
    ]


def to_onnx(captured: Captured) -> ir.Model:
    """The entry's graph in ONNX, tidy and not quantized."""
    import torch

    entry = captured.entry
    signature = captured.program.graph_signature
    if kept := [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]:
        raise UnsupportedError(
            f"entry point '{entry.name}' changes '{kept[0]}' in place, which an ONNX graph cannot: "
            "take it as an input and return it as an output, or use another runtime."
        )
    try:
        with _quiet():
            program = torch.onnx.export(
                captured.program, (), dynamo=True, opset_version=OPSET, optimize=True, verbose=False
            )
    except torch.onnx.errors.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = str(cause).strip().partition("\n")[0].rstrip(".")
        raise UnsupportedError(
            f"entry point '{entry.name}' cannot be written as ONNX ({reason}): "
            "change that part of it or use another runtime."
        ) from error
    assert program is not None
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


def finish(model: onnx.ModelProto, captured: Captured) -> None:
    """Last of all, in place: the specs' names for dynamic sizes, attributes in order, no shapes of inner values.

    The exporter's attributes come in an order that differs between two runs, and inner shapes use symbols of its own.
    """
    for values, specs in ((model.graph.input, captured.entry.inputs), (model.graph.output, captured.outputs)):
        for value, spec in zip(values, specs, strict=True):
            assert value.name == spec.name
            del value.type.tensor_type.shape.dim[:]
            for axis in spec.shape:
                dim = value.type.tensor_type.shape.dim.add()
                if isinstance(axis, str):
                    dim.dim_param = axis
                else:
                    dim.dim_value = axis
    _order(model.graph)
    _share(model.graph)


def names_read(node: onnx.NodeProto) -> set[str]:
    """What ``node`` reads, the bodies of its branches and loops included."""
    names = set(node.input)
    for body in _bodies(node):
        names.update(name for inner in body.node for name in names_read(inner))
        names.update(value.name for value in body.output)
    return names


def drop_unread(graph: onnx.GraphProto) -> None:
    """Drop the initializers that no node and no output reads, in place."""
    read = {name for node in graph.node for name in names_read(node)} | {value.name for value in graph.output}
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [
        body
        for attribute in node.attribute
        for body in ([attribute.g] if attribute.HasField("g") else attribute.graphs)
    ]


def _order(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for node in graph.node:
        attributes = sorted(node.attribute, key=lambda attribute: str(attribute.name))
        del node.attribute[:]
        node.attribute.extend(attributes)
        for body in _bodies(node):
            _order(body)


def _share(graph: onnx.GraphProto) -> None:
    """Keep one of several equal initializers: zero points, for the most part."""
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    nested = {name for node in graph.node for name in names_read(node) - set(node.input)}
    ends = {value.name for value in graph.output}
    for tensor in graph.initializer:
        if tensor.name not in ends and tensor.name not in nested:
            name, tensor.name = tensor.name, ""
            same[name] = first.setdefault(tensor.SerializeToString(deterministic=True), name)
            tensor.name = name
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
    drop_unread(graph)


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
