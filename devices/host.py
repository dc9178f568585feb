"""What this machine is: the facts behind the target ``cpu`` and the device ``local``.

Everything is read from the operating system, nothing is timed. Where Linux's /proc is missing (macOS), the CPU is named
by its architecture alone.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

_CPUINFO = Path("/proc/cpuinfo")

#: Flags of /proc/cpuinfo that each level of the x86-64 psABI adds, section "micro-architecture levels" (Linux calls
#: LZCNT "abm" and SSE3 "pni").
_X86_LEVELS: tuple[tuple[str, frozenset[str]], ...] = (
    ("x86-64-v2", frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"})),
    ("x86-64-v3", frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"})),
    ("x86-64-v4", frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})),
)

#: Beyond the levels: int8 dot products, by Linux's name and LLVM's. AMX is left out: hypervisors advertise it and raise
#: SIGILL when it is used.
_X86_EXTRA: Mapping[str, str] = {"avx512_vnni": "+avx512vnni", "avx_vnni": "+avxvnni"}

#: "CPU part" of Arm's own cores (implementer 0x41) by LLVM's name; from MIDR_EL1 in each core's Technical Reference
#: Manual.
_ARM_PARTS: Mapping[str, str] = {
    "0xd03": "cortex-a53",
    "0xd05": "cortex-a55",
    "0xd08": "cortex-a72",
    "0xd0b": "cortex-a76",
    "0xd0c": "neoverse-n1",
    "0xd40": "neoverse-v1",
    "0xd41": "cortex-a78",
    "0xd49": "neoverse-n2",
    "0xd4f": "neoverse-v2",
}

#: Hardware capabilities that matter to kernels, by Linux's name and LLVM's.
_ARM_FEATURES: Mapping[str, str] = {
    "asimd": "+neon",
    "asimddp": "+dotprod",
    "asimdhp": "+fullfp16",
    "i8mm": "+i8mm",
    "bf16": "+bf16",
}


class MachineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One machine, this or another. ``cpu`` and ``features`` are LLVM's -mcpu and -mattr; ``cores`` are usable ones."""

    system: str
    arch: str
    model: str
    cpu: str
    features: tuple[str, ...]
    cores: int
    ram_mb: int
    page_size: int
    libc: str


class HostFacts(MachineFacts, frozen=True, kw_only=True):
    """The machine that this process runs on."""

    @property
    def triple(self) -> str:
        if self.system.startswith("Darwin"):
            return f"{'arm64' if self.arch == 'aarch64' else self.arch}-apple-darwin"
        return f"{self.arch}-linux-{'musl' if self.libc == 'musl' else 'gnu'}"


def host_facts() -> HostFacts:
    """The facts of the machine that this process runs on."""
    arch = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    processors = parse_cpuinfo(_CPUINFO.read_text(encoding="utf-8", errors="replace")) if _CPUINFO.exists() else []
    cpu, features = name_cpu(arch, processors)
    return HostFacts(
        system=f"{platform.system()} {platform.release()}",
        arch=arch,
        model=_model(processors) or platform.processor() or arch,
        cpu=cpu,
        features=features,
        cores=_cores(),
        ram_mb=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20,
        page_size=os.sysconf("SC_PAGE_SIZE"),
        libc=_libc(),
    )


def parse_cpuinfo(text: str) -> list[dict[str, str]]:
    """/proc/cpuinfo as one mapping for each processor; a trailing block without "processor" is left out."""
    blocks = []
    for block in text.split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        fields = {key.strip(): value.strip() for key, _, value in pairs}
        if "processor" in fields:
            blocks.append(fields)
    return blocks


def name_cpu(arch: str, processors: Sequence[Mapping[str, str]]) -> tuple[str, tuple[str, ...]]:
    """LLVM's name for the CPU and the features to turn on, such that code for it runs on every core listed."""
    if arch == "x86_64":
        return _name_x86(_common(processors, "flags"))
    if arch == "aarch64":
        return _name_arm(processors)
    return "generic", ()


def _name_x86(flags: frozenset[str]) -> tuple[str, tuple[str, ...]]:
    level = "x86-64"
    for name, needed in _X86_LEVELS:
        if not needed <= flags:
            break
        level = name
    # Turning on a feature that needs wider vectors than the level has would be refused, so extras go with v3 and up.
    extra = tuple(llvm for linux, llvm in _X86_EXTRA.items() if linux in flags and level in ("x86-64-v3", "x86-64-v4"))
    return level, extra


def _name_arm(processors: Sequence[Mapping[str, str]]) -> tuple[str, tuple[str, ...]]:
    have = _common(processors, "Features")
    features = tuple(llvm for linux, llvm in _ARM_FEATURES.items() if linux in have)
    parts = {(processor.get("CPU implementer", ""), processor.get("CPU part", "")) for processor in processors}
    # Cores of two kinds (big and little): only what both have, so no single core's name.
    if len(parts) == 1:
        implementer, part = parts.pop()
        if implementer == "0x41" and part in _ARM_PARTS:
            return _ARM_PARTS[part], features
    return "generic", features


def _common(processors: Sequence[Mapping[str, str]], key: str) -> frozenset[str]:
    sets = [frozenset(processor.get(key, "").split()) for processor in processors]
    return frozenset.intersection(*sets) if sets else frozenset()


def _model(processors: Sequence[Mapping[str, str]]) -> str:
    board = Path("/proc/device-tree/model")  # "Raspberry Pi 5 Model B Rev 1.0", NUL-terminated
    if board.exists():
        return board.read_bytes().rstrip(b"\0").decode("utf-8", "replace")
    return processors[0].get("model name", "") if processors else ""


def _cores() -> int:
    # macOS has no affinity; there the count of all cores is the best that can be said.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _libc() -> str:
    if platform.system() != "Linux":
        return "system"
    return "glibc" if platform.libc_ver()[0] == "glibc" else "musl"
