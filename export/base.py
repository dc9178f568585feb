"""What a runtime's lowering is, and what passes between the export stages.

A lowering is one module in this folder, named as its runtime, that defines ``LOWERING``, an instance of ``Lowering``.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edge.families.base import Arrays, EntryPoint
from edge.manifest import Cost, KernelRecord, Notes, RuntimeRecord
from edge.progress import Progress
from edge.runtimes.base import runtime_names
from edge.spec import Recipe, Scheme, Target, TensorSpec

if TYPE_CHECKING:
    from torch.export import ExportedProgram


@dataclass(frozen=True)
class Captured:
    """An entry point after capture: its graph, the shapes of its outputs, and what eager computes for each sample."""

    entry: EntryPoint
    program: ExportedProgram
    outputs: tuple[TensorSpec, ...]
    references: tuple[tuple[Arrays, Arrays], ...]  # (inputs, eager outputs), one per sample
    calibration: tuple[Arrays, ...]  # inputs for static quantization: the user's, or the entry's own
    read: Callable[[], None] | None  # runs the entry's module on calibration data, for who watches it; None: there is none
    cost: Cost
    model: str = ""  # the model's name, for artifacts that say it


@dataclass(frozen=True)
class UnsupportedOperator:
    """An operator that the runtime lacks, with the module of the model that it comes from, and how often."""

    operator: str
    module: str
    count: int


@dataclass(frozen=True)
class Artifact:
    """Where an entry point ended up: a file of the bundle and the method (or function) in it."""

    file: str
    method: str


@dataclass(frozen=True)
class Lowered:
    """What a lowering made.

    ``files`` are the bundle's, by name. ``twin``, for machine code that this host cannot run, holds the same files
    compiled for this host; verification uses it. ``quantized`` computes each entry with the quantized graph before
    lowering (None for a float scheme). ``report`` joins what the family reports of the model.
    """

    files: Mapping[str, Path]
    artifacts: Mapping[str, Artifact]
    runtime: RuntimeRecord
    notes: Notes = field(default_factory=Notes)
    kernels: KernelRecord | None = None
    twin: Mapping[str, Path] | None = None
    quantized: Mapping[str, Callable[[Arrays], Arrays]] | None = None
    report: Mapping[str, float] = field(default_factory=dict)


class Lowering(ABC):
    """Takes captured entry points to one runtime's artifacts."""

    runtime: ClassVar[str]
    schemes: ClassVar[tuple[Scheme, ...]]
    #: Schemes that edge's own kernels can serve in this runtime, with the bits of their weights.
    kernels: ClassVar[Mapping[Scheme, int]] = {}
    #: Whether its bundles can skip up halves (``Recipe.skip_up``).
    skips: ClassVar[bool] = False

    @property
    def form(self) -> str:
        """The runtime that families build their modules for, which is this one unless it shares another's compiler."""
        return self.runtime

    @abstractmethod
    def unsupported(self, captured: Captured, recipe: Recipe) -> list[UnsupportedOperator]:
        """All operators of the captured graph that this runtime cannot run: the whole list, not the first."""

    @abstractmethod
    def lower(
        self, captured: Sequence[Captured], recipe: Recipe, target: Target, workdir: Path, progress: Progress
    ) -> Lowered:
        """Quantize as the recipe says and lower; files go into ``workdir``. Raises UnsupportedError."""


def get_lowering(runtime: str) -> Lowering:
    assert runtime in runtime_names()
    lowering = importlib.import_module(f"edge.export.{runtime}").LOWERING
    assert isinstance(lowering, Lowering)
    return lowering
