"""The page's charts, one function each: a part of a measurement in, inline SVG out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup

from edge.measurement import EntryMeasurement, Measurement, Roof
from edge.report import units
from edge.report.svg import WIDTH, Drawing, Scale, clipped, x_axis, y_axis
from edge.report.trace import laid_out
from edge.runtimes.base import OperatorTime

LEFT, RIGHT = 44.0, WIDTH - 10.0
#: Where the histogram ends at the latest, in medians (or at the 90th percentile): a tail of interruptions would
#: otherwise press the rest into one bar.
FAR = 3.0
#: More dots than this say no more; beyond it the series is drawn as the range and median of each stretch.
DOTS = 400
STRETCHES = 120
BARS = 24


def histogram(entry: EntryMeasurement) -> Markup:
    """How the timed runs are distributed, with the percentiles; what lies far out is gathered in the last bar."""
    values = np.array([run.duration_us for run in entry.runs])
    latency = entry.latency
    low, high = latency.min_us, min(latency.max_us, latency.p99_us + (latency.p99_us - latency.min_us) * 0.25)
    high = min(high, max(FAR * latency.p50_us, latency.p90_us))
    if high <= low:
        high = low * 1.01 + 1e-3
    edges = np.linspace(low, high, min(max(int(np.sqrt(len(values)) * 2), 8), 48) + 1)
    counts, _ = np.histogram(np.minimum(values, high), edges)
    drawing = Drawing(226, f"Distribution of {latency.runs} runs of {entry.entry}")
    top, bottom = 58.0, 186.0
    factor, unit = _unit(high)
    x = Scale(low, high, LEFT, RIGHT)
    y = Scale(0, float(counts.max()), bottom, top)
    y_axis(drawing, y, LEFT, RIGHT, lambda value: f"{value:.0f}" if value == int(value) else "", "runs")
    ticks = Scale(low * factor, high * factor, LEFT, RIGHT)
    x_axis(drawing, ticks, bottom, bottom, plain(ticks), f"time of a run, {unit}")
    for index, amount in enumerate(counts):
        if amount:
            left, right = x(edges[index]), x(edges[index + 1])
            last = index == len(counts) - 1 and latency.max_us > high
            upper = latency.max_us if last else edges[index + 1]
            tip = f"{amount} runs, {units.duration(edges[index])} to {units.duration(upper)}"
            drawing.rect(left + 0.5, y(amount), right - left - 1, bottom - y(amount), "bar far" if last else "bar", tip)
    marks = (("p50", latency.p50_us), ("p90", latency.p90_us), ("p99", latency.p99_us))
    for row, (name, value) in enumerate(marks):
        at, level = x(value), 14 + 13 * row
        drawing.line(at, level + 3, at, bottom, f"mark m{row}")
        right_side = at < WIDTH * 0.62
        drawing.text(
            at + (4 if right_side else -4), level + 2, f"{name} {units.duration(value)}", f"label m{row}",
            "start" if right_side else "end",
        )
    return drawing.finish()


def series(entry: EntryMeasurement) -> Markup:
    """Every timed run in order: drift, throttling, interruptions. Far outliers are held at the top edge."""
    starts = np.array([run.start_us for run in entry.runs])
    values = np.array([run.duration_us for run in entry.runs])
    seconds = (starts - starts[0]) / 1e6
    ceiling = min(float(values.max()) * 1.05, 2.0 * entry.latency.p90_us, 2.0 * FAR * entry.latency.p50_us)
    drawing = Drawing(226, f"Times of {len(values)} runs of {entry.entry} in order")
    top, bottom = 26.0, 186.0
    factor, unit = _unit(ceiling)
    x = Scale(0.0, float(seconds[-1]) or 1e-6, LEFT, RIGHT)
    y = Scale(0.0, ceiling, bottom, top)
    ticks = Scale(0.0, ceiling * factor, bottom, top)
    y_axis(drawing, ticks, LEFT, RIGHT, plain(ticks), unit)
    x_axis(drawing, x, bottom, bottom, plain(x), "seconds since the first timed run")
    if len(values) <= DOTS:
        for at, value in zip(seconds, values, strict=True):
            drawing.dot(x(at), y(value), 1.8, "dot far" if value > ceiling else "dot", units.duration(value))
    else:
        stretches = np.array_split(np.arange(len(values)), STRETCHES)
        width = max((RIGHT - LEFT) / STRETCHES - 0.6, 0.6)
        for part in stretches:
            low, high = float(values[part].min()), float(values[part].max())
            tip = f"{len(part)} runs, {units.duration(low)} to {units.duration(high)}"
            drawing.rect(x(seconds[part[0]]), y(high), width, max(y(low) - y(high), 1.0), "range", tip)
        medians = [(x(float(np.median(seconds[part]))), y(float(np.median(values[part])))) for part in stretches]
        drawing.path(medians, "curve")
    if outliers := int((values > ceiling).sum()):
        drawing.text(RIGHT, 12, f"{outliers} slower, up to {units.duration(values.max())}", "note", "end")
    return drawing.finish()


def waterfall(entry: EntryMeasurement) -> Markup:
    """One run's operators over time, in order; of more than ``BARS`` only the longest are drawn."""
    placed = laid_out(entry.operators)
    longest = set(sorted(range(len(placed)), key=lambda index: -placed[index][0].mean_us)[:BARS])
    rows = [placed[index] for index in range(len(placed)) if index in longest]
    end = max(start + row.mean_us for row, start in placed)
    height, first = 15.0, 8.0
    names = 150.0
    bottom = first + height * len(rows) + 3
    drawing = Drawing(bottom + 36, f"Operators of one run of {entry.entry} over time")
    factor, unit = _unit(end)
    x = Scale(0.0, end, names, RIGHT)
    ticks = Scale(0.0, end * factor, names, RIGHT)
    x_axis(drawing, ticks, bottom, first - 4, plain(ticks), f"since the run's start, {unit}")
    for index, (row, start) in enumerate(rows):
        y = first + height * index
        drawing.text(names - 6, y + 9.5, clipped(row.name.strip("/"), 20), "tick", "end")
        tip = f"{row.name} ({row.kind}): {units.duration(row.mean_us)} a call, {units.percent(row.share)}"
        drawing.rect(x(start), y + 1, x(start + row.mean_us) - x(start), height - 4, "bar", tip)
    return drawing.finish()


