"""The command line at work on the demo relu2-mlp: what each command prints and writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edge import cli
from edge.bundle import open_bundle

FACTORY = """
import torch

class Double(torch.nn.Module):
    example_inputs = (torch.ones(1, 4),)
    def forward(self, x):
        return x * 2

def make():
    print("a factory that talks")  # must not get into --json
    return Double()
"""


def run_edge(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> tuple[str, str]:
    """What ``arguments`` print on stdout and stderr."""
    capsys.readouterr()
    assert cli.invoke([str(argument) for argument in arguments]) == status
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out, captured.err


def test_export_sums_up_in_a_table_and_in_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out, err = run_edge(capsys, "export", "relu2-mlp", "--target", "cpu", "--runtime", "onnx", "--quantize", "int8")
    header, row = out.splitlines()[:2]
    assert header.split()[:5] == ["model", "bundle", "lowered", "to", "size"]
    assert row.split()[:4] == ["relu2-mlp", "relu2-mlp-cpu.edge", "onnx", "int8"]
    assert "smaller" in row and "accuracy 0.9" in row
    assert "edge: capture" in err and "edge: pack" in err

    out, _ = run_edge(
        capsys,
        "export",
        "relu2-mlp",
        "--target",
        "cpu",
        "--runtime",
        "onnx",
        "--quantize",
        "int8",
        "-o",
        "again",
        "--json",
    )
    (result,) = json.loads(out)
    assert result["bundle"] == "again/relu2-mlp-cpu.edge"
    assert result["error"] is None
    assert 0 < result["bytes"] < result["fp32_bytes"]
    assert result["worst_cosine"] > 0.98
    bundles = [tmp_path / "relu2-mlp-cpu.edge", tmp_path / "again" / "relu2-mlp-cpu.edge"]
    assert open_bundle(bundles[0]).manifest.files == open_bundle(bundles[1]).manifest.files


def test_a_project_goes_on_after_a_failure(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edge.toml").write_text(
        """
        target = "cpu"
        [[model]]
        name = "relu2-mlp"
        checkpoint = "gone"
        runtime = "onnx"
        [[model]]
        name = "double:make"
        runtime = "onnx"
        scheme = "fp32"
        output = "out"
        """
    )
    # The factory lies beside edge.toml, and the command is given further down.
    (tmp_path / "double.py").write_text(FACTORY)
    below = tmp_path / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    out, err = run_edge(capsys, "export", status=2)
    assert err.splitlines()[-1] == "edge: 1 of 2 models failed (relu2-mlp): the reasons are above."
    assert "edge: relu2-mlp: warning: failed: there is no checkpoint at" in err
    assert "relu2-mlp failed: there is no checkpoint at" in out
    assert open_bundle(tmp_path / "out" / "make-cpu.edge").manifest.recipe.scheme == "fp32"
    assert list(below.iterdir()) == []

    out, _ = run_edge(capsys, "export", "--json", status=2)
    failed, made = json.loads(out)
    assert (failed["model"], failed["bundle"]) == ("relu2-mlp", None)
    assert "there is no checkpoint" in failed["error"]
    assert made["bundle"] == str(tmp_path / "out" / "make-cpu.edge")


def test_flags_override_the_project(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edge.toml").write_text(
        "target = 'rpi'\n[[model]]\nname = 'relu2-mlp'\nruntime = 'tvm'\nscheme = 'int8'\n"
    )
    monkeypatch.chdir(tmp_path)
    flags = ("--target", "cpu", "--runtime", "onnx", "--quantize", "fp32", "--tune-trials", 8, "-o", "mine.edge")
    _, err = run_edge(capsys, "export", *flags)
    assert "edge: relu2-mlp: warning: tuning trials are for tvm" in err
    manifest = open_bundle(tmp_path / "mine.edge").manifest
    assert (manifest.target.name, manifest.runtime.name, manifest.recipe.scheme) == ("cpu", "onnx", "fp32")
    assert manifest.recipe.tune_trials == 0


def test_a_profile_of_ones_own_is_a_target(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bench.toml").write_text('same_as = "cpu"\nram_mb = 512\n')
    run_edge(capsys, "export", "relu2-mlp", "--target", "./bench.toml", "--runtime", "onnx")
    assert open_bundle(tmp_path / "relu2-mlp-bench.edge").manifest.target.ram_mb == 512


def test_verify_prints_a_row_for_each_output(capsys: pytest.CaptureFixture[str], digits_bundle: Path) -> None:
    out, _ = run_edge(capsys, "verify", digits_bundle, "--threads", 1)
    assert "logits" in out and "pass" in out
    out, _ = run_edge(capsys, "verify", digits_bundle, "--json")
    (check,) = json.loads(out)
    assert check["entry"] == "classify"
    assert all(output["passed"] for output in check["outputs"])


def test_run_tensors(capsys: pytest.CaptureFixture[str], digits_bundle: Path, tmp_path: Path) -> None:
    inputs, expected = open_bundle(digits_bundle).samples("classify")[0]
    np.savez(tmp_path / "in.npz", **inputs)
    out, _ = run_edge(capsys, "run", digits_bundle, "--npz", tmp_path / "in.npz", "-o", tmp_path / "out.npz")
    assert "logits" in out and f"wrote {tmp_path / 'out.npz'}" in out
    with np.load(tmp_path / "out.npz") as written:
        assert written.files == ["logits"]
        np.testing.assert_allclose(written["logits"], expected["logits"], rtol=1e-4, atol=1e-4)
    out, _ = run_edge(capsys, "run", digits_bundle, "--npz", tmp_path / "in.npz", "--entry", "classify", "--json")
    assert json.loads(out)["outputs"]["logits"] == {"dtype": "float32", "shape": [1, 10]}


def test_run_the_task_on_a_csv(capsys: pytest.CaptureFixture[str], digits_bundle: Path, tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    np.savetxt(
        tmp_path / "digits.csv", images[-20:], delimiter=",", header=",".join(f"p{i}" for i in range(64)), comments=""
    )
    out, _ = run_edge(
        capsys, "run", digits_bundle, "--csv", tmp_path / "digits.csv", "-o", tmp_path / "classes.csv", "--json"
    )
    assert json.loads(out)["task"] == "classify"
    written = (tmp_path / "classes.csv").read_text().splitlines()
    assert len(written) == 21
    right = sum(str(label) in line.split(",") for label, line in zip(labels[-20:], written[1:], strict=True))
    assert right >= 18


def test_profile_writes_its_three_files(
    capsys: pytest.CaptureFixture[str], digits_bundle: Path, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("p.json", "t.json", "p.html")]
    flags = ("--runs", 5, "--seconds", 0, "--threads", 1)
    out, _ = run_edge(
        capsys, "profile", digits_bundle, *flags, "--json", files[0], "--trace", files[1], "--html", files[2]
    )
    assert "p50" in out
    assert all(f"wrote {path}" in out for path in files)
    assert json.loads(files[0].read_text())["settings"]["threads"] == 1
    assert json.loads(files[1].read_text())["traceEvents"]
    assert "</html>" in files[2].read_text()
    out, _ = run_edge(capsys, "compare", files[0], files[0])
    assert "classify" in out


def test_profile_to_stdout_is_json_alone(
    capsys: pytest.CaptureFixture[str], digits_bundle: Path, tmp_path: Path
) -> None:
    out, _ = run_edge(
        capsys, "profile", digits_bundle, "--runs", 5, "--seconds", 0, "--json", "-", "--html", tmp_path / "p.html"
    )
    assert json.loads(out)["bundle"]["runtime"] == "onnx"
    assert (tmp_path / "p.html").is_file()


def test_ctrl_c_while_tuning_leaves_nothing(tmp_path: Path) -> None:
    code = "from edge.cli import main; main()"
    flags = [
        "--target",
        "cpu",
        "--runtime",
        "tvm",
        "--quantize",
        "fp32",
        "--tune-trials",
        "100000",
        "-o",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "export", "relu2-mlp", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        start_new_session=True,  # as a terminal does it, the signal goes to the whole group of processes
    )
    (tmp_path / "tmp").mkdir()
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("edge: tune 0/"):
            break
    time.sleep(2)  # so that candidates are being built and measured
    os.killpg(process.pid, signal.SIGINT)
    rest = process.stderr.read()
    process.communicate(timeout=60)
    assert process.returncode == 130, "".join(said) + rest
    assert rest.splitlines()[-1] == "edge: interrupted; nothing was left half done."
    assert "Traceback" not in rest
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "tmp").glob("edge-*")) == []
