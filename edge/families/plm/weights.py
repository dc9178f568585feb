"""Where PLM's tensors come from, one at a time, and which ones there must be.

The 1.8B model takes 7.3 GB in float32, so nothing here holds all of it: the deployed form takes each tensor when it
builds the layer that needs it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from edge.checkpoints import Checkpoint, check_names
from edge.errors import CheckpointError
from edge.families.plm.config import PLMConfig

if TYPE_CHECKING:
    from torch import Tensor

#: Gives the float32 tensor of a name of the Hugging Face layout.
Take = Callable[[str], "Tensor"]
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


def tensor_shapes(config: PLMConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint, by name."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    nope, rope, value = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
    layer = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (heads * (nope + rope), hidden),
        "self_attn.kv_a_proj_with_mqa": (config.row, hidden),
        "self_attn.kv_a_layernorm": (config.kv_lora_rank,),
        "self_attn.kv_b_proj": (heads * (nope + value), config.kv_lora_rank),
        "self_attn.o_proj": (hidden, heads * value),
        "post_attention_layernorm": (hidden,),
        "mlp.up_proj": (config.intermediate_size, hidden),
        "mlp.down_proj": (hidden, config.intermediate_size),
    }
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, hidden)}
    for index in range(config.num_hidden_layers):
        shapes |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        shapes[HEAD] = (config.vocab_size, hidden)
    return shapes


def from_checkpoint(checkpoint: Checkpoint, config: PLMConfig) -> Take:
    """Tensors of ``checkpoint``, whose names and shapes must be those of ``config``; CheckpointError otherwise.

    A tied model may store its head as well, if it is the embedding's equal.
    """
    shapes = tensor_shapes(config)
    spare = {HEAD} if config.tie_word_embeddings else set()
    check_names(checkpoint.path, shapes.keys(), checkpoint.tensors.keys() - spare)

    def take(name: str) -> Tensor:
        tensor = checkpoint.tensors[name]
        if tuple(tensor.shape) != shapes[name]:
            raise CheckpointError(
                f"tensor '{name}' of {checkpoint.path} has shape {list(tensor.shape)} but the config asks for "
                f"{list(shapes[name])}: pass the config.json that belongs to it."
            )
        if name == EMBEDDING and spare and HEAD in checkpoint.tensors and not tensor.equal(checkpoint.tensors[HEAD]):
            raise CheckpointError(
                f"{checkpoint.path} has a head of its own and its config ties it to the embedding: "
                "set tie_word_embeddings to false in config.json."
            )
        return tensor

    return take


def seeded(config: PLMConfig, seed: int) -> Take:
    """Random weights that depend on seed and name alone: norms 1, matrices uniform with a deviation of 1 / sqrt(inputs).

    The embedding's deviation is 1 / sqrt(hidden) too, since it is the head.
    """
    import torch

    shapes = tensor_shapes(config)

    def take(name: str) -> Tensor:
        shape = shapes[name]
        if len(shape) == 1:
            return torch.ones(shape)
        key = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7], "little")
        bound = (3.0 / shape[1]) ** 0.5
        return torch.empty(shape).uniform_(-bound, bound, generator=torch.Generator().manual_seed(key))

    return take


def module_tensors(tensors: Mapping[str, Tensor]) -> Take:
    """Tensors of a module's state_dict."""
    return lambda name: tensors[name].detach()
