"""What ``edge export`` says at the end: a row for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge.cli.output import print_table
from edge.export.pipeline import Exported
from edge.manifest import MetricRecord
from edge.report.units import size


@dataclass(frozen=True, kw_only=True)
class ExportRow:
    """One model's result, as ``--json`` prints it; with an ``error`` there is nothing else.

    ``worst_relative`` and ``worst_cosine`` are the lowered entry points' against PyTorch; ``fp32_bytes``, ``fp32_ms``
    and ``ms`` (by entry point) tell whether quantization paid on the exporting machine, absent in float32.
    """

    model: str
    error: str | None = None
    bundle: Path | None = None
    target: str | None = None
    runtime: str | None = None
    scheme: str | None = None
    bytes: int | None = None
    worst_relative: float | None = None
    worst_cosine: float | None = None
    metrics: tuple[MetricRecord, ...] = ()
    fp32_bytes: int | None = None
    fp32_ms: Mapping[str, float] = field(default_factory=dict)
    ms: Mapping[str, float] = field(default_factory=dict)
    context: int | None = None  # a language model: tokens that the bundle can hold, and their caches
    cache_bytes: int | None = None
    planned_bytes: Mapping[str, int] = field(default_factory=dict)  # by entry point, where the runtime plans it
    verified_on: str | None = None
    skip: Mapping[str, float] = field(default_factory=dict)  # means over the layers whose up halves are skipped
    left_out: tuple[str, ...] = ()  # what is not done for a model of this size
    warnings: tuple[str, ...] = ()


def failed_row(model: str, error: str) -> ExportRow:
    return ExportRow(model=model, error=error)


def summarise(exported: Exported, here: Path) -> ExportRow:
    """The row of a packed bundle; its path is relative to ``here`` where it lies below."""
    manifest, path = exported.bundle.manifest, exported.bundle.path
    stages = [stage for entry in manifest.entries for stage in entry.stages if stage.stage == "lowered"]
    lowered = [output for stage in stages for output in stage.outputs]
    payoff = exported.payoff
    return ExportRow(
        model=manifest.model,
        bundle=path.relative_to(here) if path.is_relative_to(here) else path,
        target=manifest.target.name,
        runtime=manifest.runtime.name,
        scheme=manifest.recipe.scheme.value,
        bytes=exported.bundle.artifact_bytes,
        worst_relative=max(output.relative for output in lowered),
        worst_cosine=min(output.cosine for output in lowered),
        metrics=manifest.metrics,
        fp32_bytes=payoff.fp32_bytes if payoff else None,
        fp32_ms=payoff.fp32_ms if payoff else {},
        ms=payoff.ms if payoff else {},
        context=_whole(manifest.report.get("context")),
        cache_bytes=_whole(manifest.report.get("cache_bytes")),
        planned_bytes=manifest.notes.planned_bytes,
        verified_on=manifest.verified_on,
        skip=_skip(manifest.report),
        left_out=exported.left_out,
        warnings=exported.warnings,
    )


def print_summary(rows: Sequence[ExportRow]) -> None:
    """The table, and under it what failed and where the numbers come from."""
    made = [row for row in rows if row.error is None]
    if made:
        print_table(
            ("model", "bundle", "lowered to", "size", "error, cosine", "metric, eager -> bundle", "against fp32"),
            [
                (
                    row.model,
                    str(row.bundle),
                    f"{row.runtime} {row.scheme}",
                    size(row.bytes or 0),
                    f"{row.worst_relative:.1e}, {row.worst_cosine:.5f}",
                    "\n".join(map(_metric, row.metrics)) or "-",
                    _paid(row),
                )
                for row in made
            ],
            right=("size",),
            wrap=("bundle", "metric, eager -> bundle", "against fp32"),
        )
        where = ", ".join(sorted({row.verified_on or "" for row in made}))
        print(f"\nVerified on {where}; the worst output's error over its root mean square; times on this host.")
    for row in made:
        if memory := _memory(row):
            print(f"{row.model}: {memory}.")
        if row.skip:
            print(f"{row.model}: {_skipped(row.skip)}.")
        for sentence in row.left_out:
            print(f"{row.model}: {sentence}")
    for row in rows:
        if row.error is not None:
            print(f"{row.model} failed: {row.error}")


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _skip(report: Mapping[str, float]) -> dict[str, float]:
    """{"layers": 4, "margin": 1.1, "kept": 0.999, ...} of a manifest's report."""
    found: dict[str, list[float]] = {}
    for key, value in report.items():
        if key.startswith("skip/"):
            found.setdefault(key.rpartition("/")[2], []).append(value)
    if not found:
        return {}
    return {"layers": len(found["margin"]), **{name: sum(values) / len(values) for name, values in found.items()}}


def _skipped(skip: Mapping[str, float]) -> str:
    what = f"of a decoded token the up halves of {skip['layers']:.0f} layers are skipped, by a margin of {skip['margin']:.2f}"
    if "kept" not in skip:
        return what
    return (
        f"{what}: on the calibration data {skip['read']:.1%} of the neurons were read whole, {skip['live']:.1%} were live, and "
        f"{skip['kept']:.2%} of what those add was kept"
    )


def _memory(row: ExportRow) -> str:
    """What is known of its memory before it runs, beside the weights; "" where nothing is."""
    parts = []
    if row.context and row.cache_bytes:
        parts.append(f"its caches hold {row.context} tokens in {size(row.cache_bytes)}")
    if row.planned_bytes:
        parts.append("planned for activations: " + ", ".join(f"{name} {size(count)}" for name, count in row.planned_bytes.items()))
    return "; ".join(parts)


def _metric(metric: MetricRecord) -> str:
    return f"{metric.name} {metric.eager:.4g} -> {metric.bundle:.4g}"


def _paid(row: ExportRow) -> str:
    """ "3.8x smaller, 1.9x faster", or what it lost."""
    if row.fp32_bytes is None or not row.bytes:
        return "-"
    smaller = row.fp32_bytes / row.bytes
    faster = sum(row.fp32_ms.values()) / max(sum(row.ms.values()), 1e-9)
    return f"{_times(smaller, 'smaller', 'LARGER')}, {_times(faster, 'faster', 'SLOWER')}"


def _times(ratio: float, better: str, worse: str) -> str:
    return f"{ratio:.1f}x {better}" if ratio >= 1 else f"{1 / ratio:.1f}x {worse}"
