"""TSPulse's config.json as a frozen value: every field by IBM's name, with IBM's default, or a refusal in one sentence.

In: the JSON of a checkpoint of ibm-granite/granite-timeseries-tspulse-r1, or of one trained with granite-tsfm.
Out: `TSPulseConfig`. Raises `ConfigError` for a field it does not know, a value of the wrong type, and a value that
would change what the model computes in a way that `edge` does not implement.

Fields fall in four groups: those that shape the computation, all honoured; those that only training reads (losses,
dropout, initialisation, random masking), kept so that a config survives a round trip; keys that Hugging Face writes
beside them (`HOUSEKEEPING`); and keys that granite-tsfm derives from the others and saves too (`DERIVED`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge.errors import ConfigError

#: Written by Hugging Face's `PretrainedConfig`; none of them is read by TSPulse.
_HOUSEKEEPING = """
    _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path add_cross_attention architectures
    attn_implementation auto_map bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id
    forced_eos_token_id id2label is_decoder is_encoder_decoder label2id length_penalty max_length min_length
    model_type no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences output_attentions
    output_hidden_states output_scores pad_token_id prefix problem_type pruned_heads remove_invalid_values
    repetition_penalty return_dict return_dict_in_generate sep_token_id suppress_tokens task_specific_params
    temperature tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype
    torchscript transformers_version typical_p use_bfloat16 use_return_dict
"""
HOUSEKEEPING = frozenset(_HOUSEKEEPING.split())

#: Computed by granite-tsfm from other fields and saved with them. `num_patches` is checked, since theirs would be used
#: in place of the computed one; the rest are recomputed whenever a model is built, there as here.
_DERIVED = """
    d_model_layerwise decoder_d_model_layerwise decoder_num_channels_layerwise decoder_num_patches_layerwise
    init_processing min_allowed_range num_channels_layerwise num_patches num_patches_layerwise patch_last
