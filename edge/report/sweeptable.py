"""A sweep on the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from edge.report import units
from edge.report.sweeppage import grouped
from edge.sweep.pareto import SweepReport


def render(found: SweepReport) -> RenderableType:
    parts: list[RenderableType] = []
    for (model, entry, device), rows in grouped(found.rows).items():
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", title_justify="left")
        for column in ("", "runtime", "scheme", "target", "p50>", "p90>", "size>", "peak>", "error>"):
            table.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", no_wrap=True)
        for row in sorted(rows, key=lambda row: row.p50_us):
            table.add_row(
                "[green]*[/]" if row.front else "", escape(row.runtime), escape(row.scheme), escape(row.target),
                units.duration(row.p50_us) + (" (hot)" if row.stayed_hot else ""), units.duration(row.p90_us),
                units.size(row.size_bytes), units.size(row.peak_bytes),
                "-" if row.error is None else units.error(row.error),
            )
        parts += [Text(f"{model}: {entry} on {device}", style="bold"), table, ""]
    if found.rows:
        parts.append(Text("* is on the Pareto front of its group: latency, size, error", style="dim"))
    parts += [Text(f"Refused: {one.name}: {one.reason}", style="yellow") for one in found.refused]
    return Group(*parts)
