"""Compiles the kernels: for this machine or another, by the system's own compiler or ziglang's, needing nothing of edge.

The package's own build calls ``build`` for each of ``SHIPPED``; a checkout builds at first use (``edge.runtimes.kernels``).
Each instruction set is a file of its own with flags of its own, so that no other file uses what a CPU may not have.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent
LIBRARY = "libedge_kernels.so"
#: What a wheel carries, as Zig names them: the oldest glibc is that of the runtimes' own wheels.
SHIPPED: Mapping[str, str] = {"x86_64": "x86_64-linux-gnu.2.28", "aarch64": "aarch64-linux-gnu.2.28"}

_FLAGS = (
    "-std=gnu11", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra", "-Wno-psabi",
)  # fmt: skip
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mfma", "-mprefer-vector-width=512")
_OWN_FLAGS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "x86_64": {
        "isa_avx2": ("-mavx2", "-mfma", "-mf16c"),
        "isa_avx512vnni": _AVX512,
        "isa_amx": (*_AVX512, "-mamx-tile", "-mamx-int8", "-mamx-bf16"),
    },
    "aarch64": {"isa_neon": (), "isa_dotprod": ("-march=armv8.2-a+dotprod",)},
}
#: Zig names CPUs, not features.
_ZIG_FLAGS: Mapping[str, tuple[str, ...]] = {"isa_dotprod": ("-mcpu=cortex_a76",)}


@dataclass(frozen=True)
class Extra:
    """A C or C++ file that becomes part of the library: its own flags, and the libraries that it needs."""

    source: Path
    flags: tuple[str, ...]
    libraries: tuple[str, ...]


#: Part of the library itself: operators of ONNX Runtime, which takes them from any library and needs nothing to compile them.
ONNX = Extra(
    SOURCES / "onnx" / "ops.c",
    ("-std=gnu11", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"),
    (),
)


class BuildError(Exception):
    """No compiler, or what it said."""


def compiler(arch: str) -> tuple[str, ...] | None:
    """A command that compiles for ``arch``: ``$CC`` or cc for this machine's own, else ziglang; None if there is none."""
    if arch == platform.machine():
        own = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
        if own:
            return tuple(own.split())
    if importlib.util.find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "cc")
    return None


def build(
    arch: str,
    output: Path,
    command: Sequence[str],
    target: str | None = None,
    extra: Extra | None = None,
    relocatable: bool = False,
) -> None:
    """Compile and link the library for ``arch`` to ``output``, which appears whole or not at all.

    ``target`` is Zig's name of the system to build for, None with a compiler of this machine's own; the ``extra`` file
    is compiled by the command's C++ twin unless it is C. ``relocatable`` makes one object of all, to be linked into something
    else. Raises BuildError.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".kernels-", dir=output.parent) as scratch:
        environment = {"ZIG_LOCAL_CACHE_DIR": f"{scratch}/zig", **os.environ}
        towards = ["-target", target] if target else []
        steps: list[list[str]] = []
        objects = []
        for name, own in sources(arch, zig=target is not None):
            objects.append(f"{scratch}/{name}.o")
            steps.append([*command, *towards, *_FLAGS, *own, "-c", str(SOURCES / f"{name}.c"), "-o", objects[-1]])
        linker = list(command)
        if extra is not None:
            if extra.source.suffix != ".c":
                linker[-1] = linker[-1].replace("cc", "c++")
            objects.append(f"{scratch}/extra.o")
            steps.append([*linker, *towards, *extra.flags, "-c", str(extra.source), "-o", objects[-1]])
        with ThreadPoolExecutor(os.cpu_count()) as workers:
            for done in [workers.submit(_run, step, environment) for step in steps]:
                done.result()
        made = Path(scratch) / output.name
        linked = extra.libraries if extra else ()
        shared = ["-shared", "-s", "-Wl,--build-id=none", "-o", str(made), *objects, *linked, "-lm", "-lpthread"]
        whole = ["-r", "-nostdlib", "-o", str(made), *objects]
        _run([*linker, *towards, *(whole if relocatable else shared)], environment)
        made.replace(output)


def sources(arch: str, zig: bool) -> list[tuple[str, tuple[str, ...]]]:
    """Every C file for ``arch`` without its suffix, with the flags that are its own."""
    if arch not in _OWN_FLAGS:
        mine: Mapping[str, tuple[str, ...]] = {}
    else:
        mine = _OWN_FLAGS[arch]
    elsewhere = {name for flags in _OWN_FLAGS.values() for name in flags} - set(mine)
    names = [path.stem for path in sorted(SOURCES.glob("*.c")) if path.stem not in elsewhere]
    return [(name, _ZIG_FLAGS[name] if zig and name in _ZIG_FLAGS else mine.get(name, ())) for name in names]


def _run(command: Sequence[str], environment: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(str(error)) from error
    if done.returncode:
        said = (
            [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["no message"]
        )
        raise BuildError(said[0].strip())
