"""How a model's weights become the kernels' matrices: bits, the moments of each layer's inputs, which layers get 8 bits.

A family's form for the kernels takes its packed tensors from here, layer by layer, so that it need not know of any of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from edge.runtimes import kernels
from edge.runtimes.kernels.binding import GROUP
from edge.runtimes.kernels.rounding import along_inputs, along_outputs
from edge.runtimes.kernels.skipping import Skipping


@dataclass(frozen=True)
class Weights:
    """``bits`` of all layers but the ``wide`` ones, which have 8; ``moments`` as in ``rounding``, where a text was read.

    ``done`` hears how many weights have been rounded and packed since it last did: of a large model that takes minutes.
    ``skipping`` says how up halves of 4 bits are to be skipped, if they are.
    """

    bits: int
    moments: Mapping[nn.Module, Tensor] = field(default_factory=dict)
    wide: frozenset[nn.Module] = frozenset()
    done: Callable[[int], None] = lambda _: None
    skipping: Skipping | None = None

    def bits_of(self, layer: nn.Module) -> int:
        return 8 if layer in self.wide else self.bits

    def tiled(self, layer: nn.Module, weight: Tensor, bits: int | None = None, gain: Tensor | None = None) -> Tensor:
        """``weight`` [rows, columns], what is left of ``layer``'s, for ``edge::linear``.

        ``gain`` [columns]: it was multiplied by this, which the inputs then are not.
        """
        found = _tiled(weight, bits or self.bits_of(layer), self._moments(layer, gain))
        self.done(weight.numel())
        return found

    def up(self, layer: nn.Module, weight: Tensor, down: Tensor, gain: Tensor | None = None) -> tuple[Tensor, ...]:
        """An up projection's weight: as ``tiled``, or two planes for ``edge::relu2_mlp_skip``; ``down`` [width, hidden] follows it."""
        if self.skipping is None or self.bits_of(layer) != 4:
            return (self.tiled(layer, weight, gain=gain),)
        plain = along_inputs(weight, 4, self._moments(layer, gain))
        reach = self.skipping.reach(layer, plain, down, None if gain is None else _divisor(gain))
        coarse, fine = kernels.load().pack_planes(*plain, reach)
        self.done(weight.numel())
        return torch.from_numpy(coarse), torch.from_numpy(fine)

    def in_two(self, layer: nn.Module, weight: Tensor) -> tuple[Tensor, Tensor]:
        """``weight`` [rows, columns] as two matrices of 4 bits for ``edge::head``, the second what the first leaves out."""
        moments, parts = self.moments.get(layer), []
        # A run of rows at a time: a head in float is gigabytes, and so is what is left of it.
        for some in torch.split(weight.detach(), 16 * 1024):
            q, scales = along_inputs(some, 4, moments)
            kept = q * np.repeat(scales.astype(np.float32), GROUP, 1)[:, : q.shape[1]]
            left = along_inputs(some - torch.from_numpy(kept), 4, moments)
            parts.append([kernels.load().pack_tiled(4, *each) for each in ((q, scales), left)])
            self.done(some.numel())
        coarse, fine = (torch.from_numpy(np.concatenate(each)) for each in zip(*parts, strict=True))
        return coarse, fine

    def blocks(self, layer: nn.Module, weight: Tensor, rows: int, columns: int) -> list[Tensor]:
        """The [rows, columns] on the diagonal of ``weight``, each for itself, for ``edge::mla``."""
        found, moments = [], self.moments.get(layer)
        for at in range(len(weight) // rows):
            here = slice(columns * at, columns * (at + 1))
            own = None if moments is None else moments[here] if moments.dim() == 1 else moments[here, here]
            found.append(_tiled(weight[rows * at : rows * (at + 1), here], self.bits_of(layer), own))
        self.done(weight.numel())
        return found

    def neurons(self, layer: nn.Module, weight: Tensor) -> Tensor:
        """A down projection's weight [width, hidden] for ``edge::relu2_mlp``."""
        bits = self.bits_of(layer)
        found = kernels.load().pack_neurons(bits, *along_outputs(weight, bits, self.moments.get(layer)))
        self.done(weight.numel())
        return torch.from_numpy(found)

    def _moments(self, layer: nn.Module, gain: Tensor | None) -> Tensor | None:
        moments = self.moments.get(layer)
        if moments is None or gain is None:
            return moments
        each = _divisor(gain)
        return moments / each**2 if moments.dim() == 1 else moments / torch.outer(each, each)


def _divisor(gain: Tensor) -> Tensor:
    """What takes a gain out of inputs again."""
    return torch.where(gain == 0, torch.ones_like(gain), gain).detach()


def _tiled(weight: Tensor, bits: int, moments: Tensor | None) -> Tensor:
    return torch.from_numpy(kernels.load().pack_tiled(bits, *along_inputs(weight, bits, moments)))
