"""Winograd's convolution in ONNX graphs: what is rewritten, what stays and why, and that it computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx_case import TARGET
from torch import nn

from edge.export.capture import capture
from edge.export.onnx import LOWERING
from edge.export.onnx_graph import to_onnx
from edge.export.onnx_winograd import reason_against
from edge.families.base import EntryPoint
from edge.progress import Progress
from edge.spec import Recipe, Scheme, Target, TensorSpec


class Wide(nn.Module):
    """A convolution that gains, between two that do not."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.up, self.wide, self.down = nn.Conv2d(3, 64, 1), nn.Conv2d(64, 80, 3, padding=1, bias=bias), nn.Conv2d(80, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.down(torch.relu(self.wide(torch.relu(self.up(x)))))
        return y


def entry_of(module: nn.Module, *shape: int) -> EntryPoint:
    sample = np.random.default_rng(0).standard_normal(shape, np.float32)
    spec = TensorSpec(name="x", dtype="float32", shape=shape)
    return EntryPoint(name="run", module=module.eval(), inputs=(spec,), outputs=("y",), samples=({"x": sample},))


def lowered(entry: EntryPoint, folder: Path, target: Target = TARGET, scheme: Scheme = Scheme.FP32) -> onnx.ModelProto:
    LOWERING.lower([capture(entry)], Recipe(runtime="onnx", scheme=scheme), target, folder, Progress())
    return onnx.load(folder / "run.onnx")


@pytest.mark.parametrize("bias", [True, False])
def test_a_wide_convolution_takes_half_the_products(bias: bool, tmp_path: Path) -> None:
    import onnxruntime

    torch.manual_seed(0)
    entry = entry_of(Wide(bias), 1, 3, 96, 90)
    model = lowered(entry, tmp_path)
    kernels = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes = [kernels[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]
    assert shapes.count((64, 1, 6, 1)) == shapes.count((80, 64, 1, 3)) == 6 and (80, 64, 3, 3) not in shapes
    assert all(node.name.startswith(("up/", "wide/", "down/", "/")) for node in model.graph.node)
    session = onnxruntime.InferenceSession(tmp_path / "run.onnx", providers=["CPUExecutionProvider"])
    sample = entry.samples[0]
    found = session.run(None, dict(sample))[0]
    with torch.no_grad():
        expected = entry.module(torch.from_numpy(sample["x"])).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("module", "shape", "reason"),
    [
        (nn.Conv2d(64, 64, 3, padding=1), (1, 64, 98, 98), "height"),
        (nn.Conv2d(64, 64, 3, padding=1), (1, 64, 32, 32), "too little work"),
        (nn.Conv2d(32, 64, 3, padding=1), (1, 32, 256, 256), "channels"),
        (nn.Conv2d(64, 72, 3, padding=1), (1, 64, 128, 128), "channels"),
        (nn.Conv2d(64, 64, 3, padding=1, stride=2), (1, 64, 128, 128), "steps"),
        (nn.Conv2d(64, 64, 3), (1, 64, 128, 128), "border"),
        (nn.Conv2d(128, 128, 3, padding=1, groups=2), (1, 128, 128, 128), "groups"),
        (nn.Conv2d(128, 128, 1), (1, 128, 128, 128), "3x3"),
    ],
)
def test_what_stays(module: nn.Module, shape: tuple[int, ...], reason: str) -> None:
    model = to_onnx(capture(entry_of(module, *shape)))
    (node,) = (node for node in model.graph if node.op_type == "Conv")
    assert reason in str(reason_against(node))


def test_only_float32_on_x86(tmp_path: Path) -> None:
    arm = Target(
        name="arm", description="another", triple="aarch64-linux-gnu", cpu="cortex-a76", cores=4, threads=4, ram_mb=1024,
        runtime="onnx", scheme=Scheme.FP32,
    )  # fmt: skip
    entry = entry_of(Wide(), 1, 3, 96, 90)
    for target, scheme in ((arm, Scheme.FP32), (TARGET, Scheme.FP16)):
        model = lowered(entry, tmp_path, target, scheme)
        assert sum(node.op_type == "Conv" for node in model.graph.node) == 3
