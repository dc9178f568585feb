"""PLM as the authors publish it: multi-head latent attention, an ungated MLP of squared ReLUs, tied embeddings.

Parameters carry the names of the Hugging Face checkpoint. ``PLM`` computes a whole sequence with keys and values
expanded from the latent, which is what training needs; ``PLM.extend`` continues a sequence through the latent cache,
with kv_b absorbed into the queries and the outputs (DeepSeek-AI, arXiv 2405.04434, section 2.1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge.families.plm.config import PLMConfig


class RMSNorm(nn.Module):
    """x / sqrt(mean(x**2) + eps) * weight over the last axis. Zhang and Sennrich, arXiv 1910.07467."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def rope_angles(config: PLMConfig, positions: Tensor) -> Tensor:
    """Angles [..., rope / 2] of ``positions`` [...]: position * theta**(-2i / rope), in float64."""
    exponents = torch.arange(0, config.qk_rope_head_dim, 2, dtype=torch.float64) / config.qk_rope_head_dim
    return positions.double()[..., None] * config.rope_theta**-exponents


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair (2i, 2i + 1) of the last axis by ``angles``, which broadcast to half of ``x``."""
    cos, sin = torch.cos(angles).to(x.dtype), torch.sin(angles).to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


class Attention(nn.Module):
    def __init__(self, config: PLMConfig) -> None:
        super().__init__()
        self.config = config
        heads, nope, rope, value = (
            config.num_attention_heads, config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim,
        )  # fmt: skip
        self.scale = (nope + rope) ** -0.5
        self.q_proj = nn.Linear(config.hidden_size, heads * (nope + rope), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(config.hidden_size, config.row, bias=False)
        self.kv_a_layernorm = RMSNorm(config.kv_lora_rank, config.rms_norm_eps)
        self.kv_b_proj = nn.Linear(config.kv_lora_rank, heads * (nope + value), bias=False)
        self.o_proj = nn.Linear(heads * value, config.hidden_size, bias=False)

    def projected(self, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``x`` [..., tokens, hidden] to queries [..., heads, tokens, nope] and, rotated, [..., heads, tokens, rope],
        and to what the cache keeps of each token, [..., tokens, row]: the normed latent, then the rotated key."""
        config = self.config
        query = self.q_proj(x).unflatten(-1, (config.num_attention_heads, -1)).transpose(-2, -3)
        plain, turned = query.split_with_sizes((config.qk_nope_head_dim, config.qk_rope_head_dim), -1)
        latent, key = self.kv_a_proj_with_mqa(x).split_with_sizes((config.kv_lora_rank, config.qk_rope_head_dim), -1)
        return plain, rotate(turned, angles), torch.cat((self.kv_a_layernorm(latent), rotate(key, angles)), -1)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """[batch, tokens, hidden] to the same: each token attends to itself and to those before it."""
        config = self.config
        plain, turned, rows = self.projected(x, angles)
        latent, key = rows.split_with_sizes((config.kv_lora_rank, config.qk_rope_head_dim), -1)
        expanded = self.kv_b_proj(latent).unflatten(-1, (config.num_attention_heads, -1)).transpose(-2, -3)
        keys, values = expanded.split_with_sizes((config.qk_nope_head_dim, config.v_head_dim), -1)
        keys = torch.cat((keys, key.unsqueeze(-3).expand(*keys.shape[:-1], -1)), -1)
        mixed = F.scaled_dot_product_attention(
            torch.cat((plain, turned), -1), keys, values, is_causal=True, scale=self.scale
        )
        output: Tensor = self.o_proj(mixed.transpose(-2, -3).flatten(-2))
        return output

    def extend(self, x: Tensor, angles: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """New tokens ``x`` [tokens, hidden] after those in ``cache`` [past, row]: outputs, and the longer cache.

        The keys' half of kv_b moves into the queries and the values' half into the outputs, so that attention works on
        the latent rows themselves.
        """
        config = self.config
        plain, turned, rows = self.projected(x, angles)
        cache = torch.cat((cache, rows))
        expand = self.kv_b_proj.weight.reshape(config.num_attention_heads, -1, config.kv_lora_rank)
        to_key, to_value = expand.split_with_sizes((config.qk_nope_head_dim, config.v_head_dim), 1)
        scores = torch.cat((plain @ to_key, turned), -1) @ cache.t() * self.scale  # [heads, tokens, past + tokens]
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(len(cache) - len(x))
        chances = torch.softmax(scores.masked_fill(~seen, -torch.inf), -1)
        mixed = chances @ cache[:, : config.kv_lora_rank] @ to_value.transpose(1, 2)
        output: Tensor = self.o_proj(mixed.transpose(0, 1).flatten(1))
        return output, cache


class Relu2(nn.Module):
    """relu(x)**2; a module of its own, so that its output, where the zeros are, can be seen and matched."""

    def forward(self, x: Tensor) -> Tensor:
        positive = torch.relu(x)
        return positive * positive


class MLP(nn.Module):
    def __init__(self, config: PLMConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.act = Relu2()
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.down_proj(self.act(self.up_proj(x)))
        return output


class Layer(nn.Module):
    def __init__(self, config: PLMConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), angles)
        output: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return output

    def extend(self, x: Tensor, angles: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        attended, cache = self.self_attn.extend(self.input_layernorm(x), angles, cache)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), cache


class Trunk(nn.Module):
    """What the checkpoint calls ``model``: embedding, layers, last norm."""

    def __init__(self, config: PLMConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class PLM(nn.Module):
    """Token ids to logits. ``lm_head`` exists only where the config does not tie it to the embedding."""

    def __init__(self, config: PLMConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        self.lm_head: nn.Linear | None = None
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def head(self, x: Tensor) -> Tensor:
        weight = self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        return F.linear(self.model.norm(x), weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids [batch, tokens] to logits [batch, tokens, vocabulary], each row of what follows that token."""
        angles = rope_angles(self.config, torch.arange(tokens.shape[-1]))
        x: Tensor = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x, angles)
        return self.head(x)

    def empty_cache(self) -> list[Tensor]:
        """Each layer's latent cache before the first token: [0, row]."""
        return [torch.zeros(0, self.config.row) for _ in self.model.layers]

    def extend(self, tokens: Tensor, caches: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Ids [tokens] that follow what ``caches`` hold: their logits [tokens, vocabulary], and the longer caches."""
        past = len(caches[0])
        angles = rope_angles(self.config, torch.arange(past, past + len(tokens)))
        x = self.model.embed_tokens(tokens)
        longer = []
        for layer, cache in zip(self.model.layers, caches, strict=True):
            assert isinstance(layer, Layer)
            x, cache = layer.extend(x, angles, cache)
            longer.append(cache)
        return self.head(x), longer