def kinds(operators: Sequence[OperatorTime]) -> Markup:
    """Share of the operators' time by kind, the largest eight and the rest."""
    shares: defaultdict[str, float] = defaultdict(float)
    for row in operators:
        shares[row.kind or row.name] += row.share
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    rows = ordered[:8]
    if len(ordered) > 8:
        rows.append((f"{len(ordered) - 8} others", sum(share for _, share in ordered[8:])))
    return _bars("Share of time by kind of operator", [(name, share, units.percent(share)) for name, share in rows])


def per_run(operators: Sequence[OperatorTime]) -> float:
    """Microseconds of one run under the runtime's own profiler: the sum over operators."""
    return sum(row.mean_us * row.calls_per_run for row in operators)


def memory(measurement: Measurement) -> Markup:
    """Resident memory step by step, in this fresh process."""
    found = measurement.memory
    before = [("before loading", found.baseline)]
    if measurement.device.in_python:
        before = [("Python and numpy", found.baseline), ("+ runtime imported", found.imported)]
    rows = [
        *before, ("+ bundle loaded", found.loaded), ("peak while loading", found.load_peak), ("peak while running", found.run_peak),
    ]
    if found.peak_pss is not None:
        rows.append(("largest PSS", found.peak_pss))
    return _bars("Resident memory", [(name, float(value), units.size(value)) for name, value in rows])


