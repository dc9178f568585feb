"""Kernels in C for quantized language models (``edge_kernels.h``), as a library for this machine or another.

A wheel carries the library for x86-64 and arm64 Linux. A checkout, or another machine, builds it at first use into the user's
cache, under a name made of the sources and the compiler, so that a change of either builds it anew.
"""

from __future__ import annotations

import functools
import hashlib
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from edge.cache import cache_dir
from edge.errors import MissingDependencyError, StorageError, UnsupportedError
from edge.runtimes.kernels import build

if TYPE_CHECKING:
    from edge.runtimes.kernels.binding import Kernels


def library(triple: str | None = None) -> Path:
    """The kernels' library for ``triple`` (None: this machine), built if need be.

    Raises UnsupportedError for what is no Linux with glibc or cannot be compiled, MissingDependencyError without a compiler.
    """
    arch = triple.split("-")[0] if triple else platform.machine()
    if triple and not triple.endswith("linux-gnu"):
        raise UnsupportedError(
            f"there are no kernels for {triple}: choose a Linux target with glibc, or leave them out."
        )
    shipped = build.SOURCES / "lib" / arch / build.LIBRARY
    if shipped.is_file():
        return shipped
    command = build.compiler(arch)
    if command is None:
        raise MissingDependencyError("a C compiler (or ziglang)", "tvm", f"building the kernels for {arch}")
    zig = "ziglang" in command
    target = build.SHIPPED.get(arch, f"{arch}-linux-gnu") if zig else None
    path = cache_dir() / "kernels" / _name(command) / arch / build.LIBRARY
    if not path.is_file():
        try:
            build.build(arch, path, command, target)
        except build.BuildError as error:
            raise UnsupportedError(
                f"the kernels for {arch} do not compile ({error}): leave them out, or set CC."
            ) from error
        except OSError as error:
            raise StorageError(
                f"the kernels cannot be kept in {path.parent} ({error.strerror}): set EDGE_CACHE to another folder."
            ) from error
    return path


@functools.cache
def load() -> Kernels:
    """The library for this machine, loaded once in a process."""
    from edge.runtimes.kernels.binding import Kernels

    return Kernels(library())


def _name(command: tuple[str, ...]) -> str:
    digest = hashlib.sha256("\0".join(command).encode())
    for path in sorted((*build.SOURCES.glob("*.[ch]"), Path(build.__file__))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
