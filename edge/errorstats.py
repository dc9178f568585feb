"""How far one set of outputs is from another: the arithmetic that export's verification and `edge verify` share.

Pure numpy, in float64. Per output: the largest absolute difference, that difference over the reference's root mean
square ("relative"), and the cosine similarity of the flattened arrays. A NaN or an infinity on either side fails,
whatever the tolerance. JSON has no infinity, so an error without bound is stored as ``UNBOUNDED``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

import numpy as np

from edge.errors import MismatchError
from edge.manifest import ErrorStats
from edge.spec import Tolerance

#: Stands for an infinite error: the largest float that JSON carries.
UNBOUNDED = sys.float_info.max


def compare(
    reference: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray], tolerance: Tolerance
) -> tuple[ErrorStats, ...]:
    """The error of every output in ``reference``, for one sample, in the reference's order.

    Raises MismatchError where an output is absent or has another shape: there is no distance to speak of then.
    """
    stats = []
    for name, expected in reference.items():
        if name not in actual:
            have = ', '.join(actual) or 'none'
            raise MismatchError(f"output '{name}' is missing (there is {have}): export it again.")
        got = actual[name]
        if got.shape != expected.shape:
            raise MismatchError(
                f"output '{name}' has shape {list(got.shape)} where the model gives {list(expected.shape)}: "
                "export it again."
            )
        stats.append(_one(name, expected, got, tolerance))
    return tuple(stats)


def compare_all(
    pairs: Iterable[tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]], tolerance: Tolerance
) -> tuple[ErrorStats, ...]:
    """The worst of ``compare`` over (reference, actual) pairs, one a sample."""
    return worst([compare(reference, actual, tolerance) for reference, actual in pairs])


def worst(samples: Iterable[tuple[ErrorStats, ...]]) -> tuple[ErrorStats, ...]:
    """Several samples' stats as one row per output: the largest errors, the least cosine, passed if all passed."""
    merged: dict[str, ErrorStats] = {}
    for sample in samples:
        for stat in sample:
            known = merged.get(stat.output)
            merged[stat.output] = stat if known is None else ErrorStats(
                output=stat.output,
                max_abs=max(known.max_abs, stat.max_abs),
                relative=max(known.relative, stat.relative),
                cosine=min(known.cosine, stat.cosine),
                passed=known.passed and stat.passed,
            )
    return tuple(merged.values())


def _one(name: str, reference: np.ndarray, actual: np.ndarray, tolerance: Tolerance) -> ErrorStats:
    expected = np.asarray(reference, np.float64).ravel()
    got = np.asarray(actual, np.float64).ravel()
    if not (np.isfinite(expected).all() and np.isfinite(got).all()):
        return ErrorStats(output=name, max_abs=UNBOUNDED, relative=UNBOUNDED, cosine=0.0, passed=False)
    if expected.size == 0:
        return ErrorStats(output=name, max_abs=0.0, relative=0.0, cosine=1.0, passed=True)
    # One common factor keeps squares from overflowing and leaves the ratio and the cosine as they are.
    scale = max(float(np.abs(expected).max()), float(np.abs(got).max())) or 1.0
    expected, got = expected / scale, got / scale
    difference = float(np.abs(got - expected).max())
    norm, other = float(np.linalg.norm(expected)), float(np.linalg.norm(got))
    max_abs = min(difference * scale, UNBOUNDED)
    if norm == 0.0:
        # A reference of zeros has no scale and no direction: the absolute error stands for both.
        relative, cosine = max_abs, 1.0
    else:
        relative = min(difference / (norm / np.sqrt(expected.size)), UNBOUNDED)
        cosine = float(np.clip(expected @ got / norm / other, -1.0, 1.0)) if other > 0.0 else 0.0
    return ErrorStats(
        output=name,
        max_abs=max_abs,
        relative=float(relative),
        cosine=cosine,
        passed=bool(relative <= tolerance.atol and cosine >= tolerance.cosine),
    )
