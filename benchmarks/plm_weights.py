"""A PLM checkpoint of the full shape whose squared ReLUs give a wanted share of zeros: random, but not at random.

Random weights give 50 % zeros, a trained relu2 network gives about 90 %. Here every embedding gets the same direction u
beside its random part, what the layers add to the stream is kept small, so that u stays in it, and every row of an up
projection gets -s u: its product with the normed stream is then normal around a negative value, and s sets how often it is
above zero.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

from edge import checkpoints
from edge.families.plm.config import PLM_1_8B, PLMConfig
from edge.families.plm.weights import EMBEDDING, seeded, tensor_shapes

if TYPE_CHECKING:
    from torch import Tensor

#: Norm of what one attention or MLP adds to the stream, of an embedding's: 32 layers of both add up to less than one.
STEP = 1 / 16
TENSORS_A_SHARD = 9


def write_checkpoint(folder: Path, zeros: float, config: PLMConfig = PLM_1_8B) -> Path:
    """A Hugging Face folder in float16 with about ``zeros`` of the activations at zero; as it is if it is there already."""
    import msgspec
    from safetensors.torch import save_file

    if folder.is_dir():
        return folder
    partial = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / "config.json").write_bytes(msgspec.json.encode(config))
    # Not byte for byte the demo's, whose text and metrics would mean nothing to these weights.
    tokenizer = json.loads((checkpoints.demo_folder("plm") / "tokenizer.json").read_text(encoding="utf-8"))
    (partial / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    places: dict[str, str] = {}
    for number, shard in enumerate(_shards(list(tensor_shapes(config)))):
        name = f"model-{number:05}.safetensors"
        save_file({tensor: _tensor(tensor, zeros, config) for tensor in shard}, partial / name)
        places |= dict.fromkeys(shard, name)
    (partial / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    partial.replace(folder)
    return folder


def _shards(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), TENSORS_A_SHARD):
        yield names[start : start + TENSORS_A_SHARD]


def _tensor(name: str, zeros: float, config: PLMConfig) -> Tensor:
    """float16. Seeded matrices have rows of norm 1, so a row's product with a normed stream [hidden] has deviation 1."""
    import torch

    weight = seeded(config, 0)(name)
    hidden = config.hidden_size
    direction = torch.ones(hidden) / hidden**0.5
    if name == EMBEDDING:
        weight = weight + direction
    elif name.endswith(("o_proj.weight", "down_proj.weight")):
        weight = weight * (STEP / hidden**0.5)
    elif name.endswith("up_proj.weight"):
        # Half of the normed stream's square lies along u, half in its random part: the deviation is what u is, too.
        weight = weight - (weight @ direction)[:, None] * direction - NormalDist().inv_cdf(zeros) / hidden**0.5 * direction
    return weight.half().contiguous()
