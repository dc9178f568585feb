"""The squared-ReLU MLP as a model family: loading, its entry point, its metric, and its share of zeros.

Entry point ``classify``: features [1, in_features] float32 to logits [1, out_features]. The demo reads 8x8 images of
handwritten digits, pixels from 0 to 16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec
import numpy as np

from edge import checkpoints
from edge.errors import CheckpointError, UsageError
from edge.families.base import Arrays, EntryPoint, KernelForm, Metric, Model, ModelFamily, Run, Source
from edge.families.relu2_mlp.classify import Classify
from edge.families.relu2_mlp.config import Relu2MLPConfig
from edge.spec import Sparse, TensorSpec
from edge.tasks import Task

if TYPE_CHECKING:
    from torch import nn

DEMO = "relu2-mlp"
SAMPLES = 8
#: Weights of the up halves from which edge's own kernels are the default where they can serve: beyond what caches hold.
LARGE = 1 << 23


def build(config: Relu2MLPConfig) -> nn.Module:
    """The module, with torch's default initialisation; submodules ``blocks.N.up`` and ``blocks.N.down``."""
    from edge.families.relu2_mlp.modules import Relu2MLP

    return Relu2MLP(config)


class Relu2MLPFamily(ModelFamily):
    name: ClassVar[str] = "relu2-mlp"
    summary: ClassVar[str] = "MLP of squared ReLUs; the demo reads 8x8 handwritten digits"
    paper: ClassVar[str] = "arXiv 2402.03804"

    def load(self, name: str, variant: str | None, source: Source) -> Model:
        folder = checkpoints.demo_folder(DEMO)
        digest = None
        if source.random_seed is not None and source.checkpoint is not None:
            raise UsageError("a checkpoint and random weights exclude each other: pass one of them.")
        if source.random_seed is not None:
            config = checkpoints.read_config(source.config or folder / "config.json", Relu2MLPConfig)
            module = checkpoints.seeded(source.random_seed, partial(build, config))
        else:
            checkpoint = checkpoints.read(source.checkpoint or folder)
            config_path = source.config or checkpoint.config
            if config_path is None:
                raise CheckpointError(f"{checkpoint.path} has no config.json beside it: pass one with --config.")
            config = checkpoints.read_config(config_path, Relu2MLPConfig)
            module, digest = checkpoints.fill(build(config), checkpoint), checkpoint.sha256
        module.eval()
        samples, calibration = _inputs(config, folder)
        entry = EntryPoint(
            name="classify",
            module=module,
            inputs=(TensorSpec(name="features", dtype="float32", shape=(1, config.in_features)),),
            outputs=("logits",),
            samples=samples,
            calibration=calibration,
            keep_float=("*norm*",),
            kernels=_kernel_form(module) if _wants_kernels(config, source.sparse) else None,
        )
        return Model(
            name=name,
            family=self.name,
            config=msgspec.to_builtins(config),
            entries=(entry,),
            checkpoint_sha256=digest,
            random_seed=source.random_seed,
            metrics=(_accuracy(folder),) if _reads_digits(config) else (),
            report=zero_shares(module, samples),
        )

    def tasks(self) -> Mapping[str, Task]:
        return {Classify.name: Classify()}


def _wants_kernels(config: Relu2MLPConfig, sparse: Sparse) -> bool:
    if config.bias:
        return False
    return sparse is Sparse.ON or (sparse is Sparse.AUTO and config.width * sum(config.hidden) >= LARGE)


def _kernel_form(module: nn.Module) -> KernelForm:
    from edge.families.relu2_mlp.kernels import KernelMLP, units, ups
    from edge.families.relu2_mlp.modules import Relu2MLP

    assert isinstance(module, Relu2MLP)
    return KernelForm(partial(KernelMLP, module), units(module), ups(module))


def zero_shares(module: nn.Module, samples: Sequence[Arrays]) -> Mapping[str, float]:
    """The share of exact zeros behind each squared ReLU over ``samples``: {"zeros/layer0": 0.83, ...}."""
    import torch

    from edge.families.relu2_mlp.modules import Relu2

    counted: dict[str, list[float]] = {}

    def count(key: str, _module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        counted.setdefault(key, []).append(float((output == 0).double().mean()))

    layers = [part for part in module.modules() if isinstance(part, Relu2)]
    hooks = [part.register_forward_hook(partial(count, f"zeros/layer{index}")) for index, part in enumerate(layers)]
    try:
        with torch.no_grad():
            for sample in samples:
                module(torch.from_numpy(sample["features"]))
    finally:
        for hook in hooks:
            hook.remove()
    return {key: round(sum(shares) / len(shares), 6) for key, shares in counted.items()}


def _reads_digits(config: Relu2MLPConfig) -> bool:
    return (config.in_features, config.out_features) == (64, 10)


def _inputs(config: Relu2MLPConfig, folder: Path) -> tuple[list[Arrays], list[Arrays]]:
    """Samples and calibration inputs: held-out and training digits where they fit, else seeded normal noise."""
    if config.in_features == 64:
        with np.load(folder / "samples.npz") as data:
            test, calibration = data["test_images"][:SAMPLES], data["calibration_images"]
    else:
        noise = np.random.default_rng(0).standard_normal((SAMPLES + 64, config.in_features))
        test, calibration = noise[:SAMPLES], noise[SAMPLES:]
    return _rows(test), _rows(calibration)


def _rows(images: np.ndarray) -> list[Arrays]:
    return [{"features": row[None].astype(np.float32)} for row in images]


def _accuracy(folder: Path) -> Metric:
    def evaluate(run: Run) -> float:
        with np.load(folder / "samples.npz") as data:
            images, labels = data["test_images"], data["test_labels"]
        predicted = [int(np.argmax(run("classify", row)["logits"])) for row in _rows(images)]
        return float(np.mean(np.array(predicted) == labels))

    return Metric(
        name="accuracy",
        higher_is_better=True,
        data="360 held-out images of scikit-learn's digits",
        evaluate=evaluate,
    )
