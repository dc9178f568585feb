"""ONNX Runtime: every scheme from a module to running operators, one file of weights, and what is refused."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_case import TARGET, Block, Convolutional, Mixer, captured_model, make, make_entry
from torch import nn

from edge.bundle import sha256_file
from edge.errors import InputError, UnsupportedError
from edge.errorstats import compare_all
from edge.export.capture import capture
from edge.export.onnx import LOWERING, OnnxLowering
from edge.export.onnx_graph import in_modules, module_of
from edge.families.base import EntryPoint
from edge.progress import Progress
from edge.spec import DEFAULT_TOLERANCE, DynamicDim, Recipe, Scheme, TensorSpec

INTEGER = {Scheme.INT8: "QGemm", Scheme.INT8_DYNAMIC: "DynamicQuantizeMatMul", Scheme.INT4: "MatMulNBits"}

@pytest.mark.parametrize("scheme", LOWERING.schemes)
@pytest.mark.parametrize("model", ["mixer", "convolutional", "clamped"])
def test_every_scheme_computes_what_eager_does(model: str, scheme: Scheme, tmp_path: Path) -> None:
    captured = captured_model(model)
    made = make(tmp_path, captured, scheme=scheme)
    stats = made.errors()
    assert all(stat.passed for stat in stats), stats
    # Far closer than the defaults, which are for deep models: a residual that went through int8 would show here.
    bound = {Scheme.FP32: 1e-5, Scheme.FP16: 5e-3, Scheme.INT4: 0.7}.get(scheme, 0.1)
    assert max(stat.relative for stat in stats) < bound, stats
    graph = made.graph()
    assert [value.name for value in graph.input] == ["x"]
    assert [value.name for value in graph.output] == list(captured.entry.outputs)
    if scheme in (Scheme.FP32, Scheme.FP16):
        assert made.lowered.quantized is None
    else:
        assert made.lowered.quantized is not None
        inputs, outputs = captured.references[0]
        unfused = compare_all([(outputs, made.lowered.quantized["main"](inputs))], DEFAULT_TOLERANCE[scheme])
        assert all(stat.passed for stat in unfused)


@pytest.mark.parametrize(("scheme", "kind"), [(Scheme.FP32, "Gemm"), *INTEGER.items()])
def test_every_linear_layer_runs_in_one_operator_of_the_scheme(scheme: Scheme, kind: str, tmp_path: Path) -> None:
    kinds = make(tmp_path, captured_model("mixer"), scheme=scheme).kinds()
    assert kinds[kind] == Mixer.linears
    assert kinds["LayerNormalization"] == kinds["Gelu"] == kinds["Softmax"] == 2
    assert "DequantizeLinear" not in kinds and "MatMul" not in kinds
    # Rows are flattened once for the whole model, apart from a Reshape per result that int8 reads beside float32.
    assert kinds["Reshape"] <= (5 if scheme == Scheme.INT8 else 3)


def test_int8_convolutions_stay_in_eight_bits_between_them(tmp_path: Path) -> None:
    kinds = make(tmp_path, captured_model("convolutional"), scheme=Scheme.INT8).kinds()
    assert kinds["QLinearConv"] == Convolutional.convolutions and kinds["QGemm"] == 1 and kinds["Conv"] == 0
    assert kinds["QLinearAdd"] == 1  # the first block's sum; the second's is read by a float32 mean


@pytest.mark.parametrize(("channels", "groups", "left"), [(96, 6, 3), (48, 3, 3), (32, 2, 1), (40, 10, 2), (24, 24, 24)])
def test_int8_widens_narrow_groups(channels: int, groups: int, left: int, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, groups=groups), nn.ReLU(), nn.Flatten())
    made = make(tmp_path, capture(make_entry(model, 1, channels, 5, 5)), scheme=Scheme.INT8)
    assert max(stat.relative for stat in made.errors()) < 0.1
    (convolution,) = [node for node in made.graph().node if node.op_type == "Conv"]
    assert {attribute.name: attribute.i for attribute in convolution.attribute}["group"] == left
    assert made.kinds()["QLinearConv"] == 1


def test_dynamic_int8_leaves_convolutions_and_says_so(tmp_path: Path) -> None:
    made = make(tmp_path, captured_model("convolutional"), scheme=Scheme.INT8_DYNAMIC)
    assert made.kinds()["Conv"] == Convolutional.convolutions
    (sentence,) = made.lowered.notes.warnings
    assert "5 convolution(s) stay float32" in sentence


def test_the_same_inputs_give_the_same_bytes_and_tell_nothing_of_the_machine(tmp_path: Path) -> None:
    again = OnnxLowering()  # which exports anew
    for scheme in LOWERING.schemes:
        recipe = Recipe(runtime="onnx", scheme=scheme)
        hashes = []
        for index in range(2):
            workdir = tmp_path / f"{scheme.value}-{index}"
            workdir.mkdir()
            lowering = (LOWERING, again)[index]
            lowered = lowering.lower([captured_model("clamped")], recipe, TARGET, workdir, Progress())
            hashes.append({name: sha256_file(path) for name, path in lowered.files.items()})
            text = lowered.files["main.onnx"].read_bytes()
            assert str(Path.cwd()).encode() not in text and b".py" not in text and b"pkg.torch" not in text
        assert hashes[0] == hashes[1], scheme


def test_entry_points_share_their_weights(tmp_path: Path) -> None:
    body = Block(32)
    entries = [capture(make_entry(nn.Sequential(body), 1, rows, 32, name=name)) for name, rows in (("a", 4), ("b", 9))]
    made = make(tmp_path, *entries)
    matrices = sum(p.numel() * 4 for p in body.parameters() if p.dim() == 2)
    weights = made.lowered.files["weights.bin"].stat().st_size
    assert matrices <= weights < matrices + 64 * 8
    assert set(made.lowered.files) == {"a.onnx", "b.onnx", "weights.bin"}
    assert all(stat.passed for index in (0, 1) for stat in made.errors(index))


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    sizes = []
    for scheme in (Scheme.FP32, Scheme.FP16):
        made = make(tmp_path / scheme.value, captured_model("mixer"), scheme=scheme)
        sizes.append(made.lowered.files["weights.bin"].stat().st_size)
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.05)
    assert "Cast" not in made.kinds()  # widened once, on loading


def test_kept_modules_stay_float(tmp_path: Path) -> None:
    captured = captured_model("mixer")
    captured = replace(captured, entry=replace(captured.entry, keep_float=("inp", "blocks.*")))
    for scheme, kind in INTEGER.items():
        kinds = make(tmp_path / scheme.value, captured, scheme=scheme).kinds()
        assert kinds[kind] == 1 and kinds["Gemm"] == Mixer.linears - 1


def test_patterns_name_a_submodule_with_all_that_is_in_it() -> None:
    assert module_of("blocks.0.up/linear_1.1/MatMulAddFusion") == "blocks.0.up" and module_of("token_3") == ""
    assert in_modules("blocks.0.up/linear_1", ("blocks.0",)) and in_modules("blocks.0.up/linear_1", ("*.up",))
    assert not in_modules("blocks.0.up/linear_1", ("block", "up")) and not in_modules("/add", ("scale",))


@pytest.mark.parametrize("group", [16, 128])
def test_int4_takes_any_width(group: int, tmp_path: Path) -> None:
    captured = capture(make_entry(nn.Sequential(nn.Linear(138, 24), nn.Linear(24, 7)), 5, 138))
    made = make(tmp_path, captured, scheme=Scheme.INT4, group=group)
    (stat,) = made.errors()
    assert stat.passed and stat.relative > 1e-3
    assert made.kinds()["MatMulNBits"] == 2
    with pytest.raises(UnsupportedError, match="no int4 groups of 20 weights: choose one of 16, 32"):
        make(tmp_path, captured, scheme=Scheme.INT4, group=20)


@pytest.mark.parametrize("scheme", [Scheme.FP32, Scheme.INT8])
def test_rows_are_flattened_around_what_works_across_them(scheme: Scheme, tmp_path: Path) -> None:
    made = make(tmp_path, captured_model("crossing"), scheme=scheme)
    assert max(stat.relative for stat in made.errors()) < (1e-5 if scheme == Scheme.FP32 else 0.1)
    assert sum(kind in ("Gemm", "FusedGemm", "QGemm") for kind in made.kinds().elements()) == 3
    assert len(made.lowered.notes.warnings) == (scheme == Scheme.INT8)  # the product from the left


def test_dynamic_sizes_keep_their_names(tmp_path: Path) -> None:
    entry = make_entry(nn.Sequential(Block(16)), 3, 4, 16)
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", 4, 16))
    dynamic = (DynamicDim(input="x", axis=0, name="batch", max=64),)
    captured = capture(replace(entry, inputs=(spec,), dynamic=dynamic))
    for scheme in (Scheme.FP32, Scheme.INT8):
        made = make(tmp_path / scheme.value, captured, scheme=scheme)
        assert made.graph().input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
        for batch in (1, 7):
            x = np.random.default_rng(batch).standard_normal((batch, 4, 16), dtype=np.float32)
            expected = entry.module(torch.from_numpy(x)).detach().numpy()
            (stat,) = compare_all([({"y": expected}, made.session.run("main", {"x": x}))], DEFAULT_TOLERANCE[scheme])
            assert stat.passed and stat.relative < 0.1


class Awkward(nn.Module):
    """An input returned as it is, an output twice, a constant, an input not used; integers and booleans."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(12.0).reshape(4, 3))

    def forward(self, index: torch.Tensor, mask: torch.Tensor, unused: torch.Tensor) -> tuple[torch.Tensor, ...]:
        picked = self.table[index] * mask.unsqueeze(-1).float()
        return picked, picked, index, self.table, mask.any(1), index + 1


