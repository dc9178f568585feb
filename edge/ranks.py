"""Is one set of times slower than another? Ranks, so that no shape of distribution is assumed.

The Hodges-Lehmann estimate of a shift and the exact confidence bounds that go with the Wilcoxon-Mann-Whitney test
(Hollander, Wolfe and Chicken, "Nonparametric Statistical Methods", 3rd edition, sections 4.2 and 4.3): of all
differences between the two sets the median estimates the shift, and an order statistic, chosen by the exact null
distribution of U, bounds it. Taken of logarithms, a shift is a ratio.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import msgspec
import numpy as np


class Shift(msgspec.Struct, frozen=True, kw_only=True):
    """How many times longer the new times are: the estimate, and one-sided bounds at the confidence asked for.

    A bound is None where there are too few values for that confidence: no value of the ratio can be excluded.
    """

    ratio: float
    low: float | None
    high: float | None


def slowdown(before: Sequence[float], now: Sequence[float], confidence: float) -> Shift:
    """Ratio of ``now`` to ``before`` (positive values, independent of each other)."""
    differences = np.sort(np.subtract.outer(np.log(now), np.log(before)).ravel())
    rank = _rank(len(before), len(now), 1.0 - confidence)
    return Shift(
        ratio=math.exp(float(np.median(differences))),
        low=None if rank is None else math.exp(float(differences[rank - 1])),
        high=None if rank is None else math.exp(float(differences[len(differences) - rank])),
    )


def decidable(before: int, now: int, confidence: float) -> bool:
    """Whether sets of such sizes can ever tell anything at ``confidence``."""
    return _rank(before, now, 1.0 - confidence) is not None


def _rank(first: int, second: int, alpha: float) -> int | None:
    """Which of the differences, from the smallest, is the bound: the largest k with P(U < k) <= alpha, None if that is 0."""
    arrangements = _arrangements(min(first, second), max(first, second))
    total, below, k = sum(arrangements), 0, 0
    for count in arrangements:
        below += count
        if below > alpha * total * (1 + 1e-12):
            break
        k += 1
    return k if k > 0 else None


@functools.cache
def _arrangements(first: int, second: int) -> list[int]:
    """In how many ways U takes each value from 0 to first * second: the coefficients of a Gaussian binomial."""
    counts = [1] + [0] * (first * second)
    for i in range(1, first + 1):
        for u in range(len(counts) - 1, second + i - 1, -1):  # times 1 - q^(second + i)
            counts[u] -= counts[u - second - i]
        for u in range(i, len(counts)):  # over 1 - q^i
            counts[u] += counts[u - i]
    return counts
