"""Series to pre-train on: made up here from a seed, and a few real ones that statsmodels carries.

`synthetic` draws sums of seasonal patterns, waves, trends, autoregressions, random walks, shots and regime changes, the
shapes that sensors, servers and markets give. `real_train` and `real_held_out` share no point of time.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from scipy.signal import lfilter

Array = np.ndarray


def synthetic(rng: Generator, count: int, length: int) -> Array:
    """`count` series of `length` points, [count, length] float32, each standardised."""
    return np.stack([standardised(_one(rng, length)) for _ in range(count)])


def standardised(series: Array) -> Array:
    """Mean 0 and standard deviation 1, float32; a constant series becomes zeros."""
    spread = float(series.std())
    return ((series - series.mean()) / (spread if spread > 1e-6 else 1.0)).astype(np.float32)


def _one(rng: Generator, length: int) -> Array:
    base = rng.choice(len(BASES), p=WEIGHTS)
    series = _unit(BASES[base](rng, length))
    for extra in (seasonal, trend, shots, autoregression):
        if rng.random() < 0.25:
            series = series + rng.uniform(0.1, 1.0) * _unit(extra(rng, length))
    if rng.random() < 0.15:
        series = regime(rng, series)
    if rng.random() < 0.7:
        series = _unit(series) + _log_uniform(rng, 0.005, 0.4) * rng.standard_normal(length)
    if rng.random() < 0.05:
        series = np.round(series * 4) / 4  # a coarse sensor
    return series


def seasonal(rng: Generator, length: int) -> Array:
    """One to three periods, each with a few harmonics."""
    time = np.arange(length)
    total = np.zeros(length)
    for _ in range(rng.integers(1, 4)):
        period = _log_uniform(rng, 5, 300)
        for harmonic in range(1, rng.integers(2, 6)):
            weight = rng.standard_normal() / harmonic ** rng.uniform(0.5, 2)
            total += weight * np.sin(2 * np.pi * harmonic * time / period + rng.uniform(0, 2 * np.pi))
    return total


def template(rng: Generator, length: int) -> Array:
    """A random shape that repeats, as a heart beat or a machine's cycle does, with small changes of height."""
    period = int(_log_uniform(rng, 8, 200))
    shape = np.convolve(rng.standard_normal(3 * period), np.hanning(max(3, period // rng.integers(2, 9))), "same")
    shape = shape[period : 2 * period]
    if rng.random() < 0.5:
        shape = np.where(np.abs(shape) > np.quantile(np.abs(shape), 0.7), shape, 0.2 * shape)
    repeats = length // period + 2
    heights = 1 + rng.uniform(0, 0.15) * rng.standard_normal(repeats)
    start = rng.integers(period)
    return (heights[:, None] * shape).ravel()[start : start + length]


def wave(rng: Generator, length: int) -> Array:
    """Square, saw, triangle or pulse, with or without soft edges."""
    phase = (np.arange(length) / _log_uniform(rng, 8, 250) + rng.random()) % 1.0
    duty = rng.uniform(0.1, 0.9)
    kinds = (np.sign(phase - duty), phase, np.abs(phase - 0.5), (phase < duty / 2) * np.exp(-4 * phase))
    shape = kinds[rng.integers(len(kinds))].astype(float)
    if rng.random() < 0.5:
        width = rng.integers(2, 7)
        shape = np.convolve(shape, np.ones(width) / width, "same")
    return shape


def modulated(rng: Generator, length: int) -> Array:
    """A tone whose height or pitch drifts."""
    time = np.arange(length)
    period = _log_uniform(rng, 6, 80)
    slow = np.sin(2 * np.pi * time / _log_uniform(rng, 100, 600) + rng.uniform(0, 2 * np.pi))
    if rng.random() < 0.5:
        return (1 + rng.uniform(0.2, 0.9) * slow) * np.sin(2 * np.pi * time / period)
    return np.sin(2 * np.pi * np.cumsum((1 + rng.uniform(0.05, 0.4) * slow) / period))


def trend(rng: Generator, length: int) -> Array:
    """A line, a parabola, a logistic curve or a few joined lines."""
    x = np.linspace(-1, 1, length)
    kind = rng.integers(4)
    if kind == 0:
        return x * rng.choice([-1, 1])
    if kind == 1:
        return x**2 * rng.choice([-1, 1]) + rng.uniform(-1, 1) * x
    if kind == 2:
        return np.tanh(rng.uniform(2, 12) * (x - rng.uniform(-0.7, 0.7)))
    knots = np.sort(rng.uniform(-1, 1, rng.integers(2, 7)))
    return np.interp(x, knots, rng.standard_normal(len(knots)))


def autoregression(rng: Generator, length: int) -> Array:
    """AR(2) with a pair of complex poles: noise with a preferred period."""
    radius, angle = rng.uniform(0.5, 0.99), 2 * np.pi / _log_uniform(rng, 5, 200)
    noise = rng.standard_normal(length + 200)
    return lfilter([1.0], [1.0, -2 * radius * np.cos(angle), radius**2], noise)[200:]


def walk(rng: Generator, length: int) -> Array:
    """A random walk, now and then a smooth one."""
    steps = rng.standard_normal(length) * (rng.random(length) < rng.uniform(0.05, 1.0))
    if rng.random() < 0.4:
        steps = lfilter([1.0], [1.0, -rng.uniform(0.7, 0.98)], steps)
    return np.cumsum(steps)


def shots(rng: Generator, length: int) -> Array:
    """Sudden rises at random times that decay."""
    impulses = rng.exponential(1.0, length) * (rng.random(length) < _log_uniform(rng, 0.005, 0.1))
    return lfilter([1.0], [1.0, -rng.uniform(0.5, 0.97)], impulses)


def regime(rng: Generator, series: Array) -> Array:
    """Level and spread change from some time on."""
    after = np.arange(len(series)) >= rng.integers(len(series) // 8, len(series))
    return np.where(after, series * rng.uniform(0.3, 2.0) + rng.uniform(-2, 2), series)


BASES = (seasonal, template, wave, modulated, trend, autoregression, walk, shots)
WEIGHTS = (0.32, 0.18, 0.12, 0.1, 0.05, 0.1, 0.1, 0.03)


def real_train(rng: Generator, count: int, length: int) -> Array:
    """Windows [count, length] of the real training series, standardised, each stretched in time by 0.7 to 3."""
    series = _training_series()
    windows = []
    while len(windows) < count:
        chosen = series[rng.integers(len(series))]
        factor = rng.uniform(0.7, 3.0)
        need = int(np.ceil(length / factor)) + 1
        if need <= len(chosen):
            start = rng.integers(len(chosen) - need + 1)
            place = start + np.arange(length) / factor
            windows.append(standardised(np.interp(place, np.arange(len(chosen)), chosen)))
    return np.stack(windows)


def real_held_out(length: int) -> Array:
    """Four windows that no training window touches: the last years of the CO2 record, the El Nino temperatures."""
    return np.stack(
        [
            standardised(part)
            for series in (_co2()[-HELD_OUT_WEEKS:], _elnino())
            for part in (series[:length], series[-length:])
        ]
    )


HELD_OUT_WEEKS = 800


def _training_series() -> list[Array]:
    import statsmodels.api as sm

    sunspots = sm.datasets.sunspots.load_pandas().data["SUNACTIVITY"].to_numpy(float)
    macro = sm.datasets.macrodata.load_pandas().data
    columns = [macro[name].to_numpy(float) for name in ("infl", "tbilrate", "unemp", "realint", "pop")]
    growth = [np.diff(np.log(macro[name].to_numpy(float))) for name in ("realgdp", "realcons", "m1", "cpi")]
    return [_co2()[:-HELD_OUT_WEEKS], sunspots, *columns, *growth]


def _co2() -> Array:
    """Weekly CO2 at Mauna Loa from 1958 to 2001, ppm; the missing weeks are interpolated."""
    import statsmodels.api as sm

    values = sm.datasets.co2.load_pandas().data["co2"].to_numpy(float)
    known = ~np.isnan(values)
    return np.interp(np.arange(len(values)), np.flatnonzero(known), values[known])


def _elnino() -> Array:
    """Monthly sea surface temperature from 1950 to 2010, degrees Celsius."""
    import statsmodels.api as sm

    return sm.datasets.elnino.load_pandas().data.drop(columns="YEAR").to_numpy(float).ravel()


def _unit(series: Array) -> Array:
    spread = series.std()
    return series / spread if spread > 1e-9 else series


def _log_uniform(rng: Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
