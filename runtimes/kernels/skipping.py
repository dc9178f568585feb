"""Which neurons of a squared-ReLU MLP a decoded token leaves out: how far the estimate of their high bits reaches.

The up half of an MLP lies in two planes (``edge_relu2_mlp_skip``). With low bits of 1.5, their mean, the coarse plane estimates what a
neuron comes to; what the low bits add has, if they are uniform on 0..3 and independent, a deviation of
sqrt(5/4 * sum over groups of scale^2 |x_group|^2), here taken as sqrt(5/4 * mean of scale^2) * |x|. A neuron is left out if its estimate
is below minus ``margin`` such deviations. The margin is a layer's own: the least with which the wanted ``share`` of what
live neurons add to the output, their squared values times the norm of their down weights, stays on the calibration inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edge.runtimes.kernels.binding import GROUP

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edge.runtimes.kernels.rounding import Plain

#: Variance of a low half: (4**2 - 1) / 12.
_SPREAD = 1.25
#: In deviations, without inputs to find it by: what trained layers and independent weights need for 0.9999 and more.
DEFAULT_MARGIN = 2.0


@dataclass(frozen=True)
class Skipped:
    """A layer's margin in deviations, and what came out on the calibration inputs; None without any.

    ``kept`` is the share of what live neurons add, ``read`` the share of neurons whose low bits are read, ``live`` that of live ones.
    """

    margin: float
    kept: float | None = None
    read: float | None = None
    live: float | None = None


@dataclass(frozen=True)
class Skipping:
    """The wanted ``share``, and inputs [rows, width] of up projections; ``found`` fills as layers are packed."""

    share: float
    inputs: Mapping[nn.Module, Tensor]
    found: dict[nn.Module, Skipped] = field(default_factory=dict)

    def reach(self, layer: nn.Module, plain: Plain, down: Tensor, gain: Tensor | None = None) -> np.ndarray:
        """For each row of an up projection in plain form what ``pack_planes`` takes; its inputs were multiplied by ``gain``."""
        inputs = self.inputs.get(layer)
        if inputs is None:
            self.found[layer] = Skipped(DEFAULT_MARGIN)
        else:
            x = (inputs if gain is None else inputs / gain).numpy()
            self.found[layer] = Estimates(plain, down, x).at_share(self.share)
        reach: np.ndarray = deviations(plain) * np.float32(self.found[layer].margin)
        return reach

    def report(self, layers: tuple[nn.Module, ...]) -> dict[str, float]:
        """For a manifest: {"skip/layer0/margin": 1.02, ...}, layers that are not skipped left out."""
        return {
            f"skip/layer{index}/{name}": round(value, 6)
            for index, layer in enumerate(layers)
            if layer in self.found
            for name, value in vars(self.found[layer]).items()
            if value is not None
        }


def deviations(plain: Plain) -> np.ndarray:
    """For each row what its low bits deviate by for an input of norm 1."""
    found: np.ndarray = np.sqrt(_SPREAD * (plain[1].astype(np.float32) ** 2).mean(1))
    return found


class Estimates:
    """An up projection in plain form, ``down`` [width, hidden] after it, on inputs ``x`` [rows, width]."""

    def __init__(self, plain: Plain, down: Tensor, x: np.ndarray) -> None:
        q, scales = plain
        spread = np.repeat(scales.astype(np.float32), GROUP, 1)[:, : q.shape[1]]
        x = _rounded(x)
        value = x @ (q * spread).T
        estimate = x @ (((q >> 2) * 4 + np.float32(1.5)) * spread).T
        #: The margin that keeps each neuron, in deviations.
        self._needed = -estimate / np.maximum(np.linalg.norm(x, axis=1, keepdims=True) * deviations(plain), 1e-30)
        self._live = value > 0
        self._added = np.maximum(value, 0).astype(np.float64) ** 2 * down.detach().double().norm(dim=0).numpy()

    def at_share(self, share: float) -> Skipped:
        """With the least margin that keeps ``share`` of what live neurons add."""
        added, needed = self._added[self._live], self._needed[self._live]
        if not added.sum() > 0:
            return self.at_margin(DEFAULT_MARGIN)
        order = np.argsort(needed, kind="stable")
        last = np.searchsorted(np.cumsum(added[order]) / added.sum(), share)
        # A little more than the last one needs, which float arithmetic may put to either side.
        return self.at_margin(float(needed[order][min(last, len(order) - 1)]) + 1e-3)

    def at_margin(self, margin: float) -> Skipped:
        kept, total = self._needed <= margin, self._added.sum()
        share = float(self._added[kept].sum() / total) if total > 0 else 1.0
        return Skipped(margin, share, float(kept.mean()), float(self._live.mean()))


def _rounded(x: np.ndarray) -> np.ndarray:
    """As products see it: int8 in groups of 32."""
    rows, columns = x.shape
    groups = np.zeros((rows, -(-columns // GROUP), GROUP), np.float32)
    groups.reshape(rows, -1)[:, :columns] = x
    scale = np.abs(groups).max(2, keepdims=True) / np.float32(127)
    groups = np.rint(groups / np.where(scale > 0, scale, np.float32(1))) * scale
    whole: np.ndarray = groups.reshape(rows, -1)[:, :columns]
    return whole
