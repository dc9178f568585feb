"""FMViT in the form that deploys: every sum of branches folded into one convolution, batch norms gone.

Takes a trained `FMViT` in eval mode and copies from it, in float64; the model itself is left alone. Training form and
fused form agree to float32's rounding (1e-5).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge.families.fmvit.modules import (
    Attention,
    ConvBlock,
    ConvNorm,
    Down,
    FMViT,
    GroupedMlp,
    GroupedPointwise,
    LocalMix,
    MixedBlock,
)

#: Weight [outputs, inputs / groups, k, k] and bias [outputs], float64.
Kernel = tuple[Tensor, Tensor]


def folded(layer: ConvNorm) -> Kernel:
    """A convolution with its batch norm's gain and shift inside."""
    gain, shift = layer.norm.affine()
    return layer.conv.weight.detach().double() * gain[:, None, None, None], shift


def folded_branches(layer: GroupedPointwise) -> Kernel:
    """The sum of 1x1 convolutions with different groups, as one without."""
    weights, shifts = [], []
    for branch in layer.branches:
        assert isinstance(branch, ConvNorm)
        weight, shift = folded(branch)
        blocks = weight[:, :, 0, 0].chunk(branch.conv.groups)
        weights.append(torch.block_diag(*blocks))  # type: ignore[no-untyped-call]
        shifts.append(shift)
    total: Tensor = torch.stack(weights).sum(0)
    return total[:, :, None, None], torch.stack(shifts).sum(0)


def folded_mix(layer: LocalMix) -> Kernel:
    """Grouped 3x3, grouped 1x1 and identity, as one grouped 3x3: the other two act on its centre."""
    weight, bias = folded(layer.wide)
    point, shift = folded(layer.point)
    gain, offset = layer.same.affine()
    weight = weight.clone()
    weight[:, :, 1, 1] += point[:, :, 0, 0]
    channel = torch.arange(len(gain))
    weight[channel, channel % weight.shape[1], 1, 1] += gain
    return weight, bias + shift + offset


def conv(kernel: Kernel, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A frozen float32 convolution; padding keeps the size, stride apart."""
    weight, bias = kernel
    outputs, inputs, size, _ = weight.shape
    layer = nn.Conv2d(inputs * groups, outputs, size, stride, size // 2, groups=groups)
    layer.weight = nn.Parameter(weight.float().contiguous(), requires_grad=False)
    layer.bias = nn.Parameter(bias.float().contiguous(), requires_grad=False)
    return layer


class FusedEnter(nn.Module):
    """Halves the map if a stage begins here, then changes the width."""

    def __init__(self, layer: Down | ConvNorm) -> None:
        super().__init__()
        self.down = nn.AvgPool2d(2) if isinstance(layer, Down) else nn.Identity()
        self.widen = conv(folded(layer.widen if isinstance(layer, Down) else layer))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.widen(self.down(x))
        return y


class FusedMix(nn.Module):
    def __init__(self, layer: LocalMix) -> None:
        super().__init__()
        self.wide = conv(folded_mix(layer), groups=layer.wide.conv.groups)
        self.project = conv(folded(layer.project))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(torch.relu(self.wide(x)))
        return y


class FusedMlp(nn.Module):
    def __init__(self, layer: GroupedMlp) -> None:
        super().__init__()
        self.up = conv(folded_branches(layer.up))
        self.down = conv(folded_branches(layer.down))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(torch.relu(self.up(x)))
        return y


class FusedAttention(nn.Module):
    """Attention for one picture as two batched products over heads; the scale of the scores is in the queries."""

    def __init__(self, layer: Attention) -> None:
        super().__init__()
        self.width = layer.width
        self.pool = nn.AvgPool2d(layer.reduction) if layer.reduction > 1 else nn.Identity()
        scale = layer.width**-0.5
        query = layer.query.weight.detach().double() * scale, _bias(layer.query) * scale
        self.query = conv(query)
        self.key = conv((layer.key.weight.detach().double(), _bias(layer.key)))
        self.value = conv((layer.value.weight.detach().double(), _bias(layer.value)))
        self.project = conv(folded(layer.project))

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(x)
        query, key, value = (self._heads(y) for y in (self.query(x), self.key(pooled), self.value(pooled)))
        weights = torch.softmax(torch.bmm(query.transpose(1, 2), key), -1)  # [heads, positions, pooled positions]
        mixed = torch.bmm(value, weights.transpose(1, 2))
        y: Tensor = self.project(mixed.reshape(x.shape))
        return y

    def _heads(self, x: Tensor) -> Tensor:
        """[1, channels, h, w] to [heads, width, h * w]."""
        return x.reshape(x.shape[1] // self.width, self.width, -1)


class FusedConvBlock(nn.Module):
    def __init__(self, block: ConvBlock) -> None:
        super().__init__()
        enter = block.enter
        self.enter = FusedEnter(enter) if isinstance(enter, Down | ConvNorm) else nn.Identity()
        self.mix = FusedMix(block.mix)
        self.mlp = FusedMlp(block.mlp)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = x + self.mix(x)
        y: Tensor = x + self.mlp(x)
        return y


class FusedMixedBlock(nn.Module):
    def __init__(self, block: MixedBlock) -> None:
        super().__init__()
        assert isinstance(block.enter, Down | ConvNorm)
        self.enter = FusedEnter(block.enter)
        self.attention = FusedAttention(block.attention)
        self.high = conv(folded(block.high))
        self.mix = FusedMix(block.mix)
        self.mlp = FusedMlp(block.mlp)

    def forward(self, x: Tensor) -> Tensor:
        low = self.enter(x)
        low = low + self.attention(low)
        high = self.high(low)
        high = high + self.mix(high)
        x = torch.cat([low, high], 1)
        y: Tensor = x + self.mlp(x)
        return y


class FusedFMViT(nn.Module):
    """One picture [1, 3, size, size], normalised, to logits [1, num_classes]."""

    def __init__(self, model: FMViT) -> None:
        super().__init__()
        self.stem = nn.ModuleList(conv(folded(layer), stride=2) for layer in _conv_norms(model.stem))
        self.blocks = nn.ModuleList(_fused(block) for block in model.blocks)
        self.pool = nn.AvgPool2d(model.config.sizes[-1])
        self.head = nn.Linear(model.head.in_features, model.head.out_features)
        self.head.load_state_dict(model.head.state_dict())
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for layer in self.stem:
            x = torch.relu(layer(x))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.pool(x).flatten(1))
        return logits


def fuse(model: FMViT) -> FusedFMViT:
    """The deployed form of ``model``, a copy."""
    return FusedFMViT(model)


def _fused(block: nn.Module) -> nn.Module:
    if isinstance(block, MixedBlock):
        return FusedMixedBlock(block)
    assert isinstance(block, ConvBlock)
    return FusedConvBlock(block)


def _conv_norms(layers: nn.ModuleList) -> list[ConvNorm]:
    return [layer for layer in layers if isinstance(layer, ConvNorm)]


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias.detach().double()
