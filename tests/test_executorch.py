"""ExecuTorch: lowering in every scheme, what is delegated, and what cannot be lowered."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("executorch")

from executorch_case import (  # noqa: E402
    LOWERED,
    TARGET,
    Export,
    Images,
    Mlp,
    Order,
    captured_models,
    entry_point,
    export,
    lowered,
    recipe,
)
from torch import Tensor, nn  # noqa: E402

from edge.errors import UnsupportedError, UsageError  # noqa: E402
from edge.errorstats import compare_all  # noqa: E402
from edge.export.base import get_lowering  # noqa: E402
from edge.export.capture import capture  # noqa: E402
from edge.export.executorch import LOWERING  # noqa: E402
from edge.export.executorch_quantize import quantize  # noqa: E402
from edge.families.base import EntryPoint  # noqa: E402
from edge.progress import Progress  # noqa: E402
from edge.runtimes.base import session_class  # noqa: E402
from edge.runtimes.executorch import ExecuTorchSession  # noqa: E402
from edge.spec import DEFAULT_TOLERANCE, Scheme, TensorSpec, Tolerance  # noqa: E402


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Scheme], Export]:
    return functools.partial(lowered, tmp_path_factory)


@pytest.mark.parametrize("scheme", LOWERED)
def test_every_scheme_computes_what_the_model_computes(exports: Callable[[Scheme], Export], scheme: Scheme) -> None:
    made = exports(scheme)
    session = made.session()
    for item in made.captured:
        name = item.entry.name
        ran = [session.run(name, sample) for sample, _ in item.references]
        expected = [reference for _, reference in item.references]
        for stat in compare_all(zip(expected, ran, strict=True), DEFAULT_TOLERANCE[scheme]):
            assert stat.passed, (name, stat)
        if scheme is Scheme.FP32:
            assert made.lowered.quantized is None
            continue
        assert made.lowered.quantized is not None
        eager = [made.lowered.quantized[name](sample) for sample, _ in item.references]
        for stat in compare_all(zip(eager, ran, strict=True), Tolerance(atol=0.5, cosine=0.995)):
            assert stat.passed, (name, stat)
        # Quantized for real: the errors are those of few bits, not of rounding.
        errors = compare_all(zip(expected, eager, strict=True), DEFAULT_TOLERANCE[scheme])
        assert max(stat.relative for stat in errors) > 1e-4


def test_quantized_programs_are_smaller_and_methods_share_weights(exports: Callable[[Scheme], Export]) -> None:
    size = {scheme: exports(scheme).lowered.files["model.pte"].stat().st_size for scheme in LOWERED}
    mlp, images = (sum(p.nbytes for p in module.parameters()) for module in (Mlp(), Images()))
    assert mlp + images < size[Scheme.FP32] < 1.25 * (mlp + images)  # twice the MLP would be 1.9 times
    assert size[Scheme.INT8] < 0.5 * images
    assert size[Scheme.INT8_DYNAMIC] < 0.45 * mlp
    assert size[Scheme.INT4] < 0.3 * mlp  # in two methods: 0.18 of it each
    assert set(exports(Scheme.FP32).lowered.artifacts) == {"one", "four", "images"}


def test_delegation_says_what_xnnpack_left(exports: Callable[[Scheme], Export]) -> None:
    for scheme, names in LOWERED.items():
        records = {record.entry: record for record in exports(scheme).lowered.notes.delegation}
        assert tuple(records) == names
        if "one" in records:
            assert records["one"].delegates == 2
            assert records["one"].portable == {"aten.native_layer_norm.default": 1}
            # linear | gelu, linear, linear, softmax, mul, add, linear
            assert records["one"].delegated == 8
        if "images" in records:
            assert records["images"].portable == {"aten.mean.dim": 1}


def test_the_runtime_record_names_what_loading_depends_on(exports: Callable[[Scheme], Export]) -> None:
    record = exports(Scheme.FP32).lowered.runtime
    assert (record.name, record.abi) == ("executorch", "ET12/XnnpackBackend")
    assert exports(Scheme.FP32).lowered.twin is None
    assert get_lowering("executorch") is LOWERING
    assert session_class("executorch") is ExecuTorchSession


def test_other_processes_make_the_same_bytes_and_stay_quiet(
    exports: Callable[[Scheme], Export], tmp_path: Path
) -> None:
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from edge.export.capture import capture; from edge.spec import Scheme; from executorch_case import *\n"
        "captured = [capture(entry) for entry in entries() if entry.name in LOWERED[Scheme.INT8]]\n"
        "made = export(captured, Scheme.INT8, Path(sys.argv[2]))\n"
        "made.session().run('images', made.captured[0].references[0][0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path)],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONHASHSEED": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    for name, path in exports(Scheme.INT8).lowered.files.items():
        assert (tmp_path / name).read_bytes() == path.read_bytes(), name


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spectrum = Spectrum()
        self.order = Order()
        self.mix = nn.Linear(33, 33)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.order(self.mix(self.spectrum(x)))
        return y


class Spectrum(nn.Module):
    """A real factor on a complex spectrum: there is a kernel for mul, but not for this mixture of dtypes."""

    def forward(self, x: Tensor) -> Tensor:
        return (torch.fft.rfft(x) * 0.5).abs()


def test_all_unsupported_operators_are_listed_with_their_modules() -> None:
    captured = capture(entry_point("odd", Odd(), (2, 64), ("y",)))
    lacks = LOWERING.unsupported(captured, recipe(Scheme.FP32))
    assert {(item.operator, item.module, item.count) for item in lacks} == {
        ("aten.mul.Tensor", "spectrum", 1),
        ("aten.cumprod.default", "order", 2),
        ("aten.sort.default", "order", 1),
    }
    with pytest.raises(UnsupportedError, match=r"aten\.cumprod\.default in order of odd \(2x\)"):
        LOWERING.lower([captured], recipe(Scheme.FP32), TARGET, Path("unused"), Progress())


def test_asking_for_unsupported_operators_leaves_the_capture_whole(
    tmp_path: Path
) -> None:
    images = capture(captured_models()[2].entry)
    assert LOWERING.unsupported(images, recipe(Scheme.FP32)) == []
    sample, reference = images.references[0]
    again = images.program.module()(torch.from_numpy(sample["x"]))
    np.testing.assert_allclose(again.detach().numpy(), reference["logits"], rtol=1e-6)
    ran = export([images], Scheme.FP32, tmp_path).session().run("images", sample)
    np.testing.assert_allclose(ran["logits"], reference["logits"], rtol=1e-4, atol=1e-5)


def test_keep_float_keeps_modules_in_float() -> None:
    mlp = captured_models()[0].entry
    for scheme, patterns, layers in (
        (Scheme.INT8, ("up", "down", "g?te"), 1),
        (Scheme.INT4, ("table",), 3),
    ):
        captured = replace(captured_models()[0], entry=replace(mlp, keep_float=patterns))
        assert quantize(captured, recipe(scheme)).layers == layers


class Branches(nn.Module):
    """Only `joined` adds what convolutions computed, `beside` concatenates it; all else belongs in float."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(4, 4, 1)
        self.right = nn.Conv2d(4, 4, 1)
        self.beside = nn.Conv2d(8, 4, 1)
        self.scale = nn.Parameter(torch.ones(1, 4, 1, 1))

    def forward(self, x: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        left, right = self.left(x), torch.relu(self.right(x))
        joined = left + right + self.beside(torch.cat([left, right], 1))
        y = (joined * self.scale + 1e-3) * torch.sigmoid(joined)
        return torch.cat([y, x * self.scale], 1), count + 1


def test_static_int8_takes_what_joins_convolutions_and_leaves_numbers_alone() -> None:
    random = np.random.default_rng(0)
    sample = {"x": random.standard_normal((1, 4, 5, 5)).astype(np.float32), "count": np.arange(3)}
    entry = EntryPoint(
        name="b", module=Branches().eval(), outputs=("y", "n"), samples=[sample],
        inputs=(
            TensorSpec(name="x", dtype="float32", shape=(1, 4, 5, 5)),
            TensorSpec(name="count", dtype="int64", shape=(3,)),
        ),
    )  # fmt: skip
    quantized = quantize(capture(entry), recipe(Scheme.INT8))
    inputs = {
        str(node.target): [str(source.target) for source in node.all_input_nodes]
        for node in quantized.module.graph.nodes
        if node.op == "call_function" and not str(node.target).startswith("quantized")
    }
    def quantized_inputs(target: str) -> list[bool]:
        return [
            all("dequantize" in str(source.target) for source in node.all_input_nodes)
            for node in quantized.module.graph.nodes
            if str(node.target) == target
        ]

    assert quantized_inputs("aten.add.Tensor") == [True, True, False, False]
    assert quantized_inputs("aten.cat.default") == [True, False]
    assert "dequantize" not in inputs["aten.mul.Tensor"][1]
    y, count = quantized.module(*(torch.from_numpy(sample[name]) for name in ("x", "count")))
    assert count.dtype == torch.int64
    assert count.tolist() == [1, 2, 3]
    expected = entry.module(*(torch.from_numpy(sample[name]) for name in ("x", "count")))[0]
    assert torch.nn.functional.cosine_similarity(y.flatten(), expected.flatten(), 0) > 0.999


class Functional(nn.Module):
    """A layer without an nn.Linear, and one whose inputs do not divide into groups of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(40, 64) / 8)
        self.narrow = nn.Linear(40, 40)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.narrow(nn.functional.linear(x, self.weight))
        return y


def test_int4_notes_what_does_not_divide_and_keeps_axes_dynamic(tmp_path: Path) -> None:
    torch.manual_seed(0)
    captured = capture(entry_point("rows", Functional(), ("rows", 64), ("y",), sizes=(3, 1, 8)))
    made = export([captured], Scheme.INT4, tmp_path)
    (warning,) = made.lowered.notes.warnings
    assert "narrow (40 inputs)" in warning
    assert "rows" in warning
    session = made.session()
    for sample, reference in captured.references:
        (stat,) = compare_all([(reference, session.run("rows", sample))], DEFAULT_TOLERANCE[Scheme.INT4])
        assert stat.passed
        assert stat.relative > 1e-3


def test_group_sizes_and_models_that_cannot_be_quantized_are_refused() -> None:
    with pytest.raises(UsageError, match="groups of 48: choose a multiple of 32"):
        quantize(captured_models()[0], recipe(Scheme.INT4, group_size=48))
    conv = capture(entry_point("c", nn.Conv2d(3, 4, 3), (1, 3, 8, 8), ("y",)))
    with pytest.raises(UnsupportedError, match="int4 finds no layer"):
        LOWERING.lower([conv], recipe(Scheme.INT4), TARGET, Path("unused"), Progress())
