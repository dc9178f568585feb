"""The schemes of ONNX Runtime, each from a float32 ONNX graph to a quantized one.

    fp16          weights stored in float16, computed in float32: ONNX Runtime widens them once, when it loads
    int8          Gemm and Conv in QDQ form, weights int8 per channel, activations uint8 by calibration
    int8-dynamic  linear layers only, weights int8 per channel, activations scaled at run time
    int4          linear layers and embeddings, weights in groups that share a scale; see ``onnx_int4``

``quantize`` returns the graph and sentences for the manifest about what stayed in float32. Modules that match the
entry's ``keep_float`` are left alone. Raises InputError for int8 without calibration samples.

Activations are uint8 on every target: ONNX Runtime turns int8 ones into uint8 on x86 when it loads, after which the
fusions around Relu no longer match (a residual net ran 2.8 times slower), and its Arm kernels take either.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge.errors import InputError
from edge.export.base import Captured
from edge.export.onnx_calibrated import quantized_nodes, read_in_float
from edge.export.onnx_graph import in_modules
from edge.export.onnx_groups import widen_groups
from edge.export.onnx_tidy import drop_unread, part_int8
from edge.spec import Recipe, Scheme

if TYPE_CHECKING:
    import onnx

#: float16's largest value: a weight beyond it stays float32.
_FLOAT16_MAX = 65504.0


def quantize(model: onnx.ModelProto, captured: Captured, recipe: Recipe) -> tuple[onnx.ModelProto, list[str]]:
    """``model`` in the recipe's scheme, and what to tell the user about it."""
    with _own_logging():
        match recipe.scheme:
            case Scheme.FP32:
                return model, []
            case Scheme.FP16:
                return _store_half(model, captured), []
            case Scheme.INT8:
                return _calibrated(model, captured)
            case Scheme.INT8_DYNAMIC:
                return _dynamic(model, captured)
            case Scheme.INT4:
                return _grouped(model, captured)


