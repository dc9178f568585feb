"""The encoder: a plain ViT with relative position biases, and a pyramid of four maps made from its last layer.

Parameter names are those of the authors' checkpoints. The index tables that those carry are rebuilt here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge.families.interformer.config import InterFormerConfig


def relative_position_index(grid: int) -> Tensor:
    """Row of the bias table for each (query, key): [grid**2 + 1, grid**2 + 1] int64, the class token first.

    As in BEiT (arXiv 2106.08254): one row for each offset on the grid, then three more, for token to class, class to
    token and class to class.
    """
    side = torch.arange(grid)
    place = torch.stack(torch.meshgrid(side, side, indexing="ij")).reshape(2, -1)
    offset = place[:, :, None] - place[:, None, :] + grid - 1
    span = 2 * grid - 1
    index = torch.empty(grid * grid + 1, grid * grid + 1, dtype=torch.int64)
    index[1:, 1:] = offset[0] * span + offset[1]
    index[0, :] = span * span
    index[:, 0] = span * span + 1
    index[0, 0] = span * span + 2
    return index


def nearest(length: int, size: int) -> Tensor:
    """Source index of each of ``size`` places when ``length`` are resized to the nearest: [size] int64.

    From torch's own resize, so that its rounding is met exactly.
    """
    source = torch.arange(length, dtype=torch.float32).reshape(1, 1, length)
    return F.interpolate(source, size, mode="nearest").long().reshape(size)


def resized_index(grid: int, height: int, width: int) -> Tensor:
    """``relative_position_index`` for another grid: rows and columns picked by nearest neighbour.

    Resizing the gathered biases to the nearest, keys first and then queries, picks entries and computes nothing, so it
    can be done on the index.
    """
    index = relative_position_index(grid)
    if (height, width) == (grid, grid):
        return index
    place = nearest(grid, height)[:, None] * grid + nearest(grid, width)[None, :]
    tokens = torch.cat([torch.zeros(1, dtype=torch.int64), place.reshape(-1) + 1])
    return index[tokens][:, tokens].contiguous()


class PatchEmbed(nn.Module):
    def __init__(self, config: InterFormerConfig) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, config.embed_dims, config.patch_size, config.patch_size)

    def forward(self, image: Tensor) -> Tensor:
        tokens: Tensor = self.projection(image)
        return tokens


class Attention(nn.Module):
    """Self-attention over [batch, tokens, width] with a bias for each pair of tokens and each head."""

    def __init__(self, width: int, heads: int, grid: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * grid - 1) ** 2 + 3, heads))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[index.reshape(-1)].reshape(tokens, tokens, -1).permute(2, 0, 1)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, width)
        out: Tensor = self.proj(y)
        return out


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(width, hidden), nn.GELU()), nn.Linear(hidden, width)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Layer(nn.Module):
    def __init__(self, config: InterFormerConfig) -> None:
        super().__init__()
        width = config.embed_dims
        self.gamma_1 = nn.Parameter(torch.ones(width))
        self.gamma_2 = nn.Parameter(torch.ones(width))
        self.ln1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, config.num_heads, config.grid)
        self.ln2 = nn.LayerNorm(width, eps=1e-6)
        self.ffn = FeedForward(width, config.mlp_ratio * width)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        x = x + self.gamma_1 * self.attn(self.ln1(x), index)
        y: Tensor = x + self.gamma_2 * self.ffn(self.ln2(x))
        return y


class SimpleFPN(nn.Module):
    """One map [batch, width, h, w] to four: 4h, 2h, h and h/2 high, ``dims`` wide."""

    def __init__(self, width: int, dims: tuple[int, int, int, int]) -> None:
        super().__init__()
        half, quarter = max(width // 2, 2 * dims[0]), max(width // 2, 2 * dims[0]) // 2
        middle, double = max(width // 2, dims[1]), max(2 * width, dims[3])
        self.rescale_ops = nn.ModuleList([
            nn.Sequential(
                nn.ConvTranspose2d(width, half, 2, 2), nn.GroupNorm(1, half), nn.GELU(),
                nn.ConvTranspose2d(half, quarter, 2, 2), nn.GroupNorm(1, quarter),
                nn.Conv2d(quarter, dims[0], 1), nn.GroupNorm(1, dims[0]), nn.GELU(),
            ),
            nn.Sequential(
                nn.ConvTranspose2d(width, middle, 2, 2), nn.GroupNorm(1, middle),
                nn.Conv2d(middle, dims[1], 1), nn.GroupNorm(1, dims[1]), nn.GELU(),
            ),
            nn.Sequential(nn.Conv2d(width, dims[2], 1), nn.GroupNorm(1, dims[2]), nn.GELU()),
            nn.Sequential(
                nn.Conv2d(width, double, 2, 2), nn.GroupNorm(1, double),
                nn.Conv2d(double, dims[3], 1), nn.GroupNorm(1, dims[3]), nn.GELU(),
            ),
        ])  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(rescale(x) for rescale in self.rescale_ops)


class Backbone(nn.Module):
    """Normalised images [batch, 3, H, W], sides multiples of 32, to the four maps F0 to F3."""

    def __init__(self, config: InterFormerConfig) -> None:
        super().__init__()
        self.grid = config.grid
        tokens = config.grid**2 + 1
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.embed_dims))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, config.embed_dims))
        self.patch_embed = PatchEmbed(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.fpn = SimpleFPN(config.embed_dims, config.fpn_dims)
        self._indices: dict[tuple[int, int], Tensor] = {}

    def index(self, height: int, width: int) -> Tensor:
        """The bias tables' index for a grid of that size, made once for all layers."""
        if (height, width) not in self._indices:
            self._indices[height, width] = resized_index(self.grid, height, width)
        return self._indices[height, width]

    def positions(self, height: int, width: int) -> Tensor:
        """Position embeddings for that grid, [1, 1 + height * width, C]; nearest neighbours where it is not our own."""
        if (height, width) == (self.grid, self.grid):
            return self.pos_embed
        place = nearest(self.grid, height)[:, None] * self.grid + nearest(self.grid, width)[None, :]
        return torch.cat([self.pos_embed[:, :1], self.pos_embed[:, 1:][:, place.reshape(-1)]], 1)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.patch_embed(image)
        batch, channels, height, width = x.shape
        x = torch.cat([self.cls_token.expand(batch, -1, -1), x.flatten(2).transpose(1, 2)], 1)
        x = x + self.positions(height, width)
        index = self.index(height, width)
        for layer in self.layers:
            x = layer(x, index)
        maps: tuple[Tensor, ...] = self.fpn(x[:, 1:].transpose(1, 2).reshape(batch, channels, height, width))
        return maps
