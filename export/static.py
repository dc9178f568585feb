"""The lowering to a static program: TVM's graphs, schedules and kernels, without TVM's runtime.

Everything up to scheduled kernels is ``edge.export.tvm``'s; then the calls are planned (``static_plan``), written out
(``static_source``) and linked (``static_link``). For a target that this host cannot run the bundle also holds the host's
program, in ``host/``, which verifies it here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from edge.export.base import Captured
from edge.export.static_link import link_program
from edge.export.static_plan import make_plan
from edge.export.static_source import plan_source, weights_file
from edge.export.tvm import TvmLowering
from edge.export.tvm_compile import llvm_target, schedule
from edge.export.tvm_records import RECORDS
from edge.runtimes.native.program import abi
from edge.runtimes.static import HOST, PROGRAM, WEIGHTS
from edge.spec import Scheme, Target


class StaticLowering(TvmLowering):
    runtime: ClassVar[str] = "static"
    artifact: ClassVar[str] = PROGRAM
    kernels: ClassVar[Mapping[Scheme, int]] = {}  # edge's own are not linked into a program

    @property
    def form(self) -> str:
        return "tvm"

    def compiled_for(self, target: Target) -> Target:
        # The program brings its own C library, whatever the device's is.
        return msgspec.structs.replace(target, triple=f"{target.arch}-linux-musl", libc="musl")

    def abi(self) -> str:
        return abi()

    def packed(self, files: Mapping[str, Path], twin: Mapping[str, Path] | None) -> Mapping[str, Path]:
        own = {name: path for name, path in (twin or {}).items() if name != RECORDS}
        if own and _same(own[WEIGHTS], files[WEIGHTS]):
            del own[WEIGHTS]
        return {**files, **{f"{HOST}/{name}": path for name, path in own.items()}}

    def build(
        self, module: Any, captured: Sequence[Captured], target: Target, folder: Path, sparse: bool
    ) -> Mapping[str, Path]:
        llvm = llvm_target(target)
        plan = make_plan(schedule(module, llvm), [item.entry.name for item in captured], llvm)
        source = plan_source(
            plan,
            captured[0].model,
            {item.entry.name: [spec.name for spec in item.entry.inputs] for item in captured},
            {item.entry.name: [spec.name for spec in item.outputs] for item in captured},
        )
        files = {PROGRAM: folder / PROGRAM, WEIGHTS: folder / WEIGHTS}
        link_program(plan, source, target, files[PROGRAM], folder / "objects")
        files[WEIGHTS].write_bytes(weights_file(plan.weights))
        return files


def _same(one: Path, other: Path) -> bool:
    return hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest()


LOWERING = StaticLowering()
