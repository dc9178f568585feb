"""Operators of edge's own kernels in an ONNX graph: nodes of the domain ``edge``, computed by kernels/onnx/ops.c.

Inputs are a torch operator's tensors, in its order; its numbers are attributes by its names (``kernels/torch_ops.py``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edge.runtimes.kernels.onnx import DOMAIN

if TYPE_CHECKING:
    pass


@functools.cache
def translations() -> Mapping[Any, Callable[..., Any]]:
    """What ``torch.onnx.export`` makes of each operator."""
    import torch

    from edge.runtimes.kernels import torch_ops as torch_ops  # registers them

    ops = torch.ops.edge
    return {
        ops.embed.default: _embed, ops.head.default: _head, ops.linear.default: _linear, ops.mla.default: _mla,
        ops.relu2_mlp.default: _relu2_mlp, ops.rms_norm.default: _rms_norm,
    }  # fmt: skip


# The exporter takes a parameter for a tensor unless its annotation is that of an attribute.


def _embed(ids, table, rows: int, columns: int, bits: int):  # type: ignore[no-untyped-def]
    return _node("embed")(ids, table, rows=rows, columns=columns, bits=bits)


def _head(x, coarse, fine, rows: int):  # type: ignore[no-untyped-def]
    return _node("head")(x, coarse, fine, rows=rows)


def _linear(x, packed, rows: int, bits: int):  # type: ignore[no-untyped-def]
    return _node("linear")(x, packed, rows=rows, bits=bits)


def _rms_norm(x, eps: float):  # type: ignore[no-untyped-def]
    return _node("rms_norm")(x, eps=eps)


def _relu2_mlp(x, up, down, hidden: int, bits: int):  # type: ignore[no-untyped-def]
    return _node("relu2_mlp")(x, up, down, hidden=hidden, bits=bits)


def _mla(  # type: ignore[no-untyped-def]
    projected, cache, position, cos, sin, to_key, to_value, heads: int, nope: int, rope: int, value: int, latent: int, eps: float,
    bits: int,
):  # fmt: skip
    return _node("mla")(
        projected, cache, position, cos, sin, to_key, to_value, heads=heads, nope=nope, rope=rope, value=value, latent=latent,
        eps=eps, bits=bits,
    )  # fmt: skip


#: Types of inputs, types of outputs, integer attributes; eps is the only other one. As kernels/onnx/ops.c has them.
_SHAPES: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "embed": ("int64 uint8", "float", ("rows", "columns", "bits")),
    "head": ("float uint8 uint8", "float", ("rows",)),
    "linear": ("float uint8", "float", ("rows", "bits")),
    "mla": (
        "float float16 int64 float float uint8 uint8", "float float16", ("heads", "nope", "rope", "value", "latent", "bits"),
    ),
    "relu2_mlp": ("float uint8 uint8", "float", ("hidden", "bits")),
    "rms_norm": ("float", "float", ()),
}  # fmt: skip


@functools.cache
def _node(name: str) -> Callable[..., Any]:
    from onnx.defs import OpSchema
    from onnxscript.values import Op, Opset

    inputs, outputs, sizes = _SHAPES[name]
    attributes = [OpSchema.Attribute(size, OpSchema.AttrType.INT, required=True) for size in sizes]
    if name in ("mla", "rms_norm"):
        attributes.append(OpSchema.Attribute("eps", OpSchema.AttrType.FLOAT, required=True))
    schema = OpSchema(
        name,
        DOMAIN,
        1,
        inputs=[OpSchema.FormalParameter(f"in{at}", f"tensor({kind})") for at, kind in enumerate(inputs.split())],
        outputs=[OpSchema.FormalParameter(f"out{at}", f"tensor({kind})") for at, kind in enumerate(outputs.split())],
        attributes=attributes,
    )
    made: Callable[..., Any] = Op(Opset(DOMAIN, 1), name, schema)
    return made
