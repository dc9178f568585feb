"""What a model family is, and how one is found.

A family is one module (or one package) in this folder that defines ``FAMILY``, an instance of ``ModelFamily``; its name
is the module's with dashes. ``find`` resolves what a user types: a family, a family and a variant (``fmvit-t``), or
``package.module:factory``. Family modules import torch only where they build a module, since a device that runs bundles
has none.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

import edge.families
from edge.errors import UsageError
from edge.progress import Progress
from edge.spec import DEFAULT_TOLERANCE, DynamicDim, Scheme, Sparse, TensorSpec, Tolerance

if TYPE_CHECKING:
    from torch import nn

    from edge.conditions import Figure
    from edge.manifest import Manifest
    from edge.measurement import EntryMeasurement
    from edge.runtimes.base import Session
    from edge.runtimes.kernels.weights import Weights
    from edge.tasks import Perplexity, Task

Arrays = Mapping[str, np.ndarray]
#: Runs one entry point: name and inputs to outputs. Eager torch and every runtime's session offer it.
Run = Callable[[str, Arrays], Arrays]


@dataclass(frozen=True)
class KernelForm:
    """A module's form for edge's own kernels (see ``edge.runtimes.kernels.torch_ops``).

    ``build`` makes it from how its weights are to be rounded. ``units`` are the linear layers of the entry's module, those
    together that have the same bits; layers that are in none keep bits of their own. The first output is logits. ``ups`` are the up
    projections before squared ReLUs, which can be skipped (``Weights.up``).
    """

    build: Callable[[Weights], nn.Module]
    units: tuple[tuple[nn.Linear, ...], ...]
    ups: tuple[nn.Linear, ...] = ()


@dataclass(frozen=True)
class EntryPoint:
    """One function of a model that a bundle offers.

    ``module`` takes the inputs positionally, in the order of ``inputs``, and returns a tensor or a tuple of tensors in
    the order of ``outputs``. ``samples`` are real inputs (the first is the example for capture): verification runs on
    them and they go into the bundle. ``calibration`` are real inputs for static quantization, disjoint from the samples
    where the data allow it. ``keep_float`` names submodules (fnmatch patterns on their path) that stay in float
    whatever the scheme: tables of constants, normalisation of raw sensor values. ``kernels``, if given, is the module's form
    for edge's own kernels. ``read``, if given, lets the module run on more calibration text than ``calibration`` holds:
    whoever rounds weights watches what comes by.
    """

    name: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    samples: Sequence[Arrays]
    calibration: Sequence[Arrays] = ()
    dynamic: tuple[DynamicDim, ...] = ()
    keep_float: tuple[str, ...] = ()
    kernels: KernelForm | None = None
    read: Callable[[], None] | None = None
    tolerance: Mapping[Scheme, Tolerance] = field(default_factory=lambda: DEFAULT_TOLERANCE)


@dataclass(frozen=True)
class Metric:
    """The task's own measure, on held-out data that ships with the package: ``evaluate`` drives any ``Run``."""

    name: str
    higher_is_better: bool
    data: str
    evaluate: Callable[[Run], float]


@dataclass(frozen=True)
class Source:
    """Where weights come from: a checkpoint, a config with random weights of a seed, or (all None) the demo.

    ``runtime`` is where the model goes: a family may build a form that is equal in value and suits that runtime better.
    ``part`` is one of the family's ``parts``, None for all of the model; ``context`` how many tokens a language model is
    to hold (None: what its checkpoint was made for). ``progress`` hears of loading that takes long. ``sparse`` is whether its
    entry points are to offer ``kernels``; AUTO leaves it to the family, by the model's size.
    """

    checkpoint: Path | None = None
    config: Path | None = None
    random_seed: int | None = None
    runtime: str = "onnx"
    part: str | None = None
    context: int | None = None
    progress: Progress = field(default_factory=Progress)
    sparse: Sparse = Sparse.OFF


