"""benchmarks/static.py: relu2-mlp's program beside ONNX Runtime, on bundles that other tests export too. Some 5 s."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from runners import exported

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "static.py"


@pytest.mark.skipif(sys.platform != "linux", reason="static programs are for Linux")
def test_a_program_beside_onnx_runtime(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, digits_bundle: Path) -> None:
    shutil.copytree(exported(tmp_path_factory, "relu2-mlp", "cpu", "static", "fp32"), tmp_path / "relu2-mlp-static.edge")
    shutil.copytree(digits_bundle, tmp_path / "relu2-mlp-onnx.edge")
    options = ["--quick", "--rounds", "2", "--peers", "onnxruntime-python,onnxruntime-session", "--folder", tmp_path, "--json", tmp_path / "rows.json"]
    ran = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    found = {(row["work"].partition(": ")[2], row["peer"]): row for row in rows}
    assert list(found) == [
        ("start until ready", "ONNX Runtime in Python"),
        ("start until ready", "ONNX Runtime, its session alone"),
        ("start until the first result", "ONNX Runtime in Python"),
        ("program and libraries", "ONNX Runtime in Python"),
        ("all that is loaded", "ONNX Runtime in Python"),
    ]
    assert all(row["ours"] > 0 and row["ratio"] == row["theirs"] / row["ours"] for row in rows)
    size, whole = (found[name, "ONNX Runtime in Python"] for name in ("program and libraries", "all that is loaded"))
    assert size["unit"] == "MB" and 0.2 < size["ours"] < 0.5 and size["theirs"] > 10
    assert 0.2 < whole["ours"] - size["ours"] < 0.4  # the weights
    assert found["start until ready", "ONNX Runtime in Python"]["ratio"] > 3


def test_a_model_that_is_not_there_is_named() -> None:
    ran = subprocess.run([sys.executable, SCRIPT, "--only", "bert"], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1 and "there is no 'bert' here" in ran.stderr
