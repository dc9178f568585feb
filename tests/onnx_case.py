"""Small models for the tests of ONNX Runtime, and the road from one to a session."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from edge.errorstats import compare_all
from edge.export.base import Captured, Lowered
from edge.export.capture import capture
from edge.export.onnx import LOWERING
from edge.families.base import EntryPoint
from edge.manifest import EntryRecord, ErrorStats, Manifest
from edge.progress import Progress
from edge.runtimes.onnx import OnnxSession
from edge.spec import DEFAULT_TOLERANCE, Recipe, Scheme, Target, TensorSpec

TARGET = Target(
    name="cpu", description="this machine", triple="x86_64-linux-gnu", cpu="generic", cores=2, threads=1, ram_mb=1024,
    runtime="onnx", scheme=Scheme.FP32,
)


class Scale(nn.Module):
    """Normalisation of raw sensor values: far from zero, and of no use in eight bits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - 20_000.0) * 0.01


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.gate = nn.LayerNorm(width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.down(nn.functional.gelu(self.up(self.norm(x))))
        return x + hidden * torch.softmax(self.gate(hidden), dim=-1)


class Mixer(nn.Module):
    """LayerNorm, GELU, softmax and linear layers over three axes; names that graphs like to use themselves."""

    linears = 8

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.inp = Scale(), nn.Linear(20, 24)
        self.blocks = nn.Sequential(Block(24), Block(24))
        self.head = nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.blocks(self.inp(self.scale(x)))
        return self.head(hidden), hidden.mean(1)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))


class Convolutional(nn.Module):
    linears, convolutions = 1, 5

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), Residual(16), nn.MaxPool2d(2), Residual(16))
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Clamped(nn.Module):
    """A ReLU that both a quantized and a float32 operator read, a linear result that is read again and returned."""

    linears = 3

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 64), nn.Linear(64, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        wide = torch.relu(self.a(x))
        narrow = self.b(wide)
        return self.c(narrow), wide.sum(-1), narrow


class Crossing(nn.Module):
    """Rows, a mean over the other axis, the same rows again; a split, a concatenation, a weight on the left."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.left = nn.Linear(8, 8), nn.Linear(8, 8), nn.Parameter(torch.zeros(3, 6))
        self.register_buffer("offset", torch.arange(8.0).reshape(1, 1, 8))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.a(x)) + self.offset
        low, high = self.b(hidden * torch.sigmoid(hidden.mean(1, keepdim=True))).chunk(2, -1)
        return torch.cat([high, low], -1) + self.a(hidden), low, torch.matmul(self.left, hidden)


def make_entry(module: nn.Module, *shape: int, name: str = "main", outputs: tuple[str, ...] = ("y",)) -> EntryPoint:
    """An entry with seeded weights, two samples, and enough calibration that they stay in its range."""
    torch.manual_seed(0)
    for path, parameter in module.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif path.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    generator = np.random.default_rng(0)
    data = [generator.standard_normal(shape, dtype=np.float32) for _ in range(66)]
    if isinstance(module, Mixer):
        data = [value * np.float32(300) + np.float32(20_000) for value in data]
    spec = TensorSpec(name="x", dtype="float32", shape=shape)
    feeds = [{"x": value} for value in data]
    return EntryPoint(name, module, (spec,), outputs, samples=feeds[:2], calibration=feeds[2:])


@dataclass
class Made:
    captured: tuple[Captured, ...]
    lowered: Lowered
    session: OnnxSession

    def graph(self, index: int = 0) -> onnx.GraphProto:
        return onnx.load(self.lowered.files[f"{self.captured[index].entry.name}.onnx"]).graph

    def errors(self, index: int = 0) -> tuple[ErrorStats, ...]:
        """Every output's worst error over the samples, against eager."""
        one, tolerance = self.captured[index], DEFAULT_TOLERANCE[self.session.manifest.recipe.scheme]
        return compare_all(
            [(outputs, self.session.run(one.entry.name, inputs)) for inputs, outputs in one.references], tolerance
        )

    def kinds(self, index: int = 0) -> Counter[str]:
        """What ONNX Runtime really runs, by operator."""
        record = self.session.manifest.entries[index]
        inputs = [self.captured[index].references[0][0][spec.name] for spec in record.inputs]
        return Counter(row.kind for row in self.session.operators(record, inputs, runs=2))


def manifest_of(captured: tuple[Captured, ...], lowered: Lowered, recipe: Recipe) -> Manifest:
    entries = tuple(
        EntryRecord(
            name=one.entry.name,
            inputs=one.entry.inputs,
            outputs=one.outputs,
            artifact=lowered.artifacts[one.entry.name].file,
            method=lowered.artifacts[one.entry.name].method,
            samples=len(one.references),
            tolerance=one.entry.tolerance[recipe.scheme],
            cost=one.cost,
            stages=(),
        )
        for one in captured
    )
    return Manifest(
        schema=1, edge_version="0", model="test", family="test", config={}, checkpoint_sha256=None, random_seed=0,
        target=TARGET, runtime=lowered.runtime, recipe=recipe, entries=entries, verified_on="this host",
    )


def make(workdir: Path, *captured: Captured, scheme: Scheme = Scheme.FP32, group: int = 32, threads: int = 1) -> Made:
    """Lower into ``workdir`` (made if it is not there) and open what came out."""
    workdir.mkdir(exist_ok=True)
    recipe = Recipe(runtime="onnx", scheme=scheme, group_size=group)
    lowered = LOWERING.lower(captured, recipe, TARGET, workdir, Progress())
    return Made(captured, lowered, OnnxSession(workdir, manifest_of(captured, lowered, recipe), threads))


@functools.cache
def captured_model(name: str) -> Captured:
    """The model called ``name``, captured once; nobody changes it."""
    if name == "mixer":
        return capture(make_entry(Mixer(), 1, 12, 20, outputs=("mean", "linear")))
    if name == "convolutional":
        return capture(make_entry(Convolutional(), 1, 3, 32, 32))
    if name == "clamped":
        return capture(make_entry(Clamped(), 2, 3, 16, outputs=("y", "sum", "narrow")))
    return capture(make_entry(Crossing(), 2, 6, 8, outputs=("y", "low", "left")))