"""
DERIVED = frozenset(_DERIVED.split())

#: The values that are implemented, for each field that names one of several computations.
CHOICES: dict[str, tuple[object, ...]] = {
    "mode": ("common_channel", "mix_channel"),
    "decoder_mode": ("common_channel", "mix_channel"),
    "norm_mlp": ("LayerNorm", "BatchNorm"),
    "scaling": ("revin", "std", "mean", "none", True, False, None),
    "gated_attention_activation": ("softmax", "sigmoid"),
    "head_gated_attention_activation": ("softmax", "sigmoid"),
    "reconstruction_type": ("patchwise", "full"),
    "fft_remove_component": ("last", "dc"),
    "fft_applied_on": ("scaled_ts", "raw_ts"),
    "mask_type": ("user", "block", "hybrid", "var_hybrid", "random"),
    "classification_mode": (
        "full_embedding",
        "long_embedding",
        "short_embedding",
        "time_embedding",
        "fft_embedding",
        "time_with_short_fft_embedding",
    ),
    "head_aggregation": (None, "use_last", "max_pool", "avg_pool"),
    "head_aggregation_dim": ("patch", "channel"),
}

POSITIVE = (
    "context_length",
    "patch_length",
    "num_input_channels",
    "d_model",
    "decoder_d_model",
    "expansion_factor",
    "num_layers",
    "decoder_num_layers",
    "patch_register_tokens",
    "num_targets",
    "mask_block_length",
)
LAYERWISE = (
    "num_patches_layerwise_scale",
    "num_channels_layerwise_scale",
    "d_model_layerwise_scale",
    "decoder_num_patches_layerwise_scale",
    "decoder_num_channels_layerwise_scale",
    "decoder_d_model_layerwise_scale",
)
#: Fields that must keep the value that switches them off: (field, off values, what it would do).
REFUSED: tuple[tuple[str, tuple[object, ...], str], ...] = (
    ("self_attn", (False,), "self-attention over patches is not implemented"),
    ("use_positional_encoding", (False,), "granite-tsfm itself cannot add positions beside register tokens"),
    ("channel_register_tokens", (None,), "granite-tsfm itself refuses channel registers"),
    ("categorical_vocab_size_list", (None,), "granite-tsfm itself refuses categorical inputs"),
    ("data_actual_context_length", (None,), "granite-tsfm itself refuses a context shorter than the model's"),
    ("hydra_class_head", (None,), "several classification heads in one model are not implemented"),
    ("fft_mask_ratio", (None, 0, 0.0), "it would hide frequencies of every input at inference too"),
)


class TSPulseConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A TSPulse architecture. Lengths are in time points, `num_*` are counts; defaults are granite-tsfm 0.3.2's."""

    # Shape
    context_length: int = 64
    patch_length: int = 8
    patch_stride: int = 8
    num_input_channels: int = 1
    d_model: int = 16
    decoder_d_model: int = 16
    expansion_factor: int = 2
    num_layers: int = 3
    decoder_num_layers: int = 3
    register_mixer_layers: int | None = None
    patch_register_tokens: int | None = 8
    channel_register_tokens: int | None = None
    prediction_length: int | None = 96
    channel_virtual_expand_scale: int | None = 1
    num_patches_layerwise_scale: list[float] | None = None
    num_channels_layerwise_scale: list[float] | None = None
    d_model_layerwise_scale: list[float] | None = None
    decoder_num_patches_layerwise_scale: list[float] | None = None
    decoder_num_channels_layerwise_scale: list[float] | None = None
    decoder_d_model_layerwise_scale: list[float] | None = None
    data_actual_context_length: int | None = None
    categorical_vocab_size_list: list[int] | None = None

    # Mixers
    mode: str = "common_channel"
    decoder_mode: str = "common_channel"
    gated_attn: bool = True
    gated_attention_activation: str | None = "softmax"
    head_gated_attention_activation: str = "softmax"
    norm_mlp: str = "LayerNorm"
    norm_eps: float = 1e-5
    self_attn: bool = False
    self_attn_heads: int = 1
    use_positional_encoding: bool = False
    positional_encoding_type: str = "sincos"
    free_channel_flow: bool = True
    channel_mix_init: str | None = "identity"

    # Scaling and masking
    scaling: str | bool | None = "revin"
    revin_affine: bool | None = True
    minimum_scale: float = 1e-5
    mask_type: str = "block"
    mask_ratio: float | None = None
    mask_block_length: int = 8
    use_learnable_mask_token: bool = True

    # Frequency branch
    fuse_fft: bool | None = False
    fft_applied_on: str | None = "scaled_ts"
    fft_remove_component: str | None = "last"
    fft_time_consistent_masking: bool | None = True
    fft_mask_ratio: float | None = None
    fft_mask_strategy: str | None = "magnitude"
    fft_prob_length: int | None = None
    fft_prob_mode: str = "plain"

    # Heads; the weights of two losses and two switches decide which heads exist
    reconstruction_type: str = "patchwise"
    fft_weight: float = 1
    fft_original_signal_loss_weight: float = 1
    enable_fft_prob_loss: bool = True
    fft_time_add_forecasting_pt_loss: bool = False

    # Classification
    num_targets: int = 3
    classification_mode: str | None = "full_embedding"
    head_aggregation: str | None = None
    head_aggregation_dim: str = "patch"
    head_reduce_d_model: int | None = None
    head_reduce_channels: int | None = None
    head_attention: bool | None = False
    output_range: list[float] | None = None
    hydra_class_head: list[Any] | None = None
    hydra_class_attention: bool | None = True
    disable_mask_in_classification_eval: bool | None = True

    # Training only
    dropout: float = 0.2
    head_dropout: float = 0.2
    loss: str = "mse"
    loss_apply_mode: str = "mask"
    init_std: float = 0.02
    init_linear: str = "pytorch"
    init_embed: str = "pytorch"
    post_init: bool = False
    fft_prob_weight: float = 1
    fft_time_add_forecasting_pt_loss_weight: float = 1
    reconstruction_loss_weight: float | None = 1
    masked_reconstruction_loss_weight: float | None = 1
    channel_consistent_masking: bool | None = True
    batch_aware_masking: bool | None = False
    num_full_patches_for_hybrid_mask: int | None = 2
    full_patch_mask_percentage: float | None = 0.2

    @classmethod
    def from_json(cls, path: str | Path) -> TSPulseConfig:
        """Read a checkpoint's config.json; `ConfigError` if it is missing, not JSON, or refused."""
        try:
            raw = msgspec.json.decode(Path(path).read_bytes())
        except OSError as error:
            raise ConfigError(f"Cannot read the model config {path}: {error.strerror}.") from error
        except msgspec.DecodeError as error:
            raise ConfigError(f"The model config {path} is not valid JSON ({error}).") from error
        if not isinstance(raw, dict):
            raise ConfigError(f"The model config {path} must be a JSON object, not a {type(raw).__name__}.")
        return cls.from_dict(raw)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> TSPulseConfig:
        """The config that a decoded config.json describes; `ConfigError` as for `from_json`."""
        if raw.get("model_type", "tspulse") != "tspulse":
            raise ConfigError(f"The config is of a {raw['model_type']!r} model, not of TSPulse (model_type 'tspulse').")
        fields = {key: value for key, value in raw.items() if key not in HOUSEKEEPING and key not in DERIVED}
        unknown = sorted(fields.keys() - set(cls.__struct_fields__))
        if unknown:
            raise ConfigError(
                f"The TSPulse config has unknown field(s) {', '.join(unknown)}: "
                "they may change what the model computes, so remove them only if you know that they do not."
            )
        try:
            config = msgspec.convert(fields, cls)
        except msgspec.ValidationError as error:
            raise ConfigError(f"The TSPulse config has a value of the wrong type: {error}.") from error
        tokens = config.num_patches * (2 if config.fuse_fft else 1)
        if raw.get("num_patches") not in (None, tokens):
            raise ConfigError(
                f"The TSPulse config says num_patches {raw['num_patches']}, but its context_length and patch_length "
                f"give {tokens}."
            )
        return config

    def __post_init__(self) -> None:
        for name in POSITIVE:
            value = getattr(self, name)
            if value is None or value < 1:
                raise ConfigError(f"TSPulse config: {name} must be at least 1, not {value}.")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                names = ", ".join(map(str, allowed))
                raise ConfigError(f"TSPulse config: {name} must be one of {names}, not {getattr(self, name)!r}.")
        for name, off, reason in REFUSED:
            if getattr(self, name) not in off:
                raise ConfigError(f"TSPulse config: {name} must be {off[0]}, because {reason}.")
        for name in LAYERWISE:
            if not _is_one(getattr(self, name)):
                raise ConfigError(f"TSPulse config: {name} must be null or all ones: scaled layers are not there.")
        self._refuse_combinations()

    def _refuse_combinations(self) -> None:
        if self.patch_stride != self.patch_length:
            raise ConfigError(
                f"TSPulse config: patch_stride must equal patch_length ({self.patch_length}), "
                f"not {self.patch_stride}; granite-tsfm itself refuses overlapping patches."
            )
        if self.context_length % self.patch_length or self.context_length <= self.patch_length:
            raise ConfigError(
                f"TSPulse config: context_length {self.context_length} must be a multiple of patch_length "
                f"{self.patch_length}, and longer."
            )
        if self.fuse_fft and self.context_length % 2:
            raise ConfigError(f"TSPulse config: fuse_fft needs an even context_length, not {self.context_length}.")
        if self.reconstruction_type == "full" and not self.fuse_fft:
            raise ConfigError("TSPulse config: reconstruction_type 'full' needs fuse_fft, in granite-tsfm too.")
        if self.head_aggregation == "use_last" and self.head_aggregation_dim == "channel":
            raise ConfigError("TSPulse config: head_aggregation 'use_last' needs head_aggregation_dim 'patch'.")
        if self.output_range is not None and len(self.output_range) != 2:
            raise ConfigError(f"TSPulse config: output_range must be [low, high], not {self.output_range}.")
        if self.register_mixer_layers is not None and self.register_mixer_layers < 1:
            raise ConfigError("TSPulse config: register_mixer_layers must be null or at least 1.")
        if self.has_forecast and not self.prediction_length:
            raise ConfigError("TSPulse config: the forecast head needs a prediction_length.")
        half = self.context_length // 2
        if self.fft_prob_length is not None and not 1 <= self.fft_prob_length <= half:
            raise ConfigError(f"TSPulse config: fft_prob_length must be from 1 to {half}, not {self.fft_prob_length}.")

    # What the fields imply, once

    @property
    def registers(self) -> int:
        """Register tokens a channel."""
        assert self.patch_register_tokens is not None  # __post_init__ refuses null
        return self.patch_register_tokens

    @property
    def num_patches(self) -> int:
        """Patches of one branch; the frequency branch, where it exists, has as many."""
        return self.context_length // self.patch_length

    @property
    def tokens(self) -> int:
        """Tokens a channel that the mixers see: time patches, frequency patches, registers."""
        return self.num_patches * (2 if self.fuse_fft else 1) + self.registers

    @property
    def expand(self) -> int:
        """How often the input channels are repeated before channel mixing; at least 1."""
        return max(1, self.channel_virtual_expand_scale or 1)

    @property
    def has_mask_token(self) -> bool:
        """Whether a token replaces a missing point: granite-tsfm builds its masker only under these conditions."""
        return (self.mask_ratio is not None and self.mask_ratio > 0) or self.mask_type == "user"

    @property
    def has_fft_head(self) -> bool:
        return bool(self.fuse_fft) and (self.fft_weight > 0 or self.fft_original_signal_loss_weight > 0)

    @property
    def has_fft_signal(self) -> bool:
        """Whether the predicted spectrum is turned back into a series."""
        return bool(self.fuse_fft) and self.fft_original_signal_loss_weight > 0

    @property
    def has_fft_softmax(self) -> bool:
        return bool(self.fuse_fft) and self.enable_fft_prob_loss

    @property
    def has_forecast(self) -> bool:
        return self.fft_time_add_forecasting_pt_loss

    @property
    def channel_expansion(self) -> int:
        """Hidden size over size of a channel mixer's MLP: 1 where it can start as the identity."""
        return 1 if self.free_channel_flow and self.channel_mix_init == "identity" else self.expansion_factor


def _is_one(scale: Sequence[float] | None) -> bool:
    return scale is None or all(value == 1 for value in scale)
