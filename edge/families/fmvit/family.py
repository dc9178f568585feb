"""FMViT as a model family: loading, fusing, its entry point with real samples, its metric, its task.

Entry point ``classify``: a picture [1, 3, size, size] float32, normalised as the config says, to logits [1, classes].
Checkpoints hold the training form (`modules.FMViT`'s own names); what is exported is the fused form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import msgspec
import numpy as np

from edge import checkpoints
from edge.errors import CheckpointError, UsageError
from edge.families.base import Arrays, EntryPoint, Metric, Model, ModelFamily, Run, Source
from edge.families.fmvit.classify import Classify
from edge.families.fmvit.config import VARIANTS, FMViTConfig
from edge.families.fmvit.pictures import Digits, normalise
from edge.spec import TensorSpec
from edge.tasks import Task

if TYPE_CHECKING:
    from torch import nn

    from edge.families.fmvit.modules import FMViT

DEMO = "fmvit"
SAMPLES, CALIBRATION = 6, 48


class FMViTFamily(ModelFamily):
    name: ClassVar[str] = "fmvit"
    summary: ClassVar[str] = "picture classes; a reconstruction, as its authors published no code"
    paper: ClassVar[str] = "arXiv 2311.05707"
    variants: ClassVar[tuple[str, ...]] = tuple(VARIANTS)

    def load(self, name: str, variant: str | None, source: Source) -> Model:
        from edge.families.fmvit.fused import fuse

        digits = Digits(checkpoints.demo_folder(DEMO) / "samples.npz")
        config, model, digest = _built(name, variant, source, digits)
        entry = EntryPoint(
            name="classify",
            module=fuse(model),
            inputs=(TensorSpec(name="image", dtype="float32", shape=(1, 3, config.image_size, config.image_size)),),
            outputs=("logits",),
            samples=_inputs(digits, digits.test, SAMPLES, config),
            calibration=_inputs(digits, digits.calibration, CALIBRATION, config),
        )
        return Model(
            name=name,
            family=self.name,
            config=msgspec.to_builtins(config),
            entries=(entry,),
            checkpoint_sha256=digest,
            random_seed=source.random_seed,
            metrics=(_accuracy(digits, config),) if _reads_digits(config) else (),
            report={
                "parameters": float(_parameters(entry.module)),
                "parameters/training": float(_parameters(model)),
            },
        )

    def tasks(self) -> Mapping[str, Task]:
        return {Classify.name: Classify()}


def _built(name: str, variant: str | None, source: Source, digits: Digits) -> tuple[FMViTConfig, FMViT, str | None]:
    """The config, the training form in eval mode, and the checkpoint's hash (None for random weights)."""
    from edge.families.fmvit.modules import FMViT

    if source.random_seed is not None:
        if source.checkpoint is not None:
            raise UsageError("a checkpoint and random weights exclude each other: pass one of them.")
        config = _config(variant, source) or checkpoints.read_config(
            checkpoints.demo_folder(DEMO) / "config.json", FMViTConfig
        )
        model = checkpoints.seeded(source.random_seed, partial(FMViT, config))
        settle(model, [sample["image"] for sample in _inputs(digits, digits.calibration, SAMPLES, config)])
        return config, model.eval(), None
    if source.checkpoint is None and (variant is not None or source.config is not None):
        raise UsageError(
            f"no checkpoint of {name} was ever published, and the demo's has another shape: pass --checkpoint with one that "
            "you trained, or --random-weights 0 to measure speed."
        )
    checkpoint = checkpoints.read(source.checkpoint or checkpoints.demo_folder(DEMO))
    found = _config(variant, source)
    if found is None:
        if checkpoint.config is None:
            raise CheckpointError(f"{checkpoint.path} has no config.json beside it: pass one with --config.")
        found = checkpoints.read_config(checkpoint.config, FMViTConfig)
    return found, checkpoints.fill(FMViT(found), checkpoint).eval(), checkpoint.sha256


def _config(variant: str | None, source: Source) -> FMViTConfig | None:
    """What the user asked for by name or by file; None leaves it to the checkpoint."""
    if source.config is not None:
        return checkpoints.read_config(source.config, FMViTConfig)
    return None if variant is None else VARIANTS[variant]


def settle(model: FMViT, pictures: Sequence[np.ndarray]) -> None:
    """Give random weights the batch statistics of ``pictures``, without which activations would fade layer by layer."""
    import torch

    from edge.families.fmvit.modules import BatchNorm

    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    model.train()
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        model(torch.from_numpy(np.concatenate(pictures)))
        for norm in norms:
            norm.momentum = BatchNorm.momentum


def _reads_digits(config: FMViTConfig) -> bool:
    return config.labels == tuple(map(str, range(10)))


def _inputs(digits: Digits, images: np.ndarray, count: int, config: FMViTConfig) -> list[Arrays]:
    return [{"image": normalise(digits.picture(images, index, config.image_size), config)} for index in range(count)]


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _accuracy(digits: Digits, config: FMViTConfig) -> Metric:
    def evaluate(run: Run) -> float:
        pictures = _inputs(digits, digits.test, len(digits.test), config)
        predicted = [int(np.argmax(run("classify", picture)["logits"])) for picture in pictures]
        return float(np.mean(np.array(predicted) == digits.labels))

    return Metric(
        name="accuracy",
        higher_is_better=True,
        data=f"{len(digits.test)} held-out images of scikit-learn's digits, each in two colours",
        evaluate=evaluate,
    )
