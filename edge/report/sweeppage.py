"""A sweep as one HTML page without scripts: for each model, entry point and device, who is worth choosing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from edge.errorstats import UNBOUNDED
from edge.files import write_atomically
from edge.report import units
from edge.report.charts import LEFT, RIGHT
from edge.report.html import templates
from edge.report.svg import Drawing, Scale, x_axis, y_axis
from edge.sweep.pareto import SweepReport, SweepRow

TEMPLATE = "sweep.html"
#: Radii of the smallest and the largest error's dots.
SMALL, LARGE = 3.5, 10.0


def encode(title: str, found: SweepReport) -> bytes:
    environment = templates()
    environment.filters |= {
        "duration": units.duration, "size": units.size, "error": units.error, "energy": units.energy,
    }
    groups = [(name, sorted(rows, key=lambda row: row.p50_us)) for name, rows in grouped(found.rows).items()]
    page = environment.get_template(TEMPLATE)
    return page.render(title=title, groups=groups, refused=found.refused, scatter=scatter).encode("utf-8")


def save(title: str, found: SweepReport, path: Path) -> None:
    """Write ``path``. Raises StorageError."""
    write_atomically(path, encode(title, found))


def grouped(rows: Sequence[SweepRow]) -> dict[tuple[str, str, str], list[SweepRow]]:
    found: dict[tuple[str, str, str], list[SweepRow]] = {}
    for row in rows:
        found.setdefault(row.group, []).append(row)
    return found


def scatter(rows: Sequence[SweepRow]) -> Markup:
    """Latency against size, both logarithmic, numbered as ``rows`` are; a dot's radius is its error, the front is filled."""
    drawing = Drawing(282, "Latency against size; the larger the dot, the larger the error")
    top, bottom, left = 30.0, 236.0, LEFT + 14
    x = _scale([row.p50_us for row in rows], left, RIGHT)
    y = _scale([float(row.size_bytes) for row in rows], bottom, top)
    y_axis(drawing, y, left, RIGHT, _size, "size of the artifacts")
    x_axis(drawing, x, bottom, top, _duration, "median time of a run")
    taken: list[tuple[float, float]] = []
    for number, row in enumerate(rows, 1):
        at, level, radius = x(row.p50_us), y(row.size_bytes), _radius(row.error, rows)
        exact = "not verified" if row.error is None else f"error {units.error(row.error)}"
        tip = f"{row.label}: {units.duration(row.p50_us)}, {units.size(row.size_bytes)}, {exact}"
        drawing.dot(at, level, radius, "point" if row.front else "beaten", tip)
        across, place = at + radius + 9, level + 4
        while any(abs(place - other) < 12 and abs(across - beside) < 12 for beside, other in taken):
            place += 12
        taken.append((across, place))
        drawing.text(across, place, str(number), "label" if row.front else "note", "middle")
    return drawing.finish()


def _radius(error: float | None, rows: Sequence[SweepRow]) -> float:
    known = [math.log10(max(row.error, 1e-9)) for row in rows if row.error is not None and row.error < UNBOUNDED]
    if error is None or error >= UNBOUNDED:
        return LARGE
    low, high = min(known), max(known)
    part = 0.0 if high <= low else (math.log10(max(error, 1e-9)) - low) / (high - low)
    return SMALL + part * (LARGE - SMALL)


def _scale(values: Sequence[float], start: float, end: float) -> Scale:
    """A logarithmic scale with room around the values, and at least a factor of six, so that it has ticks."""
    low, high = max(min(values), 1e-3), max(max(values), 1e-3)
    room = max((high / low) ** 0.1, math.sqrt(6.0 * low / high), 1.15)
    return Scale(low / room, high * room, start, end, log=True)


def _duration(us: float) -> str:
    return units.duration(us).replace(".00", "").replace(".0 ", " ")


def _size(count: float) -> str:
    return units.size(count).replace(".00", "").replace(".0 ", " ")
