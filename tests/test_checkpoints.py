"""Checkpoints: what is read, and the sentence that each kind of bad file gets."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edge import checkpoints
from edge.errors import CheckpointError, ConfigError
from edge.families.relu2_mlp.config import Relu2MLPConfig

WEIGHTS = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1.0, -1.0])}


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoints.read(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_a_safetensors_file_with_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(WEIGHTS, file)
    found = checkpoints.read(file)
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert found.config is None
    module = checkpoints.fill(nn.Linear(3, 2), found)
    assert torch.equal(module.weight, WEIGHTS["weight"]) and torch.equal(module.bias, WEIGHTS["bias"])


def test_a_folder_with_its_config(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    found = checkpoints.read(tmp_path)
    assert found.config == tmp_path / "config.json"
    assert set(found.tensors) == {"weight", "bias"}


def test_shards_hash_by_name_and_content(tmp_path: Path) -> None:
    save_file({"weight": WEIGHTS["weight"]}, tmp_path / "a.safetensors")
    save_file({"bias": WEIGHTS["bias"]}, tmp_path / "b.safetensors")
    index = {"weight_map": {"weight": "a.safetensors", "bias": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = checkpoints.read(tmp_path)
    assert set(found.tensors) == {"weight", "bias"}
    save_file({"bias": WEIGHTS["bias"] + 1}, tmp_path / "b.safetensors")
    assert checkpoints.read(tmp_path).sha256 != found.sha256
    (tmp_path / "b.safetensors").unlink()
    assert "lacks 'b.safetensors'" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", ".."])
def test_shards_stay_beside_their_index(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"weight": name}}))
    assert "do not use this checkpoint" in refusal(tmp_path)


@pytest.mark.parametrize("nested", [False, True])
def test_torch_files_of_tensors_alone(tmp_path: Path, nested: bool) -> None:
    torch.save({"state_dict": WEIGHTS} if nested else WEIGHTS, tmp_path / "weights.pt")
    assert torch.equal(checkpoints.read(tmp_path / "weights.pt").tensors["bias"], WEIGHTS["bias"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({"weight": WEIGHTS["weight"].to(dtype)}, tmp_path / "half.safetensors")
    tensor = checkpoints.read(tmp_path / "half.safetensors").tensors["weight"]
    assert tensor.dtype == torch.float32 and torch.equal(tensor, WEIGHTS["weight"])


class Trap:
    """Unpickling this would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("name", ["evil.pt", "evil.pth", "evil.bin"])
def test_a_pickle_runs_nothing(tmp_path: Path, name: str) -> None:
    sprung = tmp_path / "sprung"
    (tmp_path / name).write_bytes(pickle.dumps({"weight": Trap(sprung)}))
    assert "save the model's state_dict as .safetensors" in refusal(tmp_path / name)
    torch.save({"weight": Trap(sprung)}, tmp_path / name)
    assert "save the model's state_dict as .safetensors" in refusal(tmp_path / name)
    assert not sprung.exists()


@pytest.mark.parametrize("keep", [0, 4, 20, 60, -1])
def test_truncated_files(tmp_path: Path, keep: int) -> None:
    save_file(WEIGHTS, tmp_path / "cut.safetensors")
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:keep])
    assert "not a whole safetensors file" in refusal(tmp_path / "cut.safetensors")
    torch.save(WEIGHTS, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:keep])
    assert "cut.pt" in refusal(tmp_path / "cut.pt")


def test_other_files_and_folders(tmp_path: Path) -> None:
    assert "there is no checkpoint" in refusal(tmp_path / "nothing.safetensors")
    assert "has no *.safetensors" in refusal(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"x")
    assert "not a checkpoint that edge reads" in refusal(tmp_path / "model.onnx")
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    assert "not a state_dict" in refusal(tmp_path / "epoch.pt")
    torch.save({}, tmp_path / "empty.pt")
    assert "holds no tensors" in refusal(tmp_path / "empty.pt")
    (tmp_path / "epoch.pt").unlink()
    (tmp_path / "empty.pt").unlink()
    save_file(WEIGHTS, tmp_path / "one.safetensors")
    save_file(WEIGHTS, tmp_path / "two.safetensors")
    assert "several weight files" in refusal(tmp_path)


def test_tensors_that_diverged(tmp_path: Path) -> None:
    save_file({"weight": torch.tensor([1.0, float("nan")])}, tmp_path / "nan.safetensors")
    assert "'weight'" in refusal(tmp_path / "nan.safetensors") and "NaN" in refusal(tmp_path / "nan.safetensors")


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"weight": WEIGHTS["weight"]}, "lacks the tensor 'bias'"),
        (WEIGHTS | {"scale": torch.ones(1)}, "has the tensor 'scale'"),
        (WEIGHTS | {"bias": torch.ones(3)}, "has shape [3] but the config asks for [2]"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, tensors: dict[str, torch.Tensor], said: str) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        checkpoints.fill(nn.Linear(3, 2), checkpoints.read(tmp_path))
    assert said in str(caught.value)


def test_seeded_weights_repeat_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = checkpoints.seeded(1, lambda: nn.Linear(3, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.weight, checkpoints.seeded(1, lambda: nn.Linear(3, 2)).weight)
    assert not torch.equal(first.weight, checkpoints.seeded(2, lambda: nn.Linear(3, 2)).weight)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"in_features": 64, "out_features": 10, "width": 8, "hidden": [16], "experts": 4}', "experts"),
        ('{"in_features": 64, "out_features": 10, "width": "8", "hidden": [16]}', "width"),
        ('{"in_features": 64, "out_features": 10, "width": 8, "hidden": []}', "hidden"),
        ('{"in_features": 64', "refused"),
    ],
)
def test_configs_that_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=said):
        checkpoints.read_config(tmp_path / "config.json", Relu2MLPConfig)
    with pytest.raises(ConfigError, match="cannot be read"):
        checkpoints.read_config(tmp_path / "nowhere.json", Relu2MLPConfig)
