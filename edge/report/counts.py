"""Instruction counts as tables: the classes of each entry point, and where most of them are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge.report.units import count, percent

if TYPE_CHECKING:
    from edge.runtimes.native.counting import Counts, EntryCount

#: Operators that are shown: the largest.
TOP = 15


def render(counts: Counts) -> RenderableType:
    """``counts`` for a terminal."""
    parts: list[RenderableType] = [
        Text(f"{counts.bundle}: instructions of one inference on {counts.target} ({counts.cpu}), 1 thread"),
        Text(f"{counts.runtime} {counts.runtime_version}, {counts.scheme}; counted by {counts.emulator} with {counts.libc}, not a time", "dim"),
        Text(),
        _classes(counts),
    ]
    for entry in counts.entries:
        parts += [Text(), Text(f"{entry.entry}: where they are"), _operators(entry)]
    return Group(*parts)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def _classes(counts: Counts) -> Table:
    table = _table("entry", "all", "integer", "branch", "load/store", "SIMD and FP", "other", "repeats")
    for entry in counts.entries:
        found = entry.inference
        table.add_row(Text(entry.entry), *(f"{number:,}" for number in (
            found.total, found.integer, found.branch, found.load_store, found.simd_fp, found.other,
        )), "yes" if entry.steady else "no: the least")  # fmt: skip
    return table


def _operators(entry: EntryCount) -> Table:
    table = _table("operator", "instructions", "share", "SIMD and FP", "load/store")
    total = entry.inference.total or 1
    ordered = sorted(entry.operators, key=lambda row: -row.instructions.total)
    for row in ordered[:TOP]:
        found = row.instructions
        name = f"{row.name} ({row.module})" if row.module else row.name
        table.add_row(Text(name), f"{found.total:,}", percent(found.total / total), count(found.simd_fp), count(found.load_store))
    rest = sum(row.instructions.total for row in ordered[TOP:])
    if rest:
        table.add_row(f"{len(ordered) - TOP} more", f"{rest:,}", percent(rest / total), "", "")
    own = max(total - sum(row.instructions.total for row in ordered), 0)
    table.add_row("the runtime itself", f"{own:,}", percent(own / total), "", "")
    return table
