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
from edge.runtimes.kernels.torch_ops import relu2_mlp  # and this registers the operators
from edge.runtimes.kernels.weights import Weights

#: Packed once for both entry points.
_PACKED: weakref.WeakKeyDictionary[Stack, tuple[Weights, KernelStack]] = weakref.WeakKeyDictionary()


class KernelLayer(nn.Module):
    project: Tensor
    to_key: Tensor
    to_value: Tensor
    out: Tensor
    up: tuple[Tensor, ...]
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
        self.up = weights.up(layer.up, layer.up.weight, layer.down.weight)
        for index, part in enumerate(self.up):
            _keep(self, f"up{index}", part)
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
        normed = ops.rms_norm(x, eps)
        return x + relu2_mlp(normed, self.up, self.down, config.intermediate_size, bits["mlp"]), own


class KernelStack(nn.Module):
    """All weights, packed; what prefill and decode share."""

    table: tuple[Tensor, ...]
    head: tuple[Tensor, ...]
    gain: Tensor

    def __init__(self, stack: Stack, weights: Weights) -> None:
        super().__init__()
        self.config = stack.config
        tied = stack.head.weight is stack.embed.weight
        # Tied, it is rounded for the head: logits see its errors at once, the layers through what their norms leave of them.
        self.table = self._keep_table("table", stack.head if tied else stack.embed, stack.embed.weight, weights)
        self.head = self.table if tied else self._keep_table("head", stack.head, stack.head.weight, weights)
        _keep(self, "gain", stack.gain.detach().clone())
        self.layers = nn.ModuleList()
        for layer in stack.layers:
            assert isinstance(layer, DeployedLayer)
            self.layers.append(KernelLayer(stack.config, layer, weights))

    def forward(
        self, tokens: Tensor, caches: tuple[Tensor, ...], position: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The last layer's output, normed, and the new rows."""
        config, ops = self.config, torch.ops.edge
        bits = 8 if len(self.table) == 1 else 4
        parts = [ops.embed(tokens, part, config.vocab_size, config.hidden_size, bits) for part in self.table]
        x = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        rows = []
        for layer, cache in zip(self.layers, caches, strict=True):
            x, own = layer(x, cache, position, cos, sin)
            rows.append(own.unsqueeze(0))
        x = ops.rms_norm(x, config.rms_norm_eps) * self.gain
        return x, torch.cat(rows)

    def logits(self, x: Tensor) -> Tensor:
        ops, rows = torch.ops.edge, self.config.vocab_size
        found: Tensor = ops.linear(x, *self.head, rows, 8) if len(self.head) == 1 else ops.head(x, *self.head, rows)
        return found

    def _keep_table(self, name: str, layer: nn.Module, weight: Tensor, weights: Weights) -> tuple[Tensor, ...]:
        """In 4 bits it would cost the demo as much as all layers together (KL from float32 20 instead of 11 thousandths of a
        nat a token, `benchmarks/plm_vs_llamacpp.py`). So it has another 4, of which a decoded token reads what matters.
        """
        parts = (weights.tiled(layer, weight, 8),) if weights.bits == 8 else weights.in_two(layer, weight)
        for index, part in enumerate(parts):
            _keep(self, f"{name}{index}", part)
        return parts


class KernelChunk(nn.Module):
    """An entry point, as ``Chunk`` is, with float16 caches and rows."""

    cos: Tensor
    sin: Tensor
    steps: Tensor

    def __init__(self, chunk: Chunk, weights: Weights) -> None:
        super().__init__()
        self.stack, self.says = packed(chunk.stack, weights), chunk.says
        for name in ("cos", "sin", "steps"):
            _keep(self, name, getattr(chunk, name))

    def forward(self, tokens: Tensor, position: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        where = position + self.steps
        cos, sin = F.embedding(where, self.cos), F.embedding(where, self.sin)
        x, rows = self.stack(tokens, caches, position, cos, sin)
        return (self.stack.logits(x), rows) if self.says else (rows,)


def units(stack: Stack) -> tuple[tuple[nn.Linear, ...], ...]:
    """Linear layers, those together that one operator takes with the same bits; the head's are its own."""
    found: list[tuple[nn.Module, ...]] = []
    for layer in stack.layers:
        assert isinstance(layer, DeployedLayer)
        attention = layer.attention
        found += [(attention.project,), (*attention.to_key, *attention.to_value), (attention.out,), (layer.up, layer.down)]
    return tuple(tuple(each for each in unit if isinstance(each, nn.Linear)) for unit in found)


def ups(stack: Stack) -> tuple[nn.Linear, ...]:
    return tuple(layer.up for layer in stack.layers if isinstance(layer, DeployedLayer))


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
