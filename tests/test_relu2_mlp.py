"""relu2-mlp: what it computes, the demo's accuracy and zeros, and the task on a CSV."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from eager_session import EagerSession
from safetensors.torch import save_file

from edge import checkpoints
from edge.errors import CheckpointError, ConfigError, InputError, UsageError
from edge.families.base import Model, Source, find
from edge.families.relu2_mlp.config import Relu2MLPConfig
from edge.families.relu2_mlp.modules import Relu2, Relu2MLP
from edge.progress import Progress
from edge.tasks import TaskRequest

CONFIG = Relu2MLPConfig(in_features=5, out_features=3, width=4, hidden=(6, 8))


def load(source: Source | None = None) -> Model:
    family, variant = find("relu2-mlp")
    return family.load("relu2-mlp", variant, source or Source())


def by_hand(weights: dict[str, np.ndarray], x: np.ndarray, *, rms: bool, residual: bool) -> np.ndarray:
    def norm(value: np.ndarray, name: str) -> np.ndarray:
        if not rms:
            return value
        return value / np.sqrt(np.mean(value**2, axis=-1, keepdims=True) + 1e-6) * weights[f"{name}weight"]

    x = x @ weights["embed.weight"].T
    for block in range(2):
        hidden = np.maximum(norm(x, f"blocks.{block}.norm.") @ weights[f"blocks.{block}.up.weight"].T, 0) ** 2
        y = hidden @ weights[f"blocks.{block}.down.weight"].T
        x = x + y if residual else y
    return norm(x, "norm.") @ weights["head.weight"].T


@pytest.mark.parametrize("rms", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_the_module_against_its_formula(rms: bool, residual: bool) -> None:
    config = msgspec.structs.replace(CONFIG, norm="rms" if rms else "none", residual=residual)
    module = checkpoints.seeded(0, lambda: Relu2MLP(config))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.arange(parameter.numel()).reshape(parameter.shape).cos())
    weights = {name: value.double().numpy() for name, value in module.state_dict().items()}
    x = np.random.default_rng(0).standard_normal((7, 5))
    with torch.no_grad():
        found = module(torch.from_numpy(x).float()).numpy()
    np.testing.assert_allclose(found, by_hand(weights, x, rms=rms, residual=residual), rtol=2e-5, atol=2e-6)


def test_any_shape(tmp_path: Path) -> None:
    config = Relu2MLPConfig(
        in_features=12, out_features=12, width=12, hidden=(7, 20, 3), norm="none", bias=True, embed=False, head=False
    )
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(config))
    model = load(Source(config=tmp_path / "config.json", random_seed=4))
    module = model.entries[0].module
    assert [part.up.out_features for part in module.blocks] == [7, 20, 3]
    assert {name.split(".")[-2] for name, _ in module.named_parameters()} == {"up", "down"}
    assert model.random_seed == 4 and model.checkpoint_sha256 is None and model.metrics == ()
    assert len(model.report) == 3
    with pytest.raises(ConfigError, match="without embed"):
        msgspec.structs.replace(config, in_features=5)


def test_the_demo_meets_its_card() -> None:
    model = load()
    (metric,) = model.metrics
    session = EagerSession(model)
    accuracy = metric.evaluate(session.run)
    assert accuracy >= 0.97
    assert session.calls == 360
    assert f"accuracy: {accuracy:.2%}" in (checkpoints.demo_folder("relu2-mlp") / "CARD.md").read_text()
    assert list(model.report) == ["zeros/layer0", "zeros/layer1"]
    assert all(share > 0.7 for share in model.report.values())


def test_the_report_counts_zeros_of_the_samples() -> None:
    model = load()
    entry = model.entries[0]
    seen = []
    hook = next(part for part in entry.module.modules() if isinstance(part, Relu2)).register_forward_hook(
        lambda _part, _inputs, output: seen.append(output)
    )
    with torch.no_grad():
        for sample in entry.samples:
            entry.module(torch.from_numpy(sample["features"]))
    hook.remove()
    assert model.report["zeros/layer0"] == pytest.approx(float((torch.cat(seen) == 0).float().mean()), abs=1e-6)


def test_samples_and_calibration_are_different_images() -> None:
    entry = load().entries[0]
    samples = {sample["features"].tobytes() for sample in entry.samples}
    calibration = {sample["features"].tobytes() for sample in entry.calibration}
    assert len(samples) == 8 and len(calibration) == 128 and not samples & calibration


def test_a_checkpoint_of_ones_own(tmp_path: Path) -> None:
    save_file(checkpoints.seeded(7, lambda: Relu2MLP(CONFIG)).state_dict(), tmp_path / "mine.safetensors")
    with pytest.raises(CheckpointError, match="--config"):
        load(Source(checkpoint=tmp_path / "mine.safetensors"))
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(CONFIG))
    model = load(Source(checkpoint=tmp_path / "mine.safetensors"))
    assert list(model.config["hidden"]) == [6, 8]
    assert len(str(model.checkpoint_sha256)) == 64
    (tmp_path / "config.json").write_text(json.dumps(json.loads(msgspec.json.encode(CONFIG)) | {"width": 6}))
    with pytest.raises(CheckpointError, match=r"pass the config.json that belongs to it"):
        load(Source(checkpoint=tmp_path / "mine.safetensors"))
    with pytest.raises(UsageError, match="exclude each other"):
        load(Source(checkpoint=tmp_path, random_seed=1))


@pytest.fixture(scope="module")
def session() -> EagerSession:
    return EagerSession(load())


def test_classify_a_csv(tmp_path: Path, session: EagerSession) -> None:
    with np.load(checkpoints.demo_folder("relu2-mlp") / "samples.npz") as data:
        images, labels = data["test_images"][:20], data["test_labels"][:20]
    np.savetxt(tmp_path / "digits.csv", images, fmt="%d", delimiter=",")
    (task,) = find("relu2-mlp")[0].tasks().values()
    request = TaskRequest(csv=tmp_path / "digits.csv", output=tmp_path / "classes.csv")
    result = task.run(session, request, Progress())
    assert np.mean(np.array(result.values["classes"]) == labels) >= 0.9
    assert result.lines[0] == "20 rows classified" and result.written == (tmp_path / "classes.csv",)
    assert sum(int(line.split(": ")[1]) for line in result.lines[1:]) == 20
    listed = task.run(session, TaskRequest(csv=tmp_path / "digits.csv"), Progress()).lines
    assert len(listed) == 20 and listed[0].startswith(f"row 0: class {result.values['classes'][0]} (probability 0.")
    lines = (tmp_path / "classes.csv").read_text().splitlines()
    assert lines[0].endswith(",class,probability") and len(lines) == 21
    assert lines[1].split(",")[:64] == [str(value) for value in images[0]]
    assert 0.5 < float(lines[1].split(",")[-1]) <= 1


def test_what_classify_refuses(tmp_path: Path, session: EagerSession) -> None:
    (task,) = find("relu2-mlp")[0].tasks().values()
    (tmp_path / "narrow.csv").write_text("1,2,3\n4,5,6\n")
    with pytest.raises(InputError, match=r"takes 64 numbers a row but .* has 3"):
        task.run(session, TaskRequest(csv=tmp_path / "narrow.csv"), Progress())
    (tmp_path / "hole.csv").write_text("\n".join([",".join(["1"] * 64), ",".join(["1"] * 63 + [""])]))
    with pytest.raises(InputError, match="line 2, column '64' is missing"):
        task.run(session, TaskRequest(csv=tmp_path / "hole.csv"), Progress())
    with pytest.raises(InputError, match="--csv"):
        task.run(session, TaskRequest(), Progress())
