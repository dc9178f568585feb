"""A byte-level BPE between tokenizer.json and GGUF's metadata, both ways.

llama.cpp names pre-tokenizers instead of storing them; the one that PLM's checkpoints use is Qwen2's ("qwen2").
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.errors import CheckpointError
from edge.families.plm.config import PLMConfig
from edge.families.plm.vocabulary import END_OF_TEXT

#: Qwen2's: contractions, words with the space before them, single digits, punctuation, line ends.
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's token types


def add_tokenizer(writer: Any, path: Path, config: PLMConfig) -> None:
    """Add the tokenizer.json at ``path`` to a GGUF writer; CheckpointError if it is no byte-level BPE of Qwen2's form."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    model = stored["model"]
    if model.get("type") != "BPE" or PIECES not in json.dumps(stored.get("pre_tokenizer"), ensure_ascii=False).replace("\\\\", "\\"):
        raise CheckpointError(
            f"{path} is no byte-level BPE with Qwen2's pre-tokenizer, the one that llama.cpp's PLM is known to use: move it away "
            "to write the weights alone."
        )
    added = {entry["id"]: entry for entry in stored.get("added_tokens", [])}
    by_id = {index: token for token, index in model["vocab"].items()} | {
        index: entry["content"] for index, entry in added.items()
    }
    tokens, types = [], []
    for index in range(config.vocab_size):
        tokens.append(by_id.get(index, f"[PAD{index}]"))
        special = CONTROL if index in added and added[index].get("special") else USER_DEFINED
        types.append(special if index in added else NORMAL if index in by_id else UNUSED)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    ends = [index for index, token in by_id.items() if token == END_OF_TEXT]
    if config.eos or ends:
        writer.add_eos_token_id((config.eos or ends)[-1])
    writer.add_add_bos_token(False)


def tokenizer_json(tokens: Sequence[str], types: Sequence[int], merges: Sequence[str], pre: str) -> str:
    """tokenizer.json of what a GGUF file says; CheckpointError for a pre-tokenizer other than Qwen2's."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    if pre != "qwen2":
        raise CheckpointError(
            f"the file's tokenizer cuts text as '{pre}' does, and edge knows 'qwen2': pass the Hugging Face checkpoint."
        )
    # Where a merge's token is spelled out, the BPE needs it in its vocabulary; unused ids are padding.
    vocabulary = {token: index for index, token in enumerate(tokens) if types[index] == NORMAL}
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocabulary | _added(tokens, types), pairs))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for index, kind in enumerate(types):
        if kind == CONTROL:
            tokenizer.add_special_tokens([AddedToken(tokens[index], normalized=False, special=True)])
        elif kind == USER_DEFINED:
            tokenizer.add_tokens([AddedToken(tokens[index], normalized=False)])
    found: str = tokenizer.to_str()
    return found


def _added(tokens: Sequence[str], types: Sequence[int]) -> dict[str, int]:
    """Special tokens keep their ids only if the model's vocabulary has them."""
    return {token: index for index, token in enumerate(tokens) if types[index] in (CONTROL, USER_DEFINED)}
