"""An estimate, not a measurement: what a bundle may take on a target that is not at hand.

From the roofline (see ``edge.devices.roofline``) with the target's published figures. The low end is what no runtime
can beat: the operations at the full peak, or the weights that no cache holds at the full bandwidth, whichever is
longer. The high end adds up what runtimes lose: operations at a part of the float32 peak, weights and activations once
through memory, and a fixed cost for every operator and for the call. Those losses were chosen so that profiles of the
demo models on x86-64 lie inside (``benchmarks/estimate.py`` prints them); no board has confirmed them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from edge.errors import UsageError
from edge.manifest import EntryRecord, Manifest
from edge.measurement import Roof
from edge.spec import Scheme, Target

#: How much faster than float32 arithmetic can be at best, by scheme: float16 halves the width; dot product
#: instructions (SDOT, VPDPBUSD) do four int8 products where FMLA does one of float32, without them it is two (SMLAL).
_FP16, _INT8_DOT, _INT8 = 2.0, 4.0, 2.0
#: The part of the float32 peak that a runtime reaches at worst, whatever the scheme.
EFFICIENCY: Mapping[str, float] = {"onnx": 0.25, "executorch": 0.25, "tvm": 0.1}
#: What an operator costs at worst beside its arithmetic, in floating-point operations of one core at its peak: 1 us
#: where a core reaches 100 GFLOP/s, more on a slower one.
OPERATOR_FLOPS = 100_000.0
#: The same of a whole call, from the application into the runtime and back: 10 us at worst.
CALL_FLOPS = 1_000_000.0
#: Memory in MB of the process without the model, (least, most): Python with the runtime where it is imported, the
#: runtime's own libraries where a native runner loads the bundle.
_PYTHON_MB: Mapping[str, tuple[float, float]] = {"onnx": (40, 110), "executorch": (150, 330), "tvm": (150, 520)}
_NATIVE_MB: Mapping[str, tuple[float, float]] = {"onnx": (40, 110), "executorch": (5, 40), "tvm": (5, 40)}
#: Allocators and threads take so much more beside weights and activations, at most; copies of the weights while a
#: runtime packs them are so many at most.
ARENA_MB = 24.0
PACKED_COPIES = 3.0
#: The part of a board's memory that a process may count on: the rest is the system's.
USABLE = 0.75


class EntryEstimate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``low_us`` to ``high_us``: the estimated latency. ``bound`` is what the low end comes from: arithmetic or memory."""

    entry: str
    low_us: float
    high_us: float
    bound: str


class MemoryEstimate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Estimated peak of the process; ``verdict`` is "fits", "may not fit" or "does not fit" in ``usable_bytes``."""

    low_bytes: int
    high_bytes: int
    usable_bytes: int
    verdict: str


class Estimate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: str = "estimate"  # so that nobody takes the JSON for a measurement
    bundle: str
    model: str
    runtime: str
    scheme: str
    target: str
    threads: int
    entries: tuple[EntryEstimate, ...]
    memory: MemoryEstimate
    notes: tuple[str, ...]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a target can do at most: GFLOP/s in float32 with all cores, GB/s (None: unknown), bytes of cache."""

    peak_gflops: float
    bandwidth_gbs: float | None
    cache_bytes: int


def published(target: Target) -> Limits:
    """The limits from ``target``'s profile; UsageError if it has no peak."""
    if target.peak_gflops is None:
        raise UsageError(
            f"the target {target.name} has no peak_gflops, so nothing can be estimated for it: name a board or a phone "
            "(see `edge targets`), or add the figure to a profile of your own."
        )
    return Limits(
        peak_gflops=target.peak_gflops, bandwidth_gbs=target.bandwidth_gbs, cache_bytes=(target.cache_kb or 0) * 1024
    )


