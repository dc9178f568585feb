"""A bundle is whole or refused: what a device relies on before it loads anything."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import bundle as bundles
from edge.errors import BundleError, EdgeError, StorageError, UsageError
from edge.manifest import SCHEMA, Cost, EntryRecord, Manifest, RuntimeRecord
from edge.spec import DEFAULT_TOLERANCE, Recipe, Scheme, Target, TensorSpec


def make_manifest() -> Manifest:
    spec = TensorSpec(name="x", dtype="float32", shape=(2,))
    entry = EntryRecord(
        name="double",
        inputs=(spec,),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(2,)),),
        artifact="double.bin",
        method="double",
        samples=1,
        tolerance=DEFAULT_TOLERANCE[Scheme.FP32],
        cost=Cost(flops=2, weight_bytes=0, activation_bytes=16, operators=1),
        stages=(),
    )
    target = Target(
        name="t", description="", triple="x86_64-linux-gnu", cpu="x86-64", cores=1, threads=1, ram_mb=1, runtime="onnx", scheme=Scheme.FP32
    )
    return Manifest(
        schema=SCHEMA,
        edge_version="0",
        model="double",
        family="user",
        config={},
        checkpoint_sha256=None,
        random_seed=None,
        target=target,
        runtime=RuntimeRecord(name="onnx", version="0", abi="0"),
        recipe=Recipe(runtime="onnx", scheme=Scheme.FP32),
        entries=(entry,),
        verified_on="this host",
    )


def write_bundle(folder: Path, name: str = "double.edge") -> bundles.Bundle:
    source = folder / "artifact"
    source.write_bytes(b"machine code" * 100)
    value = np.array([1, 2], np.float32)
    return bundles.write(folder / name, make_manifest(), {"double.bin": source}, {"double": [({"x": value}, {"y": 2 * value})]})


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_reads_back_what_was_written(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    opened = bundles.open_bundle(tmp_path / "double.edge")
    assert opened.file("double.bin").read_bytes() == b"machine code" * 100
    inputs, outputs = opened.samples("double")[0]
    assert outputs["y"].tolist() == (2 * inputs["x"]).tolist()
    assert opened.artifact_bytes == 1200


def test_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    assert contents(write_bundle(tmp_path, "a.edge").path) == contents(write_bundle(tmp_path, "b.edge").path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("flip")
    path = write_bundle(folder).path
    name = data.draw(st.sampled_from(["double.bin", "samples.npz"]))
    raw = bytearray((path / name).read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    (path / name).write_bytes(bytes(raw))
    with pytest.raises(BundleError, match="not what was exported"):
        bundles.open_bundle(path)


@settings(max_examples=80, deadline=None)
@given(text=st.one_of(st.binary(max_size=200), st.text(max_size=80).map(str.encode)))
def test_a_manifest_of_noise_is_refused_in_one_sentence(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    path = write_bundle(tmp_path_factory.mktemp("noise")).path
    (path / bundles.MANIFEST).write_bytes(text)
    with pytest.raises(BundleError) as caught:
        bundles.open_bundle(path)
    assert "\n" not in str(caught.value)


def edit_manifest(path: Path, **changes: object) -> None:
    raw = json.loads((path / bundles.MANIFEST).read_text())
    raw.update(changes)
    (path / bundles.MANIFEST).write_text(json.dumps(raw))


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "a\\..\\b", "./double.bin", ""])
def test_a_path_that_leaves_the_bundle_is_refused(tmp_path: Path, name: str) -> None:
    path = write_bundle(tmp_path).path
    edit_manifest(path, files=[{"path": name, "sha256": "0" * 64, "size": 1}])
    with pytest.raises(BundleError, match="outside the bundle"):
        bundles.open_bundle(path)


def test_a_symlink_is_refused(tmp_path: Path) -> None:
    path = write_bundle(tmp_path).path
    (path / "double.bin").rename(tmp_path / "elsewhere")
    (path / "double.bin").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"lacks 'double\.bin'"):
        bundles.open_bundle(path)


def test_unknown_fields_and_newer_schemas_are_refused(tmp_path: Path) -> None:
    path = write_bundle(tmp_path).path
    edit_manifest(path, extra=1)
    with pytest.raises(BundleError, match="schema"):
        bundles.open_bundle(path)
    edit_manifest(path, schema=SCHEMA + 1)
    with pytest.raises(BundleError, match=f"bundle schema {SCHEMA + 1}"):
        bundles.open_bundle(path)


def test_missing_bundles_and_ordinary_folders(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no bundle at"):
        bundles.open_bundle(tmp_path / "none.edge")
    with pytest.raises(BundleError, match="not a bundle"):
        bundles.open_bundle(tmp_path)


def test_replaces_an_older_bundle_but_no_other_folder(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    write_bundle(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact", "double.edge"]
    (tmp_path / "photos.edge").mkdir()
    (tmp_path / "photos.edge" / "cat.png").write_bytes(b"")
    with pytest.raises(UsageError, match="not a bundle"):
        write_bundle(tmp_path, "photos.edge")
    assert (tmp_path / "photos.edge" / "cat.png").exists()


def test_an_artifact_path_is_never_written_outside(tmp_path: Path) -> None:
    source = tmp_path / "artifact"
    source.write_bytes(b"x")
    with pytest.raises(BundleError, match="outside the bundle"):
        bundles.write(tmp_path / "a.edge", make_manifest(), {"../b": source}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_a_disk_that_fills_leaves_nothing_and_keeps_the_old_bundle(tmp_path: Path) -> None:
    """A file-size limit stands for the full disk: it needs no privileges, and fails in the same place."""
    write_bundle(tmp_path)
    before = contents(tmp_path / "double.edge")
    script = (
        "import resource, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); import test_bundle\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1300, resource.RLIM_INFINITY))\n"
        "from edge.errors import StorageError\n"
        "try: test_bundle.write_bundle(Path(sys.argv[1]))\n"
        "except StorageError as error: print(error); sys.exit(2)"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] != 1300
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)], capture_output=True, text=True, env=os.environ
    )
    assert ended.returncode == 2, ended.stderr
    assert "double.edge" in ended.stdout and "\n" not in ended.stdout.strip()
    assert contents(tmp_path / "double.edge") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact", "double.edge"]


@pytest.mark.skipif(shutil.which("mount") is None or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_really_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("this machine allows no mounts")
    try:
        source = tmp_path / "artifact"
        source.write_bytes(b"x" * 100_000)
        with pytest.raises(StorageError, match="the disk is full"):
            bundles.write(disk / "big.edge", make_manifest(), {"double.bin": source}, {})
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_every_error_is_one_sentence_with_a_next_step(tmp_path: Path) -> None:
    path = write_bundle(tmp_path).path
    (path / "double.bin").unlink()
    with pytest.raises(EdgeError) as caught:
        bundles.open_bundle(path)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and ":" in message


def test_manifest_survives_a_round_trip() -> None:
    manifest = make_manifest()
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest) == manifest
