"""Bundles for TVM that have edge's own kernels linked into them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from test_sparse import CONFIG

from edge import api
from edge.errors import UnsupportedError
from edge.export.pipeline import export
from edge.families.plm.decoder import session_decoder
from edge.runtimes.kernels.binding import ABI


@pytest.mark.parametrize("scheme", ["int4", "int8-dynamic"])
def test_digits_in_a_module_of_its_own(tmp_path: Path, scheme: str) -> None:
    skip = "0.999" if scheme == "int4" else "off"  # the operator without it is in the test below
    made = export("relu2-mlp", target="cpu", runtime="tvm", quantize=scheme, sparse="on", skip_up=skip, output=tmp_path)
    manifest = made.bundle.manifest
    assert manifest.kernels is not None and manifest.kernels.abi == ABI and manifest.recipe.sparse
    (accuracy,) = manifest.metrics
    assert accuracy.bundle >= accuracy.eager - 0.01
    lowering = [output for stage in manifest.entries[0].stages if stage.stage == "lowering" for output in stage.outputs]
    assert lowering and all(output.relative < 0.02 for output in lowering)


def test_plm_for_an_arm_and_its_twin(tmp_path: Path) -> None:
    """The module for the device carries the kernels for its CPU; the host's twin computes what ExecuTorch's form does."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    made = export(
        "plm", target="rpi5", runtime="tvm", quantize="int4", sparse="on", config=tmp_path / "config.json", random_weights=5,
        context=80, output=tmp_path,
    )  # fmt: skip
    for entry in made.bundle.manifest.entries:
        assert {spec.dtype for spec in entry.inputs if spec.name.startswith("cache")} == {"float16"}
        for stage in entry.stages:
            assert all(output.passed for output in stage.outputs), stage
    with made.bundle.file("model.so").open("rb") as stream:
        library = ELFFile(stream)
        assert library.header["e_machine"] == "EM_AARCH64"
        symbols = {symbol.name for symbol in library.get_section_by_name(".dynsym").iter_symbols()}
        assert {"__tvm_ffi_edge_mla", "__tvm_ffi_edge_embed", "__tvm_ffi_edge_linear"} <= symbols


def test_ids_beyond_the_vocabulary_are_refused_and_threads_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    made = export(
        "plm", target="cpu", runtime="tvm", quantize="int8-dynamic", sparse="on", config=tmp_path / "config.json",
        random_weights=5, context=80, output=tmp_path,
    )  # fmt: skip
    ids = np.random.default_rng(0).integers(0, 2100, 40).tolist()
    found = []
    for threads in (1, 2):
        decoder = session_decoder(api.load(made.bundle.path, threads=threads))
        decoder.caches[:] = np.nan  # what lies beyond the position is not even read
        found.append(decoder.last(ids).copy())
    np.testing.assert_array_equal(found[0], found[1])
    session = api.load(made.bundle.path, threads=1)
    inputs, _ = made.bundle.samples("decode")[0]
    with pytest.raises(Exception, match="the kernels refuse these sizes, bits or ids"):
        session.run("decode", inputs | {"tokens": np.array([2100])})


def test_int4_is_refused_without_the_kernels(tmp_path: Path) -> None:
    for sparse in ("off", "auto"):  # too small a model for auto
        with pytest.raises(UnsupportedError, match=r"tvm cannot do int4 \(but by edge's own kernels: --sparse on"):
            export("relu2-mlp", target="cpu", runtime="tvm", quantize="int4", sparse=sparse, output=tmp_path)
