"""The roofline: what this machine can do at most, and how near a model comes to it.

Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore architectures",
Communications of the ACM 52 (4), 2009. Bandwidth is measured by reading arrays far larger than the caches, peak by
float32 matrix products in numpy's BLAS; both are the best of several tries, since disturbance only ever slows.
``machine_roof`` expects a process whose BLAS was limited to as many threads (see ``edge.devices.local``).
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np

from edge.cache import read_cached, write_cached
from edge.devices.facts import BUSY, busy_share, caches, last_level_cache
from edge.devices.host import host_facts
from edge.manifest import Cost
from edge.measurement import Bound, Roof
from edge.spec import Scheme

#: Read at least this much, and four times the last-level cache, so that little of it can be left from the last pass.
LEAST_BYTES = 128 * 2**20
#: But no more than this part of the machine's memory.
MEMORY_PART = 8
#: Time to spend on each of the two figures, in seconds, and tries to make at least.
SECONDS = 1.0
TRIES = 5
#: Sides of the square products: small ones win where caches are small, large ones where threads must be fed.
SIDES = (256, 512, 1024)


def machine_roof(threads: int) -> Roof:
    """Bandwidth and peak with ``threads`` threads: from the cache, or measured (about two seconds) and kept there.

    A figure measured while others use the machine is not kept.
    """
    host = host_facts()
    key = f"{host.model}|{host.arch}|{host.cores}|{threads}|{np.__version__}"
    name = f"roofline/{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    if (raw := read_cached(name)) is not None:
        try:
            return msgspec.json.decode(raw, type=Roof)
        except msgspec.DecodeError:
            pass  # written by another version: measure again
    quiet = busy_share() <= BUSY
    roof = measure_roof(threads, host.ram_mb * 2**20)
    if quiet:
        write_cached(name, msgspec.json.encode(roof))
    return roof


def measure_roof(threads: int, ram_bytes: int) -> Roof:
    """Measure now. Takes about ``2 * SECONDS`` seconds and an eighth of the memory at most."""
    cache = last_level_cache(caches())
    size = min(max(LEAST_BYTES, 4 * cache), ram_bytes // MEMORY_PART)
    bandwidth, bandwidth_method = _bandwidth(threads, size)
    peak, peak_method = _peak(threads)
    return Roof(
        threads=threads, bandwidth_gbs=bandwidth, peak_gflops=peak, bandwidth_method=bandwidth_method,
        peak_method=peak_method, last_level_cache=cache,
    )


def bound(cost: Cost, p50_us: float, roof: Roof, scheme: Scheme) -> Bound:
    """How near ``p50_us`` comes to the least possible time of ``cost`` on ``roof``."""
    arithmetic = cost.flops / roof.peak_gflops / 1e3
    cached = cost.weight_bytes <= roof.last_level_cache
    memory = None if cached else cost.weight_bytes / roof.bandwidth_gbs / 1e3
    kind = "memory" if memory is not None and memory > arithmetic else "arithmetic"
    least = memory if kind == "memory" and memory is not None else arithmetic
    return Bound(
        memory_us=memory,
        arithmetic_us=arithmetic,
        kind=kind,
        share=least / p50_us,
        note=_note(cost, roof, scheme, kind, least / p50_us),
    )


def _note(cost: Cost, roof: Roof, scheme: Scheme, kind: str, share: float) -> str:
    weights = f"{cost.weight_bytes / 1e6:.1f} MB of weights"
    cache = f"the last-level cache ({roof.last_level_cache / 2**20:.0f} MiB)"
    if cost.weight_bytes <= roof.last_level_cache:
        note = f"{weights} stay in {cache}: memory does not bound it"
    elif roof.last_level_cache:
        note = f"{weights} do not fit in {cache}: read for every run"
    else:
        note = f"{weights}, taken as read from memory for every run (the kernel does not say how large the caches are)"
    if scheme in (Scheme.INT8, Scheme.INT8_DYNAMIC, Scheme.FP16) and kind == "arithmetic":
        note += f"; {scheme.value} arithmetic can pass the float32 peak"
    elif share > 1.0:
        note += "; above 100 %: the machine did better now than when its roofline was measured, or it skips work"
    return note + "."


def _bandwidth(threads: int, size: int) -> tuple[float, str]:
    """GB/s read by ``threads`` threads together, and how: a method whose arithmetic hides behind the reads."""
    words = np.ones(size // 8, np.uint64)
    floats = words.view(np.float32)
    methods: dict[str, tuple[np.ndarray, Callable[[np.ndarray], object]]] = {
        "bitwise or of uint64": (words, np.bitwise_or.reduce),
        "maximum of float32": (floats, np.max),
        "sum of uint64": (words, np.sum),
    }
    best = {}
    with ThreadPoolExecutor(threads) as pool:
        for name, (array, read) in methods.items():
            parts = np.array_split(array, threads)
            # numpy releases the interpreter lock inside a reduction, so the threads do read at once.
            best[name] = _fastest(functools.partial(_read_all, pool, read, parts), SECONDS / len(methods))
    fastest = min(best, key=lambda name: best[name])
    return size / best[fastest] / 1e9, f"numpy {fastest}, {size / 2**20:.0f} MiB over {threads} threads"


def _read_all(pool: ThreadPoolExecutor, read: Callable[[np.ndarray], object], parts: Sequence[np.ndarray]) -> None:
    for _ in pool.map(read, parts):
        pass


def _peak(threads: int) -> tuple[float, str]:
    """GFLOP/s of float32 matrix products, and how."""
    generator = np.random.default_rng(0)
    best = {}
    for side in SIDES:
        left, right = (generator.random((side, side), np.float32) for _ in range(2))
        product = functools.partial(np.matmul, left, right, out=np.empty_like(left))
        seconds = _fastest(product, SECONDS / len(SIDES))
        best[side] = 2 * side**3 / seconds / 1e9
    fastest = max(best, key=lambda side: best[side])
    return best[fastest], f"numpy matmul {fastest} x {fastest} ({_blas()}, {threads} threads)"


def _fastest(call: Callable[[], object], seconds: float) -> float:
    """The least time of one call in seconds, over ``TRIES`` calls or more."""
    call()
    least = float("inf")
    begun = time.perf_counter()
    tries = 0
    while tries < TRIES or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - start)
        tries += 1
    return least


def _blas() -> str:
    config = np.show_config(mode="dicts")
    found = config.get("Build Dependencies", {}).get("blas", {}) if isinstance(config, dict) else {}
    return " ".join(str(found[key]) for key in ("name", "version") if found.get(key)) or "unknown BLAS"
