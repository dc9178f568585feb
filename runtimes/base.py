"""One session interface over every runtime: the same names and dtypes, whichever runs underneath.

A runtime is one module in this folder that defines ``SESSION``, a subclass of ``Session``; its file name is its name.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np

import edge.runtimes
from edge.errors import BundleError, InputError, UnsupportedError, UsageError
from edge.manifest import EntryRecord, Manifest
from edge.runtimes._events import Event


class OperatorTime(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the per-operator table: the same schema for every runtime.

    ``mean_us`` is the time of one call, ``share`` its part of the sum of all rows. ``start_us`` is when its first call
    of a run began after that run's start, for the trace. ``provider`` is who computed it: CPUExecutionProvider,
    XNNPACK, portable, tvm. ``module`` is the part of the model it comes from, where the runtime still knows.
    """

    name: str
    kind: str
    provider: str
    module: str
    calls_per_run: float
    mean_us: float
    share: float
    start_us: float


class Session(ABC):
    """A loaded bundle, ready to run.

    ``root`` is the folder with the artifacts; ``threads`` is how many the runtime may use, ``apart`` how many entry
    points that differ from it use (fewer). Raises BundleError if the installed runtime cannot load what the manifest
    names, MissingDependencyError if it is not installed.
    """

    runtime: ClassVar[str]
    #: Modules that ``open`` imports: the profiler imports them first, to tell the runtime's own time and memory from the
    #: model's.
    packages: ClassVar[tuple[str, ...]] = ()

    def __init__(self, root: Path, manifest: Manifest, threads: int, apart: Mapping[str, int] | None = None) -> None:
        self.root = root
        self.manifest = manifest
        self.threads = threads
        self.apart = dict(apart or {})
        self.check_abi()
        self.open()

    @classmethod
    def takes_apart(cls, manifest: Manifest) -> bool:
        """Whether entry points can have numbers of threads of their own, at no cost when one follows another."""
        return True

    def threads_of(self, entry: str) -> int:
        """How many threads run the entry point."""
        return self.apart.get(entry, self.threads)

    @abstractmethod
    def check_abi(self) -> None:
        """Refuse (BundleError) what this installation cannot load, before anything is loaded."""

    @abstractmethod
    def open(self) -> None:
        """Load every artifact."""

    @abstractmethod
    def bind(self, entry: EntryRecord, inputs: Sequence[np.ndarray]) -> Callable[[], Sequence[np.ndarray]]:
        """A call without arguments that runs ``entry`` on ``inputs`` (already checked, in order) and returns outputs.

        What can be done once is done here, so that calling it again and again times the runtime. Each call reads the
        arrays anew, in place: who binds a cache and writes into it between calls has nothing else copied.
        """

    @abstractmethod
    def operators(self, entry: EntryRecord, inputs: Sequence[np.ndarray], runs: int) -> list[OperatorTime]:
        """Per-operator times over ``runs`` runs, in order of execution."""

    @classmethod
    def operators_of(cls, root: Path, entry: EntryRecord, runs: Sequence[Sequence[Event]]) -> list[OperatorTime]:
        """The per-operator table of events that the native runner recorded for the bundle at ``root``."""
        raise UnsupportedError(f"{cls.runtime} has no native runner.")

    def run(self, entry: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of entry point ``entry`` by name. Raises InputError for inputs that do not fit."""
        record = self.manifest.entry(entry)
        outputs = self.bind(record, check_inputs(record, inputs))()
        return {spec.name: np.asarray(value) for spec, value in zip(record.outputs, outputs, strict=True)}


def check_inputs(record: EntryRecord, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The inputs in the entry's order, checked and filled in; InputError says which one does not fit and how."""
    expected = [spec.name for spec in record.inputs]
    if extra := sorted(set(inputs) - set(expected)):
        raise InputError(f"entry point '{record.name}' has no input '{extra[0]}': it takes {', '.join(expected)}.")
    ordered = []
    for spec in record.inputs:
        if spec.name in inputs:
            ordered.append(spec.check(inputs[spec.name]))
        elif spec.fill is not None:
            ordered.append(spec.default())
        else:
            raise InputError(f"entry point '{record.name}' needs the input '{spec.name}' ({spec.dtype} {list(spec.shape)}).")
    return ordered


def check_kernels(manifest: Manifest) -> None:
    """Refuse (BundleError) a bundle that calls kernels of another ABI than this package has."""
    from edge.runtimes.kernels.binding import ABI

    needed = manifest.kernels
    if needed is not None and needed.abi != ABI:
        raise BundleError(
            f"this bundle calls edge's kernels {needed.version} (ABI {needed.abi}) and the installed edge has ABI {ABI}: "
            "export it again."
        )


def runtime_names() -> list[str]:
    """Every runtime in this folder, by name; a name with a leading underscore is a runtime's own helper."""
    found = pkgutil.iter_modules(edge.runtimes.__path__)
    return sorted(info.name for info in found if info.name != "base" and not info.ispkg and info.name[0] != "_")


def session_class(runtime: str) -> type[Session]:
    if runtime not in runtime_names():
        raise UsageError(f"there is no runtime '{runtime}': choose one of {', '.join(runtime_names())}, or auto.")
    session = importlib.import_module(f"edge.runtimes.{runtime}").SESSION
    assert isinstance(session, type) and issubclass(session, Session)
    return session


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
