"""A measurement as one HTML page: no script, no font, no address but its own, so that it can be mailed and archived."""

from __future__ import annotations

from pathlib import Path

import jinja2

from edge.files import write_atomically
from edge.measurement import Measurement
from edge.report import charts, summary, timecharts, units

TEMPLATE = "page.html"
#: Rows of the operator table that are open to the eye; the rest can be unfolded.
TOP = 12


def templates() -> jinja2.Environment:
    """This folder's templates; whatever a measurement says is text and never markup."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )


def encode(measurement: Measurement) -> bytes:
    environment = templates()
    environment.filters |= {
        "duration": units.duration, "size": units.size, "binary_size": units.binary_size, "percent": units.percent,
        "count": units.count, "digits": units.digits, "calls": units.calls, "error": units.error, "energy": units.energy,
        "figure": units.figure,
    }
    page = environment.get_template(TEMPLATE)
    rendered = page.render(m=measurement, charts=charts, timecharts=timecharts, summary=summary, top=TOP)
    return rendered.encode("utf-8")


def save(measurement: Measurement, path: Path) -> None:
    """Write ``path``. Raises StorageError."""
    write_atomically(path, encode(measurement))
