"""Bundles on arm64: under user-mode emulation, and on a virtual Raspberry Pi with a real sshd (see ``virtual``).

What is compared is what is computed. Times under emulation are not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sshd
import virtual
from runners import built, exported

import edge
from edge import cli
from edge.api import run_on
from edge.bundle import open_bundle
from edge.devices.base import find_device
from edge.errors import DeviceError, UnsupportedError, UsageError
from edge.report import html

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def ground() -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        virtual.keep_outside_of_the_tests_cache(patch)
        yield virtual.ground()


@pytest.fixture(scope="module")
def pi_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo relu2-mlp as exported for a Raspberry Pi."""
    return exported(tmp_path_factory, "relu2-mlp", "rpi5", "onnx", "int8-dynamic")


@pytest.fixture(scope="module")
def pi(tmp_path_factory: pytest.TempPathFactory, ground: Path) -> Iterator[sshd.Server]:
    with virtual.raspberry_pi("rpi5", tmp_path_factory.mktemp("pi5")) as running:
        yield running


@pytest.fixture
def at_pi(pi: sshd.Server, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("EDGE_SSH", pi.client)
    return pi.address


@pytest.mark.parametrize("board", ["rpi4", "rpi5"])
def test_a_bundle_computes_on_arm64_what_it_does_here(board: str, pi_bundle: Path) -> None:
    checks = edge.verify(pi_bundle, device=f"qemu:{board}")
    here = edge.verify(pi_bundle)
    for check, same in zip(checks, here, strict=True):
        assert check.passed and check.where == f"onnx on qemu:{board} (aarch64)"
        for output, expected in zip(check.outputs, same.outputs, strict=True):
            assert output.relative == pytest.approx(expected.relative, abs=0.05)
            assert output.cosine == pytest.approx(expected.cosine, abs=1e-3)


def test_tspulse_computes_on_arm64_what_it_does_here(tmp_path_factory: pytest.TempPathFactory) -> None:
    """In ONNX Runtime, whose graph is the same for every Pi; ExecuTorch and TVM are in tests/test_native_arm64.py."""
    bundle = exported(tmp_path_factory, "tspulse", "rpi5", "onnx", "fp32")
    for board in ("rpi4", "rpi5"):
        for check in edge.verify(bundle, device=f"qemu:{board}"):
            assert check.passed
            assert max(output.relative for output in check.outputs) < 1e-4


@pytest.mark.parametrize("board", ["rpi4", "rpi5"])
def test_edges_own_kernels(board: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Their library goes along: the Pi 5's with dot products, the Pi 4's without, the same sums as here."""
    bundle = exported(tmp_path_factory, "relu2-mlp", "rpi5", "onnx", "int8-dynamic", "--sparse", "on")
    assert open_bundle(bundle).manifest.kernels is not None
    for check, same in zip(edge.verify(bundle, device=f"qemu:{board}"), edge.verify(bundle), strict=True):
        assert check.passed
        for output, expected in zip(check.outputs, same.outputs, strict=True):
            assert output.relative == pytest.approx(expected.relative, rel=0.01)


def test_an_emulators_times_are_not_measured(pi_bundle: Path) -> None:
    with pytest.raises(UsageError, match="times mean nothing"):
        edge.profile(pi_bundle, device="qemu:rpi5")
    with pytest.raises(UsageError, match="choose one of qemu:rpi4, qemu:rpi5, qemu:android"):
        find_device("qemu:rpi3")


def test_an_emulator_without_a_system_says_how_to_build_one(
    pi_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_ARM64_ROOT", str(tmp_path))
    with pytest.raises(DeviceError, match="run `edge device root`"):
        edge.verify(pi_bundle, device="qemu:rpi5")


def test_a_virtual_pi_says_what_it_is(at_pi: str) -> None:
    facts = find_device(at_pi).facts()
    assert (facts.arch, facts.cpu, facts.features) == ("aarch64", "cortex-a76", ("+neon", "+dotprod", "+fullfp16"))
    assert (facts.libc, facts.libc_version) == ("glibc", "2.36")
    assert facts.python is not None and facts.python.path == "/usr/bin/python3" and "onnxruntime" in facts.python.packages
    assert facts.folder == "/home/pi/.cache/edge/device"


def test_from_nothing_to_a_report_on_a_virtual_pi(
    at_pi: str, pi_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way of docs/raspberry-pi.md but for the times, which are an emulator's."""
    assert cli.invoke(["doctor", "--device", at_pi, "--bundle", str(pi_bundle), "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)
    assert {check["name"]: check["status"] for check in checks if check["group"] in ("board", "python", "onnx")} == {
        "system": "ok", "memory": "ok", "free space": "ok", "C library": "ok", "page size": "ok", "programs": "ok",
        "Python": "ok", "numpy": "ok", "msgspec": "ok", "onnxruntime": "ok",
    }
    assert cli.invoke(["verify", str(pi_bundle), "--device", at_pi]) == 0
    # Without the roofline: an emulator takes minutes over its matrix products.
    measured = edge.profile(pi_bundle, device=at_pi, runs=5, seconds=0.1, roofline=False, cool_seconds=0)
    assert (measured.device.device, measured.device.arch) == (at_pi, "aarch64")
    assert measured.entries[0].operators and len(measured.entries[0].runs) >= 5
    html.save(measured, tmp_path / "p.html")
    assert "aarch64" in (tmp_path / "p.html").read_text()
    capsys.readouterr()
    assert cli.invoke(["device", "clean", at_pi]) == 0
    assert "MB removed" in capsys.readouterr().out
    assert find_device(at_pi).run(("test", "-e", "/home/pi/.cache/edge/device")).status == 1
    assert cli.invoke(["device", "clean", at_pi]) == 0
    assert "nothing of edge's was there" in capsys.readouterr().out


@pytest.fixture(scope="module")
def native_bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The demo relu2-mlp for a runtime that the Pi does not have in Python; the runner for it is built for arm64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_CACHE", str(built(tmp_path_factory, "executorch", "aarch64-linux-gnu").parents[2]))
        yield exported(tmp_path_factory, "relu2-mlp", "rpi5", "executorch", "fp32")


def test_a_pi_without_the_runtime_is_served_by_the_runner(at_pi: str, native_bundle: Path) -> None:
    (check,) = edge.verify(native_bundle, device=at_pi, threads=1)
    assert check.passed and check.samples > 0 and "executorch" in check.where
    measured = edge.profile(native_bundle, device=at_pi, threads=1, runs=5, seconds=0.0, roofline=False, cool_seconds=0)
    assert measured.device.arch == "aarch64" and len(measured.entries[0].runs) >= 5
    assert measured.entries[0].operators
    assert find_device(at_pi).run(("ls", "/home/pi/.cache/edge/device/runner")).output
    with pytest.raises(UnsupportedError, match=r"takes no tensors of your own\. .* lacks torch, executorch"):
        run_on(native_bundle, "classify", open_bundle(native_bundle).samples("classify")[0][0], device=at_pi)


def test_the_runner_is_emulated_alone_too(native_bundle: Path) -> None:
    (check,) = edge.verify(native_bundle, device="qemu:rpi4", threads=1)
    assert check.passed


def test_files_come_back_from_a_virtual_pi(at_pi: str, tmp_path: Path) -> None:
    device = find_device(at_pi)
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 4000)
    device.push({"there": source}, "/home/pi/x")
    device.pull("/home/pi/x/there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
