"""benchmarks/matrix.py: a cell that works, one that cannot be, one that takes too long, and going on from a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "benchmarks"


def matrix(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "matrix.py"), "--quick", "--json", str(folder / "cells.json"), *options]
    environment = os.environ | {"EDGE_CACHE": str(folder / "cache")}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)


def test_a_cell_and_one_that_cannot_be(tmp_path: Path) -> None:
    options = ("--only", "relu2-mlp", "--runtime", "onnx,executorch", "--scheme", "fp16")
    ran = matrix(tmp_path, *options, "--markdown", str(tmp_path / "table.md"))
    assert ran.returncode == 0, ran.stderr
    refused, made = json.loads((tmp_path / "cells.json").read_text())
    assert made["work"] == "relu2-mlp" and made["variant"] == "onnx fp16" and made["exported"]
    assert made["worst_relative"] < 0.05 and made["worst_cosine"] > 0.999
    assert made["metrics"][0]["name"] == "accuracy" and made["metrics"][0]["bundle"] > 0.97
    assert 0 < made["p50_ms"]["1"]["classify"] < 1000
    assert 100_000 < made["bytes"] < 400_000 and made["rss_bytes"] > 30e6
    assert not refused["exported"] and refused["reason"].startswith("executorch cannot do fp16")
    table = (tmp_path / "table.md").read_text()
    assert ran.stdout.strip() == table.strip()
    assert "**relu2-mlp**" in table and "| onnx | fp16 |" in table
    assert "| executorch | fp16 | not exported: executorch cannot do fp16" in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1

    again = matrix(tmp_path, *options)
    assert again.stderr.count("known") == 2 and again.stdout.strip() == table.strip()


def test_a_cell_that_takes_too_long_is_tried_again(tmp_path: Path) -> None:
    options = ("--only", "relu2-mlp", "--runtime", "onnx", "--scheme", "fp32")
    ran = matrix(tmp_path, *options, "--timeout", "0.1")
    assert ran.returncode == 0 and "not exported: it took more than 0.1 s." in ran.stdout
    (row,) = json.loads((tmp_path / "cells.json").read_text())
    assert row["broken"] and not row["exported"]
    assert "known" not in matrix(tmp_path, *options, "--timeout", "0.1").stderr


def test_what_there_is_not_is_named(tmp_path: Path) -> None:
    for option, word in (("--only", "plmm"), ("--runtime", "tensorrt"), ("--scheme", "int3")):
        ran = matrix(tmp_path, option, word)
        assert ran.returncode == 1 and f"there is no '{word}'" in ran.stderr
