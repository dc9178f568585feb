"""TVM: compiled entry points in one shared library, run by the Relax virtual machine.

Refuses (BundleError) a bundle of another TVM version, of another architecture, or compiled for CPU instructions that
this machine lacks: the first two fail somewhere inside, the last kills the process. The compiler is not needed to run.
"""

from __future__ import annotations

import os
import platform
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np

from edge.dependencies import version
from edge.errors import BundleError, MissingDependencyError
from edge.manifest import EntryRecord
from edge.runtimes._events import Event
from edge.runtimes.base import OperatorTime, Session

#: How often an idle worker looks for work before it sleeps: about a millisecond, longer than from kernel to kernel.
SPINS = "3000"
#: Bytes: where kernels expect a tensor to begin.
ALIGNMENT = 64
#: What the library needs from the CPU, beside the artifact.
REQUIREMENTS = "cpu.json"

#: LLVM's names of the instruction sets that compiled code may use, by Linux's name in /proc/cpuinfo.
CPU_FLAGS: Mapping[str, Mapping[str, str]] = {
    "x86_64": {
        "sse3": "pni", "ssse3": "ssse3", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "popcnt": "popcnt",
        "avx": "avx", "avx2": "avx2", "fma": "fma", "f16c": "f16c", "bmi": "bmi1", "bmi2": "bmi2", "lzcnt": "abm",
        "movbe": "movbe", "avx512f": "avx512f", "avx512bw": "avx512bw", "avx512cd": "avx512cd",
        "avx512dq": "avx512dq", "avx512vl": "avx512vl", "avx512vnni": "avx512_vnni", "avxvnni": "avx_vnni",
        "avx512vbmi": "avx512vbmi", "avx512vbmi2": "avx512_vbmi2", "avx512bitalg": "avx512_bitalg",
        "avx512vpopcntdq": "avx512_vpopcntdq", "avx512ifma": "avx512ifma", "avx512bf16": "avx512_bf16",
        "avx512fp16": "avx512_fp16", "gfni": "gfni", "adx": "adx",
    },
    "aarch64": {
        "neon": "asimd", "dotprod": "asimddp", "fullfp16": "asimdhp", "i8mm": "i8mm", "bf16": "bf16", "sve": "sve",
        "sve2": "sve2", "lse": "atomics", "rdm": "asimdrdm", "rcpc": "lrcpc",
    },
}  # fmt: skip

#: ELF's names of machines, by ours.
_MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64", "EM_ARM": "arm", "EM_RISCV": "riscv64"}


