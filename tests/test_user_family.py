"""A user's own module: what it may say of itself, and what each mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.errors import EdgeError, InputError, UsageError
from edge.families.base import Source, find
from edge.families.user import FAMILY

MODULE = """
import torch
from torch import nn

class Two(nn.Module):
    example_inputs = (torch.ones(1, 3), torch.zeros(1, 3))
    output_names = ("total", "product")
    def forward(self, left, right):
        return left + right, left * right

class Many(nn.Module):
    dynamic_dims = {"x": {0: "batch"}}
    def example_inputs(self):
        return [{"x": torch.ones(2, 3)}, {"x": torch.zeros(2, 3)}]
    def forward(self, x):
        return x * 2

class Silent(nn.Module):
    def forward(self, x):
        return x

def not_a_module():
    return 3

def needs_an_argument(size):
    return nn.Linear(size, size)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "usermodels.py").write_text(MODULE)
    (tmp_path / "brokenmodel.py").write_text("import nothing_like_this\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(name: str, **source: object) -> object:
    return FAMILY.load(name, None, Source(**source))  # type: ignore[arg-type]


def test_a_colon_means_the_users_own_module() -> None:
    assert find("usermodels:Two") == (FAMILY, None)


def test_names_come_from_forward_and_from_the_module() -> None:
    entry = FAMILY.load("usermodels:Two", None, Source()).entries[0]
    assert [spec.name for spec in entry.inputs] == ["left", "right"]
    assert entry.outputs == ("total", "product")


def test_several_samples_and_a_dynamic_axis() -> None:
    entry = FAMILY.load("usermodels:Many", None, Source()).entries[0]
    assert len(entry.samples) == 2
    assert entry.inputs[0].shape == ("batch", 3)
    assert entry.outputs == ("output",)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("nowhere.at.all:Two", UsageError, "no Python module 'nowhere.at.all'"),
        ("brokenmodel:Two", UsageError, "imports 'nothing_like_this'"),
        ("usermodels:Missing", UsageError, "no function or class 'Missing'"),
        ("usermodels:not_a_module", UsageError, "returns int"),
        ("usermodels:needs_an_argument", UsageError, "must take no arguments"),
        ("usermodels:Silent", InputError, "does not say its example inputs"),
    ],
)
def test_each_mistake_is_told_apart(name: str, error: type[EdgeError], words: str) -> None:
    with pytest.raises(error, match=words):
        load(name)


def test_a_config_makes_no_sense_for_it(folder: Path) -> None:
    with pytest.raises(UsageError, match="takes no --config"):
        load("usermodels:Two", config=folder / "c.json")
