"""What the linear layers of a model are multiplied with: second moments of their inputs over calibration text.

In: captured entry points that have calibration inputs. Out: by layer, E[x x^T] [inputs, inputs] over all rows x that came by, or
its diagonal [inputs] where the matrices would take too much memory. A ridge of inputs / rows of the mean of the diagonal
is in them: the fewer rows stand behind a matrix, the less is made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from edge.export.base import Captured
from edge.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Bytes of all matrices beyond which only their diagonals are kept: a large model's are as large as itself.
LARGEST = 512 << 20


def second_moments(captured: Sequence[Captured], progress: Progress) -> dict[nn.Module, Tensor]:
    """Of every linear layer but those that stay in float; empty if there is nothing to calibrate on."""
    import torch

    layers = _layers(captured)
    whole = 8 * sum(layer.in_features**2 for layer in layers) <= LARGEST
    sums: dict[nn.Module, Tensor] = {}
    rows: dict[nn.Module, int] = {}

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...], _output: object) -> None:
        x = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).double()
        if not bool(torch.isfinite(x).all()):
            return
        sums[layer] = sums.get(layer, 0) + (x.t() @ x if whole else (x * x).sum(0))
        rows[layer] = rows.get(layer, 0) + len(x)

    hooks = [layer.register_forward_hook(watch) for layer in layers]
    try:
        with torch.no_grad(), progress.bar("reading calibration data", len(captured)) as bar:
            for item in captured:
                if item.read is not None:
                    item.read()
                bar.advance()
    finally:
        for hook in hooks:
            hook.remove()
    return {layer: _ridged(total / rows[layer], rows[layer]).float() for layer, total in sums.items()}


def _layers(captured: Sequence[Captured]) -> list[nn.Linear]:
    from torch import nn

    found: dict[nn.Linear, None] = {}
    for item in captured:
        for name, module in item.entry.module.named_modules():
            if isinstance(module, nn.Linear) and not any(fnmatchcase(name, kept) for kept in item.entry.keep_float):
                found[module] = None
    return list(found)


def _ridged(moments: Tensor, rows: int) -> Tensor:
    diagonal = moments.diagonal() if moments.dim() == 2 else moments
    diagonal += float(diagonal.mean()) * len(moments) / rows
    return moments
