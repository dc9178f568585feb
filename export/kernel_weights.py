"""How a model's weights are rounded for edge's own kernels: what its layers see, and which of them get 8 bits instead of 4.

At 4 bits a few layers cost more than all the others together: often the first and the last. Each unit of layers is rounded
alone and the calibration samples run through the float model around it; those that cost most for their size get 8 bits, as
many as ``SHARE`` of the weights. Without calibration data, or where the model is too large for either, nothing of that is done,
and the manifest says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from edge.export.base import Captured
from edge.export.capture import eager
from edge.export.kept_inputs import kept_inputs
from edge.export.moments import second_moments
from edge.progress import Progress
from edge.runtimes.kernels.rounding import along_inputs, values
from edge.runtimes.kernels.skipping import Skipping

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edge.runtimes.kernels.weights import Weights

#: Of the units' weights, at most: 0.8 bits a weight more on average. llama.cpp's Q4_K_M has 4.85 bits on average, but falls
#: back to 5.5 for matrices whose rows do not divide into 256.
SHARE = 0.2
#: Calibration samples that every unit is tried on.
SAMPLES = 24
#: Weights that are a step of the bar.
STEP = 1_000_000


def kernel_weights(
    captured: Sequence[Captured], bits: int, skip_up: float | None, progress: Progress
) -> tuple[Weights, tuple[str, ...]]:
    """For all entry points, which share their layers, and sentences for the manifest. ``skip_up`` is the recipe's."""
    with kept_inputs(_ups(captured) if skip_up is not None else ()) as inputs:
        moments = second_moments(captured, progress)
    weights, sentences = _rounding(captured, bits, moments, progress)
    if skip_up is None:
        return weights, sentences
    if not inputs:
        sentences += ("up halves are skipped without calibration data: what that loses is not known.",)
    return dataclasses.replace(weights, skipping=Skipping(skip_up, inputs)), sentences


def skip_report(captured: Sequence[Captured], weights: Weights) -> dict[str, float]:
    """What skipping came to, for the manifest's report, once the weights are packed."""
    return weights.skipping.report(_ups(captured)) if weights.skipping is not None else {}


def _ups(captured: Sequence[Captured]) -> tuple[nn.Linear, ...]:
    form = captured[0].entry.kernels
    assert form is not None
    return form.ups


def _rounding(
    captured: Sequence[Captured], bits: int, moments: Mapping[nn.Module, Tensor], progress: Progress
) -> tuple[Weights, tuple[str, ...]]:
    from edge.runtimes.kernels.weights import Weights

    if not moments:
        return Weights(bits), (
            "weights are rounded without calibration data: each for itself, to the nearest.",
        )
    if any(each.dim() == 1 for each in moments.values()):
        return Weights(bits, moments), (
            "the model is too large for rounding that makes up for its errors: scales alone are chosen by what the "
            "calibration data multiply them with.",
        )
    weights = Weights(bits, moments)
    if bits == 8:
        return weights, ()
    return Weights(bits, moments, _wide(captured, weights, progress)), ()


@contextmanager
def packing(captured: Sequence[Captured], weights: Weights, progress: Progress) -> Iterator[Weights]:
    """``weights``, whose rounding and packing shows on a bar in millions for as long as this lasts."""
    from torch import nn

    tensors = {
        id(module.weight): module.weight.numel()
        for item in captured for module in item.entry.module.modules() if isinstance(module, nn.Linear | nn.Embedding)
    }
    steps, packed = -(-sum(tensors.values()) // STEP), 0
    with progress.bar("rounding and packing weights, in millions", steps) as bar:

        def done(more: int) -> None:
            nonlocal packed
            before, packed = packed, packed + more
            bar.advance(min(packed // STEP, steps) - min(before // STEP, steps))

        yield dataclasses.replace(weights, done=done)
        bar.advance(steps - min(packed // STEP, steps))


def _wide(captured: Sequence[Captured], weights: Weights, progress: Progress) -> frozenset[nn.Module]:
    """Layers that are to have 8 bits: of the first entry's units, those with the largest divergence for their size."""
    item = captured[0]
    assert item.entry.kernels is not None
    units, samples = item.entry.kernels.units, item.calibration[:SAMPLES]
    name = item.entry.outputs[0]
    exact = [eager(item.entry, sample)[name] for sample in samples]
    costs: list[tuple[float, int, tuple[nn.Linear, ...]]] = []
    with progress.bar("finding sensitive layers", len(units)) as bar:
        for unit in units:
            with _rounded(unit, weights):
                found = sum(_divergence(whole, eager(item.entry, sample)[name]) for whole, sample in zip(exact, samples, strict=True))
            size = sum(layer.weight.numel() for layer in unit)
            costs.append((found / size, size, unit))
            bar.advance()
    left = SHARE * sum(size for _, size, _ in costs)
    wide: list[nn.Module] = []
    for _, size, unit in sorted(costs, key=lambda cost: -cost[0]):
        if size <= left:
            wide += unit
            left -= size
    return frozenset(wide)


@contextmanager
def _rounded(unit: Sequence[nn.Linear], weights: Weights) -> Iterator[None]:
    """The layers of ``unit`` as they come out of 4 bits, for as long as this lasts."""
    import torch

    kept = [layer.weight.data for layer in unit]
    try:
        for layer in unit:
            plain = along_inputs(layer.weight, weights.bits, weights.moments.get(layer))
            layer.weight.data = torch.from_numpy(values(plain))
        yield
    finally:
        for layer, weight in zip(unit, kept, strict=True):
            layer.weight.data = weight


def _divergence(exact: np.ndarray, other: np.ndarray) -> float:
    """Mean over rows of KL(exact || other) of logits [..., classes], in nats."""
    first, second = (wide - np.logaddexp.reduce(wide, -1, keepdims=True) for wide in (exact.astype(np.float64), other.astype(np.float64)))
    return float((np.exp(first) * (first - second)).sum(-1).mean())
