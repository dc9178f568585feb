"""From a plan to a program: TVM compiles its kernels to an object, zig links them with the plan and the executor.

Static and position-independent, with segments that load where pages are 16 KB; the same plan gives the same bytes.
Kernels may call what the executor has of TVM's runtime and the C library's mathematics; others are named.
"""

from __future__ import annotations

from pathlib import Path

from edge.errors import UnsupportedError
from edge.export.static_plan import Plan
from edge.export.tvm_compile import compile_context, llvm_target
from edge.runtimes.native.program import compile_c, program_objects, zig
from edge.spec import Target

#: Segments may be mapped where pages are of 4, 16 or 64 KB: Android asks for 16 and more does no harm but bytes.
PAGE = 16384
#: Of TVM's runtime, what ``runtimes/native/src/static/backend.c`` has.
PROVIDED = frozenset({
    "__TVMBackendAllocWorkspace", "__TVMBackendFreeWorkspace", "__TVMBackendParallelLaunch",
    "__TVMFFIErrorSetRaisedFromCStr", "TVMFFIErrorSetRaisedFromCStr", "TVMFFIErrorSetRaisedFromCStrParts",
})  # fmt: skip
_TVMS = ("TVM", "__TVM")


def link_program(plan: Plan, source: str, target: Target, path: Path, scratch: Path) -> None:
    """Write the program of ``plan``, whose C is ``source``, to ``path``; ``scratch`` takes what is in between."""
    objects = program_objects(target.arch)
    scratch.mkdir(parents=True, exist_ok=True)
    kernels, planned = scratch / "kernels.o", scratch / "plan.o"
    compile_kernels(plan, target, kernels)
    (scratch / "plan.c").write_text(source, encoding="utf-8")
    compile_c(scratch / "plan.c", planned, target.arch, scratch)
    command = ("c++", "-target", f"{target.arch}-linux-musl", "-static", "-pie", "-s")
    options = ("-Wl,--gc-sections", "-Wl,--build-id=none", f"-Wl,-z,max-page-size={PAGE}")
    zig((*command, *options, *objects, planned, kernels, "-o", path), scratch, f"the program for {target.arch}")
    path.chmod(0o755)


def compile_kernels(plan: Plan, target: Target, path: Path) -> None:
    """The plan's kernels as one object. UnsupportedError names what they need and a static program has not."""
    import tvm

    llvm = llvm_target(target)
    # Their arguments are the plan's: to look at them at every call would take three times the code.
    with compile_context(llvm, checked=False):
        tvm.tirx.build(plan.kernels, target=llvm).write_to_file(str(path), "o")
    if lacking := sorted(name for name in foreign_symbols(path) if name not in PROVIDED):
        raise UnsupportedError(
            f"compiled kernels call {', '.join(lacking)} of TVM's runtime, which a static program has not: export without --static."
        )


def foreign_symbols(path: Path) -> list[str]:
    """TVM's own symbols that the object ``path`` does not hold, or holds as a place that a loader would fill in."""
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as stream:
        symbols = [symbol for symbol in ELFFile(stream).get_section_by_name(".symtab").iter_symbols() if symbol.name.startswith(_TVMS)]
    return [
        symbol.name
        for symbol in symbols
        if symbol["st_shndx"] == "SHN_UNDEF" or (symbol["st_info"]["bind"] == "STB_WEAK" and symbol["st_info"]["type"] == "STT_OBJECT")
    ]
