"""The frozen values that pass between layers: what a tensor, an entry point, a target and a recipe are.

Nothing here imports torch or a runtime: a device that only runs bundles reads the same types.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec
import numpy as np

from edge.errors import InputError, UsageError

#: dtypes that every runtime takes, by the name that manifests use.
DTYPES: Mapping[str, np.dtype] = {
    name: np.dtype(name) for name in ("float32", "float16", "int64", "int32", "int8", "uint8", "bool")
}


class Scheme(enum.StrEnum):
    """How weights and activations are stored and computed."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"  # static: weights per channel, activations by calibration
    INT8_DYNAMIC = "int8-dynamic"  # weights per channel, activations scaled at run time
    INT4 = "int4"  # weights only, in groups


class Sparse(enum.StrEnum):
    """Whether edge's own kernels compute a model's large products, and leave out what squared ReLUs make zero."""

    AUTO = "auto"  # where the runtime takes them and the model is large enough to be worth it
    ON = "on"
    OFF = "off"


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Name, dtype and shape of one input or output.

    ``shape`` has an int for a fixed axis and a name for a dynamic one. ``fill``, if given, is the value of an input
    that the caller leaves out (a mask of ones, say).
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    fill: float | None = None

    def check(self, value: np.ndarray) -> np.ndarray:
        """``value`` as a C-contiguous array of this spec's dtype; InputError if its shape or dtype does not fit.

        A cast is made only where nothing can be lost (float64 to float32 is refused: the caller should know).
        """
        want = DTYPES[self.dtype]
        if value.dtype != want and not np.can_cast(value.dtype, want, casting="safe"):
            raise InputError(f"input '{self.name}' is {value.dtype} but must be {self.dtype}: cast it before passing it.")
        fits = len(value.shape) == len(self.shape) and all(
            isinstance(expected, str) or expected == actual
            for expected, actual in zip(self.shape, value.shape, strict=True)
        )
        if not fits:
            raise InputError(f"input '{self.name}' has shape {list(value.shape)} but must have {list(self.shape)}.")
        return np.ascontiguousarray(value, dtype=want)

    def default(self) -> np.ndarray:
        """The array for an input that the caller left out; only for specs with a ``fill`` and a fixed shape."""
        assert self.fill is not None
        return np.full([int(axis) for axis in self.shape], self.fill, DTYPES[self.dtype])


class DynamicDim(msgspec.Struct, frozen=True, kw_only=True):
    """Axis ``axis`` of input ``input`` may be any size from ``min`` to ``max``; equal names are equal sizes."""

    input: str
    axis: int
    name: str
    min: int = 1
    max: int = 4096


class Tolerance(msgspec.Struct, frozen=True, kw_only=True):
    """When an output counts as equal to the reference.

    ``atol`` is in units of the reference's own root mean square (so that it means the same for logits and for raw
    sensor values); ``cosine`` is the least cosine similarity. Both must hold.
    """

    atol: float
    cosine: float


#: The tolerance of each scheme where a model does not say otherwise: float32 differs by rounding only; a quantized
#: model must still point the same way (the task's own metric, kept beside it, says what that costs).
DEFAULT_TOLERANCE: Mapping[Scheme, Tolerance] = {
    Scheme.FP32: Tolerance(atol=1e-3, cosine=0.99999),
    Scheme.FP16: Tolerance(atol=5e-2, cosine=0.999),
    Scheme.INT8: Tolerance(atol=1.5, cosine=0.98),
    Scheme.INT8_DYNAMIC: Tolerance(atol=1.5, cosine=0.98),
    Scheme.INT4: Tolerance(atol=2.0, cosine=0.95),
}


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What to do with a captured model: the runtime, the scheme, and how much to spend."""

    runtime: str
    scheme: Scheme
    group_size: int = 32  # int4: weights that share a scale
    calibration: str | None = None  # SHA-256 of the user's calibration file; None is the model's own samples
    tune_trials: int = 0  # tvm: MetaSchedule measurements to spend
    sparse: bool = False  # edge's own kernels, which leave out what squared ReLUs make zero
    skip_up: float | None = None  # with them, int4: of what live neurons add, the share that skipping up halves is to keep
    seed: int = 0


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind of device, from a profile (``devices/profiles/NAME.toml``)."""

    name: str
    description: str
    triple: str  # LLVM's: x86_64-linux-gnu, aarch64-linux-gnu
    cpu: str  # LLVM's -mcpu
    features: tuple[str, ...] = ()  # LLVM's -mattr
    cores: int
    threads: int  # the default for run and profile
    ram_mb: int
    page_size: int = 4096
    cache_kb: int | None = None  # what can hold weights between runs: the shared cache and each core's own L2, KiB
    bandwidth_gbs: float | None = None  # memory reads, GB/s
    peak_gflops: float | None = None  # float32, all cores
    libc: str = "glibc"
    runtime: str  # what `--runtime auto` means here
    scheme: Scheme  # what `--quantize auto` means here
    transport: str = "local"
    sources: Mapping[str, str] = {}  # where each figure comes from

    @property
    def arch(self) -> str:
        """``x86_64`` or ``aarch64``: what the bundle's machine code, if any, is for."""
        return self.triple.split("-", 1)[0]


def parse_scheme(name: str) -> Scheme:
    try:
        return Scheme(name)
    except ValueError:
        known = ", ".join(scheme.value for scheme in Scheme)
        raise UsageError(f"there is no scheme '{name}': choose one of {known}.") from None
