"""Kernels in C for quantized language models (``edge_kernels.h``), as a library for this machine or another.

A wheel carries the library for x86-64 and arm64 Linux. A checkout, or another machine, builds it at first use into the user's
cache, under a name made of the sources and the compiler, so that a change of either builds it anew.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edge.cache import cache_dir, locked
from edge.errors import MissingDependencyError, StorageError, UnsupportedError
from edge.runtimes.kernels import build

if TYPE_CHECKING:
    from edge.runtimes.kernels.binding import Kernels


#: The variable that names this machine's library, where no other is to be looked for: on a device, whose library was pushed.
OWN_LIBRARY = "EDGE_KERNELS"


def library(triple: str | None = None) -> Path:
    """The kernels' library for ``triple`` (None: this machine), built if need be.

    Raises UnsupportedError for what is no Linux with glibc or cannot be compiled, MissingDependencyError without a compiler.
    """
    if triple is None and (own := os.environ.get(OWN_LIBRARY)):
        return Path(own)
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
    return kept(path, lambda: build.build(arch, path, command, target, build.ONNX), f"the kernels for {arch}", "leave them out, or set CC")


def kept(path: Path, make: Callable[[], None], what: str, remedy: str) -> Path:
    """``path`` in the user's cache, by ``make`` if it is not there: in one process, for which all others wait.

    Raises UnsupportedError where ``what`` does not compile, StorageError.
    """
    try:
        if not path.is_file():
            with locked(path.parent.parent / f"{path.parent.name}.lock"):
                if not path.is_file():
                    make()
    except build.BuildError as error:
        raise UnsupportedError(f"{what} do not compile ({error}): {remedy}.") from error
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
    for path in sorted((*build.SOURCES.glob("*.[ch]"), *build.SOURCES.glob("onnx/*.[ch]"), Path(build.__file__))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
