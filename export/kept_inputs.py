"""Some of what linear layers are given while something else runs the model: every n-th row, so that all of the text has its part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Rows of a layer: more say little more about a margin.
ROWS = 2048


class _Kept:
    """Rows of one layer; whenever there are too many every second one goes."""

    def __init__(self) -> None:
        self.step, self.skipped = 1, 0
        self.parts: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        some = rows[(-self.skipped) % self.step :: self.step].clone()
        self.skipped = (self.skipped + len(rows)) % self.step
        self.parts.append(some)
        if sum(map(len, self.parts)) > 2 * ROWS:
            self.parts = [self.rows()[::2].clone()]
            self.step, self.skipped = 2 * self.step, 0

    def rows(self) -> Tensor:
        import torch

        return torch.cat(self.parts)


@contextmanager
def kept_inputs(layers: Sequence[nn.Linear]) -> Iterator[Mapping[nn.Module, Tensor]]:
    """By layer [rows, inputs] float32, once the context is left; layers that were given nothing finite are not in it."""
    import torch

    kept: dict[nn.Module, _Kept] = {}
    found: dict[nn.Module, Tensor] = {}

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...], _output: object) -> None:
        rows = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()
        if bool(torch.isfinite(rows).all()):
            kept.setdefault(layer, _Kept()).add(rows)

    hooks = [layer.register_forward_hook(watch) for layer in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        found.update((layer, each.rows()[:ROWS]) for layer, each in kept.items())
