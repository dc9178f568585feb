"""PLM for edge's own kernels: what ``deployed`` computes, with packed weights, a float16 cache, and one operator for each
of the steps that read memory: projections, attention, the MLP, the head.

The embedding and a tied head are one packed matrix. Norms' gains and the softmax's scale are in the weights already.
"""

from __future__ import annotations

import weakref

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge.families.plm.config import PLMConfig
from edge.families.plm.deployed import Chunk, DeployedLayer, Stack
from edge.runtimes.kernels.torch_ops import neurons, tiled

#: Bits of the embedding and the head, whatever the rest has. In 4 they cost the demo as much as all layers together (KL from
#: float32 20 instead of 11 thousandths of a nat a token, `benchmarks/plm_vs_llamacpp.py`), for a seventh fewer bytes.
TABLE_BITS = 8
#: Packed once for both entry points.
_PACKED: weakref.WeakKeyDictionary[Stack, dict[int, KernelStack]] = weakref.WeakKeyDictionary()


class KernelLayer(nn.Module):
    project: Tensor
    to_key: Tensor
    to_value: Tensor
    out: Tensor
    up: Tensor
    down: Tensor

    def __init__(self, config: PLMConfig, layer: DeployedLayer, bits: int) -> None:
        super().__init__()
        self.config, self.bits = config, bits
        heads, nope, value, latent = (
            config.num_attention_heads, config.qk_nope_head_dim, config.v_head_dim, config.kv_lora_rank,
        )  # fmt: skip
        attention = layer.attention
        assert isinstance(layer.down, nn.Linear)
        _keep(self, "project", tiled(attention.project.weight, bits))
        _keep(self, "to_key", _by_head(attention.to_key, heads, latent, nope, bits))
        _keep(self, "to_value", _by_head(attention.to_value, heads, value, latent, bits))
        _keep(self, "out", tiled(attention.out.weight, bits))
        _keep(self, "up", tiled(layer.up.weight, bits))
        _keep(self, "down", neurons(layer.down.weight, bits))

    def forward(self, x: Tensor, cache: Tensor, position: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        config, bits, ops = self.config, self.bits, torch.ops.edge
        heads, nope, rope, value, latent = (
            config.num_attention_heads, config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim,
            config.kv_lora_rank,
        )  # fmt: skip
        eps, hidden = config.rms_norm_eps, config.hidden_size
        wide = heads * (nope + rope) + config.row
        projected = ops.linear(ops.rms_norm(x, eps), self.project, wide, bits)
        mixed, own = ops.mla(
            projected,
            cache,
            position,
            cos,
            sin,
            self.to_key,
            self.to_value,
            heads,
            nope,
            rope,
            value,
            latent,
            eps,
            bits,
        )
        x = x + ops.linear(mixed, self.out, hidden, bits)
        x = x + ops.relu2_mlp(ops.rms_norm(x, eps), self.up, self.down, config.intermediate_size, bits)
        return x, own


class KernelStack(nn.Module):
    """All weights, packed; what prefill and decode share."""

    table: Tensor
    head: Tensor
    gain: Tensor

    def __init__(self, stack: Stack, bits: int) -> None:
        super().__init__()
        self.config = stack.config
        _keep(self, "table", tiled(stack.embed.weight, TABLE_BITS))
        tied = stack.head.weight is stack.embed.weight
        _keep(self, "head", self.table if tied else tiled(stack.head.weight, TABLE_BITS))
        _keep(self, "gain", stack.gain.detach().clone())
        self.layers = nn.ModuleList()
        for layer in stack.layers:
            assert isinstance(layer, DeployedLayer)
            self.layers.append(KernelLayer(stack.config, layer, bits))

    def forward(
        self, tokens: Tensor, caches: tuple[Tensor, ...], position: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        config, ops = self.config, torch.ops.edge
        x = ops.embed(tokens, self.table, config.vocab_size, config.hidden_size, TABLE_BITS)
        rows = []
        for layer, cache in zip(self.layers, caches, strict=True):
            x, own = layer(x, cache, position, cos, sin)
            rows.append(own.unsqueeze(0))
        x = ops.rms_norm(x, config.rms_norm_eps) * self.gain
        return ops.linear(x, self.head, config.vocab_size, TABLE_BITS), torch.cat(rows)


class KernelChunk(nn.Module):
    """An entry point, as ``Chunk`` is, with float16 caches and rows."""

    cos: Tensor
    sin: Tensor
    steps: Tensor

    def __init__(self, chunk: Chunk, bits: int) -> None:
        super().__init__()
        self.stack = packed(chunk.stack, bits)
        for name in ("cos", "sin", "steps"):
            _keep(self, name, getattr(chunk, name))

    def forward(self, tokens: Tensor, position: Tensor, *caches: Tensor) -> tuple[Tensor, Tensor]:
        where = position + self.steps
        cos, sin = F.embedding(where, self.cos), F.embedding(where, self.sin)
        found: tuple[Tensor, Tensor] = self.stack(tokens, caches, position, cos, sin)
        return found


def packed(stack: Stack, bits: int) -> KernelStack:
    known = _PACKED.setdefault(stack, {})
    if bits not in known:
        known[bits] = KernelStack(stack, bits)
    return known[bits]


def _by_head(maps: nn.ModuleList, heads: int, rows: int, columns: int, bits: int) -> Tensor:
    """The heads' own [rows, columns], one after the other; a map holds those of several heads on its diagonal."""
    found: list[np.ndarray] = []
    for each in maps:
        assert isinstance(each, nn.Linear)
        for at in range(each.out_features // rows):
            block = each.weight[rows * at : rows * (at + 1), columns * at : columns * (at + 1)]
            found.append(tiled(block, bits).numpy())
    assert len(found) == heads
    return torch.from_numpy(np.concatenate(found))


def _keep(module: nn.Module, name: str, value: Tensor) -> None:
    module.register_buffer(name, value, persistent=False)
