"""Operators of edge's own kernels in a Relax function: calls of functions that are linked into the module (kernels/tvm/ops.c)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch.fx import Node


NAMESPACE = "edge"


def is_ours(node: Node) -> bool:
    return getattr(node.target, "namespace", "") == NAMESPACE


def convert(node: Node, importer: Any) -> Any:
    """A call into the kernels; what it gives has the shapes and dtypes that torch found while capturing."""
    name = str(node.target.__name__).partition(".")[0]  # type: ignore[union-attr]
    return _CONVERTERS[name](node, importer)


def _linear(node: Node, importer: Any) -> Any:
    x, packed, rows, bits = node.args
    return _call(importer, node, "linear", (x, packed), sizes=(rows, bits))


def _embed(node: Node, importer: Any) -> Any:
    ids, table, rows, columns, bits = node.args
    return _call(importer, node, "embed", (ids, table), sizes=(rows, columns, bits))


def _head(node: Node, importer: Any) -> Any:
    *tensors, rows = node.args
    return _call(importer, node, "head", tensors, sizes=(rows,))


def _rms_norm(node: Node, importer: Any) -> Any:
    x, eps = node.args
    return _call(importer, node, "rms_norm", (x,), reals=(eps,))


def _relu2_mlp(node: Node, importer: Any) -> Any:
    x, up, down, hidden, bits = node.args
    return _call(importer, node, "relu2_mlp", (x, up, down), sizes=(hidden, bits))


def _relu2_mlp_skip(node: Node, importer: Any) -> Any:
    *tensors, hidden = node.args
    return _call(importer, node, "relu2_mlp_skip", tensors, sizes=(hidden,))


def _mla(node: Node, importer: Any) -> Any:
    *tensors, heads, nope, rope, value, latent, eps, bits = node.args
    return _call(importer, node, "mla", tensors, sizes=(heads, nope, rope, value, latent, bits), reals=(eps,))


_CONVERTERS: dict[str, Callable[[Node, Any], Any]] = {
    "embed": _embed, "head": _head, "linear": _linear, "mla": _mla, "relu2_mlp": _relu2_mlp,
    "relu2_mlp_skip": _relu2_mlp_skip, "rms_norm": _rms_norm,
}  # fmt: skip


def _call(
    importer: Any, node: Node, name: str, tensors: Sequence[Any], sizes: Sequence[Any] = (), reals: Sequence[Any] = ()
) -> Any:
    from tvm import relax

    arguments = [importer._retrieve_args(each) for each in tensors]
    if sizes:
        arguments.append(relax.const(np.array(sizes, np.int64), "int64"))
    if reals:
        arguments.append(relax.const(np.array(reals, np.float32), "float32"))
    found = node.meta["val"]
    outputs = [found] if not isinstance(found, tuple | list) else list(found)
    types = [_type(each) for each in outputs]
    called = relax.call_dps_packed(f"edge_{name}", relax.Tuple(arguments), types if len(types) > 1 else types[0])
    made = importer.block_builder.emit(called)
    if len(types) == 1:
        return made
    return tuple(importer.block_builder.emit(relax.TupleGetItem(made, index)) for index in range(len(types)))


def _type(value: Any) -> Any:
    from tvm import relax

    shape = [int(extent) for extent in value.shape]
    return relax.TensorType(shape, str(value.dtype).removeprefix("torch."))
