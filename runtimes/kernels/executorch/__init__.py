"""The kernels as ExecuTorch's operators: a library built against the installed wheel, loaded once in a process."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
import sys
from pathlib import Path

from edge.cache import cache_dir
from edge.dependencies import require, version
from edge.errors import BundleError
from edge.quiet import quiet_stderr
from edge.runtimes.kernels import build, kept
from edge.runtimes.kernels.binding import ABI
from edge.runtimes.native.sdk import Sdk, find_sdk

SOURCE = Path(__file__).parent / "ops.cpp"
LIBRARY = "libedge_kernels_executorch.so"
_FLAGS = (
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-fvisibility=hidden",
    "-DET_USE_THREADPOOL",
    "-DNDEBUG",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
)
_LINKED = ("executorch/lib/libexecutorch.so", "executorch/lib/libexecutorch_threadpool.so")


@functools.cache
def load() -> None:
    """Register the operators with the runtime in this process. Raises as ``library`` does."""
    from edge.runtimes.executorch import bindings

    bindings()
    path = library(platform.machine())
    with quiet_stderr():
        loaded = ctypes.CDLL(str(path))
    if loaded.edge_executorch_ops_abi() != ABI:
        raise BundleError(f"{path} does not fit the installed executorch: remove it, and it is built again.")


def library(arch: str) -> Path:
    """The operators' library for Linux on ``arch``, built by ziglang into the user's cache if it is not there.

    Raises MissingDependencyError without executorch or ziglang, UnsupportedError where it does not compile, StorageError.
    """
    sdk = find_sdk("executorch", arch)
    require("native", "building the kernels for ExecuTorch", "ziglang")
    path = cache_dir() / "kernels" / key(sdk) / arch / LIBRARY
    zig = (sys.executable, "-m", "ziglang", "cc")
    return kept(
        path, lambda: build.build(arch, path, zig, build.SHIPPED[arch], extra=_plus(sdk)), "the kernels for ExecuTorch",
        "export with --sparse off",
    )  # fmt: skip


def _plus(sdk: Sdk) -> build.Extra:
    flags = (*_FLAGS, *(f"-D{name}" for name in sdk.runtime.defines))
    includes = tuple(part for name in sdk.runtime.includes for part in ("-isystem", str(sdk.path(name))))
    return build.Extra(SOURCE, (*flags, *includes), tuple(str(sdk.path(name)) for name in _LINKED))


def key(sdk: Sdk) -> str:
    """A name for all that goes into the library: sources, flags, compiler and SDK."""
    digest = hashlib.sha256("\0".join((*_FLAGS, version("ziglang") or "", *sdk.versions.values())).encode())
    for path in sorted((*build.SOURCES.glob("*.[ch]"), SOURCE, Path(build.__file__))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"executorch-{digest.hexdigest()[:16]}"
