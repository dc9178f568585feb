"""TSPulse as a model family: loading, entry points with real samples, the imputation metric, and the tasks.

A reconstruction checkpoint has the entry points ``reconstruct`` (every head), ``impute`` (the time head alone) and
``embed`` (vectors for search); a classification checkpoint has ``classify``. All take past_values [1, context,
channels] float32, and all but ``classify`` past_observed_mask of the same shape, 1.0 (also when left out) where a
point is known.
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
from edge.families.base import Arrays, EntryPoint, Metric, Model, ModelFamily, Run, Source
from edge.families.tspulse.anomaly import Anomaly
from edge.families.tspulse.classify import Classify
from edge.families.tspulse.config import TSPulseConfig
from edge.families.tspulse.impute import Impute
from edge.families.tspulse.search import Search
from edge.families.tspulse.windows import run_rows
from edge.spec import DEFAULT_TOLERANCE, Scheme, TensorSpec, Tolerance
from edge.tasks import Task

if TYPE_CHECKING:
    from torch import nn

    from edge.families.tspulse.modules import TSPulseForClassification, TSPulseForReconstruction

DEMO = "tspulse"
SAMPLES = 6
#: The head of a classification checkpoint has tensors of this prefix, and a reconstruction checkpoint none.
CLASSIFICATION_HEAD = "decoder_with_head.head."
#: Float whatever the scheme: raw sensor values, their normalisation and the Fourier tables; and every norm.
KEEP_FLOAT = ("trunk.input*", "*norm*")
#: Hidden states have single values of many times their root mean square, which a scale for the whole tensor rounds
#: most; what search compares is where they point, and of that more is asked than elsewhere.
EMBED_TOLERANCE = {**DEFAULT_TOLERANCE, Scheme.INT8: Tolerance(atol=3.0, cosine=0.99)}


class TSPulseFamily(ModelFamily):
    name: ClassVar[str] = "tspulse"
    summary: ClassVar[str] = "time series: anomalies, missing values, search, classes"
    paper: ClassVar[str] = "arXiv 2505.13033"

    def load(self, name: str, variant: str | None, source: Source) -> Model:
        from edge.families.tspulse.modules import TSPulseForClassification, TSPulseForReconstruction

        config, classifies, digest, model = _built(source)
        kind = TSPulseForClassification if classifies else TSPulseForReconstruction
        assert isinstance(model, kind)
        data = _Series(checkpoints.demo_folder(DEMO) / "samples.npz", config)
        mixes = "mix_channel" in (config.mode, config.decoder_mode)
        return Model(
            name=name,
            family=self.name,
            config={"model_type": "tspulse", "architectures": [kind.__name__], **msgspec.to_builtins(config)},
            entries=_entries(model, config, data, source.runtime),
            checkpoint_sha256=digest,
            random_seed=source.random_seed,
            metrics=()
            if classifies or config.context_length != 512
            else (data.metric(config.num_input_channels, mixes),),
        )

    def tasks(self) -> Mapping[str, Task]:
        return {task.name: task for task in (Anomaly(), Impute(), Search(), Classify())}


def _built(
    source: Source,
) -> tuple[TSPulseConfig, bool, str | None, TSPulseForReconstruction | TSPulseForClassification]:
    """Config, whether it classifies, the checkpoint's hash, and the faithful model in eval mode."""
    from edge.families.tspulse.modules import TSPulseForClassification, TSPulseForReconstruction

    folder = checkpoints.demo_folder(DEMO)
    if source.random_seed is not None:
        if source.checkpoint is not None:
            raise UsageError("a checkpoint and random weights exclude each other: pass one of them.")
        path = source.config or folder / "config.json"
        config = TSPulseConfig.from_json(path)
        classifies = "TSPulseForClassification" in _architectures(path)
        seed = source.random_seed
        if classifies:
            return config, True, None, checkpoints.seeded(seed, partial(TSPulseForClassification, config)).eval()
        return config, False, None, checkpoints.seeded(seed, partial(TSPulseForReconstruction, config)).eval()
    checkpoint = checkpoints.read(source.checkpoint or folder)
    found = source.config or checkpoint.config
    if found is None:
        raise CheckpointError(f"{checkpoint.path} has no config.json beside it: pass one with --config.")
    config = TSPulseConfig.from_json(found)
    classifies = any(tensor.startswith(CLASSIFICATION_HEAD) for tensor in checkpoint.tensors)
    model = TSPulseForClassification(config) if classifies else TSPulseForReconstruction(config)
    return config, classifies, checkpoint.sha256, checkpoints.fill(model, checkpoint).eval()


