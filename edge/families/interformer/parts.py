"""Pieces of the form that deploys, for batch 1 and fixed sizes, equal in value to the faithful modules.

What differs from those: norms over a whole map are two means and one multiplication, so that XNNPACK takes them;
batch norms are folded into their convolutions; adaptive pools, which ONNX lacks, gather equal windows first; resizes of
tiny maps are products with a constant matrix.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge.families.interformer.config import InterFormerConfig
from edge.families.interformer.head import ConvModule
from edge.families.interformer.neck import PoolingAttention


class Style(enum.StrEnum):
    """Which runtime a deployed module is written for."""

    ONNX = "onnx"
    XNNPACK = "xnnpack"
    TVM = "tvm"


def constant(value: Tensor) -> nn.Buffer:
    return nn.Buffer(value.detach().float().contiguous(), persistent=False)


def conv(weight: Tensor, bias: Tensor | None, *, stride: int = 1, padding: int = 0, groups: int = 1) -> nn.Conv2d:
    """A frozen float32 convolution from tensors of any precision."""
    out, per_group, high, wide = weight.shape
    layer = nn.Conv2d(per_group * groups, out, (high, wide), stride, padding, groups=groups, bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach().float().contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().float().contiguous(), requires_grad=False)
    return layer


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A frozen float32 linear map from tensors of any precision."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach().float().contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().float().contiguous(), requires_grad=False)
    return layer


def pointwise(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A linear map's weight [out, in] over the channels of a map."""
    return conv(weight[:, :, None, None], bias)


def folded(module: ConvModule) -> tuple[Tensor, Tensor]:
    """Weight and bias (float64) of a convolution with its batch norm folded in."""
    bn = module.bn
    assert bn.running_mean is not None and bn.running_var is not None
    gain = bn.weight.detach().double() / (bn.running_var.double() + bn.eps).sqrt()
    weight = module.conv.weight.detach().double() * gain[:, None, None, None]
    return weight, bn.bias.detach().double() - gain * bn.running_mean.double()


