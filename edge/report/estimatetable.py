"""An estimate on the terminal; every part of it says that it is one."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from edge.estimate import Estimate
from edge.report import units

_COLOURS = {"fits": "green", "may not fit": "yellow", "does not fit": "red"}


def render(found: Estimate) -> RenderableType:
    threads = units.plural(found.threads, "thread")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("entry point", "estimated latency>", "the low end is"):
        table.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", no_wrap=True)
    for entry in found.entries:
        span = f"{units.duration(entry.low_us)} to {units.duration(entry.high_us)}"
        table.add_row(escape(entry.entry), f"[bold]{span}[/]", f"bound by {entry.bound}")
    memory = found.memory
    room = f"{units.size(memory.low_bytes)} to {units.size(memory.high_bytes)}"
    verdict = f"[{_COLOURS[memory.verdict]}]{memory.verdict}[/] in {units.size(memory.usable_bytes)}"
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column()
    facts.add_row("estimated peak memory", f"{room}: {verdict}")
    return Group(
        Text(f"Estimate of {found.model} on {found.target}: {found.runtime}, {found.scheme}, {threads}", style="bold"),
        Text(found.bundle, style="dim"),
        "",
        table,
        "",
        facts,
        "",
        *(Text(f"Note: {note}", style="dim") for note in found.notes),
    )
