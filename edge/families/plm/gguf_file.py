"""PLM in GGUF, llama.cpp's format: read for export, and written so that llama.cpp runs the very same weights.

Names and metadata are those of llama.cpp's architecture "plm", which the model's authors added. Reading takes every type
that the ``gguf`` package can widen (F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q6_K, ...), a tensor at a time. Raises CheckpointError for
a file that is damaged, of another architecture, or that lacks something; ConfigError for values that edge refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.checkpoints import Checkpoint
from edge.dependencies import require
from edge.errors import CheckpointError, UsageError
from edge.families.plm.config import PLMConfig
from edge.families.plm.weights import HEAD, Take, tensor_shapes

if TYPE_CHECKING:
    from torch import Tensor

ARCHITECTURE = "plm"
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OTHERS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
#: What ``write`` stores matrices in, by name.
TYPES = ("f32", "f16", "q8_0")


def hf_name(name: str) -> str:
    """``blk.0.attn_q.weight`` as the Hugging Face layout calls it; unknown names stay as they are."""
    stem, _, kind = name.rpartition(".")
    if stem in _OTHERS:
        return f"{_OTHERS[stem]}.{kind}"
    parts = stem.split(".", 2)
    if len(parts) == 3 and parts[0] == "blk" and parts[2] in _LAYER:
        return f"model.layers.{parts[1]}.{_LAYER[parts[2]]}.{kind}"
    return name


def gguf_name(name: str) -> str:
    """The inverse of ``hf_name``."""
    stem = name.removesuffix(".weight")
    for own, theirs in _OTHERS.items():
        if stem == theirs:
            return f"{own}.weight"
    _, _, index, part = stem.split(".", 3)
    own = next(own for own, theirs in _LAYER.items() if theirs == part)
    return f"blk.{index}.{own}.weight"


class GgufFile:
    """A GGUF file, opened; tensors stay on disk until they are asked for."""

    def __init__(self, path: Path) -> None:
        require("export", "reading GGUF", "gguf")
        import gguf

        if not path.is_file():
            raise CheckpointError(f"there is no checkpoint at {path}: check the path.")
        try:
            self._reader = gguf.GGUFReader(path)
        except Exception as error:  # the reader fails in whatever it runs into
            raise CheckpointError(f"{path} is not a whole GGUF file ({error}): download it again.") from error
        self.path = path
        found = self.value("general.architecture", None)
        if found != ARCHITECTURE:
            raise CheckpointError(f"{path} holds a model of the architecture '{found}', not {ARCHITECTURE}: pass a PLM.")

    def value(self, key: str, default: Any = ...) -> Any:
        """The metadata called ``key``; CheckpointError if it is not there and has no ``default``."""
        field = self._reader.get_field(key)
        if field is None:
            if default is ...:
                raise CheckpointError(f"{self.path} lacks the metadata '{key}': convert the model again.")
            return default
        return field.contents()

    def config(self) -> PLMConfig:
        def number(key: str) -> int:
            return int(self.value(f"{ARCHITECTURE}.{key}"))

        tensors = {hf_name(tensor.name): tensor for tensor in self._reader.tensors}
        embedding = tensors.get("model.embed_tokens.weight")
        if embedding is None:
            raise CheckpointError(f"{self.path} lacks the tensor 'token_embd.weight': convert the model again.")
        rope = number("rope.dimension_count")
        scaling = self.value(f"{ARCHITECTURE}.rope.scaling.type", None)
        if scaling not in (None, "none"):
            raise CheckpointError(f"{self.path} scales its positions ({scaling}), which edge does not: pass another file.")
        eos = self.value("tokenizer.ggml.eos_token_id", None)
        return PLMConfig(
            vocab_size=int(embedding.shape[1]),
            hidden_size=number("embedding_length"),
            intermediate_size=number("feed_forward_length"),
            num_hidden_layers=number("block_count"),
            num_attention_heads=number("attention.head_count"),
            num_key_value_heads=number("attention.head_count_kv"),
            kv_lora_rank=number("attention.kv_lora_rank"),
            qk_nope_head_dim=number("attention.key_length") - rope,
            qk_rope_head_dim=rope,
            v_head_dim=number("attention.value_length"),
            max_position_embeddings=number("context_length"),
            # Single precision in the file: 1e-6 comes back as itself only when rounded.
            rms_norm_eps=float(f"{float(self.value(f'{ARCHITECTURE}.attention.layer_norm_rms_epsilon')):.6g}"),
            rope_theta=float(self.value(f"{ARCHITECTURE}.rope.freq_base", 10000.0)),
            tie_word_embeddings=HEAD not in tensors,
            eos_token_id=None if eos is None else int(eos),
        )

    def tokenizer_json(self) -> str | None:
        """The file's tokenizer as tokenizer.json; None if it has none."""
        from edge.families.plm.gguf_tokenizer import tokenizer_json

        if self.value("tokenizer.ggml.model", None) != "gpt2":
            return None
        tokens, types, merges = (self.value(f"tokenizer.ggml.{key}") for key in ("tokens", "token_type", "merges"))
        return tokenizer_json(tokens, types, merges, self.value("tokenizer.ggml.pre", "default"))

    def checkpoint(self) -> Checkpoint:
        from edge.bundle import sha256_file

        return Checkpoint(self.path, _Tensors(self.path, self._reader.tensors), sha256_file(self.path), None)


