"""The entry point ``encode``: a padded, normalised picture to all that clicks on it need, once per picture.

That is the finest map, to which clicks are added, and the keys and values of each stage's first block, which depend on
the picture alone. The other maps are read by those blocks only, so they need not travel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge.families.interformer.backbone import Backbone, Layer, SimpleFPN
from edge.families.interformer.modules import InterFormer
from edge.families.interformer.neck import Block, Stage
from edge.families.interformer.parts import KeyValue, MapNorm, RowNorm, Style, constant, linear


class EncoderLayer(nn.Module):
    """One layer of the ViT on [tokens, width]; its two gains are folded into the maps before them."""

    def __init__(self, layer: Layer, style: Style) -> None:
        super().__init__()
        attention = layer.attn
        width = attention.proj.in_features
        self.heads, depth = attention.heads, width // attention.heads
        self.norm1, self.norm2 = RowNorm(layer.ln1, style), RowNorm(layer.ln2, style)
        weight, bias = attention.qkv.weight.detach().double(), attention.qkv.bias.detach().double()
        scale = torch.cat([torch.full((width,), depth**-0.5), torch.ones(2 * width)]).double()
        self.qkv = linear(weight * scale[:, None], bias * scale)
        self.proj = linear(attention.proj.weight * layer.gamma_1[:, None], attention.proj.bias * layer.gamma_1)
        up, down = (part for part in layer.ffn.modules() if isinstance(part, nn.Linear))
        self.up = linear(up.weight, up.bias)
        self.down = linear(down.weight * layer.gamma_2[:, None], down.bias * layer.gamma_2)
        # The table, heads first: gathered where it is used, it is 80 times smaller than the biases.
        self.table = constant(attention.relative_position_bias_table.transpose(0, 1))

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        tokens, width = x.shape
        rows = self.qkv(self.norm1(x))
        q, k, v = (
            rows[:, start : start + width].reshape(tokens, self.heads, -1).transpose(0, 1)
            for start in (0, width, 2 * width)
        )
        bias = self.table.index_select(1, index).reshape(self.heads, tokens, tokens)
        scores = torch.softmax(torch.bmm(q, k.transpose(1, 2)) + bias, -1)
        x = x + self.proj(torch.bmm(scores, v).transpose(0, 1).reshape(tokens, width))
        y: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return y


class Pyramid(nn.Module):
    """``SimpleFPN`` with norms that every runtime takes."""

    def __init__(self, fpn: SimpleFPN, style: Style) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(*(MapNorm(layer, style) if isinstance(layer, nn.GroupNorm) else layer for layer in level.children()))
            for level in fpn.rescale_ops
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(level(x) for level in self.levels)


class Encode(nn.Module):
    """image [1, 3, H, W] to finest [1, C, H/4, W/4], then key and value of each stage."""

    def __init__(self, model: InterFormer, style: Style) -> None:
        super().__init__()
        config, backbone = model.config, model.backbone
        assert isinstance(backbone, Backbone)
        self.patches = backbone.patch_embed.projection
        self.grid = (config.size[0] // config.patch_size, config.size[1] // config.patch_size)
        positions = backbone.positions(*self.grid)[0].detach()
        self.first = constant(positions[:1] + backbone.cls_token[0].detach())
        self.positions = constant(positions[1:])
        self.register_buffer("index", backbone.index(*self.grid).reshape(-1), persistent=False)
        layers = [layer for layer in backbone.layers if isinstance(layer, Layer)]
        self.layers = nn.ModuleList(EncoderLayer(layer, style) for layer in layers)
        self.pyramid = Pyramid(backbone.fpn, style)
        self.norms, self.prepare = nn.ModuleList(), nn.ModuleList()
        for number, (stage, size) in enumerate(zip(model.neck.stages, config.maps, strict=True)):
            assert isinstance(stage, Stage)
            block = stage.blocks[0]
            assert isinstance(block, Block)
            self.norms.append(MapNorm(block.norm_kv, style))
            self.prepare.append(KeyValue(block.attn, config, number, size, style))

    index: Tensor

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.patches(image).reshape(self.positions.shape[1], -1).transpose(0, 1) + self.positions
        x = torch.cat([self.first, x], 0)
        for layer in self.layers:
            x = layer(x, self.index)
        maps = self.pyramid(x[1:].transpose(0, 1).reshape(1, -1, *self.grid))
        outputs = [maps[0]]
        for level, norm, prepare in zip(maps, self.norms, self.prepare, strict=True):
            outputs += prepare(norm(level))
        return tuple(outputs)
