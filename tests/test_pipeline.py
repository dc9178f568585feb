"""The export pipeline on small models of a user's own: what is packed, what is refused, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import edge
from edge import cli
from edge.bundle import open_bundle
from edge.errors import InputError, MismatchError, UnsupportedError, UsageError
from edge.export import payoff
from edge.export.pipeline import Exported, export
from edge.progress import Progress
from edge.runtimes.base import runtime_names

MODELS = '''
import torch
from torch import nn


def samples(count, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [{"x": torch.randn(1, width, generator=generator)} for _ in range(count)]


class Mlp(nn.Module):
    """Two linears and a norm: what every runtime takes."""
    example_inputs = samples(4, 64)
    output_names = ("logits",)

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(64, 128)
        self.norm = nn.LayerNorm(128)
        self.down = nn.Linear(128, 10)

    def forward(self, x):
        return self.down(torch.relu(self.norm(self.up(x))))


class Outlier(Mlp):
    """One hidden value a thousand times the others, dropped again after the middle layer: int8 keeps only that one."""
    def __init__(self):
        super().__init__()
        self.middle = nn.Linear(128, 128)
        with torch.no_grad():
            self.up.weight[0] = 0
            self.up.bias[0] = 3000.0
            self.middle.weight[:, 0] = 0

    def forward(self, x):
        return self.down(torch.tanh(self.middle(self.up(x))))


class Algebra(nn.Module):
    """Two operators that mobile runtimes lack, in two modules."""
    example_inputs = samples(1, 64)

    class Factor(nn.Module):
        def forward(self, x):
            square = x.reshape(8, 8)
            return torch.linalg.cholesky(square @ square.T + torch.eye(8))

    class Volume(nn.Module):
        def forward(self, x):
            return torch.linalg.det(x.reshape(8, 8)).reshape(1, 1)

    def __init__(self):
        super().__init__()
        self.factor = self.Factor()
        self.volume = self.Volume()

    def forward(self, x):
        return self.factor(x), self.volume(x)


class Branches(nn.Module):
    example_inputs = samples(1, 8)

    def forward(self, x):
        return x * 2 if x.sum() > 0 else x
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pipelinemodels.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "pipelinemodels", raising=False)
    return tmp_path


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("runtime", runtime_names())
@pytest.mark.parametrize("scheme", ["fp32", "int8"])
def test_exports_verifies_and_runs(runtime: str, scheme: str) -> None:
    exported = export("pipelinemodels:Mlp", target="cpu", runtime=runtime, quantize=scheme)
    assert exported.bundle.path == Path("Mlp-cpu.edge")
    manifest = open_bundle("Mlp-cpu.edge").manifest
    stages = {stage.stage: stage for stage in manifest.entries[0].stages}
    expected = {"exported", "lowered"} if scheme == "fp32" else {"exported", "quantized", "lowered", "lowering"}
    assert set(stages) == expected and all(stage.passed for stage in stages.values())
    inputs, outputs = exported.bundle.samples("forward")[0]
    found = edge.load("Mlp-cpu.edge").run("forward", inputs)
    bound = 1e-4 if scheme == "fp32" else 0.3
    assert np.abs(found["logits"] - outputs["logits"]).max() < bound
    assert (manifest.fp32_bytes is not None) == (scheme == "int8")
    if exported.payoff is not None:
        assert exported.payoff.bytes < exported.payoff.fp32_bytes


@pytest.mark.parametrize("runtime", runtime_names())
def test_the_same_inputs_give_the_same_bundle_byte_for_byte(folder: Path, runtime: str) -> None:
    first = export("pipelinemodels:Mlp", target="cpu", runtime=runtime, quantize="int8", output=folder / "a.edge")
    second = export("pipelinemodels:Mlp", target="cpu", runtime=runtime, quantize="int8", output=folder / "b.edge")
    assert contents(first.bundle.path) == contents(second.bundle.path)


def test_an_int8_that_ruins_a_layer_is_not_packed_and_the_layer_is_named(folder: Path) -> None:
    with pytest.raises(MismatchError, match="starting in middle") as caught:
        export("pipelinemodels:Outlier", target="cpu", runtime="onnx", quantize="int8")
    assert "quantized" in str(caught.value) and "\n" not in str(caught.value)
    assert not list(folder.glob("*.edge"))


def test_allow_mismatch_packs_it_and_says_so() -> None:
    exported = export("pipelinemodels:Outlier", target="cpu", runtime="onnx", quantize="int8", allow_mismatch=True)
    manifest = exported.bundle.manifest
    assert manifest.mismatch_allowed
    assert manifest.entries[0].first_error[0].module == "middle"
    assert any("is wrong after the stage" in warning for warning in exported.warnings)


def test_what_is_not_done_for_a_large_model_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The limit is set below a small model's weights."""
    monkeypatch.setattr(payoff, "LARGEST", 1000)
    sentence = "so its metric (accuracy) was not evaluated and it was not compared with fp32."
    assert cli.invoke(["export", "relu2-mlp", "--target", "cpu", "--runtime", "onnx", "--quantize", "int8-dynamic"]) == 0
    assert sentence in capsys.readouterr().out
    manifest = open_bundle("relu2-mlp-cpu.edge").manifest
    assert manifest.notes.warnings[-1].endswith(sentence) and manifest.metrics == () and manifest.fp32_bytes is None
    with pytest.raises(MismatchError, match="and the layers were not searched, since its weights take more than"):
        export("pipelinemodels:Outlier", target="cpu", runtime="onnx", quantize="int8")


