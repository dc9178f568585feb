"""The runner and the bundles for boards, as arm64 programs under emulation: outputs, and instructions that repeat.

Emulation says nothing about time. Each board's own CPU model is asked for, since the emulator's default picks kernels
that no board runs.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from runners import built, exported, shared, talk
from typer.testing import CliRunner

from edge import cli
from edge.bundle import open_bundle
from edge.cli.app import app
from edge.devices.harness import with_operators
from edge.devices.messages import Failed, Profiled, ProfileRequest
from edge.devices.verifying import Verified, VerifyRequest
from edge.errors import BundleError, DeviceError, EdgeError, UnsupportedError, UsageError
from edge.measurement import EntryCheck
from edge.runtimes._events import Event
from edge.runtimes.native import counting
from edge.runtimes.native.marks import Instructions, MarkList, operators

ARM64 = "aarch64-linux-gnu"
CPUS = {"rpi4": "cortex-a72", "rpi5": "cortex-a76"}
#: Emulation adds the same rounding as another machine would: far below the tolerance that a model is packed with.
CLOSE = 1e-4

Export = Callable[..., Path]


def lacking() -> str:
    try:
        counting.find_emulator()
        counting.find_sysroot()
    except EdgeError as error:
        return str(error)
    return ""


emulated = pytest.mark.skipif(bool(lacking()), reason=lacking())
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Exports a bundle, once for all workers."""
    return lambda *what: exported(tmp_path_factory, *what)


def under_emulation(factory: pytest.TempPathFactory, runtime: str, target: str) -> list[str]:
    program = built(factory, runtime, ARM64)
    return [counting.find_emulator(), "-cpu", CPUS[target], "-L", str(counting.find_sysroot()), str(program)]


def verified(factory: pytest.TempPathFactory, bundle: Path, target: str) -> tuple[EntryCheck, ...]:
    runtime = open_bundle(bundle).manifest.runtime.name
    request = VerifyRequest(device=f"qemu:{target}", bundle=str(bundle), threads=1)
    status, messages = talk(under_emulation(factory, runtime, target), msgspec.json.encode(request))
    assert status == 0, messages
    assert isinstance(messages[-1], Verified)
    return messages[-1].checks


# --- outputs


@emulated
@slow
@pytest.mark.parametrize("runtime", ["executorch", "tvm"])
@pytest.mark.parametrize("target", CPUS)
def test_relu2_mlp(tmp_path_factory: pytest.TempPathFactory, export: Export, runtime: str, target: str) -> None:
    (check,) = verified(tmp_path_factory, export("relu2-mlp", target, runtime, "fp32"), target)
    assert check.passed and check.samples == 8
    assert "aarch64" in check.where
    assert max(output.relative for output in check.outputs) < CLOSE


@emulated
@slow
@pytest.mark.parametrize(("runtime", "exported_for", "target"), [
    ("executorch", "rpi5", "rpi4"), ("executorch", "rpi5", "rpi5"), ("tvm", "rpi4", "rpi4"), ("tvm", "rpi5", "rpi5"),
])  # fmt: skip
def test_tspulse(
    tmp_path_factory: pytest.TempPathFactory, export: Export, runtime: str, exported_for: str, target: str
) -> None:
    """TVM's code is each board's own; ExecuTorch's program is the same for both (see below), and is run as both."""
    bundle = export("tspulse", exported_for, runtime, "fp32")
    checks = verified(tmp_path_factory, bundle, target)
    assert {check.entry for check in checks} == {entry.name for entry in open_bundle(bundle).manifest.entries}
    for check in checks:
        assert check.passed
        assert max(output.relative for output in check.outputs) < CLOSE


@slow
@pytest.mark.parametrize("runtime", ["executorch", "onnx"])
def test_a_bundle_without_machine_code_is_the_same_for_every_pi(export: Export, runtime: str) -> None:
    """What the tests run on one as exported for the other: all but the manifest, and in that all but the target."""
    four, five = (export("relu2-mlp", target, runtime, "fp32") for target in CPUS)
    names = sorted(path.name for path in five.iterdir())
    assert sorted(path.name for path in four.iterdir()) == names
    for name in set(names) - {"manifest.json"}:
        assert (four / name).read_bytes() == (five / name).read_bytes(), name
    manifest = open_bundle(five).manifest
    assert msgspec.structs.replace(open_bundle(four).manifest, target=manifest.target, verified_on=manifest.verified_on) == manifest


@emulated
@slow
@pytest.mark.parametrize("target", CPUS)
def test_fmvit_t(tmp_path_factory: pytest.TempPathFactory, export: Export, target: str) -> None:
    """One program for both, as above."""
    bundle = export("fmvit-t", "rpi4", "executorch", "fp32", "--random-weights", "0")
    (check,) = verified(tmp_path_factory, bundle, target)
    assert check.passed
    assert max(output.relative for output in check.outputs) < CLOSE


