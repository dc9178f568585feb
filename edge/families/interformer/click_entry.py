"""The entry point ``click``: what ``encode`` gave and the label map to logits at a quarter of the size.

The label map comes as shares: how much of the middle 2x2 pixels of each 4x4 block has each of the five values, which is
what a bilinear resize of the embedded map to a quarter looks at. Maps stay [1, C, h, w] throughout: attention takes them
as [heads, d, places] without moving anything.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge.families.interformer.config import InterFormerConfig
from edge.families.interformer.head import UPerHead
from edge.families.interformer.modules import InterFormer
from edge.families.interformer.neck import Block, PatchMerging, PoolingAttention, RefineStage, Stage
from edge.families.interformer.parts import (
    KeyValue,
    MapNorm,
    Style,
    average_matrix,
    constant,
    conv,
    folded,
    linear,
    pointwise,
    resize_matrix,
)

#: Places whose scores against some 250 tokens are 2 MB: attention in parts of it took a fifth less time.
PLACES = 2048


class ClickBlock(nn.Module):
    """One block; its keys and values are given, or made from ``x`` itself where they are not."""

    def __init__(
        self, block: Block, config: InterFormerConfig, stage: int, size: tuple[int, int], style: Style, *, given: bool
    ) -> None:
        super().__init__()
        attention = block.attn
        self.norm1, self.norm2 = MapNorm(block.norm1, style), MapNorm(block.norm2, style)
        self.norm_kv = None if given else MapNorm(block.norm_kv, style)
        self.key_value = None if given else KeyValue(attention, config, stage, size, style)
        # TVM keeps the plain form, in which its kernels were measured.
        single = attention.heads == 1 and style is not Style.TVM
        self.attend = OneHead(attention, size, style) if single else ManyHeads(attention)
        self.mlp = block.mlp

    def forward(self, x: Tensor, given: tuple[Tensor, Tensor] | None) -> Tensor:
        if self.key_value is not None and self.norm_kv is not None:
            key, value = self.key_value(self.norm_kv(x))
        else:
            assert given is not None
            key, value = given
        x = x + self.attend(x, self.norm1, key, value)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class ManyHeads(nn.Module):
    """Attention of all places of ``x``, normed first, to keys [heads, d, tokens] and values [heads, tokens, d]."""

    def __init__(self, attention: PoolingAttention) -> None:
        super().__init__()
        weight, bias = scaled_query(attention)
        self.query = pointwise(weight, bias)
        self.proj = pointwise(attention.proj.weight, attention.proj.bias)

    def forward(self, x: Tensor, norm: MapNorm, key: Tensor, value: Tensor) -> Tensor:
        query = self.query(norm(x)).reshape(key.shape[0], key.shape[1], -1)
        weights = torch.softmax(torch.bmm(query.transpose(1, 2), key), -1)
        seen: Tensor = self.proj(torch.bmm(weights, value).transpose(1, 2).reshape(x.shape))
        return seen


class OneHead(nn.Module):
    """``ManyHeads`` for a single head, with everything linear moved from the places, which are many, to the tokens.

    The query's map and the norm before it are applied to the keys, the map behind to the values (the weights of a place
    sum to 1, so its bias goes along). What the keys' part adds to each score is one more row, beside a row of ones.
    """

    def __init__(self, attention: PoolingAttention, size: tuple[int, int], style: Style) -> None:
        super().__init__()
        weight, bias = scaled_query(attention)
        self.query_table = linear(torch.cat([weight.transpose(0, 1), bias[None]]))
        self.proj = linear(attention.proj.weight, attention.proj.bias)
        self.ones = constant(torch.ones(1, 1, size[0] * size[1]))
        # ONNX Runtime computes one operator after the other: scores of this many places stay in the cache between them.
        self.together = PLACES if style is Style.ONNX else size[0] * size[1]

    def forward(self, x: Tensor, norm: MapNorm, key: Tensor, value: Tensor) -> Tensor:
        channels = x.shape[1]
        scale, shift = norm.factors(x)
        rows = self.query_table(key.transpose(1, 2))
        plain, added = rows[..., :channels], rows[..., channels:]
        added = added + torch.bmm(plain, shift.reshape(1, channels, 1))
        keys = torch.cat([plain * scale.reshape(1, 1, channels), added], 2)
        places = torch.cat([x.reshape(1, channels, -1), self.ones], 1)
        keys, value = keys.transpose(1, 2), self.proj(value)
        parts = torch.split(places, self.together, 2) if self.together < places.shape[2] else (places,)
        seen = [torch.bmm(torch.softmax(torch.bmm(some.transpose(1, 2), keys), -1), value) for some in parts]
        whole = torch.cat(seen, 1) if len(seen) > 1 else seen[0]
        return whole.transpose(1, 2).reshape(x.shape)


def scaled_query(attention: PoolingAttention) -> tuple[Tensor, Tensor]:
    """Weight and bias (float64) of the query's map, with the scores' factor in them."""
    scale = (attention.query_proj.out_features // attention.heads) ** -0.5
    return attention.query_proj.weight.detach().double() * scale, attention.query_proj.bias.detach().double() * scale


class Merge(nn.Module):
    """``PatchMerging`` as one convolution and a gain for each place.

    The weight times the norm's gain, its own mean taken off, subtracts the patch's mean by itself; what is left is to
    divide by the patch's deviation, from the means of values and squares (padding counts, as zeros).
    """

    def __init__(self, merging: PatchMerging) -> None:
        super().__init__()
        out, columns = merging.reduction.weight.shape
        channels = columns // 9
        gain, shift = merging.norm.weight.detach().double(), merging.norm.bias.detach().double()
        weight = merging.reduction.weight.detach().double()
        centered = weight * gain - (weight * gain).mean(1, keepdim=True)
        self.reduce = conv(centered.reshape(out, channels, 3, 3), None, stride=2, padding=1)
        self.shift = constant((weight @ shift).reshape(1, -1, 1, 1))
        self.mean_norm = pointwise(torch.full((1, channels), 1.0 / channels), None)
        self.window_norm = conv(torch.full((2, 1, 3, 3), 1.0 / 9), None, stride=2, padding=1, groups=2)
        self.eps = merging.norm.eps

    def forward(self, x: Tensor) -> Tensor:
        means = self.window_norm(torch.cat([self.mean_norm(x), self.mean_norm(x * x)], 1))
        mean, square = means[:, :1], means[:, 1:]
        y: Tensor = self.reduce(x) * torch.rsqrt(square - mean * mean + self.eps) + self.shift
        return y


class Pool(nn.Module):
    """One scale of the pyramid pooling: [C, places] to [channels, places]."""

    def __init__(self, module: nn.Module, size: tuple[int, int], scale: int) -> None:
        super().__init__()
        weight, bias = folded(module)  # type: ignore[arg-type]
        self.average_table = linear(average_matrix(size, scale))
        self.conv = pointwise(weight[:, :, 0, 0], bias)
        self.resize_table = linear(resize_matrix((scale, scale), size))

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.average_table(x)
        y: Tensor = self.resize_table(F.relu(self.conv(pooled.reshape(1, *pooled.shape, 1))).reshape(-1, pooled.shape[1]))
        return y


class CoarseJoin(nn.Module):
    """The last 3x3 convolution's part for maps that are resized to the finest size first, without resizing them.

    Convolution and resize are linear, and a resize is the same for all channels: each of the nine taps is a product over
    channels on the small map, and one matrix a direction resizes and shifts all nine. For maps a quarter and an eighth of
    the finest size that is a fourth of the multiplications. A band of rows depends on a few coarse rows only, so the
    matrix over rows may be a small one for each band. Weights are [out, channels, 3, 3] for each map.
    """

    def __init__(
        self, weights: Sequence[Tensor], sizes: Sequence[tuple[int, int]], finest: tuple[int, int], style: Style
    ) -> None:
        super().__init__()
        self.sizes, self.out = tuple(sizes), weights[0].shape[0]
        # Output channels in the order (out, row tap, column tap).
        self.taps = nn.ModuleList(
            pointwise(weight.permute(0, 2, 3, 1).reshape(-1, weight.shape[1]), None) for weight in weights
        )
        # XNNPACK gathers no rows and copies a matrix for each of those that it multiplies: but for ONNX Runtime it is
        # one linear map.
        tables = [shifted_resize(high, finest[0]) for high, _ in sizes]
        self.rows = nn.ModuleList(BandedRows(table) if style is Style.ONNX else linear(table) for table in tables)
        self.columns = linear(torch.cat([shifted_resize(wide, finest[1]) for _, wide in sizes], 1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        joined = []
        for x, taps, rows, (high, wide) in zip(maps, self.taps, self.rows, self.sizes, strict=True):
            # [out, row tap, column tap, high, wide] to [out, row tap and place, column tap and place].
            y = taps(x).reshape(self.out * 3, 3, high, wide).transpose(1, 2).reshape(self.out, 3 * high, 3 * wide)
            y = rows(y) if isinstance(rows, BandedRows) else rows(y.transpose(1, 2)).transpose(1, 2)
            joined.append(y.reshape(-1, 3 * wide))
        both: Tensor = self.columns(torch.cat(joined, 1))
        return both.reshape(1, self.out, -1, both.shape[-1])


class BandedRows(nn.Module):
    """``shifted_resize``'s table over the rows of [maps, rows, columns], by bands of its result."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        band = max(size for size in (8, 16, 32) if len(table) % size == 0)
        bands, places = banded(table, band)
        self.bands = constant(bands)
        self.register_buffer("places", places.reshape(-1), persistent=False)

    places: Tensor

    def forward(self, x: Tensor) -> Tensor:
        count, _, columns = x.shape
        gathered = x.index_select(1, self.places).reshape(count, len(self.bands), -1, columns)
        y: Tensor = torch.matmul(self.bands, gathered)
        return y.reshape(count, -1, columns)


