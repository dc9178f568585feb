"""The kernels as functions of a TVM module: one object of machine code to be linked into the module that calls them."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path

from edge.cache import cache_dir
from edge.dependencies import require, version
from edge.runtimes.kernels import build, kept

SOURCE = Path(__file__).parent / "ops.c"
_FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")


def linkable(arch: str, target: str) -> Path:
    """The object for Zig's ``target`` on ``arch``, built by ziglang into the user's cache if it is not there.

    Raises MissingDependencyError without tvm_ffi or ziglang, UnsupportedError where it does not compile, StorageError.
    """
    require("tvm", "building the kernels for TVM", "tvm_ffi", "ziglang")
    path = cache_dir() / "kernels" / _key() / target / "edge_kernels.o"
    extra = build.Extra(SOURCE, (*_FLAGS, "-isystem", str(_headers())), ())
    zig = (sys.executable, "-m", "ziglang", "cc")
    return kept(
        path, lambda: build.build(arch, path, zig, target, extra, relocatable=True), "the kernels for TVM", "export with --sparse off"
    )


def _headers() -> Path:
    found = importlib.util.find_spec("tvm_ffi")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "include"


def _key() -> str:
    """A name for all that goes into the object: sources, flags, compiler and headers."""
    made_by = (*_FLAGS, version("ziglang") or "", version("apache-tvm-ffi") or "")
    digest = hashlib.sha256("\0".join(made_by).encode())
    for path in sorted((*build.SOURCES.glob("*.[ch]"), SOURCE, Path(build.__file__))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"tvm-{digest.hexdigest()[:16]}"
