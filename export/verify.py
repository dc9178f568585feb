"""Verify: every stage against eager, on the entry's real samples.

    exported    the captured graph, run by torch
    quantized   the quantized graph before lowering (a quantized scheme only)
    lowered     the artifact, run by its runtime
    lowering    the artifact against the quantized graph: what lowering itself changed, apart from what quantization cost

Each gives a ``StageReport``; ``first_error`` finds the layers where the error of the first failing stage starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge.errorstats import compare_all
from edge.export.base import Captured
from edge.export.capture import call
from edge.families.base import Arrays
from edge.manifest import StageReport
from edge.spec import Scheme, Tolerance

Compute = Callable[[Arrays], Arrays]

#: A runtime's integer kernels round where the reference graph does not. After some layers the two round independently,
#: so they may differ by as much as quantization itself costs (TSPulse's spectrum after ten mixers: cosine 0.9952 of the
#: quantized graph to eager, 0.9943 of the artifact to the quantized graph). A wrong kernel or layout does far more.
LOWERING_SHARE = 2 / 3
LOWERING_COSINE = 0.99


def check_exported(captured: Captured) -> StageReport:
    entry = captured.entry
    module = captured.program.module()
    return check(
        captured, "exported", "torch on this host", lambda sample: call(module, entry, sample), Scheme.FP32
    )


def check(captured: Captured, stage: str, where: str, compute: Compute, scheme: Scheme) -> StageReport:
    """``compute`` against eager on every sample, by the entry's tolerance for ``scheme``."""
    pairs = [(reference, compute(sample)) for sample, reference in captured.references]
    stats = compare_all(pairs, captured.entry.tolerance[scheme])
    return StageReport(stage=stage, where=where, outputs=stats, samples=len(pairs))


def check_lowering(
    captured: Captured, where: str, quantized: Compute, lowered: Compute, scheme: Scheme
) -> StageReport:
    """The artifact against the quantized graph it was made from."""
    pairs = [(quantized(sample), lowered(sample)) for sample, _ in captured.references]
    allowed = captured.entry.tolerance[scheme].atol * LOWERING_SHARE
    stats = compare_all(pairs, Tolerance(atol=allowed, cosine=LOWERING_COSINE))
    return StageReport(stage="lowering", where=where, outputs=stats, samples=len(pairs))


def first_failure(stages: Sequence[StageReport]) -> StageReport | None:
    return next((stage for stage in stages if not stage.passed), None)
