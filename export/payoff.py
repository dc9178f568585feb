"""Did quantization pay? The quantized artifact against float32 on the same runtime, interleaved, on this host."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

import msgspec

from edge.export.base import Captured
from edge.runtimes.base import Session

#: Rounds of one timed call each, per side: enough for a median that tells 10 % apart, in well under a second.
ROUNDS = 40
SECONDS = 2.0
#: Bytes of float weights beyond which no float32 twin is built: it would take minutes, and as much memory again.
LARGEST = 2 << 30


class Payoff(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes in bytes of what the runtime loads, and median milliseconds per entry point, float32 and quantized."""

    fp32_bytes: int
    bytes: int
    fp32_ms: Mapping[str, float]
    ms: Mapping[str, float]

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each promise that quantization did not keep here."""
        found = []
        if self.bytes >= self.fp32_bytes:
            found.append(f"quantized, yet not smaller: {self.bytes / 1e6:.2f} MB against {self.fp32_bytes / 1e6:.2f} MB in fp32.")
        for entry, ms in self.ms.items():
            if ms >= self.fp32_ms[entry]:
                found.append(
                    f"quantized, yet not faster on this host: {entry} takes {ms:.3f} ms against {self.fp32_ms[entry]:.3f} ms in fp32."
                )
        return tuple(found)


def too_large(captured: Sequence[Captured]) -> bool:
    return max(item.cost.weight_bytes for item in captured) > LARGEST


def measure(captured: Sequence[Captured], fp32: Session, quantized: Session, sizes: tuple[int, int]) -> Payoff:
    """Time every entry on its first sample, one call of each side in turn; ``sizes`` are fp32's and the other's."""
    fp32_ms, ms = {}, {}
    for item in captured:
        record = fp32.manifest.entry(item.entry.name)
        inputs = [item.references[0][0][spec.name] for spec in record.inputs]
        sides = [fp32.bind(record, inputs), quantized.bind(quantized.manifest.entry(item.entry.name), inputs)]
        times: list[list[float]] = [[], []]
        for side in sides:
            side()
        began = time.perf_counter()
        for _ in range(ROUNDS):
            for side, kept in zip(sides, times, strict=True):
                start = time.perf_counter()
                side()
                kept.append(time.perf_counter() - start)
            if time.perf_counter() - began > SECONDS and len(times[0]) >= 3:
                break
        fp32_ms[item.entry.name], ms[item.entry.name] = (1e3 * statistics.median(kept) for kept in times)
    return Payoff(fp32_bytes=sizes[0], bytes=sizes[1], fp32_ms=fp32_ms, ms=ms)
