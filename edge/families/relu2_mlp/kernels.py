"""The stack for edge's own kernels: packed weights, norms' gains inside them, and of each down half only what is live."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge.families.relu2_mlp.modules import Block, Relu2MLP, RMSNorm
from edge.runtimes.kernels.torch_ops import relu2_mlp  # and this registers the operators
from edge.runtimes.kernels.weights import Weights


class KernelBlock(nn.Module):
    up: tuple[Tensor, ...]
    down: Tensor

    def __init__(self, block: Block, weights: Weights) -> None:
        super().__init__()
        self.bits, self.hidden, self.residual = weights.bits_of(block.up), block.up.out_features, block.residual
        self.eps = block.norm.eps if isinstance(block.norm, RMSNorm) else None
        gain = block.norm.weight if isinstance(block.norm, RMSNorm) else None
        weight = block.up.weight if gain is None else block.up.weight * gain
        self.up = weights.up(block.up, weight, block.down.weight, gain)
        for index, part in enumerate(self.up):
            self.register_buffer(f"up{index}", part, persistent=False)
        self.register_buffer("down", weights.neurons(block.down, block.down.weight), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        normed = x if self.eps is None else torch.ops.edge.rms_norm(x, self.eps)
        y = relu2_mlp(normed, self.up, self.down, self.hidden, self.bits)
        return x + y if self.residual else y


class KernelMLP(nn.Module):
    """[tokens, in_features] to [tokens, out_features]; of modules without biases."""

    def __init__(self, model: Relu2MLP, weights: Weights) -> None:
        super().__init__()
        self.eps = model.norm.eps if isinstance(model.norm, RMSNorm) else None
        self.embed = _Product(model.embed, None, weights) if isinstance(model.embed, nn.Linear) else nn.Identity()
        self.blocks = nn.ModuleList(KernelBlock(block, weights) for block in model.blocks if isinstance(block, Block))
        head = isinstance(model.head, nn.Linear)
        self.head = _Product(model.head, model.norm, weights) if isinstance(model.head, nn.Linear) else nn.Identity()
        gain = model.norm.weight.detach().clone() if isinstance(model.norm, RMSNorm) and not head else None
        self.register_buffer("gain", gain, persistent=False)

    gain: Tensor | None

    def forward(self, features: Tensor) -> Tensor:
        x: Tensor = self.embed(features)
        for block in self.blocks:
            x = block(x)
        if self.eps is not None:
            x = torch.ops.edge.rms_norm(x, self.eps)
        if self.gain is not None:
            x = x * self.gain
        logits: Tensor = self.head(x)
        return logits


class _Product(nn.Module):
    packed: Tensor

    def __init__(self, layer: nn.Linear, norm: nn.Module | None, weights: Weights) -> None:
        super().__init__()
        self.rows, self.bits = layer.out_features, weights.bits_of(layer)
        self.register_buffer("packed", _tiled(layer, norm, weights), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.edge.linear(x, self.packed, self.rows, self.bits)
        return y


def units(model: Relu2MLP) -> tuple[tuple[nn.Linear, ...], ...]:
    """Linear layers, those together that one operator takes with the same bits."""
    outer = tuple((each,) for each in (model.embed, model.head) if isinstance(each, nn.Linear))
    return (*outer, *((block.up, block.down) for block in model.blocks if isinstance(block, Block)))


def ups(model: Relu2MLP) -> tuple[nn.Linear, ...]:
    return tuple(block.up for block in model.blocks if isinstance(block, Block))


def _tiled(layer: nn.Linear, norm: nn.Module | None, weights: Weights) -> Tensor:
    """The layer's weight with the gain of the norm before it inside."""
    if isinstance(norm, RMSNorm):
        return weights.tiled(layer, layer.weight * norm.weight, gain=norm.weight)
    return weights.tiled(layer, layer.weight)
