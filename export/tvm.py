"""TVM's lowering: quantize, import, fuse, schedule or tune, compile, link.

One shared library holds every entry point; kernels and constants that they share are in it once. For a target that this
host cannot run, the same graphs are compiled a second time for the host, so that verification has something to run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from edge.dependencies import require, version
from edge.export.base import Artifact, Captured, Lowered, Lowering, UnsupportedOperator
from edge.export.tvm_compile import compile_module, fuse, llvm_target, requirements
from edge.export.tvm_convert import decompose, missing_operators, to_relax
from edge.export.tvm_link import export_library
from edge.export.tvm_quantize import Quantized, quantize, refuse_nothing_quantized
from edge.manifest import Notes, RuntimeRecord
from edge.progress import Progress
from edge.runtimes.tvm import REQUIREMENTS, Requirements, abi, cpu_flags, host_arch, prepare
from edge.spec import Recipe, Scheme, Target

LIBRARY = "model.so"


class TvmLowering(Lowering):
    runtime: ClassVar[str] = "tvm"
    schemes: ClassVar[tuple[Scheme, ...]] = (Scheme.FP32, Scheme.INT8, Scheme.INT8_DYNAMIC)

    def unsupported(self, captured: Captured, recipe: Recipe) -> list[UnsupportedOperator]:
        _require()
        return missing_operators(decompose(captured.program))

    def lower(
        self, captured: Sequence[Captured], recipe: Recipe, target: Target, workdir: Path, progress: Progress
    ) -> Lowered:
        _require()
        quantized = _quantize(captured, recipe.scheme)
        programs = {
            item.entry.name: quantized[item.entry.name].program if quantized else item.program for item in captured
        }
        functions = {name: to_relax(decompose(program), name) for name, program in programs.items()}
        needs = requirements(target)
        files = _compile(functions, target, needs, workdir / "target")
        twin = None
        if not _runs_here(needs):
            host = _host()
            twin = _compile(functions, host, requirements(host), workdir / "twin")
        return Lowered(
            files=files,
            artifacts={name: Artifact(file=LIBRARY, method=name) for name in functions},
            runtime=RuntimeRecord(name=self.runtime, version=str(version("apache-tvm")), abi=abi()),
            notes=Notes(),
            twin=twin,
            quantized={name: entry.run for name, entry in quantized.items()} or None,
        )


def _require() -> None:
    require("tvm", "exporting to tvm", "tvm", "torch", "ziglang")
    prepare()


def _quantize(captured: Sequence[Captured], scheme: Scheme) -> dict[str, Quantized]:
    if scheme is Scheme.FP32:
        return {}
    quantized = {item.entry.name: quantize(item, scheme) for item in captured}
    refuse_nothing_quantized(list(quantized.values()), scheme)
    return quantized


def _compile(functions: Mapping[str, Any], target: Target, needs: Requirements, folder: Path) -> dict[str, Path]:
    folder.mkdir(parents=True)
    llvm = llvm_target(target)
    executable = compile_module(fuse(functions, llvm), llvm)
    export_library(executable, target, folder / LIBRARY, folder / "objects")
    (folder / REQUIREMENTS).write_bytes(msgspec.json.encode(needs))
    return {LIBRARY: folder / LIBRARY, REQUIREMENTS: folder / REQUIREMENTS}


def _runs_here(needs: Requirements) -> bool:
    flags = cpu_flags()
    return needs.arch == host_arch() and (flags is None or set(needs.flags) <= flags)


def _host() -> Target:
    from edge.devices.targets import load_target

    return load_target("cpu")


LOWERING = TvmLowering()
