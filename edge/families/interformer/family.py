"""InterFormer as a model family: loading, its two entry points with real samples, its metric, its tasks.

``encode`` takes image [1, 3, H, W] float32 (normalised and padded) and gives ``finest`` [1, C, H/4, W/4] and, for each
stage, ``key`` [heads, d, tokens] and ``value`` [heads, tokens, d]. ``click`` takes those and ``shares`` [1, 5, H/4,
W/4], and gives ``logits`` [1, 2, H/4, W/4]. Each is a part that can be exported on its own, for its own machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import msgspec
import numpy as np

from edge import checkpoints
from edge.conditions import Figure
from edge.families.base import Arrays, EntryPoint, Metric, Model, ModelFamily, Run, Source
from edge.families.interformer import samples
from edge.families.interformer.config import LABELS, VARIANTS, InterFormerConfig
from edge.families.interformer.tasks import CutOut, Encode
from edge.spec import TensorSpec
from edge.tasks import Task

if TYPE_CHECKING:
    from torch import nn

    from edge.manifest import Manifest
    from edge.measurement import EntryMeasurement

DEMO = "interformer"
PARTS = ("encode", "click")
#: Means, norms and tables of constants; the embedded clicks; the last map, whose small differences decide the mask.
KEEP_FLOAT = ("*norm*", "*_table", "embed", "head.classify")
#: ONNX Runtime fuses Hardswish into float convolutions only: in int8 these would take more time than in float32.
KEEP_FLOAT_ONNX = ("stages.*.mlp", "refine.*.mlp")
#: A score's error is one of its exponential: in int8, attention brings most of a mask's error, and a hundredth of the work.
KEEP_FLOAT_XNNPACK = ("*.attend", "*.key_value")
#: Pictures for samples and for calibration; fewer for encoders that take seconds a picture.
SAMPLES, CALIBRATION = 2, 8
LARGE_SAMPLES, LARGE_CALIBRATION = 1, 3
LARGE_PIXELS = 256 * 256


class InterFormerFamily(ModelFamily):
    name: ClassVar[str] = "interformer"
    summary: ClassVar[str] = "objects cut out of pictures by clicks; encode once, then click on the device"
    paper: ClassVar[str] = "arXiv 2304.02942"
    variants: ClassVar[tuple[str, ...]] = tuple(VARIANTS)
    parts: ClassVar[tuple[str, ...]] = PARTS

    def load(self, name: str, variant: str | None, source: Source) -> Model:
        from edge.families.interformer.click_entry import Click
        from edge.families.interformer.encode_entry import Encode as EncodeModule
        from edge.families.interformer.loading import build
        from edge.families.interformer.parts import Style

        config, model, digest = build(name, variant, source)
        style = {"executorch": Style.XNNPACK, "tvm": Style.TVM}.get(source.runtime, Style.ONNX)
        modules = {"encode": EncodeModule(model, style).eval(), "click": Click(model, style).eval()}
        return Model(
            name=name,
            family=self.name,
            config=msgspec.to_builtins(config),
            entries=_entries(
                modules,
                config,
                PARTS if source.part is None else (source.part,),
                KEEP_FLOAT + {Style.ONNX: KEEP_FLOAT_ONNX, Style.XNNPACK: KEEP_FLOAT_XNNPACK}.get(style, ()),
            ),
            checkpoint_sha256=digest,
            random_seed=source.random_seed,
            metrics=_metrics(modules, config, source),
            report={
                "parameters/encode": float(_parameters(model.backbone)),
                "parameters/click": float(_parameters(model.neck) + _parameters(model.decode_head)),
            },
        )

    def figures(self, manifest: Manifest, entries: Mapping[str, EntryMeasurement]) -> tuple[Figure, ...]:
        meanings = {
            "encode": ("time of a picture", "the median of encode, once for all clicks on a picture"),
            "click": ("time of a click", "the median of click, without drawing the mask"),
        }
        return tuple(
            Figure(name=name, value=entries[entry].latency.p50_us / 1e3, unit="ms", higher_is_better=False, method=method)
            for entry, (name, method) in meanings.items()
            if entry in entries
        )

    def tasks(self) -> Mapping[str, Task]:
        return {task.name: task for task in (Encode(), CutOut())}


def features_of(config: InterFormerConfig) -> tuple[TensorSpec, ...]:
    """What ``encode`` gives and ``click`` takes."""
    height, width = config.maps[0]
    specs = [TensorSpec(name="finest", dtype="float32", shape=(1, config.fpn_dims[0], height, width))]
    for stage, (channels, heads, size) in enumerate(zip(config.fpn_dims, config.neck_heads, config.maps, strict=True)):
        tokens = sum(high * wide for high, wide in config.pool_sides(stage, *size))
        depth = channels // heads
        specs.append(TensorSpec(name=f"key{stage}", dtype="float32", shape=(heads, depth, tokens)))
        specs.append(TensorSpec(name=f"value{stage}", dtype="float32", shape=(heads, tokens, depth)))
    return tuple(specs)


def _entries(
    modules: Mapping[str, nn.Module], config: InterFormerConfig, parts: tuple[str, ...], keep_float: tuple[str, ...]
) -> tuple[EntryPoint, ...]:
    held_out, calibration = samples.read(checkpoints.demo_folder(DEMO) / "samples.npz")
    large = config.size[0] * config.size[1] > LARGE_PIXELS
    count, calibrating = (LARGE_SAMPLES, LARGE_CALIBRATION) if large else (SAMPLES, CALIBRATION)
    features = features_of(config)
    finest, *attended = features
    height, width = config.maps[0]
    shares = TensorSpec(name="shares", dtype="float32", shape=(1, LABELS, height, width))
    run = eager(modules, config)
    entries = []
    if "encode" in parts:
        entries.append(
            EntryPoint(
                name="encode",
                module=modules["encode"],
                inputs=(TensorSpec(name="image", dtype="float32", shape=(1, 3, *config.size)),),
                outputs=tuple(spec.name for spec in features),
                samples=samples.encode_inputs(held_out, count, config),
                calibration=samples.encode_inputs(calibration, calibrating, config),
                keep_float=keep_float,
            )
        )
    if "click" in parts:
        entries.append(
            EntryPoint(
                name="click",
                module=modules["click"],
                inputs=(finest, shares, *attended),
                outputs=("logits",),
                samples=samples.click_inputs(held_out, count, config, run, 2),
                calibration=samples.click_inputs(calibration, calibrating, config, run, samples.CLICKS),
                keep_float=keep_float,
            )
        )
    return tuple(entries)


def eager(modules: Mapping[str, nn.Module], config: InterFormerConfig) -> Run:
    """Both entry points in eager torch."""
    import torch

    names = [spec.name for spec in features_of(config)]
    order = {"encode": ["image"], "click": [names[0], "shares", *names[1:]]}

    def run(entry: str, inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            found = modules[entry](*(torch.from_numpy(inputs[name]) for name in order[entry]))
        if entry == "click":
            return {"logits": found.numpy()}
        return {name: np.ascontiguousarray(value.numpy()) for name, value in zip(names, found, strict=True)}

    return run


def _metrics(modules: Mapping[str, nn.Module], config: InterFormerConfig, source: Source) -> tuple[Metric, ...]:
    """The demo scenes' metric, for models of their size."""
    held_out, _ = samples.read(checkpoints.demo_folder(DEMO) / "samples.npz")
    if held_out.pictures.shape[1:3] != config.size:
        return ()
    parts = PARTS if source.part is None else (source.part,)
    return (samples.mean_iou(held_out, config, eager(modules, config), parts),)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
