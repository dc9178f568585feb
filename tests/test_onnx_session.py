"""ONNX Runtime's session: bound calls, operator times, and what this installation cannot load."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx_case import captured_model, make

from edge.errors import BundleError, MissingDependencyError
from edge.manifest import Manifest
from edge.runtimes import onnx as runtime
from edge.runtimes.onnx import OnnxSession
from edge.spec import Scheme


def test_operators_of_a_run(tmp_path: Path) -> None:
    made = make(tmp_path, captured_model("mixer"), scheme=Scheme.INT8)
    record = made.session.manifest.entries[0]
    rows = made.session.operators(record, [captured_model("mixer").references[0][0]["x"]], runs=4)
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert all(row.calls_per_run == 1 and row.mean_us > 0 and row.provider == "CPUExecutionProvider" for row in rows)
    assert [row.start_us for row in rows] == sorted(row.start_us for row in rows) and rows[0].start_us >= 0
    modules = {row.module for row in rows if row.kind == "QGemm"}
    assert modules == {"inp", "head", *(f"blocks.{i}.{part}" for i in (0, 1) for part in ("up", "down", "gate"))}
    assert len({row.name for row in rows}) == len(rows)


def test_a_bound_call_repeats(tmp_path: Path) -> None:
    made = make(tmp_path, captured_model("clamped"), threads=2)
    record = made.session.manifest.entries[0]
    inputs, outputs = captured_model("clamped").references[0]
    call = made.session.bind(record, [inputs["x"].copy()])  # nothing else keeps the copy
    for _ in range(3):
        for name, value in zip(record.outputs, call(), strict=True):
            assert np.allclose(value, outputs[name.name], atol=1e-5)
            np.asarray(value)[:] = np.nan


@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT8_DYNAMIC])
def test_exact_kernels_where_eight_bits_would_saturate(
    scheme: Scheme, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path, captured_model("crossing"), scheme=scheme)  # one of its layers is used twice
    inputs = made.captured[0].references[0][0]
    expected = made.session.run("main", inputs)
    monkeypatch.setattr(runtime, "_saturates", lambda: True)
    found = OnnxSession(tmp_path, made.session.manifest, 1).run("main", inputs)
    assert all(np.allclose(found[name], expected[name], atol=1e-4) for name in expected)


def test_what_the_installation_cannot_load_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, captured_model("clamped"))
    manifest = made.session.manifest
    with pytest.raises(BundleError, match=r"for onnxruntime 9.1.2 \(opset 23, ir 10\) and 1\.\S+ is installed: run"):
        OnnxSession(tmp_path, written_by(manifest, "9.1.2"), 1)
    OnnxSession(tmp_path, written_by(manifest, "1.20.0"), 1)
    with pytest.raises(BundleError, match="names no version of onnxruntime but 'newest': export it again"):
        OnnxSession(tmp_path, written_by(manifest, "newest"), 1)
    made.lowered.files["main.onnx"].write_bytes(b"\x08\x0anot a graph")
    with pytest.raises(BundleError, match=r"cannot load 'main.onnx' \(.*\): export it again"):
        OnnxSession(tmp_path, manifest, 1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"needs onnxruntime, which is not installed: .*'edge\[onnx\]'"):
        OnnxSession(tmp_path, manifest, 1)


def written_by(manifest: Manifest, version: str) -> Manifest:
    return msgspec.structs.replace(manifest, runtime=msgspec.structs.replace(manifest.runtime, version=version))
