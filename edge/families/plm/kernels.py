"""PLM for edge's own kernels: what ``deployed`` computes, with packed weights, a float16 cache, and one operator for each
of the steps that read memory: projections, attention, the MLP, the head.

The embedding and a tied head are one packed matrix. Norms' gains and the softmax's scale are in the weights already.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge.families.plm.config import PLMConfig
from edge.families.plm.deployed import Chunk, DeployedLayer, Stack
from edge.runtimes.kernels import torch_ops as torch_ops  # registers the operators
from edge.runtimes.kernels.weights import Weights

#: Bits of the embedding and the head, whatever the rest has. In 4 they cost the demo as much as all layers together (KL from
#: float32 20 instead of 11 thousandths of a nat a token, `benchmarks/plm_vs_llamacpp.py`), for a seventh fewer bytes.
TABLE_BITS = 8
#: Packed once for both entry points.
_PACKED: weakref.WeakKeyDictionary[Stack, tuple[Weights, KernelStack]] = weakref.WeakKeyDictionary()


class KernelLayer(nn.Module):
    project: Tensor
    to_key: Tensor
    to_value: Tensor
    out: Tensor
    up: Tensor
    down: Tensor

    def __init__(self, config: PLMConfig, layer: DeployedLayer, weights: Weights) -> None:
        super().__init__()
        self.config = config
        heads, nope, value, latent = (
            config.num_attention_heads, config.qk_nope_head_dim, config.v_head_dim, config.kv_lora_rank,
        )  # fmt: skip
        attention = layer.attention
        assert isinstance(layer.down, nn.Linear)
        assert isinstance(attention.to_key[0], nn.Linear)
        self.bits = {
            "project": weights.bits_of(attention.project), "mla": weights.bits_of(attention.to_key[0]),
            "out": weights.bits_of(attention.out), "mlp": weights.bits_of(layer.up),
        }  # fmt: skip
        _keep(self, "project", weights.tiled(attention.project, attention.project.weight))
        _keep(self, "to_key", _by_head(attention.to_key, heads, latent, nope, weights))
        _keep(self, "to_value", _by_head(attention.to_value, heads, value, latent, weights))
        _keep(self, "out", weights.tiled(attention.out, attention.out.weight))
        _keep(self, "up", weights.tiled(layer.up, layer.up.weight))
        _keep(self, "down", weights.neurons(layer.down, layer.down.weight))

    def forward(self, x: Tensor, cache: Tensor, position: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        config, bits, ops = self.config, self.bits, torch.ops.edge
        heads, nope, rope, value, latent = (
            config.num_attention_heads, config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim,
            config.kv_lora_rank,
        )  # fmt: skip
        eps, hidden = config.rms_norm_eps, config.hidden_size
        wide = heads * (nope + rope) + config.row
        projected = ops.linear(ops.rms_norm(x, eps), self.project, wide, bits["project"])
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
            bits["mla"],
        )
        x = x + ops.linear(mixed, self.out, hidden, bits["out"])
        x = x + ops.relu2_mlp(ops.rms_norm(x, eps), self.up, self.down, config.intermediate_size, bits["mlp"])
        return x, own


class KernelStack(nn.Module):
    """All weights, packed; what prefill and decode share."""

    table: Tensor
    head: Tensor
    gain: Tensor

    def __init__(self, stack: Stack, weights: Weights) -> None:
        super().__init__()
        self.config = stack.config
        tied = stack.head.weight is stack.embed.weight
        # Tied, it is rounded for the head: logits see its errors at once, the layers through what their norms leave of them.
        _keep(self, "table", weights.tiled(stack.head if tied else stack.embed, stack.embed.weight, TABLE_BITS))
        _keep(self, "head", self.table if tied else weights.tiled(stack.head, stack.head.weight, TABLE_BITS))
        _keep(self, "gain", stack.gain.detach().clone())
        self.layers = nn.ModuleList()
        for layer in stack.layers:
            assert isinstance(layer, DeployedLayer)
            self.layers.append(KernelLayer(stack.config, layer, weights))

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

    def __init__(self, chunk: Chunk, weights: Weights) -> None:
        super().__init__()
        self.stack = packed(chunk.stack, weights)
        for name in ("cos", "sin", "steps"):
            _keep(self, name, getattr(chunk, name))

    def forward(self, tokens: Tensor, position: Tensor, *caches: Tensor) -> tuple[Tensor, Tensor]:
        where = position + self.steps
        cos, sin = F.embedding(where, self.cos), F.embedding(where, self.sin)
        found: tuple[Tensor, Tensor] = self.stack(tokens, caches, position, cos, sin)
        return found


def units(stack: Stack) -> tuple[tuple[nn.Linear, ...], ...]:
    """Linear layers, those together that one operator takes with the same bits; the head's are its own."""
    found: list[tuple[nn.Module, ...]] = []
    for layer in stack.layers:
        assert isinstance(layer, DeployedLayer)
        attention = layer.attention
        found += [(attention.project,), (*attention.to_key, *attention.to_value), (attention.out,), (layer.up, layer.down)]
    return tuple(tuple(each for each in unit if isinstance(each, nn.Linear)) for unit in found)


def packed(stack: Stack, weights: Weights) -> KernelStack:
    known = _PACKED.get(stack)
    if known is None or known[0] is not weights:
        known = _PACKED[stack] = weights, KernelStack(stack, weights)
    return known[1]


def _by_head(maps: nn.ModuleList, heads: int, rows: int, columns: int, weights: Weights) -> Tensor:
    """The heads' own [rows, columns], one after the other; a map holds those of several heads on its diagonal."""
    found: list[Tensor] = []
    for each in maps:
        assert isinstance(each, nn.Linear)
        found += weights.blocks(each, each.weight, rows, columns)
    assert len(found) == heads
    return torch.cat(found)


def _keep(module: nn.Module, name: str, value: Tensor) -> None:
    module.register_buffer(name, value, persistent=False)
