"""What ``manifest.json`` says: the typed schema of a bundle (version 1).

Written by ``edge.bundle.write`` and read back strictly: a field this version does not know is refused, since it may
change what the bundle means.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from edge.spec import Recipe, Target, TensorSpec, Tolerance

SCHEMA = 1


class FileRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the bundle: path relative to its folder, SHA-256 in hex, size in bytes."""

    path: str
    sha256: str
    size: int


class Cost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Work of one inference, counted on the captured float graph at the samples' shapes."""

    flops: int  # multiply and add are two
    weight_bytes: int  # parameters and constants read, as stored by the scheme
    activation_bytes: int  # operator inputs and outputs if nothing were fused: an upper bound
    operators: int


class ErrorStats(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One output of one stage against eager, the worst over all samples."""

    output: str
    max_abs: float
    relative: float  # max_abs over the reference's root mean square
    cosine: float
    passed: bool


class StageReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """exported, quantized or lowered against eager."""

    stage: str
    where: str  # what computed it: "torch", "onnxruntime on this host", "host twin (x86_64)", ...
    outputs: tuple[ErrorStats, ...]
    samples: int

    @property
    def passed(self) -> bool:
        return all(output.passed for output in self.outputs)


class LayerError(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the error of a failing stage starts: a module of the model and the error of its output."""

    module: str
    operator: str
    relative: float
    cosine: float


class EntryRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry point: its tensors, the file and method that compute it, and what verification found."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    artifact: str
    method: str
    samples: int  # how many samples of it samples.npz holds
    tolerance: Tolerance
    cost: Cost
    stages: tuple[StageReport, ...]
    first_error: tuple[LayerError, ...] = ()


class MetricRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The task's own metric, before and after: eager float32 against the bundle's artifact on the same data."""

    name: str
    higher_is_better: bool
    eager: float
    bundle: float
    data: str


class RuntimeRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The runtime that loads the artifacts.

    ``abi`` must match the installed one exactly where the artifact's format is tied to it (a TVM module), or be at
    least as new (ONNX opset, ExecuTorch schema); each session class decides, see ``edge.runtimes.base``.
    """

    name: str
    version: str
    abi: str


class KernelRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """edge's own kernels, if the artifacts call them: the library's version, and the ABI that must match exactly."""

    version: str
    abi: int


class DelegateRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """ExecuTorch: what XNNPACK took over in one method, and what stayed with the portable kernels (operator: count)."""

    entry: str
    delegates: int
    delegated: int
    portable: Mapping[str, int]


class Notes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the lowering wants a reader to know: delegation, planned memory, tuning, warnings in plain words."""

    delegation: tuple[DelegateRecord, ...] = ()
    planned_bytes: Mapping[str, int] = {}  # ExecuTorch: the activations' memory by entry point, fixed when it loads
    tuned_trials: int = 0
    tuned_tasks: int = 0
    warnings: tuple[str, ...] = ()


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema: int
    edge_version: str
    model: str  # as on the command line: family, variant or module:factory
    family: str
    config: Mapping[str, object]
    checkpoint_sha256: str | None  # None: random weights, or a user's own module
    random_seed: int | None
    target: Target
    runtime: RuntimeRecord
    kernels: KernelRecord | None = None
    recipe: Recipe
    entries: tuple[EntryRecord, ...]
    metrics: tuple[MetricRecord, ...] = ()
    fp32_bytes: int | None = None  # what the same entries take in float32 on this runtime; None if this is float32
    report: Mapping[str, float] = {}  # what the family reports of itself: share of zeros per layer, say
    notes: Notes = Notes()
    verified_on: str  # "this host" or "host twin: not run on aarch64 yet"
    mismatch_allowed: bool = False
    files: tuple[FileRecord, ...] = ()

    def entry(self, name: str) -> EntryRecord:
        from edge.errors import UsageError

        for record in self.entries:
            if record.name == name:
                return record
        known = ", ".join(record.name for record in self.entries)
        raise UsageError(f"the bundle has no entry point '{name}': it has {known}.")
