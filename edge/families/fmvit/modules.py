"""FMViT in the form that trains: every convolution that deploys is a sum of branches, each with its batch norm.

A reconstruction: the paper (arXiv 2311.05707) says what the parts are for, and no code of the authors was published. The
stages follow Next-ViT (arXiv 2207.05501): blocks of convolutions, closed by one that mixes frequencies.

    ConvBlock (the paper's CFB)   x -> down or widen -> + LocalMix -> + GroupedMlp(3)
    MixedBlock                    x -> low, about 3/4 of the width: + attention over pooled keys and values (RLMHSA)
                                    -> high, the rest: 1x1 of low, + LocalMix
                                    -> low and high side by side -> + GroupedMlp(2)

All tensors are [batch, channels, height, width]; ``edge.families.fmvit.fused`` has the form that deploys.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge.families.fmvit.config import FMViTConfig

#: Groups of the branches whose sum is a pointwise convolution of the MLP (gMLP).
BRANCHES = (1, 2, 4)
MLP_RATIO, MIXED_MLP_RATIO = 3, 2


class BatchNorm(nn.Module):
    """Batch normalisation of channels, without torch's count of batches, which no checkpoint needs."""

    running_mean: Tensor
    running_var: Tensor
    momentum = 0.1

    def __init__(self, channels: int, gain: float = 1.0) -> None:
        super().__init__()
        self.eps = 1e-5
        self.weight = nn.Parameter(torch.full((channels,), gain))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )

    def affine(self) -> tuple[Tensor, Tensor]:
        """What it does at inference, in float64: gain and shift [channels]."""
        gain = self.weight.detach().double() / (self.running_var.double() + self.eps).sqrt()
        return gain, self.bias.detach().double() - gain * self.running_mean.double()


class ConvNorm(nn.Module):
    """A convolution and its batch norm; padding keeps the size, stride apart."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = BatchNorm(outputs, gain)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y


class LocalMix(nn.Module):
    """Grouped 3x3, grouped 1x1 and identity, each normed, as one sum; ReLU; 1x1."""

    def __init__(self, channels: int, group: int) -> None:
        super().__init__()
        groups = channels // group
        self.wide = ConvNorm(channels, channels, 3, groups=groups)
        self.point = ConvNorm(channels, channels, groups=groups)
        self.same = BatchNorm(channels)
        self.project = ConvNorm(channels, channels, gain=0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(torch.relu(self.wide(x) + self.point(x) + self.same(x)))
        return y


class GroupedPointwise(nn.Module):
    """A 1x1 convolution as the sum of several with 1, 2 and 4 groups (those that divide both widths), each normed."""

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0) -> None:
        super().__init__()
        counts = [count for count in BRANCHES if inputs % count == 0 and outputs % count == 0]
        # The sum of n branches has n times a branch's variance.
        scale = gain / len(counts) ** 0.5
        self.branches = nn.ModuleList(ConvNorm(inputs, outputs, groups=count, gain=scale) for count in counts)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.branches[0](x)
        for branch in self.branches[1:]:
            total = total + branch(x)
        return total


class GroupedMlp(nn.Module):
    """gMLP: up, ReLU, down, both of grouped branches."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.up = GroupedPointwise(channels, ratio * channels)
        self.down = GroupedPointwise(ratio * channels, channels, gain=0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(torch.relu(self.up(x)))
        return y


class Attention(nn.Module):
    """RLMHSA: multi-head self-attention whose keys and values come from a map pooled ``reduction`` times each way."""

    def __init__(self, channels: int, width: int, reduction: int) -> None:
        super().__init__()
        self.width, self.reduction = width, reduction
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.project = ConvNorm(channels, channels, gain=0.5)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(x, self.reduction) if self.reduction > 1 else x
        query, key, value = (self._heads(y) for y in (self.query(x), self.key(pooled), self.value(pooled)))
        mixed = F.scaled_dot_product_attention(query, key, value)
        y: Tensor = self.project(mixed.transpose(-1, -2).reshape(x.shape))
        return y

    def _heads(self, x: Tensor) -> Tensor:
        """[batch, heads, positions, width]."""
        batch, channels, height, width = x.shape
        return x.reshape(batch, channels // self.width, self.width, height * width).transpose(-1, -2)


class Down(nn.Module):
    """Halves height and width by averages; then a 1x1 convolution to another width, normed."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.widen = ConvNorm(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.widen(F.avg_pool2d(x, 2))
        return y


class ConvBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, down: bool, group: int) -> None:
        super().__init__()
        self.enter: nn.Module = nn.Identity()
        if down:
            self.enter = Down(inputs, outputs)
        elif inputs != outputs:
            self.enter = ConvNorm(inputs, outputs)
        self.mix = LocalMix(outputs, group)
        self.mlp = GroupedMlp(outputs, MLP_RATIO)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = x + self.mix(x)
        y: Tensor = x + self.mlp(x)
        return y


class MixedBlock(nn.Module):
    def __init__(self, inputs: int, low: int, high: int, down: bool, group: int, reduction: int) -> None:
        super().__init__()
        self.enter: nn.Module = Down(inputs, low) if down else ConvNorm(inputs, low)
        self.attention = Attention(low, group, reduction)
        self.high = ConvNorm(low, high)
        self.mix = LocalMix(high, group)
        self.mlp = GroupedMlp(low + high, MIXED_MLP_RATIO)

    def forward(self, x: Tensor) -> Tensor:
        low = self.enter(x)
        low = low + self.attention(low)
        high = self.high(low)
        high = high + self.mix(high)
        x = torch.cat([low, high], 1)
        y: Tensor = x + self.mlp(x)
        return y


class FMViT(nn.Module):
    """Pictures [batch, 3, size, size], normalised, to logits [batch, num_classes]."""

    def __init__(self, config: FMViTConfig) -> None:
        super().__init__()
        self.config = config
        first, second = config.stem
        self.stem = nn.ModuleList([ConvNorm(3, first, 3, stride=2), ConvNorm(first, second, 3, stride=2)])
        blocks: list[nn.Module] = []
        inputs = second
        for stage, (outputs, depth) in enumerate(zip(config.channels, config.depths, strict=True)):
            for index in range(depth):
                down = stage > 0 and index == 0
                if config.mixes(stage, index):
                    low, reduction = config.low(outputs), config.reductions[stage]
                    blocks.append(MixedBlock(inputs, low, outputs - low, down, config.group, reduction))
                else:
                    blocks.append(ConvBlock(inputs, outputs, down, config.group))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(inputs, config.num_classes)

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for layer in self.stem:
            x = torch.relu(layer(x))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits
