"""A small pen for inline SVG: shapes by CSS class (so that light and dark are the page's business), axes, ticks.

Coordinates are the drawing's own units; a drawing is ``WIDTH`` wide, which is about a phone's column, and scales with
its container. Every text goes through escaping, since operator names come from users' models.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

WIDTH = 420.0


@dataclass
class Drawing:
    """Collects shapes; ``finish`` gives the element. ``label`` is what a screen reader says."""

    height: float
    label: str
    parts: list[str] = field(default_factory=list)

    def rect(self, x: float, y: float, width: float, height: float, kind: str, tip: str = "") -> None:
        title = f"<title>{html.escape(tip)}</title>" if tip else ""
        place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.6):.1f}" height="{height:.1f}"'
        self.parts.append(f'<rect class="{kind}" {place}>{title}</rect>')

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self.parts.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def path(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        steps = " ".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(points))
        self.parts.append(f'<path class="{kind}" d="{steps}"/>')

    def dot(self, x: float, y: float, radius: float, kind: str, tip: str = "") -> None:
        title = f"<title>{html.escape(tip)}</title>" if tip else ""
        self.parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">{title}</circle>')

    def text(self, x: float, y: float, content: str, kind: str = "note", anchor: str = "start") -> None:
        self.parts.append(
            f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(content)}</text>'
        )

    def finish(self) -> Markup:
        return Markup(
            f'<svg viewBox="0 0 {WIDTH:.0f} {self.height:.0f}" role="img" aria-label="{html.escape(self.label)}">'
            + "".join(self.parts)
            + "</svg>"
        )


@dataclass(frozen=True)
class Scale:
    """Maps values from ``low`` to ``high`` onto ``start`` to ``end``; values outside are held at the ends."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, max(value, self._least)))
        part = (at - low) / (high - low) if high > low else 0.5
        return self.start + min(max(part, 0.0), 1.0) * (self.end - self.start)

    @property
    def _least(self) -> float:
        return self.low if self.log else -math.inf

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round values within the scale: powers of ten on a long log scale, else multiples of 1, 2 or 5."""
        if self.log:
            powers = range(math.floor(math.log10(self.low) + 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            if len(powers) <= 3:
                found = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
            else:
                found = [10.0**power for power in powers[:: math.ceil(len(powers) / (wanted + 1))]]
            return [value for value in found if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)]
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        raw = span / wanted
        magnitude = 10.0 ** math.floor(math.log10(raw))
        step_size = next(magnitude * factor for factor in (1, 2, 5, 10) if magnitude * factor >= raw * 0.999)
        first = math.ceil(self.low / step_size - 1e-9)
        return [step_size * index for index in range(first, math.floor(self.high / step_size + 1e-9) + 1)]


def x_axis(drawing: Drawing, scale: Scale, y: float, top: float, label: Callable[[float], str], title: str) -> None:
    """Grid lines from ``top`` down to ``y``, tick labels below, the title below them."""
    for value in scale.ticks():
        at = scale(value)
        drawing.line(at, top, at, y, "grid")
        drawing.text(at, y + 16, label(value), "tick", "middle")
    drawing.line(scale.start, y, scale.end, y, "axis")
    drawing.text((scale.start + scale.end) / 2, y + 31, title, "tick", "middle")


def y_axis(drawing: Drawing, scale: Scale, x: float, right: float, label: Callable[[float], str], title: str) -> None:
    """Grid lines from ``x`` to ``right``, tick labels to the left, the title above."""
    for value in scale.ticks(4):
        at = scale(value)
        drawing.line(x, at, right, at, "grid")
        drawing.text(x - 5, at + 3.5, label(value), "tick", "end")
    drawing.text(2, min(scale.start, scale.end) - 11, title, "tick")


def clipped(name: str, most: int) -> str:
    """``name`` in at most ``most`` characters, its middle left out: the ends of operator names tell them apart."""
    if len(name) <= most:
        return name
    head = (most - 1) // 3
    return f"{name[:head]}…{name[len(name) - (most - 1 - head):]}"
