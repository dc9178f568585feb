"""From compiled objects to a shared library, for this machine or another, with the linker of PyPI's ``ziglang``.

The same objects give the same bytes: fixed object names, no build id, no symbols beyond the dynamic ones.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.dependencies import require
from edge.errors import UnsupportedError
from edge.runtimes.kernels.tvm import linkable
from edge.spec import Target

#: The oldest C library to load with: that of manylinux_2_28, which TVM's own wheels need as well.
GLIBC = "2.28"


def export_library(executable: Any, target: Target, path: Path, scratch: Path, kernels: bool = False) -> None:
    """Write ``executable`` (a compiled TVM module) as the shared library ``path``; ``scratch`` takes the objects.

    ``kernels`` says whether it calls edge's own, which are then linked into it.
    """
    require("tvm", "linking TVM code", "ziglang")
    triple = linker_target(target)
    scratch.mkdir(parents=True, exist_ok=True)
    added = [str(linkable(target.arch, triple))] if kernels else []

    def link(output: str, objects: Sequence[str], **_: Any) -> None:
        command = [sys.executable, "-m", "ziglang", "cc", "-target", triple, "-shared", "-s", "-Wl,--build-id=none"]
        environment = os.environ | {"ZIG_LOCAL_CACHE_DIR": str(scratch / "zig")}
        done = subprocess.run(
            [*command, "-o", output, *objects, *added], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = (done.stderr or done.stdout).strip().splitlines()
            raise UnsupportedError(
                f"the code for {triple} cannot be linked ({reason[-1] if reason else 'no message'}): "
                "check the target's triple and features."
            )

    executable.export_library(str(path), fcompile=link, workspace_dir=str(scratch))


def linker_target(target: Target) -> str:
    """Zig's name of a target: its triple with the oldest glibc that the code may meet."""
    parts = target.triple.split("-")
    if "linux" not in parts:
        raise UnsupportedError(f"TVM code for {target.triple} cannot be linked here: choose a Linux target.")
    if parts[-1] == "android":
        raise UnsupportedError("TVM code for Android needs the NDK's linker: choose another runtime for this target.")
    return f"{target.arch}-linux-musl" if target.libc == "musl" else f"{target.arch}-linux-gnu.{GLIBC}"
