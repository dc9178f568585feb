"""A static program, which needs no runtime: started as a child that answers requests, as in docs/runner.md.

Refuses (BundleError) a program of another protocol, and one for another architecture or CPU, unless the bundle also holds
the program of the host that exported it and that runs here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, ClassVar, TypeVar

import msgspec
import numpy as np

from edge import errors
from edge.errors import BundleError, DeviceError, EdgeError
from edge.manifest import EntryRecord
from edge.runtimes._events import Event
from edge.runtimes.base import OperatorTime, Session
from edge.runtimes.tvm import REQUIREMENTS, TvmSession, check_cpu, check_machine

PROGRAM, WEIGHTS = "model", "weights.bin"
#: The folder of the exporting host's own program.
HOST = "host"
#: The manifest's abi, as in ``runtimes/native/src/static/plan.h``.
ABI = "edge-static 1"
PROTOCOL = 1


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """The program's last line."""

    id: int
    ok: bool
    kind: str
    sentence: str


class Greeting(msgspec.Struct, frozen=True, kw_only=True):
    """The program's first line, as far as it is read here."""

    protocol: int
    start_ns: int


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    entry: str
    runs: int
    threads: int
    kernels: bool


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """``kernels``: name, start and end in nanoseconds after the start of the last run."""

    id: int
    ok: bool
    ns: int
    times_ns: tuple[int, ...]
    kernels: tuple[tuple[str, int, int], ...] = ()


_Line = TypeVar("_Line", Greeting, Answer)


class StaticSession(Session):
    runtime: ClassVar[str] = "static"

    def check_abi(self) -> None:
        if self.manifest.runtime.abi != ABI:
            raise BundleError(
                f"this bundle's program speaks {self.manifest.runtime.abi} and this edge speaks {ABI}: export it again."
            )
        self.folder = folder_here(self.root)

    def open(self) -> None:
        weights = next(path for path in (self.folder / WEIGHTS, self.root / WEIGHTS) if path.exists())
        self._child = Child(self.folder / PROGRAM, weights, self.threads)

    def bind(self, entry: EntryRecord, inputs: Sequence[np.ndarray]) -> Callable[[], Sequence[np.ndarray]]:
        child, threads = self._child, self.threads_of(entry.name)

        def call() -> Sequence[np.ndarray]:
            return child.run(entry, inputs, threads)[1]

        return call

    def operators(self, entry: EntryRecord, inputs: Sequence[np.ndarray], runs: int) -> list[OperatorTime]:
        threads = self.threads_of(entry.name)
        self._child.run(entry, inputs, threads)
        answers = [self._child.run(entry, inputs, threads, kernels=True)[0] for _ in range(runs)]
        return self.operators_of(self.root, entry, [_events(answer) for answer in answers])

    @classmethod
    def operators_of(cls, root: Path, entry: EntryRecord, runs: Sequence[Sequence[Event]]) -> list[OperatorTime]:
        return [msgspec.structs.replace(row, provider="static") for row in TvmSession.operators_of(root, entry, runs)]


class Child:
    """The running program; it ends with this object."""

    def __init__(self, program: Path, weights: Path, threads: int) -> None:
        with tempfile.TemporaryDirectory(prefix="edge-program-") as scratch:
            command = (runnable(program, Path(scratch)), "--serve", "--weights", str(weights), "--threads", str(threads))
            began = time.perf_counter()
            try:
                self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            except OSError as error:
                raise BundleError(f"'{program.name}' of this bundle cannot be started ({error.strerror}): export it again.") from error
            weakref.finalize(self, _end, self._process)
            self.greeting = self._line(Greeting)
        #: Seconds from the start of the process to its first line.
        self.ready = time.perf_counter() - began
        if self.greeting.protocol != PROTOCOL:
            raise BundleError(f"this bundle's program speaks protocol {self.greeting.protocol} and this edge {PROTOCOL}: export it again.")
        self._next = 0

    def run(
        self, entry: EntryRecord, inputs: Sequence[np.ndarray], threads: int, runs: int = 1, kernels: bool = False
    ) -> tuple[Answer, list[np.ndarray]]:
        """Outputs of ``entry`` for all its inputs, in order; with ``kernels`` the answer tells of each kernel's time."""
        self._next += 1
        request = msgspec.json.encode(Asked(id=self._next, entry=entry.method, runs=runs, threads=threads, kernels=kernels))
        with contextlib.suppress(BrokenPipeError):  # it refused: its line says why
            self._stdin.write(request + b"\n")
            for value in inputs:
                self._stdin.write(np.ascontiguousarray(value).data.cast("B"))
            self._stdin.flush()
        answer = self._line(Answer)
        return answer, [self._tensor(spec.dtype, spec.shape) for spec in entry.outputs]

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _line(self, kind: type[_Line]) -> _Line:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._death()
        try:
            return msgspec.json.decode(line, type=kind)
        except msgspec.DecodeError:
            refused = msgspec.json.decode(line, type=Refused)
            found = getattr(errors, refused.kind, EdgeError)
            raise (found if issubclass(found, EdgeError) else EdgeError)(refused.sentence) from None

    def _tensor(self, dtype: str, shape: Sequence[int | str]) -> np.ndarray:
        value = np.empty([int(size) for size in shape], dtype)
        assert self._process.stdout is not None
        got = self._process.stdout.readinto(value.data.cast("B")) if value.size else 0  # type: ignore[attr-defined]  # a buffered reader
        if got != value.nbytes:
            raise self._death()
        return value

    def _death(self) -> DeviceError:
        status = self._process.wait()
        how = f"died by signal {-status}" if status < 0 else f"ended with status {status}"
        return DeviceError(f"the bundle's program {how}: export it again, or report it.")


def _events(answer: Answer) -> list[Event]:
    """As the native runner records a run: each kernel, and the run itself at the end."""
    kernels = [Event(name, place, "", start, end) for place, (name, start, end) in enumerate(answer.kernels)]
    return [*kernels, Event("run", -1, "", 0, answer.ns)]


def folder_here(root: Path) -> Path:
    """Where in the bundle at ``root`` the program for this machine is. BundleError if there is none."""
    try:
        _check(root)
    except BundleError:
        if not (root / HOST / PROGRAM).is_file():
            raise
        _check(root / HOST)
        return root / HOST
    return root


def runnable(program: Path, scratch: Path) -> str:
    """``program`` itself, or a copy where the way here has taken its right to run."""
    if os.access(program, os.X_OK):
        return str(program.absolute())
    copy = scratch / program.name
    shutil.copyfile(program, copy)
    copy.chmod(0o700)
    return str(copy)


def _check(folder: Path) -> None:
    check_machine(folder / PROGRAM)
    check_cpu(folder / REQUIREMENTS)


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    process.kill()
    process.wait()


SESSION = StaticSession