@dataclass(frozen=True)
class Model:
    """A built model: what ``edge export`` takes through its stages.

    ``assets`` are files that go into the bundle as they are, by name there: a tokenizer, say. A task finds them in its
    session's ``root``.
    """

    name: str  # as the user typed it
    family: str
    config: Mapping[str, object]
    entries: tuple[EntryPoint, ...]
    checkpoint_sha256: str | None = None
    random_seed: int | None = None
    metrics: tuple[Metric, ...] = ()
    report: Mapping[str, float] = field(default_factory=dict)
    assets: Mapping[str, Path] = field(default_factory=dict)


class ModelFamily(ABC):
    """A kind of model: builds modules, reads the authors' checkpoints, names entry points and tasks."""

    name: ClassVar[str]
    summary: ClassVar[str]  # one line, for `edge models`
    paper: ClassVar[str] = ""
    variants: ClassVar[tuple[str, ...]] = ()  # suffixes after the family's name; empty: the name alone
    has_demo: ClassVar[bool] = True  # a checkpoint that ships with the package
    parts: ClassVar[tuple[str, ...]] = ()  # what can be exported on its own with --part, for different machines
    has_context: ClassVar[bool] = False  # a language model: its context length is set at export

    @abstractmethod
    def load(self, name: str, variant: str | None, source: Source) -> Model:
        """Build the model; raises ConfigError, CheckpointError or UsageError."""

    def auto_scheme(self, suggested: Scheme) -> Scheme:
        """What ``--quantize auto`` means on a target that suggests ``suggested``."""
        return suggested

    def tasks(self) -> Mapping[str, Task]:
        """The tasks that ``edge run`` offers for this family's bundles, by name. Needs no torch."""
        return {}

    def figures(self, manifest: Manifest, entries: Mapping[str, EntryMeasurement]) -> tuple[Figure, ...]:
        """What the measured ``entries``, by name, mean for the family's task: tokens/s, say. Needs no torch."""
        return ()

    def perplexity(self, session: Session, text: str, progress: Progress) -> Perplexity:
        """How well a bundle of this family predicts ``text``; UsageError for what is no language model."""
        raise UsageError(f"{self.name} is no language model, so it predicts no text: `edge verify` checks its bundles.")

    def write_gguf(self, name: str, variant: str | None, source: Source, output: Path, kind: str) -> None:
        """Write the weights that ``source`` asks for as GGUF, matrices as ``kind``; UsageError for what has no such form."""
        raise UsageError(f"{name} has no GGUF form, which llama.cpp has for language models: `edge export` makes bundles.")


def family_names() -> list[str]:
    """Every family in this folder, by name."""
    modules = (info.name for info in pkgutil.iter_modules(edge.families.__path__))
    return sorted(name.replace("_", "-") for name in modules if name not in ("base", "user"))


def get_family(name: str) -> ModelFamily:
    """The family called ``name``; ``user`` serves ``module:factory``."""
    if name != "user" and name not in family_names():
        raise UsageError(f"there is no model family '{name}': choose one of {', '.join(family_names())}, or package.module:factory.")
    family = importlib.import_module(f"edge.families.{name.replace('-', '_')}").FAMILY
    assert isinstance(family, ModelFamily)
    return family


def find(model: str) -> tuple[ModelFamily, str | None]:
    """The family and the variant (None: the default one) that ``model`` names."""
    if ":" in model:
        return get_family("user"), None
    for name in sorted(family_names(), key=len, reverse=True):
        if model == name:
            return get_family(name), None
        if model.startswith(f"{name}-"):
            family, variant = get_family(name), model[len(name) + 1 :]
            if variant in family.variants:
                return family, variant
            known = ", ".join([name, *(f"{name}-{suffix}" for suffix in family.variants)])
            raise UsageError(f"there is no model '{model}': this family has {known}.")
    known = ", ".join(family_names())
    raise UsageError(f"there is no model '{model}': choose one of {known}, or package.module:factory (see `edge models`).")
