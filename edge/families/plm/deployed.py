"""PLM in the form that deploys: a chunk of tokens after what a latent cache holds, with fixed shapes and no state.

The cache is an input, [1, context, row] for each layer, and the new rows are an output: who runs the model owns
the memory, writes the rows where they belong, and copies nothing else. kv_b is absorbed (see ``modules``), a linear map
for each head, so that every scheme can quantize it. Folded into weights: the gains of all norms but the last (whose
linear map is the embedding), the softmax's scale, and the order of the rotated pairs: halves instead of neighbours,
in queries and keys alike, which no product of the two can see.

Everything after the look-ups is written so that XNNPACK takes it whole: products of activations as ``bmm``, means as
products with a constant row.
"""

from __future__ import annotations

import enum

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge.families.plm.config import PLMConfig
from edge.families.plm.modules import Relu2, rope_angles
from edge.families.plm.weights import EMBEDDING, HEAD, Take
from edge.progress import Progress


class Style(enum.StrEnum):
    """Which runtime the module is written for: XNNPACK has no mean over the last axis, but products with constants."""

    NATIVE = "native"
    XNNPACK = "xnnpack"


#: Added to the score of what may not be seen: exp gives exactly 0, and no runtime meets an infinity.
HIDDEN = -1e30


class Norm(nn.Module):
    """x / sqrt(mean(x**2) + eps) for the rows of a matrix, without a gain."""

    def __init__(self, width: int, eps: float, style: Style) -> None:
        super().__init__()
        self.width, self.eps = width, eps
        self.mean = _linear(torch.full((1, width), 1.0 / width)) if style is Style.XNNPACK else None

    def forward(self, x: Tensor) -> Tensor:
        if self.mean is None:
            return F.rms_norm(x, (self.width,), None, self.eps)
        return x * torch.rsqrt(self.mean(x * x) + self.eps)


