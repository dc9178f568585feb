"""ExecuTorch: a ``.pte`` with a method for each entry point, run by the wheel's C++ runtime with XNNPACK.

The bindings (``executorch.extension.pybindings._C``) are imported directly: the documented ``executorch.runtime`` gives
the same objects, but its import pulls in the whole exporter and takes seconds. They need torch: they take its tensors.

Threads are one pool per process. Changing its size frees what XNNPACK's delegates point to (a crash at the next run), so
all sessions that have some unload first and load again when they next run, each with its own number of threads. Programs
without any, as those that call edge's own kernels, ask for the pool in every call and stay.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edge.dependencies import require, version
from edge.errors import BundleError
from edge.manifest import EntryRecord, Manifest
from edge.quiet import quiet_stderr
from edge.runtimes._events import Event
from edge.runtimes.base import OperatorTime, Session, check_kernels

#: What the runtime, executorch's exporter and torchao say on standard error whatever happens.
NOISE = (
    r"\[(cpuinfo_utils|threadpool)\.cpp:\d+\]",
    r"Failed to load .*torchao.*\.so",
    r"W\d{4} .*torch/utils/_pytree\.py:\d+\] <enum 'KernelPreference'>",
    r"(W\d{4} .*)?Skipping import of cpp extensions",
)
#: Beside the artifact: which operators and modules each instruction of each method came from.
MODULES_FILE = "modules.json"
XNNPACK = "XnnpackBackend"
#: XNNPACK times whole microseconds: at least so many runs, or seconds, so that their mean says more.
OPERATOR_RUNS = 200
OPERATOR_SECONDS = 0.5


class ExecuTorchSession(Session):
    runtime: ClassVar[str] = "executorch"
    packages: ClassVar[tuple[str, ...]] = ("torch", "executorch.extension.pybindings._C")

    @classmethod
    def takes_apart(cls, manifest: Manifest) -> bool:
        methods = manifest.notes.delegation
        return bool(methods) and not any(method.delegates for method in methods)

    def check_abi(self) -> None:
        record = self.manifest.runtime
        require("executorch", "running this bundle", "torch", "executorch")
        identifier, _, backend = record.abi.partition("/")
        installed = version("executorch") or "0"
        if _release(installed) < _release(record.version):
            raise BundleError(
                f"this bundle was made by executorch {record.version} and {installed} is installed, which is older: "
                f"run `pip install executorch=={record.version}`, or export it again."
            )
        if identifier != schema_identifier():
            raise BundleError(
                f"this bundle has the program schema {identifier} and the installed executorch {installed} reads "
                f"{schema_identifier()}: export it again."
            )
        if backend not in bindings()._get_registered_backend_names():
            raise BundleError(
                f"this bundle needs ExecuTorch's {backend}, which the installed executorch {installed} was built "
                "without: install the wheel from PyPI."
            )
        check_kernels(self.manifest)
        for name in {entry.artifact for entry in self.manifest.entries}:
            with (self.root / name).open("rb") as stream:
                found = stream.read(8)[4:]
            if found != identifier.encode():
                raise BundleError(f"'{name}' is not an ExecuTorch program of schema {identifier}: export it again.")

    def open(self) -> None:
        if self.manifest.kernels is not None:
            from edge.runtimes.kernels.executorch import load

            load()
        self._methods: dict[str, Any] = {}
        self._programs: list[Any] = []
        self._stays = self.takes_apart(self.manifest)
        self._method(self.manifest.entries[0].name)

    def bind(self, entry: EntryRecord, inputs: Sequence[np.ndarray]) -> Callable[[], Sequence[np.ndarray]]:
        import torch

        name = entry.name
        # A tensor on the array's own memory; torch takes none that is read-only.
        tensors = tuple(torch.from_numpy(value if value.flags.writeable else np.array(value)) for value in inputs)

        def call() -> list[np.ndarray]:
            method = self._method(name)
            try:
                # The method copies its outputs out of its planned memory: each call's are the caller's own.
                return [output.numpy() for output in method(tensors)]
            except RuntimeError as error:
                raise BundleError(f"ExecuTorch failed to run '{name}' ({error}): export it again.") from error

        return call

    def operators(self, entry: EntryRecord, inputs: Sequence[np.ndarray], runs: int) -> list[OperatorTime]:
        import torch

        from edge.runtimes._etdump import read
        from edge.runtimes._executorch_operators import operator_times

        self._method(entry.name)  # the pool has its number of threads
        tensors = tuple(torch.from_numpy(np.array(value)) for value in inputs)
        with tempfile.TemporaryDirectory(prefix="edge-etdump-") as scratch:
            dump = Path(scratch) / "run.etdp"
            with quiet_stderr(*NOISE):
                program = bindings()._load_program(str(self.root / entry.artifact), enable_etdump=True)
                method = program.load_method(entry.method)
                for _ in range(3):
                    method(tensors)
                # Writing empties the record: loading and warming up are not part of the table.
                program.write_etdump_result_to_file(str(dump), str(Path(scratch) / "debug"))
            done, began = 0, time.perf_counter()
            while done < runs or (done < OPERATOR_RUNS and time.perf_counter() - began < OPERATOR_SECONDS):
                method(tensors)
                done += 1
            program.write_etdump_result_to_file(str(dump), str(Path(scratch) / "debug"))
            blocks = read(dump.read_bytes())
        return operator_times(blocks, modules_of(self.root, entry))

    @classmethod
    def operators_of(cls, root: Path, entry: EntryRecord, runs: Sequence[Sequence[Event]]) -> list[OperatorTime]:
        from edge.runtimes._etdump import Block
        from edge.runtimes._executorch_operators import operator_times

        return operator_times([Block("Execute", tuple(run)) for run in runs], modules_of(root, entry))

    def _method(self, entry: str) -> Any:
        """The entry point's method, loaded, and the pool as large as it wants it."""
        if _pool_size != (threads := self.threads_of(entry)):
            _set_threads(threads)
        return (self._methods or self._load())[entry]

    def _load(self) -> dict[str, Any]:
        """Load every method."""
        runtime = bindings()
        with quiet_stderr(*NOISE, r"\[\w+\.cpp:\d+\]") as said:
            try:
                programs = {
                    name: runtime._load_program(
                        str(self.root / name), program_verification=runtime.Verification.InternalConsistency
                    )
                    for name in {entry.artifact for entry in self.manifest.entries}
                }
                self._methods = {
                    entry.name: programs[entry.artifact].load_method(entry.method) for entry in self.manifest.entries
                }
            except RuntimeError as error:
                reason = _reason(said(), error)
                raise BundleError(f"ExecuTorch cannot load this bundle ({reason}): export it again.") from error
        self._programs = list(programs.values())
        if not self._stays:
            _LOADED.add(self)
        return self._methods

    def _unload(self) -> None:
        self._methods = {}
        self._programs = []


