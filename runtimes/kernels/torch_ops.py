"""The kernels as operators of torch, namespace ``edge``: what a captured graph calls, and what computes it on this machine.

Each has its functional form and the ``.out`` form that ExecuTorch's exporter turns it into; executorch/ops.cpp has the kernels
of the latter. Importing this module registers them. Packed matrices are uint8 tensors of one axis.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from edge.runtimes import kernels
from edge.runtimes.base import usable_cores
from edge.runtimes.kernels.binding import MLAShape, Pool

_MLA = (
    "Tensor projected, Tensor cache, Tensor position, Tensor cos, Tensor sin, Tensor to_key, Tensor to_value, "
    "int heads, int nope, int rope, int value, int latent, float eps, int bits"
)
_SCHEMAS = {
    "embed": ("Tensor ids, Tensor table, int rows, int columns, int bits", 1),
    "linear": ("Tensor x, Tensor packed, int rows, int bits", 1),
    "head": ("Tensor x, Tensor coarse, Tensor fine, int rows", 1),
    "rms_norm": ("Tensor x, float eps", 1),
    "relu2_mlp": ("Tensor x, Tensor up, Tensor down, int hidden, int bits", 1),
    "relu2_mlp_skip": ("Tensor x, Tensor coarse, Tensor fine, Tensor down, int hidden", 1),
    "mla": (_MLA, 2),
}
LIBRARY: Any = torch.library.Library("edge", "DEF")  # type: ignore[no-untyped-call]
for _name, (_arguments, _outputs) in _SCHEMAS.items():
    if _outputs == 1:
        LIBRARY.define(f"{_name}({_arguments}) -> Tensor")
        LIBRARY.define(f"{_name}.out({_arguments}, *, Tensor(a!) out) -> Tensor(a!)")
    else:
        LIBRARY.define(f"{_name}({_arguments}) -> (Tensor, Tensor)")
        LIBRARY.define(f"{_name}.out({_arguments}, *, Tensor(a!) out, Tensor(b!) own) -> (Tensor(a!), Tensor(b!))")


@functools.cache
def _pool() -> Pool:
    return kernels.load().pool(usable_cores())


def _embed(ids: Tensor, table: Tensor, rows: int, columns: int, bits: int) -> Tensor:
    return torch.from_numpy(kernels.load().embed(bits, rows, columns, table.numpy(), ids.numpy()))


def _linear(x: Tensor, packed: Tensor, rows: int, bits: int) -> Tensor:
    return torch.from_numpy(kernels.load().matmul(bits, rows, packed.numpy(), x.numpy()[:, None], _pool())[:, 0])


def _head(x: Tensor, coarse: Tensor, fine: Tensor, rows: int) -> Tensor:
    return torch.from_numpy(kernels.load().head(rows, coarse.numpy(), fine.numpy(), x.numpy(), _pool()))


def _rms_norm(x: Tensor, eps: float) -> Tensor:
    return torch.from_numpy(kernels.load().rms_norm(x.numpy(), eps))


def _relu2_mlp(x: Tensor, up: Tensor, down: Tensor, hidden: int, bits: int) -> Tensor:
    return torch.from_numpy(kernels.load().relu2_mlp(bits, hidden, up.numpy(), down.numpy(), x.numpy(), _pool())[0])


def _relu2_mlp_skip(x: Tensor, coarse: Tensor, fine: Tensor, down: Tensor, hidden: int) -> Tensor:
    planes = coarse.numpy(), fine.numpy()
    return torch.from_numpy(kernels.load().relu2_mlp_skip(hidden, *planes, down.numpy(), x.numpy(), _pool())[0])


def _mla(
    projected: Tensor, cache: Tensor, position: Tensor, cos: Tensor, sin: Tensor, to_key: Tensor, to_value: Tensor,
    heads: int, nope: int, rope: int, value: int, latent: int, eps: float, bits: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    shape = MLAShape(heads, nope, rope, value, latent)
    out, own = kernels.load().mla_layer(
        shape, bits, to_key.numpy(), to_value.numpy(), projected.numpy(), (cos.numpy(), sin.numpy()), eps,
        int(position), cache.numpy()[0], _pool(),
    )  # fmt: skip
    return torch.from_numpy(out), torch.from_numpy(own)


def _embed_shape(ids: Tensor, table: Tensor, rows: int, columns: int, bits: int) -> Tensor:
    return table.new_empty((ids.shape[0], columns), dtype=torch.float32)


def _linear_shape(x: Tensor, packed: Tensor, rows: int, bits: int) -> Tensor:
    return x.new_empty((x.shape[0], rows))


def _head_shape(x: Tensor, coarse: Tensor, fine: Tensor, rows: int) -> Tensor:
    return x.new_empty((x.shape[0], rows))


def _same_shape(x: Tensor, *rest: object) -> Tensor:
    return torch.empty_like(x)


def _mla_shape(
    projected: Tensor, cache: Tensor, position: Tensor, cos: Tensor, sin: Tensor, to_key: Tensor, to_value: Tensor,
    heads: int, nope: int, rope: int, value: int, latent: int, eps: float, bits: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    tokens = projected.shape[0]
    return projected.new_empty((tokens, heads * value)), cache.new_empty((tokens, latent + rope))


for _name, _real, _fake in (
    ("embed", _embed, _embed_shape),
    ("linear", _linear, _linear_shape),
    ("head", _head, _head_shape),
    ("rms_norm", _rms_norm, _same_shape),
    ("relu2_mlp", _relu2_mlp, _same_shape),
    ("relu2_mlp_skip", _relu2_mlp_skip, _same_shape),
    ("mla", _mla, _mla_shape),
):
    LIBRARY.impl(_name, _real, "CPU")
    torch.library.register_fake(f"edge::{_name}", _fake, lib=LIBRARY)


def relu2_mlp(x: Tensor, up: tuple[Tensor, ...], down: Tensor, hidden: int, bits: int) -> Tensor:
    """The operator for an up half as ``Weights.up`` gives it: whole, or in planes."""
    ops = torch.ops.edge
    found: Tensor = ops.relu2_mlp(x, *up, down, hidden, bits) if len(up) == 1 else ops.relu2_mlp_skip(x, *up, down, hidden)
    return found