class _Tensors(Mapping[str, "Tensor"]):
    """Tensors by their Hugging Face names, widened to float32 whenever they are asked for."""

    def __init__(self, path: Path, tensors: Any) -> None:
        self._path = path
        self._tensors = {hf_name(tensor.name): tensor for tensor in tensors}

    def __getitem__(self, name: str) -> Tensor:
        import torch
        from gguf.quants import dequantize

        stored = self._tensors[name]
        try:
            wide = dequantize(stored.data, stored.tensor_type)
        except NotImplementedError as error:
            raise CheckpointError(
                f"tensor '{stored.name}' of {self._path} is stored as {stored.tensor_type.name}, which cannot be widened: "
                "pass a file in F16, Q8_0, Q6_K or Q4_K."
            ) from error
        shape = [int(size) for size in reversed(stored.shape)]
        tensor = torch.from_numpy(np.array(wide, np.float32).reshape(shape))
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"tensor '{stored.name}' of {self._path} holds NaN or infinity: pass a sound file.")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def write(path: Path, config: PLMConfig, take: Take, kind: str, tokenizer: Path | None) -> None:
    """Write a model to ``path``; matrices as ``kind`` (one of ``TYPES``), norms in float32. Raises StorageError.

    A matrix whose rows do not divide into Q8_0's blocks of 32 is stored as float16 then.
    """
    require("export", "writing GGUF", "gguf")
    import gguf
    from gguf.quants import quantize

    from edge.bundle import storage_errors

    if kind not in TYPES:
        raise UsageError(f"edge writes no GGUF of type '{kind}': choose one of {', '.join(TYPES)}.")
    types = {
        "f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16, "q8_0": gguf.GGMLQuantizationType.Q8_0
    }  # fmt: skip
    partial = path.with_name(f".{path.name}.part")
    with storage_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = gguf.GGUFWriter(partial, ARCHITECTURE)
        try:
            _metadata(writer, config, kind)
            if tokenizer is not None:
                from edge.families.plm.gguf_tokenizer import add_tokenizer

                add_tokenizer(writer, tokenizer, config)
            shapes = tensor_shapes(config)
            chosen = {}
            for name, shape in shapes.items():
                fits = kind != "q8_0" or shape[-1] % 32 == 0
                chosen[name] = types["f32" if len(shape) == 1 else kind if fits else "f16"]
                size = _stored_shape(shape, chosen[name])
                dtype = {"F32": np.float32, "F16": np.float16}.get(chosen[name].name, np.uint8)
                writer.add_tensor_info(
                    gguf_name(name), size, np.dtype(dtype), int(np.prod(size)) * np.dtype(dtype).itemsize, chosen[name]
                )
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name in shapes:  # one at a time: the whole need not fit in memory
                writer.write_tensor_data(quantize(take(name).numpy(), chosen[name]))
            writer.close()
            partial.replace(path)
        except BaseException:
            writer.close()
            partial.unlink(missing_ok=True)
            raise


def _stored_shape(shape: tuple[int, ...], kind: Any) -> tuple[int, ...]:
    """The array's shape as the writer takes it: bytes along the last axis for a quantized type."""
    from gguf.quants import quant_shape_to_byte_shape

    return shape if kind.name in ("F32", "F16") else tuple(quant_shape_to_byte_shape(shape, kind))


def _metadata(writer: Any, config: PLMConfig, kind: str) -> None:
    import gguf

    file_types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}
    writer.add_name("PLM")
    writer.add_file_type(getattr(gguf.LlamaFileType, file_types[kind]))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_attention_heads)
    writer.add_kv_lora_rank(config.kv_lora_rank)
    writer.add_key_length(config.qk_nope_head_dim + config.qk_rope_head_dim)
    writer.add_value_length(config.v_head_dim)
    writer.add_rope_dimension_count(config.qk_rope_head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)

