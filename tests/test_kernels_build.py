"""The kernels as they are built: once, as they ship, under the sanitizers, and for Arm CPUs that are emulated."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import UnsupportedError
from edge.runtimes import kernels
from edge.runtimes.kernels import build
from edge.runtimes.kernels.binding import Kernels

HERE = Path(__file__).parent


def test_built_once_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (build.SOURCES / "lib").exists():
        pytest.skip("this installation carries its libraries")
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path))
    first = kernels.library()
    assert first.is_relative_to(tmp_path) and [path.name for path in first.parent.iterdir()] == [build.LIBRARY]
    changed = first.stat().st_mtime_ns
    assert kernels.library() == first and first.stat().st_mtime_ns == changed
    monkeypatch.setenv("CC", "false")
    with pytest.raises(UnsupportedError, match="do not compile"):
        kernels.library()


@pytest.mark.slow
def test_what_ships_finds_the_same_instruction_set(tmp_path: Path) -> None:
    """Another compiler, as the package's own build uses it: it must not fall back to the portable one."""
    arch = platform.machine()
    made = tmp_path / build.LIBRARY
    build.build(arch, made, (sys.executable, "-m", "ziglang", "cc"), build.SHIPPED[arch], build.ONNX)
    assert Kernels(made).isa == kernels.load().isa and hasattr(Kernels(made).library, "RegisterCustomOps")


@pytest.mark.slow
def test_nothing_is_read_or_written_that_should_not_be(tmp_path: Path) -> None:
    """AddressSanitizer and UBSan over every instruction set that this CPU has, on drawn shapes, values and addresses.

    The program draws from a seed, as it must run without Python for other CPUs; hypothesis draws the seeds, new ones each time.
    """
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc")
    program = check_program(
        tmp_path,
        ["gcc"],
        platform.machine(),
        None,
        "-O1",
        "-g",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
    )

    @settings(max_examples=4, deadline=None)
    @given(seed=st.integers(0, 2**63))
    def fuzz(seed: int) -> None:
        done = subprocess.run([program, str(seed), "50"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    fuzz()


@pytest.mark.slow
@pytest.mark.parametrize(("cpu", "isas"), [("cortex-a72", "neon "), ("cortex-a76", "neon dotprod ")])
def test_on_arm_under_emulation(tmp_path: Path, cpu: str, isas: str) -> None:
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None:
        pytest.skip("there is no qemu-aarch64 (Debian's qemu-user)")
    if shutil.which("aarch64-linux-gnu-gcc"):
        program = check_program(tmp_path, ["aarch64-linux-gnu-gcc"], "aarch64", None, "-static")
    else:  # compiles its C library first, which takes minutes the first time
        zig = [sys.executable, "-m", "ziglang", "cc"]
        program = check_program(tmp_path, zig, "aarch64", "aarch64-linux-musl", "-static")
    done = subprocess.run([emulator, "-cpu", cpu, program, "7", "25"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.startswith(isas) and "failed" in done.stdout


def check_program(folder: Path, command: list[str], arch: str, target: str | None, *flags: str) -> Path:
    """kernels_check.c with the kernels linked into it."""
    towards = ["-target", target] if target else []
    objects = []
    running: list[subprocess.Popen[str]] = []
    for name, own in build.sources(arch, zig=target is not None):
        objects.append(folder / f"{name}.o")
        compile_one = [
            *command,
            *towards,
            *build._FLAGS,
            *own,
            *flags,
            "-c",
            build.SOURCES / f"{name}.c",
            "-o",
            objects[-1],
        ]
        running.append(subprocess.Popen([*map(str, compile_one)], stderr=subprocess.PIPE, text=True))
        if len(running) % 2 == 0:
            running[-2].wait()
    for process in running:
        _, said = process.communicate()
        assert process.returncode == 0 and "warning" not in said, said
    program = folder / "check"
    link = [
        *command,
        *towards,
        "-std=gnu11",
        *flags,
        f"-I{build.SOURCES}",
        HERE / "kernels_check.c",
        *objects,
        "-o",
        program,
        "-lm",
        "-lpthread",
    ]
    subprocess.run([*map(str, link)], check=True)
    return program
