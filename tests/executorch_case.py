"""Small models for the tests of ExecuTorch, and the road from one to a session."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge.export.base import Captured, Lowered
from edge.export.capture import capture
from edge.export.executorch import LOWERING
from edge.families.base import EntryPoint
from edge.manifest import EntryRecord, Manifest
from edge.progress import Progress
from edge.runtimes.executorch import ExecuTorchSession
from edge.spec import DEFAULT_TOLERANCE, DynamicDim, Recipe, Scheme, Target, TensorSpec

TARGET = Target(
    name="here", description="", triple="x86_64-linux-gnu", cpu="x86-64-v3", cores=2, threads=2, ram_mb=1000,
    runtime="executorch", scheme=Scheme.FP32,
)  # fmt: skip
#: Which entries are lowered in which scheme: lowering takes seconds for each.
LOWERED = {
    Scheme.FP32: ("one", "four", "images"),
    Scheme.INT8: ("images",),
    Scheme.INT8_DYNAMIC: ("one",),
    Scheme.INT4: ("one", "four"),
}


class Mlp(nn.Module):
    """LayerNorm, which XNNPACK does not take, between layers that it does; `table` stays in float."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(64, 256)
        self.norm = nn.LayerNorm(256)
        self.down = nn.Linear(256, 64)
        self.gate = nn.Linear(64, 64)
        self.table = nn.Linear(64, 8, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.down(nn.functional.gelu(self.norm(self.up(x))))
        y = x + y * torch.softmax(self.gate(y), -1)
        return y, self.table(y)


class Images(nn.Module):
    """Convolutions with a residual sum; the offset is a buffer that state dicts leave out."""

    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.block = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)
        self.register_buffer("offset", torch.tensor([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(image - self.offset)))
        x = torch.relu(x + self.block(x))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


class Order(nn.Module):
    """Of operators that ExecuTorch has no kernel for."""

    def forward(self, x: Tensor) -> Tensor:
        ordered, _ = torch.sort(torch.cumprod(torch.cumprod(x, -1), 0), -1)
        return ordered


def entry_point(
    name: str,
    module: nn.Module,
    shape: tuple[int | str, ...],
    outputs: tuple[str, ...],
    sizes: Sequence[int] = (0, 0),
) -> EntryPoint:
    """Normal samples; ``sizes`` are what a dynamic axis takes in each."""
    random = np.random.default_rng(7)

    def sample(size: int) -> dict[str, np.ndarray]:
        fixed = [size if isinstance(axis, str) else axis for axis in shape]
        return {"x": random.standard_normal(fixed).astype(np.float32)}

    return EntryPoint(
        name=name,
        module=module.eval(),
        inputs=(TensorSpec(name="x", dtype="float32", shape=shape),),
        outputs=outputs,
        samples=[sample(size) for size in sizes],
        calibration=[sample(size) for size in (*sizes, *sizes)],
        dynamic=tuple(
            DynamicDim(input="x", axis=index, name=axis, min=1, max=8)
            for index, axis in enumerate(shape)
            if isinstance(axis, str)
        ),
    )


def entries() -> list[EntryPoint]:
    torch.manual_seed(0)
    mlp, images = Mlp(), Images()
    return [
        replace(entry_point("one", mlp, (1, 64), ("y", "t")), keep_float=("tab*",)),
        replace(entry_point("four", mlp, (4, 64), ("y", "t")), keep_float=("tab*",)),
        entry_point("images", images, (1, 3, 32, 32), ("logits",)),
    ]


@dataclass(frozen=True)
class Export:
    captured: list[Captured]
    lowered: Lowered
    root: Path
    manifest: Manifest

    def session(self, threads: int = 2) -> ExecuTorchSession:
        return ExecuTorchSession(self.root, self.manifest, threads)


def recipe(scheme: Scheme, group_size: int = 32) -> Recipe:
    return Recipe(runtime="executorch", scheme=scheme, group_size=group_size)


def export(captured: list[Captured], scheme: Scheme, root: Path) -> Export:
    lowered = LOWERING.lower(captured, recipe(scheme), TARGET, root, Progress())
    manifest = Manifest(
        schema=1, edge_version="0", model="m", family="user", config={}, checkpoint_sha256=None, random_seed=0,
        target=TARGET, runtime=lowered.runtime, recipe=recipe(scheme), verified_on="this host", notes=lowered.notes,
        entries=tuple(
            EntryRecord(
                name=item.entry.name, inputs=item.entry.inputs, outputs=item.outputs,
                artifact=lowered.artifacts[item.entry.name].file, method=lowered.artifacts[item.entry.name].method,
                samples=len(item.references), tolerance=DEFAULT_TOLERANCE[scheme], cost=item.cost, stages=(),
            )
            for item in captured
        ),
    )  # fmt: skip
    return Export(captured, lowered, root, manifest)

@functools.cache
def captured_models() -> tuple[Captured, ...]:
    return tuple(capture(entry) for entry in entries())


_LOWERED: dict[Scheme, Export] = {}


def lowered(factory: pytest.TempPathFactory, scheme: Scheme) -> Export:
    """The entries that ``LOWERED`` names, lowered once for all tests of this process."""
    if scheme not in _LOWERED:
        chosen = [item for item in captured_models() if item.entry.name in LOWERED[scheme]]
        _LOWERED[scheme] = export(chosen, scheme, factory.mktemp(scheme.value))
    return _LOWERED[scheme]
