"""What profiling a bundle found, as one frozen value that is written to JSON and read back strictly.

All durations are microseconds, all sizes bytes. ``start_us`` counts from the start of the measuring process' own work
(the interpreter is up, the runtime is not imported yet), so that everything lies on one time line. One row is kept for
each timed run: percentiles can be recomputed, and two measurements compared by their samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from edge.conditions import Block, Conditions, Energy, Figure
from edge.errors import UsageError
from edge.manifest import Cost, ErrorStats, MetricRecord
from edge.runtimes.base import OperatorTime
from edge.spec import Tolerance

SCHEMA = 1


class Run(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One timed call of an entry point, inputs already bound; in JSON the pair [start_us, duration_us]."""

    start_us: float
    duration_us: float


class Latency(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The distribution of an entry point's timed runs; percentiles interpolate linearly between samples."""

    runs: int
    min_us: float
    mean_us: float
    p50_us: float
    p90_us: float
    p99_us: float
    max_us: float

    @classmethod
    def of(cls, durations_us: Sequence[float]) -> Latency:
        values = np.asarray(durations_us, np.float64)
        p50, p90, p99 = (float(value) for value in np.percentile(values, (50, 90, 99)))
        return cls(
            runs=len(values), min_us=float(values.min()), mean_us=float(values.mean()),
            p50_us=p50, p90_us=p90, p99_us=p99, max_us=float(values.max()),
        )


class Phase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stretch of the measuring process: import, load, then bind, first run, warm-up, runs, energy, operators per entry.

    ``rss_bytes`` is the resident set at its end, ``pss_bytes`` the proportional one (None where the kernel does not
    say); ``calls`` is how often the model ran in it.
    """

    name: str
    entry: str | None = None
    start_us: float
    duration_us: float
    rss_bytes: int
    calls: int = 0
    pss_bytes: int | None = None


class Memory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Resident memory of the measuring process, which loads this bundle and nothing else.

    ``baseline`` is Python with numpy (or the native runner), ``imported`` adds the runtime's libraries, ``loaded`` adds the model. The peaks
    are the kernel's high-water mark (VmHWM): of the whole process, of loading, and of running. Where the kernel does
    not let a process reset the mark (``resets`` is false) the last two include whatever came before them.

    The proportional set size (PSS) counts a page that several processes share, a library's say, by its part of them;
    the kernel keeps no mark of it, so ``peak_pss`` is the largest that was read at the end of a phase (None: not
    readable).
    """

    baseline: int
    imported: int
    loaded: int
    load_peak: int
    run_peak: int
    peak: int
    resets: bool
    loaded_pss: int | None = None
    peak_pss: int | None = None

    @property
    def model(self) -> int:
        """The model's own part while it runs: the peak above what the runtime's libraries take by themselves."""
        return max(self.run_peak - self.imported, 0)


class Roof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What this machine can do at most, measured with as many threads as the profile: GB/s read, float32 GFLOP/s.

    ``last_level_cache`` is the largest cache's size in bytes (0 where the kernel does not say): weights below it are
    read from the cache, and memory bandwidth does not bound the model.
    """

    threads: int
    bandwidth_gbs: float
    peak_gflops: float
    bandwidth_method: str
    peak_method: str
    last_level_cache: int


class Bound(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The least possible time of one entry point on this machine, and how near the median comes.

    ``memory_us`` is the time to read the weights once, None where they fit in the last-level cache; ``arithmetic_us``
    is the time of its floating-point operations at the float32 peak. ``kind`` is the larger, ``share`` is that bound
    over the median (1.0 is as fast as can be), ``note`` says in words what to make of it.
    """

    memory_us: float | None
    arithmetic_us: float
    kind: str
    share: float
    note: str


class EntryMeasurement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry point: its first run, warm-up, every timed run, its operators, and what verification had found."""

    entry: str
    inputs: Mapping[str, tuple[int, ...]]  # shapes of the stored sample that was run
    bind_us: float
    first_us: float
    warmup_runs: int
    latency: Latency
    runs: tuple[Run, ...]
    operators: tuple[OperatorTime, ...]
    cost: Cost
    bound: Bound | None = None
    errors: tuple[ErrorStats, ...] = ()  # of the artifact against eager, from the bundle's manifest
    blocks: tuple[Block, ...] = ()  # the stretches that ``runs`` were measured in, and those that were run again
    energy: Energy | None = None


class BundleFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bundle that was measured; ``manifest_sha256`` names its every byte, since the manifest lists the hashes."""

    name: str
    model: str
    runtime: str
    runtime_version: str  # that made it
    scheme: str
    target: str
    manifest_sha256: str
    artifact_bytes: int  # what the runtime loads
    total_bytes: int  # everything in the folder that the manifest lists
    metrics: tuple[MetricRecord, ...] = ()


class DeviceFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The machine, just before measuring. ``busy`` is the share of all cores' time that others used then."""

    device: str
    system: str
    arch: str
    cpu: str
    cores: int
    governor: str | None
    frequency_mhz: float | None
    max_frequency_mhz: float | None
    temperature_c: float | None
    caches: Mapping[str, int]  # "L1d", "L2", "L3": bytes of one instance
    ram_bytes: int
    load_average: tuple[float, float, float]
    busy: float
    python: str
    versions: Mapping[str, str]

    @property
    def in_python(self) -> bool:
        """Whether Python measured. Else a native runner, a bundle's own program or the app did: nothing is imported."""
        return self.python[:1].isdigit()


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was asked for: threads, and for each entry at least ``runs`` runs and ``seconds`` seconds.

    ``apart`` are the threads of the entries that had fewer than ``threads``; ``tuned``: as `edge tune` had found them.
    """

    threads: int
    apart: Mapping[str, int] = {}
    tuned: bool = False
    runs: int
    seconds: float

    def threads_of(self, entry: str) -> int:
        return self.apart.get(entry, self.threads)

    @property
    def threads_text(self) -> str:
        return threads_in_words(self.threads, self.apart)


def threads_in_words(most: int, apart: Mapping[str, int]) -> str:
    """ "4 threads, 1 for decode"."""
    fewer = [f"{count} for {name}" for name, count in sorted(apart.items())]
    return ", ".join([f"{most} thread{'' if most == 1 else 's'}", *fewer])


class Measurement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``cut_short``: the measuring ended before it was done, as its last warning says: runs and entries may be missing."""

    schema: int = SCHEMA
    edge_version: str
    created: str  # ISO 8601, UTC
    bundle: BundleFacts
    device: DeviceFacts
    settings: Settings
    phases: tuple[Phase, ...]
    memory: Memory
    entries: tuple[EntryMeasurement, ...]
    roof: Roof | None = None
    warnings: tuple[str, ...] = ()
    conditions: Conditions = Conditions()
    figures: tuple[Figure, ...] = ()
    cut_short: bool = False

    @property
    def import_us(self) -> float:
        """Time to import the runtime's Python packages and libraries."""
        return self.duration_us("import")

    @property
    def load_us(self) -> float:
        """Time to load every artifact of the bundle, the runtime being imported."""
        return self.duration_us("load")

    def duration_us(self, phase: str) -> float:
        return sum(found.duration_us for found in self.phases if found.name == phase)

    def entry(self, name: str) -> EntryMeasurement:
        for found in self.entries:
            if found.entry == name:
                return found
        known = ", ".join(found.entry for found in self.entries)
        raise UsageError(f"the measurement of {self.bundle.name} has no entry point '{name}': it has {known}.")


class EntryCheck(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `edge verify` found for one entry point: each output against eager's, the worst over the stored samples."""

    entry: str
    where: str
    samples: int
    tolerance: Tolerance
    outputs: tuple[ErrorStats, ...]

    @property
    def passed(self) -> bool:
        return all(output.passed for output in self.outputs)