class Requirements(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Architecture and CPU that a library was compiled for; ``flags`` are named as in /proc/cpuinfo."""

    arch: str
    cpu: str
    flags: tuple[str, ...]


class TvmSession(Session):
    runtime: ClassVar[str] = "tvm"
    packages: ClassVar[tuple[str, ...]] = ("tvm", "tvm.runtime.vm")

    def check_abi(self) -> None:
        installed = version("apache-tvm")
        if installed is None or version("apache-tvm-ffi") is None:
            raise MissingDependencyError("apache-tvm", "tvm", "running this bundle")
        record = self.manifest.runtime
        if (record.version, record.abi) != (installed, abi()):
            raise BundleError(
                f"this bundle was compiled by TVM {record.version} ({record.abi}) and TVM {installed} ({abi()}) is "
                f"installed: install `apache-tvm=={record.version}` and its {record.abi}, or export it again."
            )
        for name in sorted({entry.artifact for entry in self.manifest.entries}):
            check_machine(self.root / name)
        check_cpu(self.root / REQUIREMENTS)

    def open(self) -> None:
        prepare(self.threads)
        import tvm
        from tvm.runtime.vm import VirtualMachine

        self._device = tvm.cpu()
        self._tensor = tvm.runtime.tensor
        self._machines = {
            name: VirtualMachine(tvm.runtime.load_module(str(self.root / name)), self._device)
            for name in sorted({entry.artifact for entry in self.manifest.entries})
        }

    def bind(self, entry: EntryRecord, inputs: Sequence[np.ndarray]) -> Callable[[], Sequence[np.ndarray]]:
        function = self._machines[entry.artifact][entry.method]
        import tvm

        # The arrays' own memory, where it begins as kernels want it; elsewhere a copy, made anew for each call.
        shared = [value.ctypes.data % ALIGNMENT == 0 and value.flags.writeable for value in inputs]
        arguments = [
            tvm.runtime.from_dlpack(value) if own else self._tensor(value)
            for value, own in zip(inputs, shared, strict=True)
        ]
        copied = [(arguments[index], inputs[index]) for index, own in enumerate(shared) if not own]
        threads = self.threads_of(entry.name)

        def call() -> Sequence[np.ndarray]:
            use_threads(threads)
            for argument, value in copied:
                argument.copyfrom(value)
            outputs = function(*arguments)
            return [output.numpy() for output in outputs]

        return call

    def operators(self, entry: EntryRecord, inputs: Sequence[np.ndarray], runs: int) -> list[OperatorTime]:
        import tvm_ffi

        machine = self._machines[entry.artifact]
        call = self.bind(entry, inputs)
        call()
        watch = _Stopwatch()
        machine.set_instrument(tvm_ffi.convert(watch))
        try:
            for _ in range(runs):
                watch.begin()
                call()
        finally:
            # The machine has no way to forget an instrument: one that does nothing takes its place.
            machine.set_instrument(tvm_ffi.convert(lambda *_: 0))
        return watch.rows(runs)


    @classmethod
    def operators_of(cls, root: Path, entry: EntryRecord, runs: Sequence[Sequence[Event]]) -> list[OperatorTime]:
        watch = _Stopwatch()
        for run in runs:
            *kernels, whole = run  # the run itself ends last
            watch.run_start = whole.start / 1e9
            watch.position = 0
            for event in kernels:
                watch.add(event.name, event.start / 1e9, event.end / 1e9)
        return watch.rows(len(runs))


class _Stopwatch:
    """Times every kernel that the virtual machine calls; its own builtins (shapes, allocation) are left out."""

    def __init__(self) -> None:
        self.run_start = self.call_start = 0.0
        self.position = 0
        self.kernels: list[str] = []
        self.seconds: list[float] = []
        self.first_start: list[float] = []

    def begin(self) -> None:
        self.position = 0
        self.run_start = time.perf_counter()

    def __call__(self, function: Any, name: str, before: bool, result: Any, *arguments: Any) -> int:
        now = time.perf_counter()
        if name.startswith("vm.builtin."):
            return 0
        if before:
            self.call_start = time.perf_counter()
            return 0
        self.add(name, self.call_start, now)
        return 0

    def add(self, name: str, start: float, end: float) -> None:
        """A kernel that ran from ``start`` to ``end``, in seconds."""
        if self.position == len(self.kernels):
            self.kernels.append(name)
            self.seconds.append(0.0)
            self.first_start.append(start - self.run_start)
        self.seconds[self.position] += end - start
        self.position += 1

    def rows(self, runs: int) -> list[OperatorTime]:
        total = sum(self.seconds) or 1.0
        return [
            OperatorTime(
                name=f"{name}@{index}",
                kind=re.sub(r"\d+(?=_|$)", "", name),
                provider="tvm",
                module="",
                calls_per_run=1.0,
                mean_us=1e6 * seconds / runs,
                share=seconds / total,
                start_us=1e6 * start,
            )
            for index, (name, seconds, start) in enumerate(
                zip(self.kernels, self.seconds, self.first_start, strict=True)
            )
        ]


def abi() -> str:
    """What a compiled module is tied to beside TVM's own version."""
    return f"tvm-ffi {version('apache-tvm-ffi')}"


def prepare(threads: int = 1) -> None:
    """Set TVM's thread pool up before TVM makes it; to be called before anything that may run a kernel.

    TVM reads the environment once. Left alone it binds the calling thread to one core for the rest of the process,
    takes half of an x86 machine's cores, and keeps them busy for a tenth of a second after each run; what the user has
    set stays.
    """
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_NUM_THREADS", str(max(threads, os.cpu_count() or 1)))
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", SPINS)


_configured = threading.local()


def use_threads(threads: int) -> None:
    """Run kernels that this thread calls on ``threads`` threads, at most as many as the pool was made with."""
    if getattr(_configured, "threads", None) != threads:
        import tvm

        # 1 is the mode "big cores first"; without binding it only sets the number.
        tvm.get_global_func("runtime.config_threadpool")(1, threads)
        _configured.threads = threads


def check_machine(path: Path) -> None:
    """Refuse a shared library of another architecture than this machine's."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as stream:
            machine = ELFFile(stream).header["e_machine"]
    except (ELFError, OSError) as error:
        raise BundleError(f"'{path.name}' is not a shared library that can be loaded: export it again.") from error
    compiled = _MACHINES.get(machine, str(machine))
    if compiled != host_arch():
        raise BundleError(
            f"this bundle is compiled for {compiled} and this machine is {host_arch()}: "
            "run it on the device, or export it with `--target cpu`."
        )


def check_cpu(path: Path, cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Refuse code that uses instructions which this CPU lacks: it would end the process."""
    try:
        required = msgspec.json.decode(path.read_bytes(), type=Requirements)
    except (OSError, msgspec.DecodeError) as error:
        raise BundleError(f"'{path.name}' of this bundle cannot be read ({error}): export it again.") from error
    found = cpu_flags(cpuinfo)
    if found is None:
        return
    if lacking := [flag for flag in required.flags if flag not in found]:
        raise BundleError(
            f"this bundle is compiled for {required.cpu}, whose {', '.join(lacking)} this CPU lacks: "
            "export it for this one."
        )


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str] | None:
    """The instruction sets of this machine; None where the system does not say (or an emulator shows its host's)."""
    label = {"x86_64": "flags", "aarch64": "Features"}.get(host_arch())
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    line = re.search(rf"^{label}\s*:(.*)$", text, re.MULTILINE) if label else None
    return frozenset(line.group(1).split()) if line else None


def host_arch() -> str:
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


SESSION = TvmSession