class DeployedAttention(nn.Module):
    """[tokens, hidden], normed, to the same shape, and the rows [1, tokens, row] for the cache [1, context, row]."""

    def __init__(self, config: PLMConfig, prefix: str, take: Take, gain: Tensor, style: Style) -> None:
        super().__init__()
        self.config = config
        heads, nope, rope, latent = (
            config.num_attention_heads, config.qk_nope_head_dim, config.qk_rope_head_dim, config.kv_lora_rank,
        )  # fmt: skip
        query = take(f"{prefix}.q_proj.weight").reshape(heads, nope + rope, -1) * (nope + rope) ** -0.5
        narrow = take(f"{prefix}.kv_a_proj_with_mqa.weight")
        turned, key = query[:, nope:], narrow[latent:]
        parts = (
            query[:, :nope].flatten(0, 1), turned[:, 0::2].flatten(0, 1), turned[:, 1::2].flatten(0, 1),
            narrow[:latent], key[0::2], key[1::2],
        )  # fmt: skip
        self.project = _linear(torch.cat(parts) * gain)
        self.norm = Norm(latent, config.rms_norm_eps, style)
        latent_gain = take(f"{prefix}.kv_a_layernorm.weight")
        expand = (take(f"{prefix}.kv_b_proj.weight") * latent_gain).reshape(heads, -1, latent)
        groups = expand.split_with_sizes([len(part) for part in torch.arange(heads).chunk(_products(heads, style))])
        self.to_key = nn.ModuleList(_linear(_diagonal([head[:nope].t() for head in group])) for group in groups)
        self.to_value = nn.ModuleList(_linear(_diagonal([head[nope:] for head in group])) for group in groups)
        self.out = _linear(take(f"{prefix}.o_proj.weight"))

    def forward(self, x: Tensor, cache: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        config, tokens = self.config, x.shape[0]
        heads, half = config.num_attention_heads, config.qk_rope_head_dim // 2
        context, latent = cache.shape[1], config.kv_lora_rank
        projected = self.project(x)
        first = heads * config.qk_nope_head_dim
        second, start = first + heads * half, first + 2 * heads * half
        even, odd = projected[:, first:second], projected[:, second:start]
        turned = even * place.cos_heads - odd * place.sin_heads, odd * place.cos_heads + even * place.sin_heads
        key_even, key_odd = projected[:, start + latent : start + latent + half], projected[:, start + latent + half :]
        rows = torch.cat(
            (
                self.norm(projected[:, start : start + latent]),
                key_even * place.cos - key_odd * place.sin,
                key_odd * place.cos + key_even * place.sin,
            ),
            1,
        )
        heads_of = (tokens, heads, -1)
        absorbed = _by_parts(self.to_key, projected[:, :first])
        query = torch.cat((absorbed.reshape(heads_of), *(part.reshape(heads_of) for part in turned)), 2)
        # [heads * tokens, row]: heads apart, so that all of them meet the cache in one product.
        query = query.transpose(0, 1).reshape(1, heads * tokens, config.row)
        # The small factor is transposed, never the cache.
        turned_query = query.transpose(1, 2)
        own = rows.reshape(1, tokens, config.row)
        past = torch.bmm(cache, turned_query).transpose(1, 2) + place.past
        new = torch.bmm(own, turned_query).transpose(1, 2) + place.new
        chances = torch.softmax(torch.cat((past, new), 2), 2)
        mixed = torch.bmm(chances[:, :, :context], cache) + torch.bmm(chances[:, :, context:], own)
        mixed = mixed.reshape(heads, tokens, config.row)[:, :, :latent]
        return self.out(_by_parts(self.to_value, mixed.transpose(0, 1).reshape(tokens, heads * latent))), own


class DeployedLayer(nn.Module):
    def __init__(self, config: PLMConfig, prefix: str, take: Take, style: Style) -> None:
        super().__init__()
        gain = take(f"{prefix}.input_layernorm.weight")
        self.norm1 = Norm(config.hidden_size, config.rms_norm_eps, style)
        self.attention = DeployedAttention(config, f"{prefix}.self_attn", take, gain, style)
        self.norm2 = Norm(config.hidden_size, config.rms_norm_eps, style)
        gain = take(f"{prefix}.post_attention_layernorm.weight")
        self.up = _linear(take(f"{prefix}.mlp.up_proj.weight") * gain)
        self.act = Relu2()
        self.down = _linear(take(f"{prefix}.mlp.down_proj.weight"))

    def forward(self, x: Tensor, cache: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        attended, rows = self.attention(self.norm1(x), cache, place)
        x = x + attended
        return x + self.down(self.act(self.up(self.norm2(x)))), rows


class Place:
    """Where a chunk stands: what its attention needs to know in every layer.

    Cosines and sines [tokens, rope / 2], the same beside each other for all heads, and what is added to the scores of
    the cache [1, context] and of the chunk itself [heads * tokens, tokens].
    """

    def __init__(self, cos: Tensor, sin: Tensor, heads: int, past: Tensor, new: Tensor) -> None:
        self.cos, self.sin = cos, sin
        self.cos_heads, self.sin_heads = cos.repeat(1, heads), sin.repeat(1, heads)
        self.past, self.new = past, new


class Stack(nn.Module):
    """All weights; what prefill and decode share."""

    def __init__(self, config: PLMConfig, take: Take, style: Style, progress: Progress | None = None) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size, _weight=_frozen(take(EMBEDDING)))
        self.layers = nn.ModuleList()
        with (progress or Progress()).bar("layers", config.num_hidden_layers) as bar:
            for index in range(config.num_hidden_layers):
                self.layers.append(DeployedLayer(config, f"model.layers.{index}", take, style))
                bar.advance()
        self.norm = Norm(config.hidden_size, config.rms_norm_eps, style)
        self.gain = nn.Buffer(take("model.norm.weight"), persistent=False)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        # One tensor if tied.
        self.head.weight = self.embed.weight if config.tie_word_embeddings else _frozen(take(HEAD))

    def forward(self, tokens: Tensor, caches: tuple[Tensor, ...], place: Place) -> tuple[Tensor, Tensor]:
        x = self.embed(tokens)
        rows = []
        for layer, cache in zip(self.layers, caches, strict=True):
            x, new = layer(x, cache, place)
            rows.append(new)
        return self.head(self.norm(x) * self.gain), _beside(rows, 0)


class Chunk(nn.Module):
    """An entry point: ``tokens`` ids at a time, up to ``context`` in all.

    In: ids [tokens] int64, position [1] int64 (how many rows of the caches count, and the first id's place), and a cache
    [1, context, row] float32 for each layer; what lies beyond the position is not read but must be finite. Out: logits
    [tokens, vocabulary] (unless the chunk is only read) and new rows [layers, tokens, row]. A chunk that is not full may end
    in any ids: nothing before them sees them.
    """

    places: Tensor
    new: Tensor
    cos: Tensor
    sin: Tensor

    def __init__(self, stack: Stack, tokens: int, context: int, half_cache: bool = False, says: bool = True) -> None:
        super().__init__()
        config = stack.config
        self.stack, self.heads, self.half_cache, self.says = stack, config.num_attention_heads, half_cache, says
        # A padded chunk at the very end reaches beyond the context.
        angles = rope_angles(config, torch.arange(context + tokens))
        for name, table in (("cos", torch.cos(angles).float()), ("sin", torch.sin(angles).float())):
            self.register_buffer(name, table, persistent=False)
        self.register_buffer("places", torch.arange(context), persistent=False)
        self.register_buffer("steps", torch.arange(tokens), persistent=False)
        above = torch.full((tokens, tokens), HIDDEN).triu(1)
        self.register_buffer("new", above.repeat(self.heads, 1), persistent=False)

    steps: Tensor
    #: Caches and rows in float16, as edge's own kernels keep them; the arithmetic stays what it is.
    half_cache: bool
    #: Whether it gives logits, or only the rows.
    says: bool

    def forward(self, tokens: Tensor, position: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        if self.half_cache:
            caches = tuple(cache.to(torch.float32) for cache in caches)
        where = position + self.steps
        cos, sin = F.embedding(where, self.cos), F.embedding(where, self.sin)
        past = (self.places >= position).to(torch.float32).unsqueeze(0) * HIDDEN
        logits, rows = self.stack(tokens, caches, Place(cos, sin, self.heads, past, self.new))
        rows = rows.to(torch.float16) if self.half_cache else rows
        return (logits, rows) if self.says else (rows,)


def _products(heads: int, style: Style) -> int:
    """Into how many linear maps the heads' own are put.

    One a head reads no byte too many. ExecuTorch's passes take some 50 ms of lowering for every operator: there, several
    heads share a map whose other blocks are zero, which costs PLM-1.8B a tenth more bytes and saves half an hour.
    """
    return min(heads, 4) if style is Style.XNNPACK else heads


def _diagonal(blocks: list[Tensor]) -> Tensor:
    whole: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return whole


def _by_parts(maps: nn.ModuleList, x: Tensor) -> Tensor:
    """Each map on its own part of the columns of ``x``, the results beside each other."""
    found, start = [], 0
    for each in maps:
        assert isinstance(each, nn.Linear)
        found.append(each(x[:, start : start + each.in_features] if len(maps) > 1 else x))
        start += each.in_features
    return _beside(found)


def _beside(parts: list[Tensor], axis: int = 1) -> Tensor:
    return torch.cat(parts, axis) if len(parts) > 1 else parts[0]


def _frozen(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().contiguous(), requires_grad=False)


def _linear(weight: Tensor) -> nn.Linear:
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = _frozen(weight)
    return layer
