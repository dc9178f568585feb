"""From an exported program to a Relax function: decomposition, converters that the importer lacks, and what is missing.

In: a ``torch.export`` program. Out: a Relax function. Refuses (UnsupportedError) what the importer cannot take in spite
of having a converter for it. ``linear``, ``matmul`` and attention are kept whole: taken apart, they come back as chains
of reshapes that stand between a matrix product and what could be fused into it.
"""

from __future__ import annotations

import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edge.errors import UnsupportedError
from edge.export import tvm_sparse
from edge.export.base import UnsupportedOperator

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

#: Takes the node and the importer, emits Relax operators, returns the node's value.
Converter = Callable[["Node", Any], Any]

_WHOLE = ("linear.default", "matmul.default", "scaled_dot_product_attention.default")


#: Decomposing takes seconds, and every program is looked at, lowered, and maybe lowered again in float32.
_decomposed: weakref.WeakKeyDictionary[ExportedProgram, ExportedProgram] = weakref.WeakKeyDictionary()


def decompose(program: ExportedProgram) -> ExportedProgram:
    """Core ATen operators, apart from the few that are kept whole."""
    if program not in _decomposed:
        _decomposed[program] = _decompose(program)
    return _decomposed[program]


def _decompose(program: ExportedProgram) -> ExportedProgram:
    import torch

    table: Any = torch.export.default_decompositions()
    for name in _WHOLE:
        packet, overload = name.split(".")
        table.pop(getattr(getattr(torch.ops.aten, packet), overload), None)
    with warnings.catch_warnings():
        # torch copies its own deprecated pytree class here.
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec")
        decomposed: ExportedProgram = program.run_decompositions(table)
    return decomposed


def missing_operators(program: ExportedProgram) -> list[UnsupportedOperator]:
    """Every operator of the decomposed ``program`` that cannot be converted, with the module it comes from."""
    from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

    known = {str(name) for name in ExportedProgramImporter().convert_map} | set(converters())
    # A conditional is imported as functions of its own, whose names collide between entry points.
    known.discard("cond")
    lacking: Counter[tuple[str, str]] = Counter()
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        if str(node.target.__name__) not in known:
            lacking[str(node.target), module_of(node)] += 1
        elif _is_complex(node):
            lacking[f"{node.target} (complex numbers)", module_of(node)] += 1
    for buffer in program.graph_signature.buffers_to_mutate.values():
        lacking["writing to a buffer", buffer.rpartition(".")[0]] += 1
    return [
        UnsupportedOperator(operator=operator, module=module, count=count)
        for (operator, module), count in lacking.items()
    ]


def to_relax(program: ExportedProgram, name: str) -> Any:
    """The decomposed ``program`` as a Relax function, its weights bound as constants, named ``name``."""
    from tvm.relax.frontend.torch import from_exported_program

    try:
        # Already decomposed, by a table that differs from the importer's own.
        module = from_exported_program(program, run_ep_decomposition=False, custom_convert_map=dict(converters()))
    except Exception as error:  # converters raise whatever comes: assertion, key, type, TVM's own errors
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UnsupportedError(
            f"entry point '{name}' cannot be imported into TVM ({type(error).__name__}: {reason[:200]}): "
            "rewrite that part, or try another runtime."
        ) from error
    return module["main"].with_attr("global_symbol", name)


def module_of(node: Node) -> str:
    """Path of the submodule that ``node`` comes from; empty for the entry's own code."""
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][0]) if stack else ""


def _is_complex(node: Node) -> bool:
    value = node.meta.get("val")
    return getattr(getattr(value, "dtype", None), "is_complex", False)


def converters() -> Mapping[str, Converter]:
    """Converters that the importer lacks, or whose own stands in the way of fusion or of integers."""
    return {
        "_native_batch_norm_legit_no_training.default": _batch_norm,
        "amax.default": _extremum("max"),
        "amin.default": _extremum("min"),
        "clamp.default": _clamp,
        "clamp_max.default": lambda node, importer: _clamp_to(node, importer, None, _argument(node, 1, "max")),
        "clamp_min.default": lambda node, importer: _clamp_to(node, importer, _argument(node, 1, "min"), None),
        "embed.default": tvm_sparse.convert,
        "embedding.default": _embedding,
        "half_matmul.default": _half_matmul,
        "head.default": tvm_sparse.convert,
        "half_pointwise.default": _half_pointwise,
        "int8_matmul.default": _int8_matmul,
        "int8_pointwise.default": _int8_pointwise,
        "linear.default": _linear,
        "matmul.default": _matmul,
        "mla.default": tvm_sparse.convert,
        "max.dim": _extremum_with_index("max", "argmax"),
        "min.dim": _extremum_with_index("min", "argmin"),
        "reflection_pad1d.default": _pad("reflect"),
        "reflection_pad2d.default": _pad("reflect"),
        "replication_pad2d.default": _pad("edge"),
        "relu2_mlp.default": tvm_sparse.convert,
        "relu2_mlp_skip.default": tvm_sparse.convert,
        "rms_norm.default": tvm_sparse.convert,
        "scaled_dot_product_attention.default": _attention,
        "unfold.default": _unfold,
    }


