"""Every script in examples/ runs and prints what it promises (examples/train/ has its own tests)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"


def run(name: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What ``examples/NAME.py FOLDER`` prints."""
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(folder)
    return capsys.readouterr().out


def test_every_example_is_tried_here() -> None:
    tried = {name.removeprefix("test_") for name in globals() if name.startswith("test_")} - {
        "every_example_is_tried_here"
    }
    assert {path.stem for path in FOLDER.glob("*.py")} == tried


def test_quickstart(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = run("quickstart", tmp_path, capsys, monkeypatch)
    assert "classify: as PyTorch computes it, 8 samples" in out
    assert "this is a 0, and it was written as a 0" in out
    assert (tmp_path / "relu2-mlp-cpu.edge" / "manifest.json").is_file()


def test_own_model(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = run("own_model", tmp_path, capsys, monkeypatch)
    assert "[0.  0.2 0.2 0.2 0.2 0.2 0. ]" in out


def test_anomalies(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = run("anomalies", tmp_path, capsys, monkeypatch)
    assert "640 points scored by time, fft, forecast" in out
    header, *rows = (tmp_path / "scores.csv").read_text().splitlines()
    assert header == "level,anomaly_score"
    assert len(rows) == 640
    assert all(0 <= float(row.split(",")[1]) <= 1 for row in rows)


def test_compare_runtimes(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    header, *rows = run("compare_runtimes", tmp_path, capsys, monkeypatch).splitlines()
    assert header.split()[:4] == ["runtime", "scheme", "kB", "accuracy"]
    figures = {tuple(row.split()[:2]): [float(cell) for cell in row.split()[2:]] for row in rows}
    assert len(figures) == 4
    assert figures["onnx", "int8"][0] < figures["onnx", "fp32"][0] / 2
    assert all(accuracy > 0.97 and 0 < p50 <= p99 for _, accuracy, p50, p99 in figures.values())
