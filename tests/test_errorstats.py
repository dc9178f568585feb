"""The error arithmetic against numbers worked out by hand, and the cases that must never pass."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import MismatchError
from edge.errorstats import UNBOUNDED, compare, compare_all, worst
from edge.spec import Tolerance

TIGHT = Tolerance(atol=1e-3, cosine=0.9999)


def test_a_case_worked_out_by_hand() -> None:
    (stat,) = compare({"y": np.array([3.0, 4.0])}, {"y": np.array([3.0, 4.5])}, Tolerance(atol=0.2, cosine=0.99))
    assert stat.max_abs == pytest.approx(0.5)
    assert stat.relative == pytest.approx(0.5 / math.sqrt((9 + 16) / 2))
    assert stat.cosine == pytest.approx((9 + 18) / (5 * math.sqrt(9 + 20.25)))
    assert stat.passed


def test_either_limit_alone_fails_it() -> None:
    reference, actual = {"y": np.array([3.0, 4.0])}, {"y": np.array([3.0, 4.5])}
    assert not compare(reference, actual, Tolerance(atol=0.1, cosine=0.0))[0].passed
    assert not compare(reference, actual, Tolerance(atol=10.0, cosine=0.9999))[0].passed


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["reference", "actual", "both"])
def test_nan_and_infinity_never_pass(poison: float, side: str) -> None:
    good, bad = np.ones(4, np.float32), np.array([1, 1, poison, 1], np.float32)
    pair = {"reference": (bad, good), "actual": (good, bad), "both": (bad, bad)}[side]
    (stat,) = compare({"y": pair[0]}, {"y": pair[1]}, Tolerance(atol=UNBOUNDED, cosine=-1.0))
    assert not stat.passed
    assert stat.relative == UNBOUNDED


def test_nothing_overflows() -> None:
    (stat,) = compare({"y": np.array([1e300, -1e300])}, {"y": np.array([-1e300, 1e300])}, TIGHT)
    assert stat.relative == pytest.approx(2.0)
    assert stat.cosine == pytest.approx(-1.0)
    assert not stat.passed


def test_a_reference_of_zeros_is_judged_by_the_absolute_error() -> None:
    zeros = {"y": np.zeros(3)}
    assert compare(zeros, {"y": np.full(3, 1e-6)}, TIGHT)[0].passed
    assert not compare(zeros, {"y": np.full(3, 0.1)}, TIGHT)[0].passed
    assert not compare({"y": np.ones(3)}, zeros, TIGHT)[0].passed


def test_integers_booleans_scalars_and_nothing_at_all() -> None:
    reference = {"i": np.array([1, 2]), "b": np.array([True, False]), "s": np.float32(2.0), "e": np.empty((0, 3))}
    assert all(stat.passed for stat in compare(reference, dict(reference), TIGHT))
    assert not compare({"b": np.array([True, False])}, {"b": np.array([True, True])}, TIGHT)[0].passed


def test_another_shape_or_a_missing_output_is_said() -> None:
    with pytest.raises(MismatchError, match=r"'y' has shape \[3\] where the model gives \[1, 3\]"):
        compare({"y": np.ones((1, 3))}, {"y": np.ones(3)}, TIGHT)
    with pytest.raises(MismatchError, match="'y' is missing"):
        compare({"y": np.ones(3)}, {"z": np.ones(3)}, TIGHT)


def test_the_worst_sample_counts_and_one_failure_fails() -> None:
    good = ({"y": np.ones(4)}, {"y": np.ones(4)})
    bad = ({"y": np.ones(4)}, {"y": np.array([1, 1, 1, 1.5])})
    (stat,) = compare_all([good, bad, good], TIGHT)
    assert stat.max_abs == pytest.approx(0.5)
    assert not stat.passed
    assert worst([]) == ()


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30), st.floats(1e-3, 1e3))
def test_scaling_both_sides_changes_neither_ratio(values: list[float], factor: float) -> None:
    reference = np.array(values) + 1.0
    actual = reference * 1.01 + 0.1
    (one,) = compare({"y": reference}, {"y": actual}, TIGHT)
    (two,) = compare({"y": reference * factor}, {"y": actual * factor}, TIGHT)
    if np.any(reference):
        assert two.relative == pytest.approx(one.relative, rel=1e-6)
        assert two.cosine == pytest.approx(one.cosine, abs=1e-9)
