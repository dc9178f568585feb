"""TVM on convolutions: channels last, 1 x 1 ones as matrix products, and those products in integers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from onnx_case import make_entry
from test_tvm import HOST, PI, make
from torch import nn

from edge.export.base import Captured
from edge.export.capture import capture
from edge.export.tvm_compile import fuse, llvm_target
from edge.export.tvm_convert import decompose, to_relax
from edge.export.tvm_quantize import quantize
from edge.spec import Scheme


class Net(nn.Module):
    """Strides, groups, a depthwise convolution, odd widths, pools, a residual, and rows at the end."""

    pointwise = 4

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.up, self.down = nn.Conv2d(16, 40, 1), nn.Conv2d(40, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.both = nn.Conv2d(32, 23, 1, bias=False)
        self.strided = nn.Conv2d(23, 24, 1, stride=2)
        self.last = nn.Conv2d(24, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.down(torch.relu(self.up(x)))
        x = torch.cat([self.grouped(x), nn.functional.hardswish(self.depthwise(x))], 1)
        x = nn.functional.max_pool2d(torch.sigmoid(self.both(x)), 2)
        x = self.last(self.strided(x))
        return torch.softmax(x.flatten(2), -1)


@pytest.fixture(scope="module")
def net() -> Captured:
    return capture(make_entry(Net(), 1, 3, 20, 28))


def kernels(captured: Captured, scheme: Scheme = Scheme.FP32) -> list[str]:
    program = captured.program if scheme is Scheme.FP32 else quantize(captured, scheme).program
    module = fuse({"main": to_relax(decompose(program), "main")}, llvm_target(HOST))
    return [str(variable.name_hint) for variable in module.functions if "main" not in str(variable.name_hint)]


def test_float32_differs_from_eager_by_rounding_only(net: Captured, tmp_path: Path) -> None:
    (error,) = make(tmp_path / "it", net).errors()
    assert error.relative < 1e-5


def test_channels_are_turned_once_at_each_end(net: Captured) -> None:
    found = kernels(net)
    assert len([name for name in found if "transpose" in name]) <= 2
    assert len([name for name in found if "matmul" in name]) == Net.pointwise
    assert len([name for name in found if "conv2d" in name]) == 4


@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT8_DYNAMIC])
def test_pointwise_convolutions_become_integers(net: Captured, scheme: Scheme, tmp_path: Path) -> None:
    found = kernels(net, scheme)
    assert len([name for name in found if "integer_product" in name]) == Net.pointwise
    assert not [name for name in found if "matmul" in name]
    made = make(tmp_path / "it", net, scheme=scheme)
    (error,) = made.errors()
    assert error.relative < 0.2 and error.passed


def test_weights_in_float16_halve_the_library(tmp_path: Path) -> None:
    wide = capture(make_entry(nn.Sequential(nn.Conv2d(64, 512, 1), nn.ReLU(), nn.Conv2d(512, 128, 1)), 1, 64, 4, 4))
    made = {scheme: make(tmp_path / scheme.value, wide, scheme=scheme) for scheme in (Scheme.FP32, Scheme.FP16)}
    (error,) = made[Scheme.FP16].errors()
    assert 1e-6 < error.relative < 2e-3
    sizes = [one.lowered.files["model.so"].stat().st_size for one in made.values()]
    assert sizes[1] < 0.65 * sizes[0]
    assert len([name for name in kernels(wide, Scheme.FP16) if "half_product" in name]) == 2


def test_the_same_on_another_cpu(net: Captured, tmp_path: Path) -> None:
    made = make(tmp_path / "it", net, scheme=Scheme.INT8, target=PI)
    assert made.lowered.twin is not None
    assert all(error.passed for error in made.errors())


def test_a_pointwise_convolution_without_a_batch_axis_stays_float(tmp_path: Path) -> None:
    made = make(tmp_path / "it", capture(make_entry(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()), 8, 4, 4)))
    (error,) = made.errors()
    assert error.relative < 1e-5


class Picked(nn.Module):
    """Columns chosen by indices, three rows of them: 36 elements, no multiple of a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("columns", torch.arange(12) * 5 % 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.index_select(x, 3, self.columns)


def test_chosen_columns_of_an_odd_number(tmp_path: Path) -> None:
    (error,) = make(tmp_path / "it", capture(make_entry(Picked(), 1, 64, 3, 8))).errors()
    assert error.max_abs == 0
