"""load, verify and profile as a Python user calls them, on a bundle made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import SHAPES, TOLERANCE, make_bundle

import edge
from edge import api
from edge.errors import BundleError, InputError, UsageError
from edge.manifest import EntryRecord
from edge.runtimes.base import usable_cores


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("api") / "tiny.edge").path


def test_the_package_offers_the_verbs() -> None:
    assert (edge.load, edge.verify, edge.profile) == (api.load, api.verify, api.profile)


def test_a_loaded_bundle_computes(bundle: Path) -> None:
    session = edge.load(bundle, threads=1)
    assert session.threads == 1
    x = np.ones(SHAPES["small"], np.float32)
    outputs = session.run("small", {"x": x})
    assert outputs["y"].shape == SHAPES["small"]
    assert outputs["y"].dtype == np.float32
    np.testing.assert_array_equal(outputs["y"][0], outputs["y"][1])
    with pytest.raises(InputError, match="must have"):
        session.run("small", {"x": x[:1]})


def test_threads_default_to_the_target_within_this_machine(tmp_path: Path, bundle: Path) -> None:
    assert edge.load(bundle).threads == min(2, usable_cores())
    many = make_bundle(tmp_path / "many.edge", threads=512).path
    assert edge.load(many).threads == usable_cores()


def test_verify_finds_the_bundle_sound(bundle: Path) -> None:
    checks = edge.verify(bundle)
    assert [check.entry for check in checks] == list(SHAPES)
    for check in checks:
        assert check.passed
        assert check.samples == 2
        assert check.tolerance == TOLERANCE
        assert 0 <= check.outputs[0].relative < 1e-4
        assert "onnx on this host" in check.where


def test_verify_finds_an_offset_and_does_not_raise(tmp_path: Path) -> None:
    checks = edge.verify(make_bundle(tmp_path / "off.edge", offset=0.5).path)
    assert not any(check.passed for check in checks)
    assert checks[0].outputs[0].max_abs == pytest.approx(0.5, rel=1e-4)


def test_verify_fails_a_nan(tmp_path: Path) -> None:
    checks = edge.verify(make_bundle(tmp_path / "nan.edge", offset=float("nan")).path)
    assert not any(check.passed for check in checks)


def test_verify_without_samples_is_refused(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bare.edge", samples=0).path
    with pytest.raises(UsageError, match="no stored samples of 'small'"):
        edge.verify(path)
    with pytest.raises(InputError, match="no stored sample of 'small'"):
        edge.profile(path, roofline=False)


def test_a_flipped_byte_is_refused_by_every_verb(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "bad.edge").path
    raw = bytearray((path / "wide.onnx").read_bytes())
    raw[len(raw) // 2] ^= 1
    (path / "wide.onnx").write_bytes(raw)
    for verb in (edge.load, edge.verify, edge.profile):
        with pytest.raises(BundleError, match=r"wide\.onnx"):
            verb(path)


def test_what_does_not_exist_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no bundle"):
        edge.load(tmp_path / "nothing.edge")
    with pytest.raises(UsageError, match="no entry point 'decode'"):
        edge.profile(bundle, entries=["decode"])
    for device in ("mars", "local:0", "ssh"):
        with pytest.raises(UsageError, match=f"there is no device '{device}'"):
            edge.profile(bundle, device=device)
        with pytest.raises(UsageError, match="there is no device"):
            edge.verify(bundle, device=device)


@pytest.mark.parametrize(
    ("threads", "runs", "seconds"), [(0, 5, 0.1), (-1, 5, 0.1), (1, 0, 0.1), (1, 5, -1.0)]
)
def test_nonsense_is_refused_before_anything_runs(bundle: Path, threads: int, runs: int, seconds: float) -> None:
    with pytest.raises(UsageError):
        edge.profile(bundle, threads=threads, runs=runs, seconds=seconds)


def test_the_stored_sample_reaches_the_entry(bundle: Path) -> None:
    """What verify feeds is what the bundle stores: a session that is fed it computes the stored outputs."""
    session = edge.load(bundle)
    record: EntryRecord = session.manifest.entry("wide")
    from edge.bundle import open_bundle

    for inputs, expected in open_bundle(bundle).samples("wide"):
        outputs = session.run(record.name, inputs)
        np.testing.assert_allclose(outputs["y"], expected["y"], rtol=1e-4, atol=1e-5)
