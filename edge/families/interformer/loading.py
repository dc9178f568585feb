"""From a ``Source`` to the faithful model: which config, which weights, and the authors' checkpoints as they are."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch

from edge import checkpoints
from edge.checkpoints import Checkpoint
from edge.errors import CheckpointError, UsageError
from edge.families.base import Source
from edge.families.interformer.backbone import relative_position_index
from edge.families.interformer.config import VARIANTS, InterFormerConfig
from edge.families.interformer.modules import InterFormer

DEMO = "interformer"
#: Index tables that the authors' checkpoints carry, 8.4 MB a layer; they follow from the grid.
INDEX = ".relative_position_index"
#: What wrappers for several devices put before every name.
WRAPPED = "module."


def build(name: str, variant: str | None, source: Source) -> tuple[InterFormerConfig, InterFormer, str | None]:
    """Config, model in eval mode, and the checkpoint's SHA-256 (None for random weights)."""
    if source.random_seed is not None:
        if source.checkpoint is not None:
            raise UsageError("a checkpoint and random weights exclude each other: pass one of them.")
        config = _config(variant, source) or checkpoints.read_config(
            checkpoints.demo_folder(DEMO) / "config.json", InterFormerConfig
        )
        return config, checkpoints.seeded(source.random_seed, partial(_random, config)), None
    if source.checkpoint is None and variant is not None:
        raise UsageError(
            f"the demo is no {name}: pass --checkpoint with the authors' .pth file (or its weights as .safetensors), or "
            "--random-weights 0 to measure speed."
        )
    checkpoint = checkpoints.read(source.checkpoint or checkpoints.demo_folder(DEMO))
    found = _config(variant, source)
    if found is None:
        if checkpoint.config is None:
            raise CheckpointError(
                f"{checkpoint.path} has no config.json beside it: name the model (interformer-light, interformer-tiny) or "
                "pass --config."
            )
        found = checkpoints.read_config(checkpoint.config, InterFormerConfig)
    model = checkpoints.fill(InterFormer(found), without_indices(checkpoint, found))
    return found, model.eval(), checkpoint.sha256


def _config(variant: str | None, source: Source) -> InterFormerConfig | None:
    if source.config is not None:
        return checkpoints.read_config(source.config, InterFormerConfig)
    return None if variant is None else VARIANTS[variant]


def without_indices(checkpoint: Checkpoint, config: InterFormerConfig) -> Checkpoint:
    """The checkpoint without what is rebuilt; CheckpointError if it differs from that: it would be another encoder."""
    tensors = dict(checkpoint.tensors)
    if tensors and all(name.startswith(WRAPPED) for name in tensors):
        tensors = {name.removeprefix(WRAPPED): tensor for name, tensor in tensors.items()}
    expected = relative_position_index(config.grid)
    for name in [name for name in tensors if name.endswith(INDEX)]:
        if not torch.equal(tensors.pop(name), expected):
            raise CheckpointError(
                f"'{name}' of {checkpoint.path} is not the index of a {config.grid}x{config.grid} grid: pass the "
                "config.json that belongs to it."
            )
    return dataclasses.replace(checkpoint, tensors=tensors)


def _random(config: InterFormerConfig) -> InterFormer:
    """Random weights that keep activations alive, and no two places, norms or statistics alike.

    Matrices and kernels are uniform with variance 1 / fan-in; gains are around 1, biases around 0.
    """
    model = InterFormer(config)
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if not value.is_floating_point():
                continue
            value.uniform_(-1, 1)
            if name.endswith(("cls_token", "pos_embed", "relative_position_bias_table")):
                value.mul_(0.5)
            elif name.endswith(("gamma_1", "gamma_2")):
                value.mul_(0.25).add_(0.5)
            elif name.endswith("running_var"):
                value.mul_(0.5).add_(1)
            elif name == "neck.patch_embed":
                value.mul_(2)
            elif value.dim() >= 2:
                value.mul_((3 / value[0].numel()) ** 0.5)
            else:
                value.mul_(0.25 if name.endswith("weight") else 0.1).add_(1 if name.endswith("weight") else 0)
    return model.eval()
