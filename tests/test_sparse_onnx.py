"""Bundles for ONNX Runtime whose nodes are edge's own kernels, taken in from their library."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from test_sparse import CONFIG

from edge import api
from edge.errors import BundleError, InputError
from edge.export import payoff
from edge.export.pipeline import Exported, export
from edge.families.plm.decoder import session_decoder
from edge.runtimes import kernels
from edge.runtimes.kernels import build
from edge.runtimes.kernels.binding import ABI
from edge.runtimes.onnx import OnnxSession


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("sparse-onnx")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return export(
        "plm", target="cpu", runtime="onnx", quantize="int4", sparse="on", config=folder / "config.json", random_weights=5,
        context=80, output=folder,
    )  # fmt: skip


def test_plm_computes_what_its_form_does_in_torch(made: Exported) -> None:
    """Which is what ExecuTorch's form computes, so that both runtimes agree within rounding."""
    manifest = made.bundle.manifest
    assert manifest.kernels is not None and manifest.kernels.abi == ABI and manifest.recipe.sparse
    for entry in manifest.entries:
        assert {spec.dtype for spec in entry.inputs if spec.name.startswith("cache")} == {"float16"}
        (lowering,) = (stage for stage in entry.stages if stage.stage == "lowering")
        for output in lowering.outputs:
            # Rounding to 8 bits between the kernels can fall either way, as in tests/test_sparse.py.
            assert output.relative <= 0.2 and output.cosine > 1 - 0.05**2, output
        graph = onnx.load(made.bundle.file(entry.artifact), load_external_data=False).graph
        kinds = [node.op_type for node in graph.node if node.domain == "edge"]
        mlps = 1 if entry.name == "read" else 2
        assert (kinds.count("mla"), kinds.count("relu2_mlp"), kinds.count("head")) == (2, mlps, entry.name != "read")


def test_chunks_single_tokens_and_threads_agree(made: Exported) -> None:
    """Through the same float16 cache; two threads compute the very same as one, their shares being fixed."""
    ids = np.random.default_rng(0).integers(0, 2100, 70).tolist()
    logits, caches = [], []
    for threads, step in ((1, 70), (2, 70), (2, 1), (1, 5)):
        decoder = session_decoder(api.load(made.bundle.path, threads=threads))
        assert decoder.caches.dtype == np.float16
        decoder.caches[:] = np.nan  # what lies beyond the position is not even read
        for begin in range(0, 70, step):
            logits.append(decoder.last(ids[begin : begin + step]).copy())
        caches.append(decoder.caches[:, :70].astype(np.float32))
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(caches[0], caches[1])
    for found in caches[2:]:
        assert np.abs(found - caches[0]).max() < 0.1 * caches[0].std()


def test_the_matrices_are_mapped_once(made: Exported) -> None:
    """By all entry points together: the file is nearly nothing else."""
    bundle = made.bundle
    session = api.load(bundle.path, threads=1)
    mine = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(bundle.file("weights.bin")))]
    spans = [int(end, 16) - int(start, 16) for start, _, end in (line[0].partition("-") for line in mine)]
    assert sum(spans) < 1.5 * bundle.file("weights.bin").stat().st_size
    del session


def test_the_digits_are_read_as_well(tmp_path: Path) -> None:
    made = export("relu2-mlp", target="rpi5", runtime="onnx", quantize="int8-dynamic", sparse="on", output=tmp_path)
    (accuracy,) = made.bundle.manifest.metrics
    assert accuracy.bundle >= accuracy.eager - 0.01


def test_a_large_models_float_weights_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as they are packed; what verification computes needs them no more."""
    monkeypatch.setattr(payoff, "LARGEST", 1000)
    made = export("relu2-mlp", target="cpu", runtime="onnx", quantize="int8", sparse="on", output=tmp_path)
    assert made.payoff is None and {stage.stage for stage in made.bundle.manifest.entries[0].stages} == {
        "exported", "quantized", "lowered", "lowering",
    }  # fmt: skip


def test_operators_show_where_the_time_goes(made: Exported) -> None:
    session = api.load(made.bundle.path, threads=1)
    inputs, _ = made.bundle.samples("decode")[0]
    entry = session.manifest.entry("decode")
    rows = session.operators(entry, [inputs[spec.name] for spec in entry.inputs], 5)
    assert {"linear", "mla", "relu2_mlp", "rms_norm", "embed", "head"} <= {row.kind for row in rows}
    assert any(row.module.startswith("stack.layers.1") for row in rows if row.kind == "mla")


def test_what_does_not_fit_is_refused(made: Exported) -> None:
    bundle = made.bundle
    session = api.load(bundle.path, threads=1)
    inputs, _ = bundle.samples("decode")[0]
    with pytest.raises(InputError, match="refuse these sizes, bits or ids"):
        session.run("decode", inputs | {"tokens": np.array([2100])})
    assert bundle.manifest.kernels is not None
    record = msgspec.structs.replace(bundle.manifest.kernels, abi=ABI + 1)
    with pytest.raises(BundleError, match=f"ABI {ABI + 1}.*has ABI {ABI}"):
        OnnxSession(bundle.path, msgspec.structs.replace(bundle.manifest, kernels=record), 1)


def test_of_several_processes_one_builds_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would take ten seconds of every core, and all of them start at once in a sweep."""
    if (build.SOURCES / "lib").exists():
        pytest.skip("this installation carries its libraries")
    compiler = build.compiler(kernels.platform.machine())
    assert compiler is not None
    counted = tmp_path / "cc"
    counted.write_text(f'#!/bin/sh\ncase " $* " in *" -shared "*) echo built >> {tmp_path}/log ;; esac\nexec {" ".join(compiler)} -O0 "$@" -O0\n')
    counted.chmod(0o755)
    monkeypatch.setenv("CC", str(counted))
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    with multiprocessing.get_context("spawn").Pool(3) as workers:
        found = {call.get() for call in [workers.apply_async(kernels.library) for _ in range(3)]}
    assert len(found) == 1 and found.pop().is_file()
    assert (tmp_path / "log").read_text() == "built\n"
