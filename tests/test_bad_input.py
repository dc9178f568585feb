"""Bad input through the real command line: one sentence, exit status 2, no traceback, no bundle, whole or partial."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge import cli
from edge.checkpoints import demo_folder

EXPORT = ("export", "relu2-mlp", "--target", "cpu", "--runtime", "onnx", "--quantize", "fp32")
PROGRAM = [sys.executable, "-c", "from edge.cli import main; main()"]


class Reader:
    """Runs commands that must be refused, in a folder that must stay as it was."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def refused(self, *arguments: object) -> str:
        before = sorted(self.folder.rglob("*"))
        self.capsys.readouterr()
        assert cli.invoke([str(argument) for argument in arguments]) == 2
        captured = self.capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        sentence = captured.err.splitlines()[-1]
        assert sentence.startswith("edge: ") and sentence.endswith((".", ").")), sentence
        assert "unforeseen" not in sentence
        assert sorted(self.folder.rglob("*")) == before
        return sentence


@pytest.fixture
def reader(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.chdir(tmp_path)
    return Reader(tmp_path, capsys)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the demo's checkpoint to spoil."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(demo_folder("relu2-mlp"), folder)
    return folder


def test_a_missing_checkpoint(reader: Reader) -> None:
    assert "there is no checkpoint at" in reader.refused(*EXPORT, "--checkpoint", "gone")


def test_a_truncated_safetensors(reader: Reader, checkpoint: Path) -> None:
    (weights,) = checkpoint.glob("*.safetensors")
    whole = weights.read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:size])
        assert weights.name in reader.refused(*EXPORT, "--checkpoint", checkpoint)


def test_a_pickle_is_not_run(reader: Reader, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    for name in ("model.pt", "model.bin", "model.pkl"):
        (tmp_path / name).write_bytes(pickle.dumps({"weight": Payload()}))
        assert name in reader.refused(*EXPORT, "--checkpoint", tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_config_with_an_unknown_field(reader: Reader, checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dropout_rate": 0.1}))
    assert "dropout_rate" in reader.refused(*EXPORT, "--checkpoint", checkpoint)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"width": "wide"}'])
def test_a_config_that_is_none(reader: Reader, checkpoint: Path, text: str) -> None:
    (checkpoint / "config.json").write_text(text)
    assert "config.json" in reader.refused(*EXPORT, "--checkpoint", checkpoint)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (["1," * 63 + "many"], "many"),
        (["1," * 63 + "nan"], "p63"),
        (["1,2,3"], "line 2"),
        ([], "no"),
    ],
)
def test_a_csv_that_does_not_fit(
    reader: Reader, digits_bundle: Path, tmp_path: Path, rows: list[str], sentence: str
) -> None:
    header = ",".join(f"p{index}" for index in range(64))
    good = ",".join(["1"] * 64)
    (tmp_path / "digits.csv").write_text("\n".join([header, *rows, *([good] if rows else [])]) + "\n")
    said = reader.refused("run", digits_bundle, "--csv", tmp_path / "digits.csv", "-o", tmp_path / "out.csv")
    assert "digits.csv" in said and sentence in said


def test_no_csv_at_all(reader: Reader, digits_bundle: Path) -> None:
    assert "--csv" in reader.refused("run", digits_bundle)
    assert "gone.csv" in reader.refused("run", digits_bundle, "--csv", "gone.csv")
    assert "no task 'anomaly': choose one of classify" in reader.refused("run", digits_bundle, "--task", "anomaly")


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"features": np.zeros((1, 63), np.float32)}, "has shape [1, 63] but must have [1, 64]"),
        ({"features": np.zeros(64, np.float32)}, "has shape [64] but must have [1, 64]"),
        ({"features": np.zeros((1, 64))}, "is float64 but must be float32"),
        ({"features": np.zeros((1, 64), np.complex64)}, "is complex64 but must be float32"),
        ({"pixels": np.zeros((1, 64), np.float32)}, "no input 'pixels': it takes features"),
        ({}, "needs the input 'features' (float32 [1, 64])"),
    ],
)
def test_tensors_that_do_not_fit(
    reader: Reader, digits_bundle: Path, tmp_path: Path, arrays: dict[str, np.ndarray], sentence: str
) -> None:
    np.savez(tmp_path / "in.npz", **arrays)  # type: ignore[arg-type]
    assert sentence in reader.refused("run", digits_bundle, "--npz", "in.npz", "-o", "out.npz")


def test_files_that_are_no_npz(reader: Reader, digits_bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", features=np.array([{"a": 1}], dtype=object))
    np.save(tmp_path / "bare.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("not a zip")
    (tmp_path / "empty.npz").touch()
    whole = (digits_bundle / "samples.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("objects.npz", "bare.npy", "text.npz", "empty.npz", "half.npz", "gone.npz"):
        assert name in reader.refused("run", digits_bundle, "--npz", name)
        assert name in reader.refused(*EXPORT, "--calibration", name)
    assert "no entry point 'encode': it has classify" in reader.refused(
        "run", digits_bundle, "--npz", digits_bundle / "samples.npz", "--entry", "encode"
    )


def test_one_flipped_byte(reader: Reader, digits_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "digits.edge"
    shutil.copytree(digits_bundle, bundle)
    names = [path.name for path in bundle.iterdir() if path.name != "manifest.json"]
    for name in names:
        whole = (bundle / name).read_bytes()
        middle = len(whole) // 2
        (bundle / name).write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        for command in (("verify", bundle), ("profile", bundle), ("run", bundle, "--npz", "x.npz")):
            assert f"'{name}' in digits.edge is not what was exported" in reader.refused(*command)
        (bundle / name).write_bytes(whole)
    assert cli.invoke(["verify", str(bundle)]) == 0


def test_a_path_that_leads_outside(reader: Reader, digits_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "digits.edge"
    shutil.copytree(digits_bundle, bundle)
    manifest = bundle / "manifest.json"
    text = manifest.read_text()
    for path in ("../secret", "/etc/passwd", "a/../../b", "./model.onnx"):
        manifest.write_text(text.replace('"samples.npz"', json.dumps(path)))
        assert "leads outside the bundle" in reader.refused("verify", bundle)


def test_an_output_that_is_someone_elses(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "photos.edge").mkdir()
    (tmp_path / "photos.edge" / "cat.png").touch()
    assert "is not a bundle" in reader.refused(*EXPORT, "-o", "photos.edge")
    (tmp_path / "file").touch()
    assert "is a file" in reader.refused(*EXPORT, "-o", "file")
    assert "is a file" in reader.refused(*EXPORT, "-o", "file/deeper")
    (tmp_path / "file.edge").touch()
    assert "is a file" in reader.refused(*EXPORT, "-o", "file.edge")


def test_a_disk_that_fills_while_packing(digits_bundle: Path, tmp_path: Path) -> None:
    """A limit on file sizes stands for the disk: writing beyond it fails as a full disk does, without any privilege."""
    limit = 64 * 1024
    assert max(path.stat().st_size for path in digits_bundle.iterdir()) > limit
    done = subprocess.run(
        [*PROGRAM, *EXPORT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        timeout=120,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "full" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_small_disk_that_fills_while_packing(tmp_path: Path, reader: Reader) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        assert "the disk is full" in reader.refused(*EXPORT, "-o", disk)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