@emulated
@slow
@pytest.mark.parametrize("target", CPUS)
def test_edges_own_kernels(tmp_path_factory: pytest.TempPathFactory, export: Export, target: str) -> None:
    """Called by a program, loaded beside the runner: the Pi 5's with dot products, the Pi 4's without, the same sums."""
    bundle = export("relu2-mlp", "rpi5", "executorch", "int8-dynamic", "--sparse", "on")
    manifest = open_bundle(bundle).manifest
    assert manifest.kernels is not None
    (check,) = verified(tmp_path_factory, bundle, target)
    assert check.passed
    # What export measured on this host, with the same kernels for another CPU.
    (stage,) = [stage for stage in manifest.entries[0].stages if stage.stage == "lowered"]
    assert check.outputs[0].relative == pytest.approx(stage.outputs[0].relative, rel=0.01)


@emulated
@slow
def test_a_profile_has_the_same_parts_as_on_a_board(tmp_path_factory: pytest.TempPathFactory, export: Export) -> None:
    bundle = export("relu2-mlp", "rpi5", "executorch", "fp32")
    request = ProfileRequest(device="qemu:rpi5", bundle=str(bundle), threads=1, runs=3, seconds=0.0, operators=True)
    status, messages = talk(under_emulation(tmp_path_factory, "executorch", "rpi5"), msgspec.json.encode(request))
    assert status == 0
    assert isinstance(messages[-1], Profiled)
    profiled = with_operators(messages[-1], bundle, open_bundle(bundle).manifest)
    assert profiled.facts.arch == "aarch64"
    assert profiled.entries[0].operators


@emulated
@slow
def test_code_for_another_machine_is_refused(tmp_path_factory: pytest.TempPathFactory, export: Export) -> None:
    bundle = export("relu2-mlp", "rpi5", "tvm", "fp32")
    request = VerifyRequest(device="here", bundle=str(bundle), threads=1)
    status, messages = talk([built(tmp_path_factory, "tvm", "x86_64-linux-gnu")], msgspec.json.encode(request))
    assert status == 2
    assert isinstance(messages[-1], Failed)
    assert "is compiled for aarch64 and this machine is x86_64" in messages[-1].sentence


# --- instruction counts


