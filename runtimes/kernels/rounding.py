"""Float weights to the plain form of the kernels' matrices, whose rounding knows what the weights are multiplied by.

The plain form: integers q [rows, columns] int8 and float16 scales [rows, ceil(columns / 32)], value = q * scale. ``moments`` are
those of the layer's inputs x over a calibration text: the matrix E[x x^T] [inputs, inputs], or its diagonal [inputs] alone.

With the matrix, inputs are rounded one after the other, and what is not rounded yet makes up for the error so far, as far as
the inputs are correlated: of the error W - Q, what minimises E|(W - Q) x|^2 greedily. The formula is that of Frantar and
others, arXiv 2210.17323, section 3.3 (from Hassibi and Stork's Optimal Brain Surgeon): with U the upper Cholesky factor of the inverse
matrix, rounding column j by an error e adds -e * U[j, k] / U[j, j] to every later column k. With the diagonal, scales are
chosen by the weighted error. With nothing, they are the library's own, by the plain one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge.runtimes import kernels
from edge.runtimes.kernels.binding import GROUP

if TYPE_CHECKING:
    from torch import Tensor

Plain = tuple[np.ndarray, np.ndarray]

#: Added to the diagonal of the moments, in shares of its mean, so that they have an inverse whatever was never seen.
_FLOOR = 1e-6
#: What the widest weight of a group may become, for 4 bits of either sign: -8 has no positive twin, and below 7 is clipping.
_EXTREMES = (-9.5, -9.0, -8.75, -8.5, -8.25, -8.0, -7.75, -7.5, -7.25, -7.0, -6.75)
_EXTREMES_8 = (127.0, 126.0, 125.0, 124.0, 123.0, 122.0, 120.0, 118.0)
#: The smallest scale: float16's smallest step.
_TINY = 2.0**-24
#: Columns whose errors are handed on together.
_BLOCK = 64


def along_inputs(weight: Tensor, bits: int, moments: Tensor | None = None) -> Plain:
    """A linear layer's weight [outputs, inputs] in groups along its inputs, for tiled matrices."""
    import torch

    weight = weight.detach().float()
    if moments is None or not bool(torch.isfinite(weight).all()):
        return kernels.load().quantize(bits, weight.numpy())
    rows, columns = weight.shape
    q, scales = torch.zeros_like(weight), torch.zeros(rows, -(-columns // GROUP))
    if moments.dim() == 1:
        for group, start in enumerate(range(0, columns, GROUP)):
            part = weight[:, start : start + GROUP]
            scales[:, group] = _scales(part, bits, moments[start : start + GROUP])
            q[:, start : start + GROUP] = _rounded(part, scales[:, group, None], bits)
        return _plain(q, scales)
    factor, left = _inverse_factor(moments), weight.clone()
    for group, start in enumerate(range(0, columns, GROUP)):
        end = min(start + GROUP, columns)
        # What an error in a column costs once later ones have made up for it.
        costs = factor.diagonal()[start:end] ** -2
        scales[:, group] = scale = _scales(left[:, start:end], bits, costs)
        errors = torch.zeros(rows, end - start)
        for column in range(start, end):
            q[:, column] = _rounded(left[:, column], scale, bits)
            error = (left[:, column] - q[:, column] * scale) / factor[column, column]
            errors[:, column - start] = error
            left[:, column + 1 : end] -= error[:, None] * factor[column, column + 1 : end]
        left[:, end:] -= errors @ factor[start:end, end:]
    return _plain(q, scales)


def along_outputs(weight: Tensor, bits: int, moments: Tensor | None = None) -> Plain:
    """A down projection's weight [outputs, inputs], neuron by neuron: plain form [inputs, outputs], for neurons.

    Neurons are rounded in the order of their activity, as each has scales of its own. A diagonal is nothing to go by here: it
    multiplies all errors of a group by one number, its neuron's, and no scale is better or worse for that.
    """
    import torch

    weight = weight.detach().float()
    if moments is None or moments.dim() == 1 or not bool(torch.isfinite(weight).all()):
        return kernels.load().quantize(bits, weight.t().numpy())
    outputs, inputs = weight.shape
    order = torch.argsort(moments.diagonal(), descending=True, stable=True)
    factor = _inverse_factor(moments[order][:, order])
    left = weight[:, order].clone()
    groups = -(-outputs // GROUP)
    q, scales = torch.zeros(inputs, groups * GROUP), torch.zeros(inputs, groups)
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        errors = torch.zeros(outputs, end - start)
        for column in range(start, end):
            parts = torch.nn.functional.pad(left[:, column], (0, groups * GROUP - outputs)).reshape(groups, GROUP)
            scale = _scales(parts, bits)
            whole = _rounded(parts, scale[:, None], bits)
            q[order[column]], scales[order[column]] = whole.reshape(-1), scale
            stored = (whole * scale[:, None]).reshape(-1)[:outputs]
            error = (left[:, column] - stored) / factor[column, column]
            errors[:, column - start] = error
            left[:, column + 1 : end] -= error[:, None] * factor[column, column + 1 : end]
        left[:, end:] -= errors @ factor[start:end, end:]
    return _plain(q[:, :outputs], scales)


def values(plain: Plain) -> np.ndarray:
    """float32 [rows, columns] of a plain form."""
    q, scales = plain
    found: np.ndarray = q * np.repeat(scales.astype(np.float32), GROUP, 1)[:, : q.shape[1]]
    return found


def _inverse_factor(moments: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped moments; float32, computed in float64 while that is quick."""
    import torch

    damped = moments.to(torch.float64 if len(moments) <= 4096 else torch.float32, copy=True)
    mean = float(damped.diagonal().mean()) or 1.0
    damped.diagonal().add_(_FLOOR * mean)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True).float()
    return factor


def _scales(parts: Tensor, bits: int, costs: Tensor | None = None) -> Tensor:
    """For each group of ``parts`` [n, up to 32] the scale [n] of the least squared error, weighted by ``costs`` [up to 32]."""
    import torch

    extreme = parts.gather(1, parts.abs().argmax(1, keepdim=True))[:, 0]
    best = torch.full_like(extreme, _TINY)
    least = torch.full_like(extreme, torch.inf)
    for step in (*_EXTREMES, *(-step for step in _EXTREMES)) if bits == 4 else _EXTREMES_8:
        scale = _half(extreme / step)
        wrong = (parts - _rounded(parts, scale[:, None], bits) * scale[:, None]) ** 2
        error = wrong.sum(1) if costs is None else wrong @ costs
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best


def _half(scale: Tensor) -> Tensor:
    """Rounded to float16, and never zero or infinite."""
    import torch

    rounded = scale.clamp(-65504, 65504).half().float()
    return torch.where(rounded == 0, torch.full_like(rounded, _TINY), rounded)


def _rounded(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    low, high = (-8, 7) if bits == 4 else (-127, 127)
    return (weight / scale).round().clamp(low, high)


def _plain(q: Tensor, scales: Tensor) -> Plain:
    return q.numpy().astype(np.int8), scales.numpy().astype(np.float16)
