"""A board by ssh, for real: OpenSSH's client and a real sshd on loopback, on this machine as the board.

The same over an arm64 system is tests/test_arm64.py. What goes wrong between desk and board is tests/test_ssh_faults.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import sshd
from tiny import SHAPES, make_bundle

import edge
from edge import cli
from edge.bundle import read_manifest
from edge.devices.base import LostError, find_device
from edge.devices.host import host_facts
from edge.devices.routes import bundle_files
from edge.errors import BundleError, DeviceError, UsageError
from edge.progress import Progress
from edge.tune import tune

pytestmark = [pytest.mark.skipif(bool(sshd.lacking()), reason=sshd.lacking()), pytest.mark.usefixtures("board")]


class Listener(Progress):
    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)


def test_a_board_says_what_it_is(server: sshd.Server, board: Path) -> None:
    device = find_device(server.address)
    assert device.alive()
    facts, host = device.facts(), host_facts()
    assert (facts.arch, facts.cpu, facts.features, facts.cores) == (host.arch, host.cpu, host.features, host.cores)
    assert (facts.page_size, facts.libc, facts.ram_mb) == (host.page_size, host.libc, host.ram_mb)
    assert facts.folder == str(board) and facts.free_bytes > 0 and facts.lacks == ()
    assert facts.python is not None and "onnxruntime" in facts.python.packages
    assert not board.exists(), "asking writes nothing"


def test_a_bundle_is_verified_on_the_board(server: sshd.Server, tiny_bundle: Path, board: Path) -> None:
    checks = edge.verify(tiny_bundle, device=server.address)
    assert [check.entry for check in checks] == list(SHAPES)
    for check in checks:
        assert check.passed and check.samples == 2
        assert check.where == f"onnx on {server.address} ({host_facts().arch})"
    (copy,) = (board / "bundles").iterdir()
    assert sorted(path.name for path in copy.iterdir()) == sorted(path.name for path in tiny_bundle.iterdir())


def test_a_wrong_bundle_is_told_apart(server: sshd.Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = make_bundle(tmp_path / "wrong.edge", offset=1.0).path
    assert cli.invoke(["verify", str(wrong), "--device", server.address]) == 2
    assert "does not compute what the model does (small/y, wide/y)" in capsys.readouterr().err


def test_a_bundle_is_measured_on_the_board(server: sshd.Server, tiny_bundle: Path) -> None:
    listener = Listener()
    measured = edge.profile(tiny_bundle, device=server.address, threads=1, runs=10, seconds=0.05, progress=listener)
    assert measured.device.device == server.address
    assert [entry.entry for entry in measured.entries] == list(SHAPES)
    for entry in measured.entries:
        assert len(entry.runs) >= 10 and entry.operators and entry.bound is not None
    assert listener.stages[:2] == [f"connect to {server.address}", "push tiny.edge"]
    assert "runs small" in listener.stages


def test_a_board_has_threads_of_its_own(
    server: sshd.Server, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found there is remembered here, for boards like it."""
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("edge.tune.numbers", lambda cores: (1,))
    found = tune(tiny_bundle, device=server.address, rounds=1, runs=3, seconds=0.0)
    assert found.device.device == server.address and {row.chosen for row in found.rows} == {1}
    measured = edge.profile(tiny_bundle, device=server.address, runs=3, seconds=0.0, operators=False, roofline=False)
    assert measured.settings.threads == 1 and measured.settings.tuned


def test_what_is_there_is_not_sent_again(server: sshd.Server, tiny_bundle: Path, board: Path) -> None:
    device = find_device(server.address)
    files = bundle_files(tiny_bundle, read_manifest(tiny_bundle))
    device.push(files, f"{board}/x")
    times = {path: path.stat().st_mtime_ns for path in (board / "x").iterdir()}
    assert sorted(path.name for path in times) == sorted(files)
    device.push(files, f"{board}/x")
    assert {path: path.stat().st_mtime_ns for path in times} == times
    damaged = board / "x" / "small.onnx"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    device.push(files, f"{board}/x")
    assert damaged.read_bytes() == (tiny_bundle / "small.onnx").read_bytes()


def test_files_come_back(server: sshd.Server, tiny_bundle: Path, board: Path, tmp_path: Path) -> None:
    device = find_device(server.address)
    device.push({"samples.npz": tiny_bundle / "samples.npz"}, f"{board}/x")
    device.pull(f"{board}/x/samples.npz", tmp_path / "back.npz")
    assert (tmp_path / "back.npz").read_bytes() == (tiny_bundle / "samples.npz").read_bytes()
    with pytest.raises(DeviceError, match="has no file"):
        device.pull(f"{board}/x/nothing", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_tensors_go_there_and_come_back(
    server: sshd.Server, tiny_bundle: Path, board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, out = tmp_path / "in.npz", tmp_path / "out.npz"
    x = np.random.default_rng(3).standard_normal(SHAPES["wide"]).astype(np.float32)
    np.savez(given, x=x)
    command = ["run", str(tiny_bundle), "--npz", str(given), "--entry", "wide", "-o", str(out)]
    assert cli.invoke([*command, "--device", server.address, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == {"y": {"dtype": "float32", "shape": list(SHAPES["wide"])}}
    np.testing.assert_allclose(np.load(out)["y"], edge.load(tiny_bundle).run("wide", {"x": x})["y"], rtol=1e-5, atol=1e-6)
    assert list((board / "inputs").iterdir()) == [], "a user's tensors stay on the board"
    np.savez(given, x=x[:1])
    assert cli.invoke([*command, "--device", server.address]) == 2
    assert "input 'x' has shape [1, 256]" in capsys.readouterr().err
    assert cli.invoke(["run", str(tiny_bundle), "--csv", "x.csv", "--device", server.address]) == 2
    assert "only raw tensors are run on" in capsys.readouterr().err


def test_a_refusal_on_the_board_keeps_its_class(
    server: sshd.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = make_bundle(tmp_path / "newer.edge").path
    manifest = newer / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": "1.32.0"', '"version": "99.0.0"'))
    with pytest.raises(BundleError, match=r"made for onnxruntime 99\.0\.0"):
        edge.verify(newer, device=server.address)


def test_a_board_without_the_runtime_is_told_what_to_install(
    server: sshd.Server, tiny_bundle: Path, board: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import venv

    venv.create(tmp_path / "bare", symlinks=True)
    monkeypatch.setenv("EDGE_DEVICE_PYTHON", str(tmp_path / "bare" / "bin" / "python3"))
    with pytest.raises(DeviceError, match=r"lacks numpy, msgspec, onnxruntime .*pip install 'numpy>=2.*'onnxruntime") as caught:
        edge.verify(tiny_bundle, device=server.address)
    assert str(tmp_path / "bare" / "bin" / "python3") in str(caught.value)
    monkeypatch.setenv("EDGE_DEVICE_PYTHON", str(tmp_path / "nowhere"))
    with pytest.raises(DeviceError, match="has no python3"):
        edge.verify(tiny_bundle, device=server.address)
    assert not (board / "bundles").exists(), "nothing was pushed in vain"


def test_a_board_that_is_off_is_told_in_one_sentence(server: sshd.Server) -> None:
    nobody = find_device(server.through(sshd.free_port()))
    assert not nobody.alive()
    with pytest.raises(LostError, match=r"cannot be reached.*Connection refused.*try `ssh"):
        nobody.facts()


@pytest.mark.parametrize("address", ["ssh", "ssh:", "ssh://", "ssh:/x", "ssh://a:0", "ssh://a:70000", "ssh://u@", "local:1", "usb:1"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=r"ssh://user@host\[:port\]"):
        find_device(address)