def roofline(measurement: Measurement, roof: Roof) -> Markup:
    """Roof and entry points, both axes logarithmic: operations per byte of weights against operations per second."""
    points = [
        (entry.entry, entry.cost.flops / max(entry.cost.weight_bytes, 1), entry.cost.flops / entry.latency.p50_us / 1e3)
        for entry in measurement.entries
        if entry.cost.flops > 0
    ]
    ridge = roof.peak_gflops / roof.bandwidth_gbs
    drawing = Drawing(262, "Roofline: achieved GFLOP/s against operations per byte")
    top, bottom = 30.0, 222.0
    low = min([ridge / 8, *(intensity / 2 for _, intensity, _ in points)])
    high = max([ridge * 8, *(intensity * 2 for _, intensity, _ in points)])
    floor = min([roof.peak_gflops / 50, *(rate / 2 for _, _, rate in points)])
    ceiling = max([roof.peak_gflops * 2, *(rate * 1.5 for _, _, rate in points)])
    x, y = Scale(low, high, LEFT, RIGHT, log=True), Scale(floor, ceiling, bottom, top, log=True)
    y_axis(drawing, y, LEFT, RIGHT, _power, "GFLOP/s")
    x_axis(drawing, x, bottom, top, _power, "operations per byte of weights")
    start = max(low, floor / roof.bandwidth_gbs)
    flat = y(roof.peak_gflops)
    drawing.path([(x(start), y(start * roof.bandwidth_gbs)), (x(ridge), flat), (x(high), flat)], "roof")
    drawing.text(RIGHT, flat - 6, f"{units.digits(roof.peak_gflops)} GFLOP/s, float32", "note", "end")
    drawing.text(x(ridge) - 8, flat - 6, f"{units.digits(roof.bandwidth_gbs)} GB/s", "note", "end")
    taken: list[float] = []
    for name, intensity, rate in sorted(points, key=lambda point: -point[2]):
        at, level = x(intensity), y(rate)
        tip = f"{name}: {units.digits(rate)} GFLOP/s at {units.digits(intensity)} operations per byte"
        drawing.dot(at, level, 4, "point", tip)
        # Labels of entries that lie close together step down, so that each can be read.
        place = level + 4
        while any(abs(place - other) < 12 for other in taken):
            place += 12
        taken.append(place)
        right_side = at < WIDTH * 0.65
        drawing.text(at + (8 if right_side else -8), place, name, "label", "start" if right_side else "end")
    return drawing.finish()


def _bars(label: str, rows: Sequence[tuple[str, float, str]]) -> Markup:
    """Horizontal bars with names to the left and figures to the right."""
    names, figures, height = 132.0, 66.0, 20.0
    drawing = Drawing(height * len(rows) + 6, label)
    x = Scale(0.0, max([value for _, value, _ in rows] + [1e-12]), names, WIDTH - figures)
    for index, (name, value, figure) in enumerate(rows):
        y = 4 + height * index
        drawing.text(names - 6, y + 11, clipped(name, 18), "tick", "end")
        drawing.rect(names, y + 1.5, x(value) - names, height - 7, "bar", f"{name}: {figure}")
        drawing.text(x(value) + 6, y + 11, figure, "label")
    return drawing.finish()


def _unit(largest_us: float) -> tuple[float, str]:
    """What to multiply microseconds by, and the unit's name, so that the largest value has few digits."""
    if largest_us < 1e3:
        return 1.0, "µs"
    return (1e-3, "ms") if largest_us < 1e6 else (1e-6, "s")


def plain(scale: Scale) -> Callable[[float], str]:
    """A tick's label with as many decimals as tell the ticks apart."""
    ticks = scale.ticks()
    step = ticks[1] - ticks[0] if len(ticks) > 1 else scale.high - scale.low or 1.0
    decimals = max(0, -int(np.floor(np.log10(step) + 1e-9)))
    return lambda value: f"{value:.{decimals}f}"


def _power(value: float) -> str:
    return f"{value:g}"
