"""The module: embed, blocks of (norm, up, squared ReLU, down) with or without a residual, a last norm, head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge.families.relu2_mlp.config import Relu2MLPConfig


class Relu2(nn.Module):
    """relu(x)**2; a module of its own, so that its output, where the zeros are, can be seen and matched."""

    def forward(self, x: Tensor) -> Tensor:
        positive = torch.relu(x)
        return positive * positive


class RMSNorm(nn.Module):
    """x / sqrt(mean(x**2) + eps) * weight over the last axis. Zhang and Sennrich, arXiv 1910.07467.

    The mean is a product with a constant row, since XNNPACK takes a linear and not a mean over the last axis.
    """

    average: Tensor

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.register_buffer("average", torch.full((1, width), 1.0 / width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(nn.functional.linear(x * x, self.average) + self.eps) * self.weight


class Block(nn.Module):
    """[..., width] to [..., width] through `hidden` squared ReLUs."""

    def __init__(self, config: Relu2MLPConfig, hidden: int) -> None:
        super().__init__()
        self.norm = _norm(config)
        self.up = nn.Linear(config.width, hidden, bias=config.bias)
        self.act = Relu2()
        self.down = nn.Linear(hidden, config.width, bias=config.bias)
        self.residual = config.residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.act(self.up(self.norm(x))))
        return x + y if self.residual else y


class Relu2MLP(nn.Module):
    """[..., in_features] to [..., out_features]."""

    def __init__(self, config: Relu2MLPConfig) -> None:
        super().__init__()
        self.embed = nn.Linear(config.in_features, config.width, bias=config.bias) if config.embed else nn.Identity()
        self.blocks = nn.Sequential(*(Block(config, hidden) for hidden in config.hidden))
        self.norm = _norm(config)
        self.head = nn.Linear(config.width, config.out_features, bias=config.bias) if config.head else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.blocks(self.embed(features))))
        return logits


def _norm(config: Relu2MLPConfig) -> nn.Module:
    return RMSNorm(config.width, config.norm_eps) if config.norm == "rms" else nn.Identity()