class MapNorm(nn.Module):
    """GroupNorm(1, C) of one map [1, C, h, w]: its mean and variance over everything, gain and shift per channel.

    The variance is the mean square less the squared mean, which float32 bears, as these maps' means are small.
    """

    def __init__(self, norm: nn.GroupNorm, style: Style) -> None:
        super().__init__()
        channels = norm.num_channels
        self.eps = norm.eps
        self.gain, self.shift = (constant(value.reshape(1, -1, 1, 1)) for value in (norm.weight, norm.bias))
        # XNNPACK takes means over places; the mean over channels is a product. ONNX Runtime sums everything at once,
        # which is the same in any layout that it may choose.
        means = pointwise(torch.full((1, channels), 1.0 / channels), None)
        self.mean_norm = None if style is Style.ONNX else means

    def mean(self, x: Tensor) -> Tensor:
        if self.mean_norm is None:
            return x.mean((1, 2, 3), keepdim=True)
        mean: Tensor = self.mean_norm(x.mean((2, 3), keepdim=True))
        return mean

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What each channel is multiplied by, and what is added to it, [1, C, 1, 1] each."""
        mean, square = self.mean(x), self.mean(x * x)
        scale = torch.rsqrt(square - mean * mean + self.eps) * self.gain
        return scale, self.shift - mean * scale

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.factors(x)
        y: Tensor = x * scale + shift
        return y


class RowNorm(nn.Module):
    """LayerNorm of rows [rows, C]; for XNNPACK, which has none, by products with constants."""

    def __init__(self, norm: nn.LayerNorm, style: Style) -> None:
        super().__init__()
        self.width, self.eps = norm.normalized_shape[0], norm.eps
        self.gain, self.shift = constant(norm.weight), constant(norm.bias)
        self.mean_norm = linear(torch.full((1, self.width), 1.0 / self.width)) if style is Style.XNNPACK else None

    def forward(self, x: Tensor) -> Tensor:
        if self.mean_norm is None:
            return F.layer_norm(x, (self.width,), self.gain, self.shift, self.eps)
        centered = x - self.mean_norm(x)
        y: Tensor = centered * torch.rsqrt(self.mean_norm(centered * centered) + self.eps) * self.gain + self.shift
        return y


class MaxPool(nn.Module):
    """``adaptive_max_pool2d`` of [1, C, h, w] to a fixed size.

    Windows overlap and differ in length where the sizes do not divide; gathered one behind the other, each filled up to
    the longest by repeating its last row, they are equal and apart, and the largest value is the same.
    """

    def __init__(self, size: tuple[int, int], side: tuple[int, int], style: Style) -> None:
        super().__init__()
        self.slices = style is Style.XNNPACK  # which cuts and joins, but does not gather
        self.divides = size[0] % side[0] == 0 and size[1] % side[1] == 0
        self.channels_last = style is Style.ONNX and not self.divides  # ``last`` is the faster form
        self.rows, self.columns = (windows(length, count) for length, count in zip(size, side, strict=True))
        self.window = (len(self.rows[0]), len(self.columns[0]))
        if not self.divides:
            for name, places in (("row", self.rows), ("column", self.columns)):
                index = torch.tensor([place for window in places for place in window])
                self.register_buffer(f"{name}_index", index, persistent=False)

    row_index: Tensor
    column_index: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if self.divides:
            return F.max_pool2d(x, self.window, self.window)
        for axis, (places, index, window) in enumerate(
            ((self.rows, self.row_index, (self.window[0], 1)), (self.columns, self.column_index, (1, self.window[1]))), 2
        ):
            if self.slices:
                runs = spread(places)
                x = torch.cat([x.narrow(axis, run[0], len(run)) for run in runs], axis) if len(runs) > 1 else x
            else:
                x = x.index_select(axis, index)
            x = F.max_pool2d(x, window, window)
        return x

    def last(self, x: Tensor) -> Tensor:
        """The same of [h, w, C]: whole rows of channels are gathered, which ONNX Runtime copies at once."""
        for axis, (index, places) in enumerate(((self.row_index, self.rows), (self.column_index, self.columns))):
            x = x.index_select(axis, index)
            shape = (*x.shape[:axis], len(places), -1, *x.shape[axis + 1 :])
            x = x.reshape(shape).amax(axis + 1)
        return x


def windows(length: int, count: int) -> list[list[int]]:
    """The places of each of ``count`` windows over ``length`` (from floor to ceil), filled up to the longest."""
    spans = [(index * length // count, -(-(index + 1) * length // count)) for index in range(count)]
    longest = max(end - start for start, end in spans)
    return [[min(start + step, end - 1) for step in range(longest)] for start, end in spans]


def spread(places: Sequence[Sequence[int]]) -> list[list[int]]:
    """The windows as runs of successive places, which a slice can cut."""
    runs: list[list[int]] = []
    for window in places:
        for index, place in enumerate(window):
            if index and place == runs[-1][-1] + 1:
                runs[-1].append(place)
            else:
                runs.append([place])
    return runs


class KeyValue(nn.Module):
    """Keys [heads, d, tokens] and values [heads, tokens, d] of a stage's pooled map; the map is normed already."""

    def __init__(
        self, attention: PoolingAttention, config: InterFormerConfig, stage: int, size: tuple[int, int], style: Style
    ) -> None:
        super().__init__()
        sides = config.pool_sides(stage, *size)
        self.heads = attention.heads
        self.pools = nn.ModuleList(nn.Identity() if side == size else MaxPool(size, side, style) for side in sides)
        self.dconvs = nn.ModuleList()
        for dconv in attention.dconvs:
            assert isinstance(dconv, nn.Conv2d) and dconv.bias is not None
            # p + dconv(p) is one depthwise convolution with 1 more at its centre.
            weight = dconv.weight.detach().double().clone()
            weight[:, :, 1, 1] += 1
            self.dconvs.append(conv(weight, dconv.bias, padding=1, groups=weight.shape[0]))
        self.norm = RowNorm(attention.norm, style)
        key, value = attention.key_value_proj.weight.chunk(2)
        key_bias, value_bias = attention.key_value_proj.bias.chunk(2)
        self.key, self.value = linear(key, key_bias), linear(value, value_bias)

    def forward(self, kv: Tensor) -> tuple[Tensor, Tensor]:
        channels = kv.shape[1]
        rows = kv[0].permute(1, 2, 0)
        pooled = []
        for pool, dconv in zip(self.pools, self.dconvs, strict=True):
            if isinstance(pool, MaxPool) and pool.channels_last:
                small = pool.last(rows).permute(2, 0, 1)[None]
            else:
                small = pool(kv)
            pooled.append(dconv(small).reshape(channels, -1))
        tokens = self.norm(torch.cat(pooled, 1).transpose(0, 1))
        count, depth = tokens.shape[0], channels // self.heads
        key = self.key(tokens).reshape(count, self.heads, depth).permute(1, 2, 0)
        value = self.value(tokens).reshape(count, self.heads, depth).permute(1, 0, 2)
        return key, value


def resize_matrix(own: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The bilinear resize (``align_corners`` False) of flattened maps as a matrix, [size, own] float64."""
    identity = torch.eye(own[0] * own[1], dtype=torch.float64).reshape(1, -1, *own)
    resized = F.interpolate(identity, size, mode="bilinear", align_corners=False)
    return resized.reshape(own[0] * own[1], -1).transpose(0, 1)


def average_matrix(own: tuple[int, int], scale: int) -> Tensor:
    """``adaptive_avg_pool2d`` of flattened maps to scale x scale as a matrix, [scale**2, own] float64."""
    identity = torch.eye(own[0] * own[1], dtype=torch.float64).reshape(1, -1, *own)
    return F.adaptive_avg_pool2d(identity, scale).reshape(own[0] * own[1], -1).transpose(0, 1)