@pytest.fixture
def cached(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runners that the tests share."""
    with shared(tmp_path_factory, "runners", "counter") as cache:
        monkeypatch.setenv("EDGE_CACHE", str(cache))


@emulated
@slow
@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("runtime", ["executorch", "tvm"])
def test_counts_repeat_to_the_last_instruction(export: Export, runtime: str, tmp_path: Path) -> None:
    bundle = export("relu2-mlp", "rpi5", runtime, "fp32")
    files = [tmp_path / "first.json", tmp_path / "second.json"]
    for path in files:
        done = CliRunner().invoke(app, ["profile", str(bundle), "--device", "qemu:rpi5", "--count", "--json", str(path)])
        assert done.exit_code == 0, done.output
        assert "classify" in done.stdout and "SIMD and FP" in done.stdout
    assert files[0].read_bytes() == files[1].read_bytes()
    # A gate that allows nothing lets the same bundle pass.
    gated = CliRunner().invoke(app, ["gate", str(bundle), "--baseline", str(files[0]), "--max-regression", "0%"])
    assert gated.exit_code == 0 and "1.0000x" in gated.stdout, gated.output
    (entry,) = counting.decode(files[0].read_bytes()).entries
    assert entry.steady
    # Two multiply-adds for each weight, four lanes of float32 in a register: no kernel does it in fewer instructions.
    flops = open_bundle(bundle).manifest.entries[0].cost.flops
    assert entry.inference.simd_fp > flops / 8
    assert entry.inference.total < 10 * flops
    assert sum(row.instructions.total for row in entry.operators) < entry.inference.total
    assert all(row.kind for row in entry.operators)
    largest = max(entry.operators, key=lambda row: row.instructions.total)
    assert "Fully Connected" in largest.name or "matmul" in largest.name


@emulated
@slow
@pytest.mark.usefixtures("cached")
def test_twice_the_inferences_are_twice_the_instructions(export: Export) -> None:
    """What is counted for one inference is what each further one costs."""
    bundle = export("relu2-mlp", "rpi4", "executorch", "fp32")
    few, many = (counting.count(bundle, "rpi4", runs=runs) for runs in (2, 4))
    assert few.entries[0].inference == many.entries[0].inference
    assert few.cpu == "cortex-a72"


@emulated
@slow
@pytest.mark.usefixtures("cached")
def test_folders_may_have_any_name(export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commas and equals signs mean something to the emulator, and a relative cache is not relative to the bundle."""
    bundle = export("relu2-mlp", "rpi4", "executorch", "fp32")
    plain = counting.count(bundle, "rpi4", runs=1)
    (tmp_path / "a,out=b").symlink_to(os.environ["EDGE_CACHE"])
    (tmp_path / "c,d=e").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGE_CACHE", "a,out=b")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "c,d=e"))
    assert counting.count(bundle, "rpi4", runs=1).entries == plain.entries


@emulated
@slow
@pytest.mark.usefixtures("cached")
def test_int8_is_fewer_instructions_with_dot_products(export: Export) -> None:
    """The Pi 5 has them, the Pi 4 has not: the same program takes other kernels there."""
    bundle = export("relu2-mlp", "rpi5", "executorch", "int8-dynamic")
    with_dots, without = (counting.count(bundle, target).entries[0].inference for target in ("rpi5", "rpi4"))
    assert with_dots.simd_fp < without.simd_fp


def test_what_cannot_be_counted(digits_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, sentence in (
        (("--device", "qemu:rpi5"), "a bundle for onnx cannot be counted"),
        (("--device", "local"), "give --device qemu:rpi5"),
        (("--device", "qemu:rpi5", "--threads", "2"), "counted with one thread"),
        (("--device", "qemu:rpi5", "--html", "p.html"), "no times"),
        (("--device", "qemu:rpi5", "--entry", "decode"), "no entry point 'decode'"),
        (("--device", "qemu:nothing"), "nothing"),
    ):
        assert cli.invoke(["profile", str(digits_bundle), "--count", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert sentence in captured.err.splitlines()[-1]


@slow
def test_a_target_that_no_emulator_has(export: Export) -> None:
    bundle = export("relu2-mlp", "rpi5", "executorch", "fp32")
    with pytest.raises(UsageError, match="choose another target"):
        counting.count(bundle, "android")


def test_missing_programs_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match="install your system's qemu-user"):
        counting.find_emulator()
    monkeypatch.setenv("EDGE_SYSROOT", str(tmp_path))
    with pytest.raises(UnsupportedError, match="libc6-arm64-cross"):
        counting.find_sysroot()


def test_addresses_that_may_not_be_fixed_are_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a container whose system calls are filtered."""
    program = tmp_path / "setarch"
    program.write_text("#!/bin/sh\necho 'setarch: failed to set personality: Operation not permitted' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert counting._fixed_addresses() == ()
    program.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    assert counting._fixed_addresses() == (str(program), "-R")


def test_plugin_api_follows_the_emulator() -> None:
    assert [counting.plugin_api(version) for version in ("7.2.22", "8.2.2", "9.0.1", "9.1.0", "10.0.3")] == [1, 1, 2, 3, 4]


# --- marks


def test_marks_become_instructions(tmp_path: Path) -> None:
    path = tmp_path / "marks"
    path.write_text("10 2 3 4 1\n13 2 3 4 1\n40 8 9 20 1\n")
    marks = MarkList.read(path)
    assert marks.between(1, 2) == Instructions(integer=3)
    assert marks.work(2, 3, marks.between(1, 2)) == Instructions(integer=24, branch=6, load_store=6, simd_fp=16)
    assert marks.between(1, 3).total == 30 + 6 + 6 + 16
    for before, after in ((0, 1), (2, 1), (3, 4)):
        with pytest.raises(DeviceError, match="count again"):
            marks.between(before, after)
    path.write_text("1 2 3\n")
    with pytest.raises(DeviceError, match="cannot be read"):
        MarkList.read(path)
    with pytest.raises(UsageError, match="no file of instruction counts"):
        counting.decode(json.dumps({"schema": 1}).encode())


def test_a_delegates_parts_end_where_it_does() -> None:
    """XNNPACK's durations come one after the other from a reading that is earlier than the first operator's start."""
    events = [
        Event("", 0, "first", 3000, 4000),
        Event("", 0, "second", 4000, 5000),
        Event("DELEGATE_CALL", 0, "", 2000, 7000),
        Event("native_call_add.out", 1, "", 8000, 9000),
        Event("Method::execute", 0, "", 1000, 10000),
    ]
    assert list(operators(events, 1000)) == [("0/first", 4, 5), ("0/second", 5, 6), ("1/add.out", 8, 9)]
    assert list(operators([Event("matmul", 3, "", 5000, 6000), Event("run", -1, "", 4000, 7000)], 1000)) == [("matmul@3", 5, 6)]


def test_a_bundle_of_another_machine_is_not_counted(digits_bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(digits_bundle, tmp_path / "copy.edge"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["runtime"]["name"] = "tvm"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="holds machine code for"):
        counting.count(copy, "rpi5")
