"""What commands print on stdout: aligned tables for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType


def print_json(value: object) -> None:
    """``value`` (msgspec structs, dataclasses, paths and plain values) as indented JSON on stdout."""
    import msgspec

    encoded = msgspec.json.encode(value, enc_hook=str)
    sys.stdout.write(msgspec.json.format(encoded, indent=2).decode() + "\n")


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
    wrap: Sequence[str] = (),
) -> None:
    """Rows under a header; columns in ``right`` are flush right, those in ``wrap`` give way on a narrow screen."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(
            column, justify="right" if column in right else "left", no_wrap=column not in wrap, overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    show(table)


def show(what: RenderableType) -> None:
    """Print for people: on a terminal lines wrap and may have colour, in a pipe or a file neither."""
    from rich.console import Console

    if sys.stdout.isatty():
        Console(highlight=False).print(what)
        return
    plain = Console(highlight=False, width=10_000, color_system=None)
    with plain.capture() as captured:
        plain.print(what)
    for line in captured.get().splitlines():
        print(line.rstrip())
