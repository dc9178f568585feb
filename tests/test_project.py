"""edge.toml: found upward, read strictly, paths relative to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge.cli.init import TEMPLATE
from edge.errors import ConfigError, UsageError
from edge.project import ModelPlan, bundle_path, find_project, read_project, refuse_collisions

ROOT = Path(__file__).parent.parent


def write(folder: Path, text: str) -> Path:
    path = folder / "edge.toml"
    path.write_text(text)
    return path


def test_the_nearest_one_above_is_found(tmp_path: Path) -> None:
    outer = write(tmp_path, "")
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert find_project(deep) == outer
    inner = write(tmp_path / "a", "")
    assert find_project(deep) == inner


def test_none_above_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The real folders above tmp_path may hold one: look from the root of the file system, which does not.
    with pytest.raises(UsageError, match=r"no edge.toml.*`edge init`"):
        find_project(Path("/"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make another user's file")
def test_another_users_project_above_is_not_trusted(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    os.chown(path, 12345, 12345)
    below = tmp_path / "below"
    below.mkdir()
    with pytest.raises(UsageError, match="belongs to another user"):
        find_project(below)
    assert find_project(tmp_path) == path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        target = "rpi4"
        [[model]]
        name = "tspulse"
        runtime = "tvm"
        scheme = "int8"
        checkpoint = "weights"
        config = "/etc/config.json"
        calibration = "data/c.npz"
        tune_trials = 8
        group_size = 64
        output = "out"
        [[model]]
        name = "my.module:factory"
        """,
    )
    project = read_project(path)
    assert project.target == "rpi4"
    first, second = project.models
    assert first == ModelPlan(
        name="tspulse",
        runtime="tvm",
        scheme="int8",
        checkpoint=tmp_path / "weights",
        config=Path("/etc/config.json"),
        calibration=tmp_path / "data/c.npz",
        tune_trials=8,
        group_size=64,
        output=tmp_path / "out",
    )
    assert second == ModelPlan(name="my.module:factory")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "missing required field `model`"),
        ("model = []", "lists no model"),
        ("[[model]]\nruntime = 'onnx'", "missing required field `name`"),
        ("[[model]]\nname = ''", "without a name"),
        ("[[model]]\nname = 'tspulse'\nquantize = 'int8'", r"unknown field `quantize`.*scheme, checkpoint"),
        ("targets = 'rpi'\n[[model]]\nname = 'tspulse'", "unknown field `targets`"),
        ("[[model]]\nname = 'tspulse'\ntune_trials = '8'", "Expected `int`"),
        ("[[model]]\nname = 'tspulse'\ntune_trials = -1", "negative"),
        ("[[model]]\nname = 'tspulse'\ncheckpoint = ''", "empty path for checkpoint"),
        ("[model]\nname = 'tspulse'", "Expected `array`"),
        ("[[model]\n", "not TOML"),
    ],
)
def test_what_does_not_follow_the_schema_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as refusal:
        read_project(write(tmp_path, text))
    assert "\n" not in str(refusal.value)


def test_an_unknown_scheme_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int8-dynamic"):
        read_project(write(tmp_path, "[[model]]\nname = 'tspulse'\nscheme = 'int7'"))


def test_bundles_are_named_after_model_and_target() -> None:
    assert bundle_path("tspulse", "rpi", None) == Path("tspulse-rpi.edge")
    assert bundle_path("tspulse", "rpi", Path("out")) == Path("out/tspulse-rpi.edge")
    assert bundle_path("tspulse", "rpi", Path("out/mine.edge")) == Path("out/mine.edge")
    assert bundle_path("package.module:factory", "cpu", None) == Path("factory-cpu.edge")


def test_two_exports_to_one_bundle_are_refused() -> None:
    plans = (ModelPlan(name="tspulse", runtime="onnx"), ModelPlan(name="tspulse", runtime="tvm"))
    with pytest.raises(UsageError, match=r"both 'tspulse' and 'tspulse' would be written to tspulse-rpi.edge"):
        refuse_collisions(plans, "rpi")
    refuse_collisions((plans[0], ModelPlan(name="tspulse", output=Path("tvm"))), "rpi")


def test_init_writes_what_export_reads(tmp_path: Path) -> None:
    project = read_project(write(tmp_path, TEMPLATE))
    assert project.target == "rpi"
    assert [plan.name for plan in project.models] == ["tspulse"]
    # Every commented key, put in force, is one that the reader knows.
    everything = TEMPLATE.replace("\n# [[model]]", "\n[[model]]")
    everything = "\n".join(line.removeprefix("# ") if " = " in line else line for line in everything.splitlines())
    first, second = read_project(write(tmp_path, everything)).models
    assert (first.runtime, first.scheme, first.tune_trials) == ("onnx", "int8-dynamic", 64)
    assert second.name == "relu2-mlp"


def test_the_repositorys_own_lists_the_demo_models() -> None:
    project = read_project(ROOT / "edge.toml")
    assert [plan.name for plan in project.models] == ["plm", "tspulse", "interformer", "fmvit", "relu2-mlp"]
