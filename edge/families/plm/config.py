"""PLM's config.json as a frozen value: the fields that shape the computation, by the authors' names.

In: the JSON beside a checkpoint of PLM-Team/PLM-1.8B, or of any model of that family. Out: ``PLMConfig``. Raises
ConfigError for a field that it does not know and that is set (it might change what is computed), for a value of the
wrong type, and for a value that edge does not implement.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edge.errors import ConfigError

#: Written by Hugging Face beside the architecture, or read by training alone: none of them changes the logits.
_IGNORED_NAMES = """
    _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path architectures attention_dropout
    attn_implementation auto_map dtype initializer_range num_key_value_groups output_attentions output_hidden_states
    pretraining_tp return_dict torch_dtype transformers_version use_cache
"""
_IGNORED = frozenset(_IGNORED_NAMES.split())


class PLMConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A PLM architecture (arXiv 2503.12167). ``max_position_embeddings`` is the longest context, in tokens."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    num_key_value_heads: int | None = None
    q_lora_rank: None = None
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-6
    rope_theta: float = 100000.0
    rope_scaling: None = None
    tie_word_embeddings: bool = True
    hidden_act: Literal["relu2"] = "relu2"
    attention_bias: Literal[False] = False
    mlp_bias: Literal[False] = False
    model_type: Literal["plm"] = "plm"
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        sizes = (
            self.vocab_size, self.hidden_size, self.intermediate_size, self.num_hidden_layers, self.kv_lora_rank,
            self.num_attention_heads, self.qk_nope_head_dim, self.qk_rope_head_dim, self.v_head_dim,
            self.max_position_embeddings,
        )  # fmt: skip
        if min(sizes) < 1:
            raise ConfigError("plm config: every size must be at least 1.")
        if self.qk_rope_head_dim % 2:
            raise ConfigError(f"plm config: qk_rope_head_dim is {self.qk_rope_head_dim}, and rotation needs an even number.")
        if self.num_key_value_heads not in (None, self.num_attention_heads):
            raise ConfigError(
                f"plm config: num_key_value_heads is {self.num_key_value_heads}, and latent attention has as many as "
                f"num_attention_heads ({self.num_attention_heads})."
            )

    @property
    def row(self) -> int:
        """Values that the latent cache keeps of a token in a layer: the latent and the rotated key."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def eos(self) -> tuple[int, ...]:
        """Tokens that end a text."""
        if isinstance(self.eos_token_id, int):
            return (self.eos_token_id,)
        return tuple(self.eos_token_id or ())


#: PLM-Team/PLM-1.8B: 1,825,458,176 parameters.
PLM_1_8B = PLMConfig(
    vocab_size=151936,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=32,
    num_attention_heads=16,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    max_position_embeddings=4096,
    eos_token_id=[151643, 151645],
)


def read_config(path: Path) -> PLMConfig:
    """The config at ``path``; ConfigError for what it cannot honour."""
    try:
        fields = msgspec.json.decode(path.read_bytes(), type=dict[str, object])
        unknown = sorted(
            name for name, value in fields.items() if value is not None and name not in _IGNORED | _KNOWN
        )
        if unknown:
            raise ConfigError(
                f"the config {path} sets '{unknown[0]}', which edge does not know and which may change what is "
                "computed: remove it if it does not."
            )
        return msgspec.convert(fields, PLMConfig)
    except OSError as error:
        raise ConfigError(f"the config {path} cannot be read ({error.strerror}): check the path.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config {path} is refused: {error}.") from error


_KNOWN = frozenset(PLMConfig.__struct_fields__)
