"""The neck, I-MSA: interactive multi-head self-attention over pooled tokens, run at every click.

The query stream starts as the finest feature map plus the embedded clicks; at every stage it attends to pooled tokens
of that stage's own map. Parameter names are those of the authors' checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge.families.interformer.config import LABELS, STRIDES, InterFormerConfig

#: left, up, right, bottom in image pixels, multiples of 32.
Box = tuple[int, int, int, int]


class PoolingAttention(nn.Module):
    """Every place of ``x`` attends to the pooled places of ``kv``; both are [batch, C, h, w]."""

    def __init__(self, config: InterFormerConfig, stage: int) -> None:
        super().__init__()
        self.config, self.stage = config, stage
        width = config.fpn_dims[stage]
        self.heads = config.neck_heads[stage]
        self.query_proj = nn.Linear(width, width)
        self.key_value_proj = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dconvs = nn.ModuleList(nn.Conv2d(width, width, 3, 1, 1, groups=width) for _ in config.pool_ratios[stage])

    def keys_and_values(self, kv: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, heads, tokens, d] each."""
        height, width = kv.shape[2:]
        tokens = []
        for side, dconv in zip(self.config.pool_sides(self.stage, height, width), self.dconvs, strict=True):
            pooled = kv if side == (height, width) else F.adaptive_max_pool2d(kv, side)
            tokens.append((pooled + dconv(pooled)).flatten(2))
        both = self.key_value_proj(self.norm(torch.cat(tokens, 2).transpose(1, 2)))
        key, value = both.chunk(2, -1)
        return self.split(key), self.split(value)

    def split(self, tokens: Tensor) -> Tensor:
        """[batch, tokens, C] to [batch, heads, tokens, d]."""
        return tokens.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor, kv: Tensor) -> Tensor:
        key, value = self.keys_and_values(kv)
        query = self.split(self.query_proj(x.flatten(2).transpose(1, 2)))
        weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
        y: Tensor = self.proj((weights @ value).transpose(1, 2).flatten(2))
        return y.transpose(1, 2).reshape(x.shape)


class Block(nn.Module):
    def __init__(self, config: InterFormerConfig, stage: int) -> None:
        super().__init__()
        width = config.fpn_dims[stage]
        hidden = config.neck_mlp_ratios[stage] * width
        self.norm1, self.norm_kv, self.norm2 = (nn.GroupNorm(1, width) for _ in range(3))
        self.attn = PoolingAttention(config, stage)
        self.mlp = nn.Sequential(
            nn.Conv2d(width, hidden, 1),
            nn.Hardswish(),
            nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden),
            nn.Hardswish(),
            nn.Conv2d(hidden, width, 1),
        )

    def forward(self, x: Tensor, kv: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), self.norm_kv(kv))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class PatchMerging(nn.Module):
    """Patches of 3x3, every second place, normalised and mapped: [batch, C, h, w] to [batch, out, h/2, w/2]."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(9 * width)
        self.reduction = nn.Linear(9 * width, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        patches = F.unfold(x, 3, padding=1, stride=2).transpose(1, 2)
        y: Tensor = self.reduction(self.norm(patches)).transpose(1, 2)
        return y.reshape(batch, -1, (height + 1) // 2, (width + 1) // 2)


class Stage(nn.Module):
    def __init__(self, config: InterFormerConfig, stage: int) -> None:
        super().__init__()
        dims = config.fpn_dims
        self.blocks = nn.ModuleList(Block(config, stage) for _ in range(config.refine_start[stage]))
        self.downsample = PatchMerging(dims[stage], dims[stage + 1]) if stage + 1 < len(dims) else None

    def forward(self, x: Tensor, kv: Tensor) -> tuple[Tensor, Tensor | None]:
        """The stage's result and what the next stage starts from; only the first block looks at ``kv``."""
        for index, block in enumerate(self.blocks):
            x = block(x, x if index else kv)
        return x, None if self.downsample is None else self.downsample(x)


class RefineStage(nn.Module):
    """Further blocks, on the whole map or on a crop of it; what they compute stays within their stage."""

    def __init__(self, config: InterFormerConfig, stage: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(config, stage) for _ in range(config.depths[stage] - config.refine_start[stage])
        )

    def forward(self, x: Tensor, box: Box | None) -> Tensor:
        if box is None:
            return self.run(x)
        left, up, right, bottom = box
        whole = x.clone()
        whole[..., up:bottom, left:right] = self.run(x[..., up:bottom, left:right])
        return whole

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, x)
        return x


class IMSA(nn.Module):
    """The four feature maps and the label map to four refined maps of the same shapes."""

    def __init__(self, config: InterFormerConfig) -> None:
        super().__init__()
        stages = range(len(config.fpn_dims))
        self.patch_embed = nn.Parameter(torch.empty(LABELS, config.fpn_dims[0]))
        nn.init.xavier_normal_(self.patch_embed)
        self.stages = nn.ModuleList(Stage(config, stage) for stage in stages)
        self.refine_stages = nn.ModuleList(
            RefineStage(config, stage) if config.depths[stage] > config.refine_start[stage] else nn.Identity()
            for stage in stages
        )
        for stage in stages:
            self.add_module(f"norm{stage}", nn.GroupNorm(1, config.fpn_dims[stage]))

    def embed(self, finest: Tensor, labels: Tensor) -> Tensor:
        """The finest map plus the embedded label map [batch, 1, H, W] (values 0 to 4), resized to it."""
        embedded = F.embedding(labels[:, 0].long(), self.patch_embed).permute(0, 3, 1, 2)
        return finest + F.interpolate(embedded, finest.shape[2:], mode="bilinear", align_corners=False)

    def forward(self, maps: Sequence[Tensor], labels: Tensor, box: Box | None = None) -> list[Tensor]:
        x: Tensor | None = self.embed(maps[0], labels)
        outputs = []
        for index, (stage, refine, kv) in enumerate(zip(self.stages, self.refine_stages, maps, strict=True)):
            y, x = stage(x, kv)
            if isinstance(refine, RefineStage):
                stride = STRIDES[index]
                y = refine(y, None if box is None else tuple(side // stride for side in box))
            outputs.append(self.get_submodule(f"norm{index}")(y))
        return outputs