def bindings() -> Any:
    """The C++ runtime's own module."""
    import torch  # noqa: F401  # its libraries are what the bindings link to
    from executorch.extension.pybindings import _C

    return _C


def modules_of(root: Path, entry: EntryRecord) -> dict[str, list[list[str]]]:
    """For each instruction of ``entry``'s method the (operator, module) pairs that it was lowered from."""
    known = root / MODULES_FILE
    found = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else {}
    methods: dict[str, list[list[str]]] = found.get(entry.method, {})
    return methods


def kernel_names() -> frozenset[str]:
    """Registered names of all kernels in the installed runtime: ``aten::add.out``."""
    return frozenset(bindings()._get_operator_names())


def schema_identifier() -> str:
    """The program schema that the installed executorch reads and writes, as its own schema file says: ``ET12``."""
    spec = find_spec("executorch")
    places = list(spec.submodule_search_locations or ()) if spec else []
    for place in places:
        schema = Path(place) / "schema" / "program.fbs"
        if schema.is_file():
            found = re.search(r'file_identifier\s+"(\w{4})"', schema.read_text(encoding="utf-8"))
            if found:
                return found[1]
    raise BundleError("the installed executorch has no program schema: install executorch again.")


def execute_once(program: bytes, method: str, inputs: Sequence[Any]) -> list[Any]:
    """Run a program that is not in a file; RuntimeError if it does not load or run."""
    with quiet_stderr(*NOISE, r"\[\w+\.cpp:\d+\]"):
        loaded = bindings()._load_program_from_buffer(program)  # which keeps no reference to `program`
        return list(loaded.load_method(method)(tuple(inputs)))


#: Sessions whose methods point into the pool, and its size (0: not known yet).
_LOADED: weakref.WeakSet[ExecuTorchSession] = weakref.WeakSet()
_pool_size = 0


def _set_threads(count: int) -> None:
    global _pool_size
    runtime = bindings()
    with quiet_stderr(*NOISE):
        if runtime._threadpool_get_thread_count() != count:
            for session in list(_LOADED):
                session._unload()
            runtime._unsafe_reset_threadpool(count)
    _pool_size = count


def _release(number: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", number.split("+")[0])[:3])


def _reason(said: str, error: Exception) -> str:
    """What the runtime wrote of the failure: the missing operators, or else its first line."""
    lines = [line for line in said.splitlines() if not any(re.match(known, line) for known in NOISE)]
    lines = [re.sub(r"^\[\w+\.cpp:\d+\]\s*", "", line) for line in lines]
    missing = [line.partition("]")[2].strip() for line in lines if line.startswith("Missing operator")]
    if missing:
        return f"missing operators: {', '.join(missing)}"
    return f"{error}{f': {lines[0]}' if lines else ''}"


SESSION = ExecuTorchSession