def shifted_resize(own: int, size: int) -> Tensor:
    """A bilinear resize along one axis, then a shift by -1, 0 and 1 with zeros beyond the border: [size, 3 * own]."""
    resize = resize_matrix((own, 1), (size, 1))
    padded = F.pad(resize, (0, 0, 1, 1))
    return torch.cat([padded[tap : tap + size] for tap in range(3)], 1)


def banded(table: Tensor, band: int) -> tuple[Tensor, Tensor]:
    """``shifted_resize``'s table cut into bands of ``band`` rows and the columns that one of them needs.

    The bands [bands, band, columns], and those columns' places in the table [bands, columns].
    """
    own = table.shape[1] // 3
    bands = table.reshape(-1, band, 3, own)
    used = bands.ne(0).any(2).any(1)
    spans = [(int(found[0]), int(found[-1])) for found in (row.nonzero().flatten() for row in used)]
    wide = max(last - first + 1 for first, last in spans)
    starts = torch.tensor([min(first, own - wide) for first, _ in spans])
    inside = starts[:, None] + torch.arange(wide)
    places = (torch.arange(3)[:, None] * own + inside[:, None, :]).reshape(len(spans), -1)
    flat = bands.reshape(len(spans), band, -1)
    return flat.gather(2, places[:, None, :].expand(-1, band, -1)), places