def _architectures(path: Path) -> Sequence[str]:
    """The class names that Hugging Face writes into a config (already read once, so it is JSON)."""

    class Named(msgspec.Struct):
        architectures: list[str] | None = None

    return msgspec.json.decode(path.read_bytes(), type=Named).architectures or ()


def _entries(
    model: TSPulseForReconstruction | TSPulseForClassification, config: TSPulseConfig, data: _Series, runtime: str
) -> tuple[EntryPoint, ...]:
    from edge.families.tspulse import entries
    from edge.families.tspulse.fused import Style
    from edge.families.tspulse.modules import TSPulseForClassification

    style = {"executorch": Style.XNNPACK, "tvm": Style.TVM}.get(runtime, Style.ONNX)
    shape = (1, config.context_length, config.num_input_channels)
    past = TensorSpec(name="past_values", dtype="float32", shape=shape)
    mask = TensorSpec(name="past_observed_mask", dtype="float32", shape=shape, fill=1.0)

    def entry(name: str, module: nn.Module, outputs: tuple[str, ...], masked: bool) -> EntryPoint:
        return EntryPoint(
            name=name,
            module=module,
            inputs=(past, mask) if masked else (past,),
            outputs=outputs,
            samples=data.samples(masked),
            calibration=data.calibration(masked),
            keep_float=KEEP_FLOAT,
            tolerance=EMBED_TOLERANCE if name == "embed" else DEFAULT_TOLERANCE,
        )

    if isinstance(model, TSPulseForClassification):
        module = entries.Classify(model, style=style)
        return (entry("classify", module, module.outputs, masked=False),)
    made = {
        "reconstruct": entries.Reconstruct(model, style=style),
        "impute": entries.Impute(model, style=style),
        "embed": entries.Embed(model, style=style),
    }
    return tuple(entry(name, module, module.outputs, masked=True) for name, module in made.items())


class _Series:
    """The demo's held-out and calibration windows, cut to a config's context and channels.

    Windows are standardised series of 512 points, float32; every channel of a sample is another series. Half of the
    samples are fully observed, as for anomaly scores and search; the others have holes.
    """

    def __init__(self, path: Path, config: TSPulseConfig) -> None:
        self.context, self.channels = config.context_length, config.num_input_channels
        with np.load(path) as stored:
            self.windows, self.observed = stored["windows"], stored["observed"].astype(np.float32)
            self.others = stored["calibration"]

    def samples(self, masked: bool) -> list[Arrays]:
        return self._inputs(self.windows, SAMPLES, masked)

    def calibration(self, masked: bool) -> list[Arrays]:
        return self._inputs(self.others, len(self.others), masked)

    def metric(self, channels: int, mixes: bool) -> Metric:
        """Imputation error on the held-out windows; a model that mixes channels sees unrelated series side by side."""

        def evaluate(run: Run) -> float:
            found = run_rows(run, "impute", self.windows, self.observed, channels, ["reconstruction_outputs"])
            error = (found["reconstruction_outputs"] - self.windows)[self.observed == 0]
            return float(np.mean(error.astype(np.float64) ** 2))

        real = "24 held-out windows of 512 points, standardised, 10 % hidden as points or gaps"
        return Metric(
            name="imputation_mse",
            higher_is_better=False,
            data=f"{real}, unrelated series as channels" if mixes and channels > 1 else real,
            evaluate=evaluate,
        )

    def _inputs(self, windows: np.ndarray, count: int, masked: bool) -> list[Arrays]:
        found: list[Arrays] = []
        for index in range(count):
            place = np.arange(index, index + self.channels)
            mask = (
                self._cut(self.observed, place) if index % 2 else np.ones((1, self.context, self.channels), np.float32)
            )
            past = self._cut(windows, place)
            found.append({"past_values": past * mask, "past_observed_mask": mask} if masked else {"past_values": past})
        return found

    def _cut(self, rows: np.ndarray, place: np.ndarray) -> np.ndarray:
        """[1, context, channels] of ``rows`` [n, 512], repeated in time or cut short as the context asks."""
        time = np.arange(self.context) % rows.shape[1]
        return np.ascontiguousarray(rows[place % len(rows)][:, time].T[None], dtype=np.float32)
