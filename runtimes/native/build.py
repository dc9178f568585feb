"""Builds the runner, for this machine or a device, with the compiler of PyPI's ``ziglang``: no apt, no sysroot.

The program has its own C++ standard library in it and asks for glibc 2.28, as the runtimes' wheels do; of those it takes
only what passes no type of the standard library (see src/executorch/session.cpp and src/tvm/session.cpp). All sources
are one translation unit, which reads the large headers once and takes a seventh of the time.

What was built is kept in edge's cache under a name that says all that went into it: sources, SDK, compiler, target.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from edge.cache import cache_dir
from edge.dependencies import require, version
from edge.errors import StorageError, UnsupportedError
from edge.runtimes.kernels.binding import ABI as KERNELS
from edge.runtimes.native.sdk import SDKS, Sdk, find_sdk

#: The program's name among the files of a runner.
PROGRAM = "edge-runner"
SOURCES = Path(__file__).parent / "src"
GLIBC = "2.28"
FLAGS = (
    "-std=c++17", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra", "-s", "-Wl,--build-id=none",
    # The libraries lie beside the program; its clock stands before the C library's (src/clock.cpp).
    "-Wl,-rpath,$ORIGIN", "-rdynamic",
    # Registering kernels and delegates is all that some libraries are for: nothing refers to them.
    "-Wl,--no-as-needed",
)  # fmt: skip


def runner_files(runtime: str, triple: str) -> Mapping[str, Path]:
    """The files of the runner for ``runtime`` on ``triple`` (aarch64-linux-gnu): all go into one folder on the device.

    ``PROGRAM`` is the program, the others are the shared libraries that it loads from its own folder. Builds what the
    cache does not have, and downloads the SDK where that is another architecture's. Raises UnsupportedError (no runner
    for such a device, or it cannot be built), MissingDependencyError, StorageError.
    """
    arch = _arch(runtime, triple)
    sdk = find_sdk(runtime, arch)
    require("native", "building the runner", "ziglang")
    command = _command(runtime, arch, sdk)
    folder = cache_dir() / "runner" / f"{runtime}-{arch}-{_key(runtime, command, sdk)}"
    if not (folder / PROGRAM).is_file():
        _build(command, runtime, arch, sdk, folder)
    return {path.name: path for path in sorted(folder.iterdir())}


def _arch(runtime: str, triple: str) -> str:
    parts = triple.split("-")
    if runtime in SDKS and ("linux" not in parts or parts[-1] not in ("linux", "gnu")):
        raise UnsupportedError(
            f"the native runner needs Linux with glibc and this device is {triple}: {runtime} publishes no libraries for it, "
            "so use a runtime in Python there."
        )
    return parts[0]


def _sources(runtime: str) -> list[Path]:
    return sorted((*SOURCES.glob("*.cpp"), *(SOURCES / runtime).glob("*.cpp")))


def _command(runtime: str, arch: str, sdk: Sdk) -> tuple[str, ...]:
    """The compiler's arguments but for the source and the output."""
    versions = [f'-DEDGE_{name.upper().replace("-", "_")}="{number}"' for name, number in sdk.versions.items()]
    return (
        "-target", f"{arch}-linux-gnu.{GLIBC}", *FLAGS, *versions,
        f'-DEDGE_ABI="{_abi(runtime)}"', f"-DEDGE_KERNELS={KERNELS}",
        *(f"-D{name}" for name in sdk.runtime.defines),
    )  # fmt: skip


def _abi(runtime: str) -> str:
    """What a bundle's manifest says of the runtime, when this one made it (``RuntimeRecord.abi``)."""
    if runtime == "executorch":
        from edge.runtimes.executorch import XNNPACK, schema_identifier

        return f"{schema_identifier()}/{XNNPACK}"
    from edge.runtimes.tvm import abi

    return abi()


def _kernels(runtime: str, arch: str) -> tuple[Path, ...]:
    """The library of edge's own kernels, which the runner loads for bundles that call them."""
    if runtime != "executorch":
        return ()
    from edge.runtimes.kernels.executorch import library

    return (library(arch),)


def _key(runtime: str, command: tuple[str, ...], sdk: Sdk) -> str:
    digest = hashlib.sha256("\0".join((*command, version("ziglang") or "", *sdk.runtime.libraries)).encode())
    if runtime == "executorch":
        from edge.runtimes.kernels import executorch

        digest.update(executorch.key(sdk).encode())
    for path in sorted((*_sources(runtime), *SOURCES.glob("*.h"), *(SOURCES / runtime).glob("*.h"))):
        digest.update(f"{path.relative_to(SOURCES)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _build(command: tuple[str, ...], runtime: str, arch: str, sdk: Sdk, folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".runner-", dir=folder.parent) as scratch:
            staging = Path(scratch) / "runner"
            staging.mkdir()
            _compile(command, runtime, arch, sdk, staging / PROGRAM, Path(scratch))
            for library in (*map(sdk.path, sdk.runtime.libraries), *_kernels(runtime, arch)):
                shutil.copyfile(library, staging / library.name)
            try:
                staging.rename(folder)
            except OSError:
                if not (folder / PROGRAM).is_file():  # somebody else was faster, with the same result
                    raise
    except OSError as error:
        raise StorageError(f"edge's cache {folder.parent} cannot be written ({error.strerror}): set EDGE_CACHE to a folder that can.") from error


def _compile(command: tuple[str, ...], runtime: str, arch: str, sdk: Sdk, program: Path, scratch: Path) -> None:
    unit = scratch / "runner.cpp"
    unit.write_text("".join(f'#include "{path.relative_to(SOURCES)}"\n' for path in _sources(runtime)), encoding="utf-8")
    libraries = [str(sdk.path(library)) for library in sdk.runtime.libraries]
    done = subprocess.run(
        [
            sys.executable, "-m", "ziglang", "c++", *command, f"-I{SOURCES}",
            *(argument for name in sdk.runtime.includes for argument in ("-isystem", str(sdk.path(name)))),
            str(unit), "-o", str(program), *libraries,
        ],
        env=os.environ | {"ZIG_LOCAL_CACHE_DIR": str(scratch / "zig")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error:" in line] or done.stderr.splitlines() or ["no message"]
        raise UnsupportedError(f"the runner for {arch} cannot be built ({errors[0].strip()[:300]}): reinstall {runtime} and ziglang.")