class Head(nn.Module):
    """The four refined maps to logits. The two finest are joined as they are, the others by ``CoarseJoin``."""

    def __init__(self, head: UPerHead, config: InterFormerConfig, style: Style) -> None:
        super().__init__()
        self.sizes = config.maps
        self.pools = nn.ModuleList(
            Pool(module[1], config.maps[-1], scale)  # type: ignore[index]
            for module, scale in zip(head.psp_modules, config.pool_scales, strict=True)
        )

        # Channels of one size on every map that a convolution reads, for int8, which has one scale for a whole map.
        chain = even([head.bottleneck, *head.lateral_convs])
        ends = [even([module]) for module in head.fpn_convs]

        def whole(module: nn.Module, read: Tensor | None, written: Tensor) -> nn.Conv2d:
            weight, bias = folded(module)  # type: ignore[arg-type]
            weight = weight if read is None else weight * read.reshape(1, -1, 1, 1)
            return conv(weight / written.reshape(-1, 1, 1, 1), bias / written, padding=weight.shape[-1] // 2)

        self.bottleneck = whole(head.bottleneck, None, chain)
        self.laterals = nn.ModuleList(whole(module, None, chain) for module in head.lateral_convs)
        self.outputs = nn.ModuleList(whole(module, chain, end) for module, end in zip(head.fpn_convs, ends, strict=True))
        weight, bias = folded(head.fpn_bottleneck)
        weight = weight * torch.cat([*ends, chain]).reshape(1, -1, 1, 1)
        parts = torch.split(weight, config.head_channels, 1)
        self.join = conv(torch.cat(parts[:2], 1), bias, padding=1)
        self.coarse = CoarseJoin(parts[2:], config.maps[2:], config.maps[0], style)
        self.classify = head.conv_seg

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        top = maps[-1]
        flat = top.reshape(top.shape[1], -1)
        pooled = [pool(flat).reshape(1, -1, *self.sizes[-1]) for pool in self.pools]
        x = F.relu(self.bottleneck(torch.cat([top, *pooled], 1)))
        outputs = [x]
        for index in range(len(self.laterals) - 1, -1, -1):
            x = F.relu(self.laterals[index](maps[index])) + resized(x, self.sizes[index])
            outputs.insert(0, F.relu(self.outputs[index](x)))
        fine = self.join(torch.cat([outputs[0], resized(outputs[1], self.sizes[0])], 1))
        logits: Tensor = self.classify(F.relu(fine + self.coarse(outputs[2:])))
        return logits


def even(modules: Sequence[nn.Module]) -> Tensor:
    """How large each channel of what these (convolution, batch norm, ReLU) compute may become, [channels] float64.

    A batch norm's result has its shift as mean and its gain as deviation: three of these above the mean, by the largest of
    the modules, as "Data-Free Quantization" (arXiv 1906.04721) takes them. Channels that are hardly ever above 0 count as
    the mean one does, divided by 8.
    """
    found = torch.stack(
        [module.bn.bias.detach().double() + 3 * module.bn.weight.detach().double().abs() for module in modules]  # type: ignore[union-attr, operator]
    ).amax(0)
    return found.clamp_min(found.clamp_min(0).mean() / 8)


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


class Click(nn.Module):
    """finest, shares [1, 5, H/4, W/4], key and value of each stage to logits [1, 2, H/4, W/4]."""

    def __init__(self, model: InterFormer, style: Style) -> None:
        super().__init__()
        config, neck = model.config, model.neck
        self.embed = pointwise(neck.patch_embed.transpose(0, 1), None)
        self.stages, self.refine, self.norms, self.merges = (nn.ModuleList() for _ in range(4))
        for number, (stage, refine, size) in enumerate(
            zip(neck.stages, neck.refine_stages, config.maps, strict=True)
        ):
            assert isinstance(stage, Stage)
            more = list(refine.blocks) if isinstance(refine, RefineStage) else []

            def blocks(found: Sequence[nn.Module], given: bool, number: int = number, size: tuple[int, int] = size) -> nn.ModuleList:
                return nn.ModuleList(
                    ClickBlock(block, config, number, size, style, given=given and index == 0)  # type: ignore[arg-type]
                    for index, block in enumerate(found)
                )

            self.stages.append(blocks(list(stage.blocks), given=True))
            self.refine.append(blocks(more, given=False))
            norm = neck.get_submodule(f"norm{number}")
            assert isinstance(norm, nn.GroupNorm)
            self.norms.append(MapNorm(norm, style))
            if stage.downsample is not None:
                self.merges.append(Merge(stage.downsample))
        self.head = Head(model.decode_head, config, style)

    def forward(self, finest: Tensor, shares: Tensor, *given: Tensor) -> Tensor:
        x = finest + self.embed(shares)
        maps = []
        for number, (stage, refine, norm) in enumerate(zip(self.stages, self.refine, self.norms, strict=True)):
            first = (given[2 * number], given[2 * number + 1])
            for block in stage:  # type: ignore[attr-defined]
                x = block(x, first)
            y = x
            for block in refine:  # type: ignore[attr-defined]
                y = block(y, None)
            maps.append(norm(y))
            if number < len(self.merges):
                x = self.merges[number](x)
        logits: Tensor = self.head(maps)
        return logits
