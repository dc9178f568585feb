"""The stack for edge's own kernels: packed weights, norms' gains inside them, and of each down half only what is live."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge.families.relu2_mlp.modules import Block, Relu2MLP, RMSNorm
from edge.runtimes.kernels.torch_ops import neurons, tiled


class KernelBlock(nn.Module):
    up: Tensor
    down: Tensor

    def __init__(self, block: Block, bits: int) -> None:
        super().__init__()
        self.bits, self.hidden, self.residual = bits, block.up.out_features, block.residual
        self.eps = block.norm.eps if isinstance(block.norm, RMSNorm) else None
        self.register_buffer("up", tiled(_scaled(block.up.weight, block.norm), bits), persistent=False)
        self.register_buffer("down", neurons(block.down.weight, bits), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        normed = x if self.eps is None else torch.ops.edge.rms_norm(x, self.eps)
        y: Tensor = torch.ops.edge.relu2_mlp(normed, self.up, self.down, self.hidden, self.bits)
        return x + y if self.residual else y


class KernelMLP(nn.Module):
    """[tokens, in_features] to [tokens, out_features]; of modules without biases."""

    def __init__(self, model: Relu2MLP, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.eps = model.norm.eps if isinstance(model.norm, RMSNorm) else None
        self.embed = _Product(model.embed.weight, bits) if isinstance(model.embed, nn.Linear) else nn.Identity()
        self.blocks = nn.ModuleList(KernelBlock(block, bits) for block in model.blocks if isinstance(block, Block))
        head = isinstance(model.head, nn.Linear)
        self.head = _Product(_scaled(model.head.weight, model.norm), bits) if isinstance(model.head, nn.Linear) else nn.Identity()
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

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.rows, self.bits = weight.shape[0], bits
        self.register_buffer("packed", tiled(weight, bits), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.edge.linear(x, self.packed, self.rows, self.bits)
        return y


def _scaled(weight: Tensor, norm: nn.Module) -> Tensor:
    return weight * norm.weight if isinstance(norm, RMSNorm) else weight