def _store_half(model: onnx.ModelProto, captured: Captured) -> onnx.ModelProto:
    """Matrices and kernels become float16 initializers, each behind a Cast that ONNX Runtime folds when it loads.

    Converting the computation too was tried: this CPU has few float16 kernels, and the casts between them cost more
    (1.5 times float32's time) than they save.
    """
    import onnx

    graph = model.graph
    kept = {name for node in graph.node if in_modules(node.name, captured.entry.keep_float) for name in node.input}
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2 or tensor.name in kept:
            continue
        array = onnx.numpy_helper.to_array(tensor)
        if array.size and float(np.abs(array).max()) <= _FLOAT16_MAX:
            name = tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), f"{name}/half"))
            to = onnx.TensorProto.FLOAT
            casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], f"{name}/widen", to=to))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _calibrated(model: onnx.ModelProto, captured: Captured) -> tuple[onnx.ModelProto, list[str]]:
    """Static int8 through ``quantize_static``, then float32 readers back on float32 values."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    entry = captured.entry
    if not captured.calibration:
        raise InputError(
            f"int8 needs calibration samples and entry point '{entry.name}' has none: "
            "pass --calibration FILE.npz, or choose int8-dynamic."
        )
    chosen, sentences = quantized_nodes(model.graph, entry)
    if not chosen:
        return model, sentences
    widen_groups(model.graph, {node.name for node in chosen})
    names = {spec.name for spec in entry.inputs}
    samples = iter([{name: sample[name] for name in names} for sample in captured.calibration])

    class Reader:
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(samples, None)

    with tempfile.TemporaryDirectory(prefix="edge-onnx-") as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            _preprocessed(model),
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=sorted({node.op_type for node in chosen}),
            nodes_to_quantize=[node.name for node in chosen],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        quantized = onnx.load(path)
    read_in_float(quantized.graph, chosen, model.graph)
    part_int8(quantized.graph)
    return quantized, sentences


def _dynamic(model: onnx.ModelProto, captured: Captured) -> tuple[onnx.ModelProto, list[str]]:
    """int8-dynamic through ``quantize_dynamic``: what it writes, ONNX Runtime fuses to DynamicQuantizeMatMul."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    linears, sentences = _linears(model, captured)
    convolutions = sum(node.op_type in ("Conv", "ConvTranspose") for node in model.graph.node)
    if convolutions:
        sentences.append(
            f"entry point '{captured.entry.name}': {convolutions} convolution(s) stay float32, since ONNX Runtime's "
            "dynamically quantized convolution is several times slower; int8 quantizes them."
        )
    if not linears:
        return model, sentences
    with tempfile.TemporaryDirectory(prefix="edge-onnx-") as folder:
        path = Path(folder) / "dynamic.onnx"
        quantize_dynamic(
            _preprocessed(model),
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=linears,
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        quantized = onnx.load(path)
    part_int8(quantized.graph)
    return quantized, sentences


def _grouped(model: onnx.ModelProto, captured: Captured) -> tuple[onnx.ModelProto, list[str]]:
    """What ``onnx_int4`` has made already, with the biases inside."""
    _absorb_bias(model.graph)
    return model, _left_in_float(model.graph, captured)


def _linears(model: onnx.ModelProto, captured: Captured) -> tuple[list[str], list[str]]:
    """Make every linear layer MatMul (and Add); the names of those to quantize, and a sentence on other products."""
    _split_gemms(model.graph)
    constants = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    keep = captured.entry.keep_float
    products = [node for node in model.graph.node if node.op_type == "MatMul" and not in_modules(node.name, keep)]
    linears = [node.name for node in products if constants.get(node.input[1]) == 2]
    return linears, _left_in_float(model.graph, captured)


def _left_in_float(graph: onnx.GraphProto, captured: Captured) -> list[str]:
    """A sentence on linear layers over another axis, whose constant is on the left; two activations have no weights."""
    constants = {tensor.name for tensor in graph.initializer}
    keep = captured.entry.keep_float
    left = sum(
        node.op_type == "MatMul" and node.input[0] in constants and node.input[1] not in constants
        for node in graph.node
        if not in_modules(node.name, keep)
    )
    if not left:
        return []
    return [
        f"entry point '{captured.entry.name}': {left} matrix product(s) whose weight is the left operand stay float32."
    ]


def _split_gemms(graph: onnx.GraphProto) -> None:
    """Gemm with a constant matrix -> MatMul, Add: the form that weight-only and dynamic quantization take."""
    import onnx

    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA", 0)
        if node.op_type != "Gemm" or not plain or node.input[1] not in constants:
            nodes.append(node)
            continue
        weight = node.input[1]
        if attributes.get("transB", 0):
            weight = f"{weight}/transposed"
            if weight not in constants:
                array = np.ascontiguousarray(onnx.numpy_helper.to_array(constants[node.input[1]]).T)
                constants[weight] = graph.initializer.add()
                constants[weight].CopyFrom(onnx.numpy_helper.from_array(array, weight))
        biased = len(node.input) > 2 and node.input[2]
        product = f"{node.name}/product" if biased else node.output[0]
        nodes.append(onnx.helper.make_node("MatMul", [node.input[0], weight], [product], f"{node.name}/product"))
        if biased:
            nodes.append(onnx.helper.make_node("Add", [product, node.input[2]], [node.output[0]], node.name))
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unread(graph)


def _absorb_bias(graph: onnx.GraphProto) -> None:
    """MatMulNBits, Add of a constant row -> MatMulNBits with its bias input (the sixth)."""
    rows = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 1}
    readers: dict[str, list[onnx.NodeProto]] = {output.name: [] for output in graph.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    ends = {output.name for output in graph.output}
    absorbed = set()
    for node in graph.node:
        after = readers.get(node.output[0], [])
        if node.op_type != "MatMulNBits" or len(after) != 1 or after[0].op_type != "Add" or node.output[0] in ends:
            continue
        bias = [name for name in after[0].input if name != node.output[0]]
        if len(bias) == 1 and bias[0] in rows:
            node.input.extend([""] * (5 - len(node.input)) + bias)
            node.output[0], node.name = after[0].output[0], after[0].name
            absorbed.add(id(after[0]))
    nodes = [node for node in graph.node if id(node) not in absorbed]
    del graph.node[:]
    graph.node.extend(nodes)


def _preprocessed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Marked as prepared: the quantizers warn otherwise, and our own passes have done what they would suggest."""
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    add_pre_process_metadata(model)
    return model


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    """Keep the root logger as it was: onnxruntime.quantization configures it when imported and writes to it."""
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.disable(disabled)