def _argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _value(importer: Any, argument: Any) -> Any:
    return importer._retrieve_args(argument)


def _linear(node: Node, importer: Any) -> Any:
    """x[..., K] @ weight[N, K].T + bias, the weight transposed once, while compiling; or edge's own."""
    from tvm import relax

    if tvm_sparse.is_ours(node):
        return tvm_sparse.convert(node, importer)
    x, weight = _value(importer, node.args[0]), _value(importer, node.args[1])
    bias = _value(importer, _argument(node, 2, "bias"))
    emit = importer.block_builder.emit
    product = emit(relax.op.matmul(x, emit(relax.op.permute_dims(weight, [1, 0]))))
    return product if bias is None else emit(relax.op.add(product, bias))


def _matmul(node: Node, importer: Any) -> Any:
    from tvm import relax

    left, right = _value(importer, node.args[0]), _value(importer, node.args[1])
    return importer.block_builder.emit(relax.op.matmul(left, right))


def _half_matmul(node: Node, importer: Any) -> Any:
    """float32 [..., K] by float16 [N, K], computed in float32 (``edge.export.tvm_quantize``)."""
    from tvm import relax

    x, weight = _value(importer, node.args[0]), _value(importer, node.args[1])
    emit = importer.block_builder.emit
    wide = emit(relax.op.astype(emit(relax.op.permute_dims(weight, [1, 0])), "float32"))
    return emit(relax.op.matmul(x, wide))


def _half_pointwise(node: Node, importer: Any) -> Any:
    """float32 [B, K, H, W] by float16 [N, K], computed in float32 (``edge.export.tvm_quantize``)."""
    from tvm import relax

    x, weight = _value(importer, node.args[0]), _value(importer, node.args[1])
    emit = importer.block_builder.emit
    wide = emit(relax.op.astype(emit(relax.op.expand_dims(weight, [2, 3])), "float32"))
    return emit(relax.op.nn.conv2d(x, wide))


def _int8_matmul(node: Node, importer: Any) -> Any:
    """int8 [..., K] by int8 [N, K], accumulated in int32 (``edge.export.tvm_quantize``)."""
    from tvm import relax

    q, weight = _value(importer, node.args[0]), _value(importer, node.args[1])
    emit = importer.block_builder.emit
    return emit(relax.op.matmul(q, emit(relax.op.permute_dims(weight, [1, 0])), out_dtype="int32"))


def _int8_pointwise(node: Node, importer: Any) -> Any:
    """int8 [B, K, H, W] by int8 [N, K], accumulated in int32 (``edge.export.tvm_quantize``)."""
    from tvm import relax

    q, weight = _value(importer, node.args[0]), _value(importer, node.args[1])
    emit = importer.block_builder.emit
    kernel = emit(relax.op.expand_dims(weight, [2, 3]))
    return emit(relax.op.nn.conv2d(q, kernel, out_dtype="int32"))


def _embedding(node: Node, importer: Any) -> Any:
    """Rows of a table [n, width]; an index outside takes the nearest row, where the importer's own form would crash."""
    from tvm import relax

    table, indices = _value(importer, node.args[0]), _value(importer, node.args[1])
    shape = [*(int(extent) for extent in indices.ty.shape), int(table.ty.shape[1])]
    emit = importer.block_builder.emit
    flat = emit(relax.op.reshape(indices, [-1]))
    return emit(relax.op.reshape(emit(relax.op.take(table, flat, axis=0, mode="clip")), shape))


def _attention(node: Node, importer: Any) -> Any:
    """softmax(q @ k.T * scale + mask) @ v as plain operators, which fuse; a row that is masked whole gives NaN."""
    import math

    import numpy as np
    from tvm import relax

    query, key, value = (_value(importer, node.args[index]) for index in range(3))
    mask = _value(importer, _argument(node, 3, "attn_mask"))
    if node.kwargs.get("enable_gqa", False):
        raise NotImplementedError("attention with enable_gqa: repeat the heads")
    rank = query.ty.ndim
    scale = node.kwargs.get("scale") or 1.0 / math.sqrt(int(query.ty.shape[rank - 1]))
    dtype = str(query.ty.dtype)
    emit = importer.block_builder.emit
    swapped = [*range(rank - 2), rank - 1, rank - 2]
    scores = emit(relax.op.matmul(query, emit(relax.op.permute_dims(key, swapped))))
    scores = emit(relax.op.multiply(scores, relax.const(scale, dtype)))
    if _argument(node, 5, "is_causal", False):
        lengths = int(query.ty.shape[rank - 2]), int(key.ty.shape[rank - 2])
        mask = relax.const(np.tril(np.ones(lengths, bool)), "bool")
    if mask is not None:
        kept = str(mask.ty.dtype) == "bool"
        masked = relax.op.where(mask, scores, relax.const(-math.inf, dtype)) if kept else relax.op.add(scores, mask)
        scores = emit(masked)
    return emit(relax.op.matmul(emit(relax.op.nn.softmax(scores, axis=-1)), value))