def test_awkward_inputs_and_outputs(tmp_path: Path) -> None:
    inputs = (
        TensorSpec(name="table", dtype="int64", shape=(2, 5)),
        TensorSpec(name="mask", dtype="bool", shape=(2, 5)),
        TensorSpec(name="unused", dtype="float32", shape=(1,), fill=1.0),
    )
    generator = np.random.default_rng(0)
    sample = {"table": generator.integers(0, 4, (2, 5)), "mask": generator.random((2, 5)) > 0.5}
    outputs = ("picked", "again", "index", "constant", "any", "next")
    captured = capture(EntryPoint("main", Awkward(), inputs, outputs, samples=[sample]))
    made = make(tmp_path, captured)
    found = made.session.run("main", sample)
    for name, expected in captured.references[0][1].items():
        assert found[name].dtype == expected.dtype and np.array_equal(found[name], expected), name


def test_every_unsupported_operator_is_listed_with_its_module() -> None:
    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.AdaptiveMaxPool2d(3), nn.AdaptiveMaxPool2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x)).flatten(1).cummax(1).values

    captured = capture(make_entry(Pool(), 1, 2, 8, 8))
    recipe = Recipe(runtime="onnx", scheme=Scheme.FP32)
    found = {(lack.operator, lack.module, lack.count) for lack in LOWERING.unsupported(captured, recipe)}
    pool = "aten.adaptive_max_pool2d.default"
    assert found == {(pool, "first", 1), (pool, "second", 1), ("aten.cummax.default", "", 1)}


@pytest.mark.parametrize("model", ["mixer", "convolutional"])
def test_a_supported_model_lacks_nothing(model: str) -> None:
    assert LOWERING.unsupported(captured_model(model), Recipe(runtime="onnx", scheme=Scheme.FP32)) == []


def test_state_in_place_is_refused(tmp_path: Path) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.total.add_(x)
            return self.total * 2

    with pytest.raises(UnsupportedError, match="changes 'total' in place, which an ONNX graph cannot: take it as"):
        make(tmp_path, capture(make_entry(Counting(), 3)))


def test_int8_without_calibration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="int8 needs calibration samples and entry point 'main' has none: pass --cal"):
        make(tmp_path, replace(captured_model("clamped"), calibration=()), scheme=Scheme.INT8)


def test_the_quantizers_leave_logging_alone(tmp_path: Path) -> None:
    before = (list(logging.root.handlers), logging.root.level, logging.root.manager.disable)
    make(tmp_path, captured_model("clamped"), scheme=Scheme.INT4)
    assert (list(logging.root.handlers), logging.root.level, logging.root.manager.disable) == before
