"""The part of a static program that all models share, compiled once for an architecture: executor and runner.

The native runner's own sources with the session of ``src/static``, and the C of the executor with the kernels' thread
pool, as two objects: an export adds its kernels and its plan and links them (``edge.export.static_link``). Kept in edge's
cache under a name that says all that went into them. musl, so that nothing of the system is needed.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edge.cache import cache_dir
from edge.dependencies import require, version
from edge.errors import StorageError, UnsupportedError
from edge.runtimes.kernels.binding import ABI as KERNELS
from edge.runtimes.native.build import SOURCES

STATIC = SOURCES / "static"
POOL = SOURCES.parents[1] / "kernels"
#: For every part of the program. Kernels are optimized by TVM: what is left is small, so it may be small. No frame of
#: an exception is unwound through C.
FLAGS = ("-Os", "-fPIE", "-ffunction-sections", "-fdata-sections", "-fvisibility=hidden", "-Wall", "-Wextra")
RUNNER, EXECUTOR = "runner.o", "executor.o"
ARCHITECTURES = ("x86_64", "aarch64")
_C_UNIT = ("executor.c", "backend.c")


def abi() -> str:
    """What a bundle's manifest says of the program in it, and the program of itself (``EDGE_STATIC_ABI``)."""
    found = re.search(r'#define EDGE_STATIC_ABI "(.*)"', (STATIC / "plan.h").read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def program_objects(arch: str) -> tuple[Path, ...]:
    """The objects to link with a model's own. Raises UnsupportedError (no such architecture, or it cannot be compiled),
    MissingDependencyError, StorageError."""
    if arch not in ARCHITECTURES:
        raise UnsupportedError(f"a static program is for {' or '.join(ARCHITECTURES)}, not for {arch}: choose another runtime.")
    require("native", "building a static program", "ziglang")
    folder = cache_dir() / "program" / f"{arch}-{_key(arch)}"
    objects = (folder / RUNNER, folder / EXECUTOR)
    if not all(path.is_file() for path in objects):
        _build(arch, folder)
    return objects


def zig(arguments: Sequence[str | Path], scratch: Path, what: str) -> None:
    """Run zig's compiler or linker; UnsupportedError with its first complaint."""
    done = subprocess.run(
        [sys.executable, "-m", "ziglang", *map(str, arguments)],
        env=os.environ | {"ZIG_LOCAL_CACHE_DIR": str(scratch / "zig")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error:" in line] or done.stderr.splitlines() or ["no message"]
        raise UnsupportedError(f"{what} cannot be built ({errors[0].strip()[:300]}): reinstall ziglang, or report it.")


def compile_c(source: Path, output: Path, arch: str, scratch: Path) -> None:
    """``source``, C that belongs to a static program, to the object ``output``."""
    command = ("cc", "-target", f"{arch}-linux-musl", "-std=c11", *FLAGS, f"-I{SOURCES}", f"-I{STATIC}", f"-I{POOL}")
    zig((*command, "-c", source, "-o", output), scratch, f"the program for {arch}")


def _sources() -> list[Path]:
    return sorted((*SOURCES.glob("*.cpp"), *STATIC.glob("*.cpp")))


def _command(arch: str) -> tuple[str, ...]:
    return (
        "c++", "-target", f"{arch}-linux-musl", "-std=c++17", *FLAGS, "-DEDGE_STATIC", f"-DEDGE_KERNELS={KERNELS}", f"-I{SOURCES}",
    )  # fmt: skip


def _key(arch: str) -> str:
    digest = hashlib.sha256("\0".join((*_command(arch), version("ziglang") or "")).encode())
    inputs = (*_sources(), *SOURCES.glob("*.h"), *STATIC.glob("*.[hc]"), *(POOL / name for name in ("pool.c", "format.h", "edge_kernels.h")))
    for path in sorted(inputs):
        digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _build(arch: str, folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".program-", dir=folder.parent) as name:
            scratch = Path(name)
            staging = scratch / "program"
            staging.mkdir()
            unit = scratch / "runner.cpp"
            unit.write_text("".join(f'#include "{path.relative_to(SOURCES)}"\n' for path in _sources()), encoding="utf-8")
            zig((*_command(arch), "-c", unit, "-o", staging / RUNNER), scratch, f"the program for {arch}")
            c = scratch / "executor.c"
            c.write_text("".join(f'#include "{source}"\n' for source in (POOL / "pool.c", *(STATIC / part for part in _C_UNIT))), encoding="utf-8")
            compile_c(c, staging / EXECUTOR, arch, scratch)
            try:
                staging.rename(folder)
            except OSError:
                if not (folder / EXECUTOR).is_file():  # somebody else was faster, with the same result
                    raise
    except OSError as error:
        raise StorageError(f"edge's cache {folder.parent} cannot be written ({error.strerror}): set EDGE_CACHE to a folder that can.") from error
