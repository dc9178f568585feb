"""The sweep's table, and who is on its Pareto front: no other is at least as fast, as small and as exact, and better in one.

Fronts are taken among what competes: the same model's same entry point on the same device.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edge.spec import DEFAULT_TOLERANCE, Scheme
from edge.sweep.tasks import Outcome

#: Errors up to float32's own tolerance are rounding: one runtime's is no better than another's.
ROUNDING = DEFAULT_TOLERANCE[Scheme.FP32].atol


class SweepRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry point of one cell. ``error`` is relative to eager's root mean square, None if it was not verified."""

    cell: str
    model: str
    entry: str
    device: str
    target: str
    runtime: str
    scheme: str
    threads: int
    p50_us: float
    p90_us: float
    size_bytes: int
    peak_bytes: int
    error: float | None
    joules: float | None
    stayed_hot: bool
    front: bool

    @property
    def group(self) -> tuple[str, str, str]:
        """What it competes in."""
        return self.model, self.entry, self.device

    @property
    def label(self) -> str:
        return f"{self.runtime} {self.scheme}" + (f", {self.target}" if self.target else "")


class Refused(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    cell: str
    name: str
    reason: str


class SweepReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rows: tuple[SweepRow, ...]
    refused: tuple[Refused, ...]


def report(outcomes: Sequence[Outcome]) -> SweepReport:
    rows = [row for outcome in outcomes for row in _rows(outcome)]
    marked = [msgspec.structs.replace(row, front=_on_front(row, rows)) for row in rows]
    refused = [
        Refused(cell=outcome.cell.id, name=outcome.cell.name, reason=outcome.refused)
        for outcome in outcomes
        if outcome.refused is not None
    ]
    return SweepReport(rows=tuple(marked), refused=tuple(refused))


def _rows(outcome: Outcome) -> list[SweepRow]:
    found = outcome.measurement
    if found is None:
        return []
    return [
        SweepRow(
            cell=outcome.cell.id,
            model=found.bundle.model,
            entry=entry.entry,
            device=outcome.cell.device,
            target=found.bundle.target,
            runtime=found.bundle.runtime,
            scheme=found.bundle.scheme,
            threads=found.settings.threads_of(entry.entry),
            p50_us=entry.latency.p50_us,
            p90_us=entry.latency.p90_us,
            size_bytes=found.bundle.artifact_bytes,
            peak_bytes=found.memory.peak,
            error=max((one.relative for one in entry.errors), default=None),
            joules=entry.energy.joules if entry.energy else None,
            stayed_hot=found.conditions.stayed_hot,
            front=False,
        )
        for entry in found.entries
    ]


def _on_front(row: SweepRow, rows: Sequence[SweepRow]) -> bool:
    return not any(_dominates(other, row) for other in rows if other.group == row.group)


def _dominates(one: SweepRow, other: SweepRow) -> bool:
    """At least as good in all three and better in one."""
    mine, theirs = _costs(one), _costs(other)
    return all(a <= b for a, b in zip(mine, theirs, strict=True)) and mine != theirs


def _costs(row: SweepRow) -> tuple[float, float, float]:
    """Latency, size, error; rounding counts as no error, and what was not verified as infinitely wrong."""
    if row.error is None:
        return row.p50_us, float(row.size_bytes), float("inf")
    return row.p50_us, float(row.size_bytes), row.error if row.error > ROUNDING else 0.0