def measured(roof: Roof) -> Limits:
    """The limits of a machine whose roofline was measured."""
    return Limits(
        peak_gflops=roof.peak_gflops, bandwidth_gbs=roof.bandwidth_gbs, cache_bytes=roof.last_level_cache
    )


def estimate(
    name: str, manifest: Manifest, artifact_bytes: int, target: Target, limits: Limits, threads: int
) -> Estimate:
    """What the bundle ``name`` may take on ``target`` with ``threads`` threads."""
    scheme, runtime = manifest.recipe.scheme, manifest.runtime.name
    return Estimate(
        bundle=name,
        model=manifest.model,
        runtime=runtime,
        scheme=scheme.value,
        target=target.name,
        threads=threads,
        entries=tuple(_entry(entry, scheme, runtime, target, limits, threads) for entry in manifest.entries),
        memory=_memory(manifest.entries, artifact_bytes, runtime, target),
        notes=tuple(_notes(manifest, target, limits)),
    )


def _entry(
    entry: EntryRecord, scheme: Scheme, runtime: str, target: Target, limits: Limits, threads: int
) -> EntryEstimate:
    cost = entry.cost
    part = min(threads / target.cores, 1.0)
    arithmetic = cost.flops / (limits.peak_gflops * _speedup(scheme, target)) / 1e3
    streamed = max(cost.weight_bytes - limits.cache_bytes, 0)
    memory = streamed / limits.bandwidth_gbs / 1e3 if limits.bandwidth_gbs else 0.0
    # All cores are taken for the low end: on cores of two kinds the fast ones have more than their part.
    slow = cost.flops / (limits.peak_gflops * part * EFFICIENCY.get(runtime, min(EFFICIENCY.values()))) / 1e3
    moved = (cost.weight_bytes + cost.activation_bytes) / limits.bandwidth_gbs / 1e3 if limits.bandwidth_gbs else 0.0
    overhead = (cost.operators * OPERATOR_FLOPS + CALL_FLOPS) / (limits.peak_gflops / target.cores) / 1e3
    return EntryEstimate(
        entry=entry.name,
        low_us=max(arithmetic, memory),
        high_us=slow + moved + overhead,
        bound="memory" if memory > arithmetic else "arithmetic",
    )


def _speedup(scheme: Scheme, target: Target) -> float:
    if scheme is Scheme.FP16:
        return _FP16
    if scheme is Scheme.FP32:
        return 1.0
    dot = target.arch == "x86_64" or "+dotprod" in target.features
    return _INT8_DOT if dot else _INT8


def _memory(entries: Sequence[EntryRecord], artifact_bytes: int, runtime: str, target: Target) -> MemoryEstimate:
    table = _PYTHON_MB if target.transport == "local" else _NATIVE_MB
    least, most = table.get(runtime, (5.0, 520.0))
    # Each operator's inputs and outputs are counted, so every tensor at least twice: half is what it takes to free none.
    activations = max((entry.cost.activation_bytes for entry in entries), default=0) // 2
    low = int(least * 1e6) + artifact_bytes
    high = int((most + ARENA_MB) * 1e6 + PACKED_COPIES * artifact_bytes) + activations
    usable = int(target.ram_mb * 2**20 * USABLE)
    verdict = "fits" if high <= usable else "does not fit" if low > usable else "may not fit"
    return MemoryEstimate(low_bytes=low, high_bytes=high, usable_bytes=usable, verdict=verdict)


def _notes(manifest: Manifest, target: Target, limits: Limits) -> list[str]:
    notes = [
        "this is an estimate from the target's figures (see `edge targets --json`), not a measurement: profile on the device "
        "for one."
    ]
    if limits.bandwidth_gbs is None:
        notes.append(f"no memory bandwidth of {target.name} is known: a model whose weights no cache holds may take longer.")
    if manifest.runtime.name == "tvm" and manifest.target.arch != target.arch:
        notes.append(f"this bundle has machine code for {manifest.target.arch}: export it for {target.name} to run it there.")
    return notes
