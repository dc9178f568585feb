"""The command line on time series: the demo TSPulse's tasks on a CSV, its raw tensors, and series that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge import cli
from edge.bundle import open_bundle

POINTS = 560


def run_edge(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert cli.invoke([str(argument) for argument in arguments]) == status
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out, captured.err


@pytest.fixture
def sensor(tmp_path: Path) -> Path:
    """Two columns and a clock; the second column has a stuck stretch."""
    time = np.arange(POINTS)
    level = np.sin(time / 8)
    flow = np.cos(time / 11)
    flow[530:545] = 0.0
    lines = [f"{t},{a:.5f},{b:.5f}" for t, a, b in zip(time, level, flow, strict=True)]
    path = tmp_path / "sensor.csv"
    path.write_text("\n".join(["time,level,flow", *lines]) + "\n")
    return path


def test_anomaly_writes_scores_and_a_plot(
    capsys: pytest.CaptureFixture[str], series_bundle: Path, sensor: Path, tmp_path: Path
) -> None:
    scores, plot = tmp_path / "scores.csv", tmp_path / "out.png"
    flags = ("--task", "anomaly", "--csv", sensor, "--columns", "flow", "--mode", "time,forecast", "--top", 2)
    out, _ = run_edge(capsys, "run", series_bundle, *flags, "-o", scores, "--plot", plot)
    assert f"{POINTS} points scored by time, forecast" in out
    assert f"wrote {scores}" in out and f"wrote {plot}" in out
    header, *rows = scores.read_text().splitlines()
    assert header == "time,level,flow,anomaly_score"
    assert len(rows) == POINTS
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_impute_fills_the_holes_and_keeps_the_rest(
    capsys: pytest.CaptureFixture[str], series_bundle: Path, sensor: Path, tmp_path: Path
) -> None:
    lines = sensor.read_text().splitlines()
    lines[301] = "300,,0.5"
    holes = tmp_path / "holes.csv"
    holes.write_text("\n".join(lines) + "\n")
    filled = tmp_path / "filled.csv"
    out, _ = run_edge(capsys, "run", series_bundle, "--task", "impute", "--csv", holes, "-o", filled, "--json")
    assert json.loads(out)["task"] == "impute"
    written = filled.read_text().splitlines()
    assert written[:301] == lines[:301]
    clock, level, flow = written[301].split(",")
    assert (clock, flow) == ("300", "0.5")
    assert -1.5 < float(level) < 1.5


def test_raw_tensors_through_a_named_entry_point(
    capsys: pytest.CaptureFixture[str], series_bundle: Path, tmp_path: Path
) -> None:
    inputs, expected = open_bundle(series_bundle).samples("reconstruct")[0]
    np.savez(tmp_path / "in.npz", **inputs)  # type: ignore[arg-type]
    flags = ("--npz", tmp_path / "in.npz", "--entry", "reconstruct", "-o", tmp_path / "out.npz")
    run_edge(capsys, "run", series_bundle, *flags)
    with np.load(tmp_path / "out.npz") as written:
        assert set(written.files) == set(expected)
    _, err = run_edge(capsys, "run", series_bundle, "--npz", tmp_path / "in.npz", status=2)
    assert "which entry point? Give --entry: reconstruct, impute" in err


def test_a_task_must_be_named_when_there_are_several(capsys: pytest.CaptureFixture[str], series_bundle: Path) -> None:
    _, err = run_edge(capsys, "run", series_bundle, "--csv", "x.csv", status=2)
    assert "Give --task: anomaly, impute, search (or --npz" in err


def test_series_that_do_not_fit(
    capsys: pytest.CaptureFixture[str], series_bundle: Path, sensor: Path, tmp_path: Path
) -> None:
    lines = sensor.read_text().splitlines()
    spoiled = {
        "short": (lines[:100], "512"),
        "text": ([*lines[:50], "49,broken,0.5", *lines[51:]], "broken"),
        "nan": ([*lines[:50], "49,NaN,0.5", *lines[51:]], "impute"),
        "infinite": ([*lines[:50], "49,inf,0.5", *lines[51:]], "inf"),
        "ragged": ([*lines[:50], "49,0.5", *lines[51:]], "line 51"),
        "empty": ([], "empty.csv"),
    }
    for name, (content, hint) in spoiled.items():
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join(content) + "\n" if content else "")
        out, err = run_edge(
            capsys, "run", series_bundle, "--task", "anomaly", "--csv", path, "-o", tmp_path / "scores.csv", status=2
        )
        sentence = err.splitlines()[-1]
        assert out == ""
        assert sentence.startswith("edge: ") and hint in sentence and "unforeseen" not in sentence, (name, sentence)
    assert not (tmp_path / "scores.csv").exists()
