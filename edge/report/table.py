"""Measurements and checks on the terminal, as rich renderables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.markup import escape
from rich.measure import Measurement as Width
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from edge.conditions import Conditions
from edge.measurement import EntryCheck, EntryMeasurement, Measurement
from edge.report import summary, units

#: Operators to list for each entry point.
TOP = 8


def render(measurement: Measurement) -> RenderableType:
    """Everything that fits a terminal: latency, memory, the operators that take longest, and what to doubt."""
    bundle, device, settings = measurement.bundle, measurement.device, measurement.settings
    title = f"{bundle.model} on {bundle.runtime} {bundle.runtime_version}, {bundle.scheme}"
    threads = f"{settings.threads_text}{', as tuned' if settings.tuned else ''}"
    parts: list[RenderableType] = [
        Text(title, style="bold"),
        Text(f"{bundle.name}; {device.cpu}, {threads}", style="dim"),
        "",
        _latency(measurement),
        "",
    ]
    if measurement.figures:
        parts += [_figures(measurement), ""]
    parts.append(_facts(measurement))
    for entry in measurement.entries:
        if entry.operators:
            parts += ["", _operators(entry)]
    parts += ["", _conditions(measurement.conditions)]
    notes = [f"{entry.entry}: {entry.bound.note}" for entry in measurement.entries if entry.bound]
    if notes:
        parts += ["", *(Text(note, style="dim") for note in dict.fromkeys(notes))]
    if measurement.warnings:
        parts += ["", *(Text(f"Warning: {sentence}", style="yellow") for sentence in measurement.warnings)]
    return Group(*parts)


def render_checks(checks: Sequence[EntryCheck]) -> RenderableType:
    """What `edge verify` found: one row for each output."""
    table = _table("entry point", "output", "samples>", "max error>", "relative>", "cosine>", "allowed>", "")
    for check in checks:
        for output in check.outputs:
            table.add_row(
                escape(check.entry), escape(output.output), str(check.samples), units.error(output.max_abs),
                units.error(output.relative), f"{output.cosine:.6f}",
                f"{check.tolerance.atol:.1e}, {check.tolerance.cosine:g}",
                "[green]pass[/]" if output.passed else "[red]FAIL[/]",
            )
    where = ", ".join(dict.fromkeys(check.where for check in checks))
    return Group(table, Text(f"stored samples against eager float32, computed by {where}", style="dim"))


def _latency(measurement: Measurement) -> Table:
    figures = ("p50>", "p90>", "p99>", "min>", "mean>", "runs>", "first run>", "of roofline>", "error>")
    metered = any(entry.energy for entry in measurement.entries)
    table = _table("entry point", *figures, *(["energy>"] if metered else []))
    for entry in measurement.entries:
        latency = entry.latency
        table.add_row(
            escape(entry.entry), f"[bold]{units.duration(latency.p50_us)}[/]", units.duration(latency.p90_us),
            units.duration(latency.p99_us), units.duration(latency.min_us), units.duration(latency.mean_us),
            f"{latency.runs:,}", units.duration(entry.first_us),
            f"{units.percent(entry.bound.share)} {entry.bound.kind}" if entry.bound else "-",
            units.error(max(output.relative for output in entry.errors)) if entry.errors else "-",
            *([units.energy(entry.energy.joules) if entry.energy else "-"] if metered else []),
        )
    return table


def _facts(measurement: Measurement) -> Table:
    memory, bundle, roof = measurement.memory, measurement.bundle, measurement.roof
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    load, before = units.duration(measurement.load_us), f"{units.size(memory.baseline)} before it is loaded"
    if measurement.device.in_python:
        load += f", after {units.duration(measurement.import_us)} to import the runtime"
        before = f"{units.size(memory.baseline)} Python, {units.size(max(memory.imported - memory.baseline, 0))} runtime"
    table.add_row("load", load)
    table.add_row("memory", f"{units.size(memory.peak)} at its peak: {before}, {units.size(memory.model)} the model")
    if memory.peak_pss is not None:
        table.add_row("", f"{units.size(memory.peak_pss)} proportional (PSS): pages shared with other processes by part")
    total = units.size(bundle.total_bytes)
    table.add_row("size", f"{units.size(bundle.artifact_bytes)} of artifacts, {total} the whole bundle")
    for metric in bundle.metrics:
        figure = f"{units.digits(metric.bundle)} (eager {units.digits(metric.eager)})"
        table.add_row("metric", f"{escape(metric.name)} {figure}, {escape(metric.data)}")
    if roof is not None:
        table.add_row(
            "machine",
            f"{units.digits(roof.bandwidth_gbs)} GB/s read, {units.digits(roof.peak_gflops)} GFLOP/s float32, measured",
        )
    return table


def _figures(measurement: Measurement) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right", style="bold")
    table.add_column(style="dim")
    for figure in measurement.figures:
        table.add_row(escape(figure.name), escape(units.figure(figure.value, figure.unit)), escape(figure.method))
    return table


def _conditions(conditions: Conditions) -> Table:
    """What the sensors said, or why they did not; one row each."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    for name, found in summary.conditions(conditions):
        table.add_row(name, escape(found))
    return table


def _operators(entry: EntryMeasurement) -> RenderableType:
    table = _table(f"operators of {escape(entry.entry)}", "kind", "by", "calls>", "a call>", "share>")
    ordered = sorted(entry.operators, key=lambda row: -row.share)
    for row in ordered[:TOP]:
        table.add_row(
            _Middle(row.name), _Middle(row.kind), escape(row.provider), units.calls(row.calls_per_run),
            units.duration(row.mean_us), units.percent(row.share),
        )
    if rest := ordered[TOP:]:
        share = units.percent(sum(row.share for row in rest))
        table.add_row(f"[dim]{len(rest)} more[/]", "", "", "", "", f"[dim]{share}[/]")
    return Padding(table, 0)


class _Middle:
    """A name that loses its middle where there is no room: compiled kernels differ at their ends."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Width:
        return Width(min(len(self._name), 12), len(self._name))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        name, room = self._name, options.max_width
        if len(name) > room:
            end = (room - 1) // 2
            name = f"{name[: room - 1 - end]}…{name[len(name) - end :]}"
        yield Text(name)


def _table(*columns: str) -> Table:
    """A borderless table; a column that ends in ">" holds figures."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        figures = column.endswith(">")
        table.add_column(column.rstrip(">"), justify="right" if figures else "left", no_wrap=figures)
    return table
