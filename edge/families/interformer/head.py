"""The head, UPerNet's (arXiv 1807.10221): four maps to the logits of background and object, at a quarter of the size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge.families.interformer.config import InterFormerConfig

CLASSES = 2


class ConvModule(nn.Module):
    """Convolution without bias, batch normalisation, ReLU; the size stays."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


class UPerHead(nn.Module):
    def __init__(self, config: InterFormerConfig) -> None:
        super().__init__()
        dims, channels = config.fpn_dims, config.head_channels
        self.conv_seg = nn.Conv2d(channels, CLASSES, 1)
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvModule(dims[-1], channels, 1))
            for scale in config.pool_scales
        )
        self.bottleneck = ConvModule(dims[-1] + len(config.pool_scales) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(ConvModule(width, channels, 1) for width in dims[:-1])
        self.fpn_convs = nn.ModuleList(ConvModule(channels, channels, 3) for _ in dims[:-1])
        self.fpn_bottleneck = ConvModule(len(dims) * channels, channels, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        top = maps[-1]
        pooled = [resize(pool(top), top) for pool in self.psp_modules]
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, maps[:-1], strict=True)]
        laterals.append(self.bottleneck(torch.cat([top, *pooled], 1)))
        for index in range(len(laterals) - 1, 0, -1):
            laterals[index - 1] = laterals[index - 1] + resize(laterals[index], laterals[index - 1])
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, laterals[:-1], strict=True)]
        outputs += [laterals[-1]]
        joined = torch.cat([outputs[0], *(resize(x, outputs[0]) for x in outputs[1:])], 1)
        logits: Tensor = self.conv_seg(self.fpn_bottleneck(joined))
        return logits


class FCNHead(nn.Module):
    """One convolution over the third map: a second loss in training."""

    def __init__(self, config: InterFormerConfig) -> None:
        super().__init__()
        self.conv_seg = nn.Conv2d(config.head_channels, CLASSES, 1)
        self.convs = nn.ModuleList([ConvModule(config.fpn_dims[2], config.head_channels, 3)])

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.conv_seg(self.convs[0](maps[2]))
        return logits