def _batch_norm(node: Node, importer: Any) -> Any:
    """x * scale + shift with both folded while compiling; the two further results (saved statistics) are never used."""
    from tvm import relax

    x, weight, bias, mean, variance = (_value(importer, node.args[index]) for index in range(5))
    eps = _argument(node, 6, "eps", 1e-5)
    emit = importer.block_builder.emit
    dtype = str(x.ty.dtype)
    scale = emit(relax.op.rsqrt(emit(relax.op.add(variance, relax.const(eps, dtype)))))
    if weight is not None:
        scale = emit(relax.op.multiply(scale, weight))
    shift = emit(relax.op.negative(emit(relax.op.multiply(mean, scale))))
    if bias is not None:
        shift = emit(relax.op.add(shift, bias))
    per_channel = [1, -1] + [1] * (x.ty.ndim - 2)
    scaled = emit(relax.op.multiply(x, emit(relax.op.reshape(scale, per_channel))))
    return (emit(relax.op.add(scaled, emit(relax.op.reshape(shift, per_channel)))), None, None)


def _extremum(operator: str) -> Converter:
    def convert(node: Node, importer: Any) -> Any:
        from tvm import relax

        x = _value(importer, node.args[0])
        axes = _argument(node, 1, "dim")
        listed = axes if isinstance(axes, Sequence) and len(axes) else (None if not axes and axes != 0 else [axes])
        keep = bool(_argument(node, 2, "keepdim", False))
        return importer.block_builder.emit(getattr(relax.op, operator)(x, listed, keepdims=keep))

    return convert


def _extremum_with_index(operator: str, index: str) -> Converter:
    """Values and indices: two reductions, where the importer sorts."""

    def convert(node: Node, importer: Any) -> Any:
        from tvm import relax

        x, axis = _value(importer, node.args[0]), int(_argument(node, 1, "dim"))
        keep = bool(_argument(node, 2, "keepdim", False))
        emit = importer.block_builder.emit
        values = emit(getattr(relax.op, operator)(x, axis, keepdims=keep))
        return (values, emit(getattr(relax.op, index)(x, axis, keepdims=keep)))

    return convert


def _clamp(node: Node, importer: Any) -> Any:
    return _clamp_to(node, importer, _argument(node, 1, "min"), _argument(node, 2, "max"))


def _clamp_to(node: Node, importer: Any, low: Any, high: Any) -> Any:
    """By maximum and minimum in x's own dtype: Relax's clip writes an infinity even for integers."""
    from tvm import relax

    x = _value(importer, node.args[0])
    emit = importer.block_builder.emit
    dtype = str(x.ty.dtype)
    for bound, operator in ((low, relax.op.maximum), (high, relax.op.minimum)):
        if bound is not None:
            value = _value(importer, bound)
            x = emit(operator(x, relax.const(value, dtype) if isinstance(value, int | float) else value))
    return x


def _pad(mode: str) -> Converter:
    """torch lists the last axis first and (before, after) for each; Relax wants every axis in order."""

    def convert(node: Node, importer: Any) -> Any:
        from tvm import relax

        x, widths = _value(importer, node.args[0]), list(_argument(node, 1, "padding"))
        pairs = [widths[index : index + 2] for index in range(0, len(widths), 2)][::-1]
        every = [0, 0] * (x.ty.ndim - len(pairs)) + [width for pair in pairs for width in pair]
        return importer.block_builder.emit(relax.op.nn.pad(x, every, pad_mode=mode))

    return convert


def _unfold(node: Node, importer: Any) -> Any:
    """Windows of ``size`` every ``step`` along an axis, the window as a new last axis: a gather by constant indices."""
    import numpy as np
    from tvm import relax

    x = _value(importer, node.args[0])
    axis, size, step = (int(_argument(node, index + 1, name)) for index, name in enumerate(("dim", "size", "step")))
    rank = x.ty.ndim
    axis %= rank
    shape = [int(extent) for extent in x.ty.shape]
    count = (shape[axis] - size) // step + 1
    indices = (np.arange(count)[:, None] * step + np.arange(size)[None]).reshape(-1).astype("int64")
    emit = importer.block_builder.emit
    windows = emit(relax.op.take(x, relax.const(indices, "int64"), axis=axis, mode="clip"))
    split = emit(relax.op.reshape(windows, [*shape[:axis], count, size, *shape[axis + 1 :]]))
    order = [index for index in range(rank + 1) if index != axis + 1]
    return emit(relax.op.permute_dims(split, [*order, axis + 1]))
