"""A comparison on the terminal: a column for each side, the first being what the others are measured against."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from edge.compare import Cell, Comparison, Ratio, Side
from edge.report import units


def render(comparison: Comparison) -> RenderableType:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("")
    for side in comparison.sides:
        table.add_column(escape(side.name), justify="right")
    _facts(table, comparison, "runtime", lambda side: f"{side.bundle.runtime}, {side.bundle.scheme}")
    _facts(table, comparison, "threads", lambda side: str(side.threads))
    _facts(table, comparison, "size", lambda side: units.size(side.bundle.artifact_bytes))
    _facts(table, comparison, "load", lambda side: units.duration(side.load_us))
    _facts(table, comparison, "peak memory", lambda side: units.size(side.peak_bytes))
    _facts(table, comparison, "  the model's", lambda side: units.size(side.model_bytes))
    for name in dict.fromkeys(metric.name for side in comparison.sides for metric in side.bundle.metrics):
        table.add_row(escape(name), *(_metric(side, name) for side in comparison.sides))
    for row in comparison.rows:
        table.add_row("")
        table.add_row(f"[bold]{escape(row.entry)}[/]")
        _cells(table, row.cells, "  p50", lambda cell: f"[bold]{units.duration(cell.p50_us)}[/]")
        _cells(table, row.cells, "  p90", lambda cell: units.duration(cell.p90_us))
        _cells(table, row.cells, "  first run", lambda cell: units.duration(cell.first_us))
        _cells(table, row.cells, "  error", lambda cell: "-" if cell.relative is None else units.error(cell.relative))
        _cells(table, row.cells, "  speed", lambda cell: _speed(cell.ratio))
    first = comparison.sides[0].name
    parts: list[RenderableType] = [
        table,
        "",
        Text(f"speed is against {first}, with the 95 % interval of its bootstrap; above 1 is faster", style="dim"),
    ]
    parts += [Text(f"Warning: {sentence}", style="yellow") for sentence in comparison.warnings]
    return Group(*parts)


def _facts(table: Table, comparison: Comparison, name: str, show: Callable[[Side], str]) -> None:
    table.add_row(name, *(escape(show(side)) for side in comparison.sides))


def _cells(table: Table, cells: tuple[Cell | None, ...], name: str, show: Callable[[Cell], str]) -> None:
    table.add_row(name, *("-" if cell is None else show(cell) for cell in cells))


def _metric(side: Side, name: str) -> str:
    return next((units.digits(metric.bundle) for metric in side.bundle.metrics if metric.name == name), "-")


def _speed(ratio: Ratio | None) -> str:
    if ratio is None:
        return "-"
    colour = "dim" if not ratio.certain else "green" if ratio.value > 1 else "red"
    return f"[{colour}]{ratio.value:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})[/]"
