"""The gate's verdict on the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from edge.gate import GateReport, Verdict
from edge.gate_counts import CountReport
from edge.report import units


def render(report: GateReport) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("entry point", "baseline>", "now>", "slowdown>", "95 % at least>", "at most>", ""):
        table.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", no_wrap=True)
    for verdict in report.verdicts:
        table.add_row(
            escape(verdict.entry), units.duration(verdict.baseline_us), units.duration(verdict.now_us),
            f"{verdict.slowdown:.3f}x", _bound(verdict.low), _bound(verdict.high),
            "[red]SLOWER[/]" if verdict.regressed else "[green]ok[/]",
        )
    compared = ", ".join(dict.fromkeys(_compared(verdict) for verdict in report.verdicts))
    parts: list[RenderableType] = [
        table,
        Text(f"allowed: {units.percent(report.allowed)} slower; compared: {compared}", style="dim"),
    ]
    parts += [Text(f"Warning: {sentence}", style="yellow") for sentence in report.warnings]
    return Group(*parts)


def render_counts(report: CountReport) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("entry point", "baseline>", "now>", "ratio>", ""):
        table.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", no_wrap=True)
    for verdict in report.verdicts:
        table.add_row(
            escape(verdict.entry), f"{verdict.baseline:,}", f"{verdict.now:,}", f"{verdict.ratio:.4f}x",
            "[red]MORE[/]" if verdict.regressed else "[green]ok[/]",
        )
    parts: list[RenderableType] = [
        table,
        Text(f"allowed: {units.percent(report.allowed)} more; instructions of an inference on {report.cpu}, no times", style="dim"),
    ]
    parts += [Text(f"Warning: {sentence}", style="yellow") for sentence in report.warnings]
    return Group(*parts)


def _bound(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}x"


def _compared(verdict: Verdict) -> str:
    word = {"process": ("process", "processes"), "stretch of runs": ("stretch of runs", "stretches of runs")}[verdict.unit]
    return f"{verdict.baseline_units} and {verdict.now_units} {word[1] if verdict.now_units != 1 else word[0]}"