@pytest.mark.parametrize("runtime", ["executorch", "tvm"])
def test_every_missing_operator_is_listed_at_once_with_its_module(folder: Path, runtime: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        export("pipelinemodels:Algebra", target="cpu", runtime=runtime, quantize="fp32")
    message = str(caught.value)
    assert "cholesky" in message and "factor" in message
    assert "det" in message and "volume" in message
    assert "\n" not in message and not list(folder.glob("*.edge"))


def test_data_dependent_control_flow_is_refused_in_one_sentence() -> None:
    with pytest.raises(UnsupportedError, match="cannot be captured") as caught:
        export("pipelinemodels:Branches", target="cpu", runtime="onnx", quantize="fp32")
    assert "\n" not in str(caught.value)


def test_a_scheme_the_runtime_lacks_names_those_it_has() -> None:
    with pytest.raises(UnsupportedError, match=r"tvm cannot do int4.*: choose one of .*fp32"):
        export("pipelinemodels:Mlp", target="cpu", runtime="tvm", quantize="int4")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"runtime": "tensorflow"}, "no runtime 'tensorflow'"),
        ({"quantize": "int3"}, "no scheme 'int3'"),
        ({"target": "toaster"}, "toaster"),
    ],
)
def test_unknown_names(options: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        export("pipelinemodels:Mlp", **{"target": "cpu", **options})


def test_calibration_changes_the_scales_and_is_recorded(folder: Path) -> None:
    plain = export("pipelinemodels:Mlp", target="cpu", runtime="onnx", quantize="int8", output=folder / "plain.edge")
    values = 5 * np.random.default_rng(0).standard_normal((16, 1, 64)).astype(np.float32)
    np.savez(folder / "mine.npz", x=values)
    mine = export(
        "pipelinemodels:Mlp", target="cpu", runtime="onnx", quantize="int8", calibration=folder / "mine.npz", output=folder / "mine.edge"
    )
    assert mine.bundle.manifest.recipe.calibration is not None
    artifact = mine.bundle.manifest.entries[0].artifact
    assert mine.bundle.file(artifact).read_bytes() != plain.bundle.file(artifact).read_bytes()


def test_calibration_for_no_input_of_the_model(folder: Path) -> None:
    np.savez(folder / "other.npz", pixels=np.zeros((1, 3), np.float32))
    with pytest.raises(UsageError, match="none of this model's inputs"):
        export("pipelinemodels:Mlp", target="cpu", runtime="onnx", quantize="int8", calibration=folder / "other.npz")


def test_bad_inputs_at_run_time_name_the_tensor() -> None:
    export("pipelinemodels:Mlp", target="cpu", runtime="onnx", quantize="fp32")
    session = edge.load("Mlp-cpu.edge")
    with pytest.raises(InputError, match=r"'x' has shape \[1, 3\] but must have \[1, 64\]"):
        session.run("forward", {"x": np.zeros((1, 3), np.float32)})
    with pytest.raises(InputError, match="float64 but must be float32"):
        session.run("forward", {"x": np.zeros((1, 64))})
    with pytest.raises(InputError, match="no input 'y'"):
        session.run("forward", {"y": np.zeros((1, 64), np.float32)})
    with pytest.raises(InputError, match="needs the input 'x'"):
        session.run("forward", {})


class Interrupted(Progress):
    """A user who presses Ctrl-C when a stage begins."""

    def __init__(self, at: str) -> None:
        self.at = at

    def stage(self, name: str) -> None:
        if name == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stage", ["lower", "verify", "pack"])
def test_an_interrupted_export_leaves_nothing(folder: Path, stage: str) -> None:
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(KeyboardInterrupt):
        export("pipelinemodels:Mlp", target="cpu", runtime="onnx", quantize="fp32", progress=Interrupted(stage))
    assert [name for name in sorted(path.name for path in folder.iterdir()) if name != "__pycache__"] == before


def test_the_verb_and_the_package_share_a_name() -> None:
    exported = edge.export("pipelinemodels:Mlp", target="cpu", runtime="onnx", quantize="fp32")
    assert isinstance(exported, Exported)
    assert json.loads((exported.bundle.path / "manifest.json").read_text())["model"] == "pipelinemodels:Mlp"
