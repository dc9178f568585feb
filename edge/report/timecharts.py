"""Charts over the whole measurement's time: memory, and the device's clock and temperature."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from edge.measurement import Measurement, Phase
from edge.report import units
from edge.report.charts import LEFT, RIGHT, plain
from edge.report.svg import Drawing, Scale, x_axis, y_axis

#: Rough width of a character of a chart's small text, in the drawing's units: what decides whether a label has room.
CHARACTER = 6.0

Point = tuple[float, float]


def memory_over_time(measurement: Measurement) -> Markup:
    """Resident memory from the start of the process to its end, phases shaded; PSS where it was read."""
    points = _resident(measurement)
    shared = [(_end(phase) / 1e6, float(phase.pss_bytes)) for phase in measurement.phases if phase.pss_bytes is not None]
    drawing = Drawing(236, "Memory over time")
    top, bottom = 40.0, 196.0
    x = Scale(0.0, max(points[-1][0], 1e-6), LEFT, RIGHT)
    y = Scale(0.0, max(value for _, value in points) * 1.05, bottom, top)
    _phases(drawing, measurement, x, top, bottom)
    factor = 1e6 if y.high < 1e9 else 1e9
    ticks = Scale(0.0, y.high / factor, bottom, top)
    y_axis(drawing, ticks, LEFT, RIGHT, plain(ticks), "MB" if factor == 1e6 else "GB")
    x_axis(drawing, x, bottom, bottom, plain(x), "seconds since the process began to work")
    drawing.path([(x(at), y(value)) for at, value in points], "curve")
    for at, value in points:
        drawing.dot(x(at), y(value), 1.6, "dot", f"{units.size(value)} resident at {at:.2f} s")
    if shared:
        drawing.path([(x(at), y(value)) for at, value in shared], "curve second")
        drawing.text(RIGHT, 12, "dashed: proportional (PSS)", "note", "end")
    return drawing.finish()


def clock_over_time(measurement: Measurement) -> Markup | None:
    """The fastest core's clock; None if it was not readable."""
    readings = measurement.conditions.readings
    points = [(one.at_us / 1e6, max(one.frequencies_mhz)) for one in readings if one.frequencies_mhz]
    return _line(measurement, points, "MHz", "Clock over time", from_zero=True)


def temperature_over_time(measurement: Measurement) -> Markup | None:
    """The CPU's temperature with the idle band; None if it was not readable."""
    conditions = measurement.conditions
    points = [(one.at_us / 1e6, one.temperature_c) for one in conditions.readings if one.temperature_c is not None]
    band = (conditions.idle.low_c, conditions.idle.high_c) if conditions.idle else None
    return _line(measurement, points, "°C", "Temperature over time", from_zero=False, band=band)


def _line(
    measurement: Measurement, points: Sequence[Point], unit: str, label: str, *, from_zero: bool,
    band: tuple[float, float] | None = None,
) -> Markup | None:
    if not points:
        return None
    drawing = Drawing(196, label)
    top, bottom = 40.0, 156.0
    values = [value for _, value in points] + list(band or ())
    low, high = (0.0, max(values) * 1.08) if from_zero else (min(values) - 2.0, max(values) + 2.0)
    end = max([points[-1][0], *(_end(phase) / 1e6 for phase in measurement.phases)])
    x, y = Scale(min(points[0][0], 0.0), max(end, 1e-6), LEFT, RIGHT), Scale(low, high, bottom, top)
    _phases(drawing, measurement, x, top, bottom)
    if band is not None:
        tip = f"idle: {band[0]:.1f} to {band[1]:.1f} {unit}"
        drawing.rect(LEFT, y(band[1]), RIGHT - LEFT, max(y(band[0]) - y(band[1]), 1.0), "band", tip)
        drawing.text(RIGHT - 4, y(band[1]) - 4, "idle", "note", "end")
    y_axis(drawing, y, LEFT, RIGHT, plain(y), unit)
    x_axis(drawing, x, bottom, bottom, plain(x), "seconds since the process began to work")
    if len(points) > 1:
        drawing.path([(x(at), y(value)) for at, value in points], "curve")
    for at, value in points:
        drawing.dot(x(at), y(value), 1.8, "dot", f"{value:.1f} {unit} at {at:.2f} s")
    return drawing.finish()


def _phases(drawing: Drawing, measurement: Measurement, x: Scale, top: float, bottom: float) -> None:
    """Every second phase shaded; those with room for it carry their name, all of them in their tips."""
    for index, phase in enumerate(measurement.phases):
        left, right = x(phase.start_us / 1e6), x(_end(phase) / 1e6)
        name = f"{phase.name}: {phase.entry}" if phase.entry else phase.name
        tip = f"{name}, {units.duration(phase.duration_us)}"
        drawing.rect(left, top, right - left, bottom - top, "shade" if index % 2 else "clear", tip)
        if (right - left) / CHARACTER >= len(phase.name) + 1:
            drawing.text((left + right) / 2, top - 5, phase.name, "tick", "middle")


def _resident(measurement: Measurement) -> list[Point]:
    """(seconds, bytes) of every reading and every phase's end, in order."""
    points = [(0.0, float(measurement.memory.baseline))]
    points += [(_end(phase) / 1e6, float(phase.rss_bytes)) for phase in measurement.phases]
    readings = measurement.conditions.readings
    points += [(one.at_us / 1e6, float(one.rss_bytes)) for one in readings if one.rss_bytes is not None and one.at_us > 0]
    return sorted(points)


def _end(phase: Phase) -> float:
    return phase.start_us + phase.duration_us
