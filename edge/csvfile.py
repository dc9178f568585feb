"""The user's CSV: its cells kept as they are, its numeric columns as one float64 array, and back.

With or without a header line; separated by commas, semicolons or tabs; UTF-8. A column without a single number (names,
ISO timestamps), and a first column that is called time, date, index or the like, stay as text and pass through to the
output. An empty cell, NaN or NA is a missing value. Everything else that is not a number is an `InputError` that
names the file, the line and the column.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.errors import InputError
from edge.files import write_atomically

MISSING = frozenset({"", "nan", "na", "n/a", "null", "none"})
#: Names of a first column that counts rows or time and is no measurement, lower case.
CLOCKS = frozenset({"", "time", "timestamp", "date", "datetime", "ds", "index", "unnamed: 0", "epoch"})

LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Column:
    """A numeric column: its name (its position from 1 where the file has no header) and its place in a row."""

    name: str
    place: int


@dataclass(frozen=True)
class Table:
    """A CSV in memory. ``values`` is [rows, columns] float64, NaN where a cell is missing."""

    path: Path
    header: tuple[str, ...] | None
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]  # where in the file each row ends, from 1
    columns: tuple[Column, ...]
    values: np.ndarray
    delimiter: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def label(self, row: int) -> str:
        """How to point at a row: its number from 0, and its time stamp if the file has one."""
        first = self.rows[row][0]
        is_clock = all(column.place != 0 for column in self.columns)
        return f"row {row} ({first})" if is_clock and first else f"row {row}"

    def require(self, rows: int, why: str) -> None:
        """InputError if there are fewer than ``rows``."""
        if len(self.rows) < rows:
            raise InputError(
                f"{self.path} has {len(self.rows)} rows of data but {why} needs at least {rows}: give a longer series."
            )

    def refuse_missing(self, advice: str) -> None:
        """InputError at the first missing value."""
        holes = np.argwhere(np.isnan(self.values))
        if len(holes):
            row, column = holes[0]
            raise InputError(
                f"{self.path}, line {self.lines[row]}, column '{self.columns[column].name}' is missing "
                f"({len(holes)} values are): {advice}."
            )


def read_csv(path: Path | None, columns: Sequence[str] = ()) -> Table:
    """The table at ``path`` with ``columns`` as its numbers (by name; none: every numeric one). Raises InputError."""
    if path is None:
        raise InputError("this task reads a CSV: give one with --csv.")
    delimiter, lines, rows = _cells(path)
    header = rows.pop(0) if _is_header(rows) else None
    if header is not None:
        lines.pop(0)
    if not rows:
        raise InputError(f"{path} has a header and no data: give a file with rows.")
    names = [str(place + 1) for place in range(len(rows[0]))] if header is None else [name.strip() for name in header]
    chosen = _chosen(path, names, columns) if columns else _numeric(path, names, header is not None, rows)
    values = np.empty((len(rows), len(chosen)))
    for place, column in enumerate(chosen):
        for index, row in enumerate(rows):
            values[index, place] = _number(path, lines[index], column, row[column.place])
    return Table(path, header, tuple(rows), tuple(lines), tuple(chosen), values, delimiter)


def write_csv(
    path: Path, table: Table, filled: Mapping[int, Sequence[str]], extra: Mapping[str, Sequence[str]]
) -> Path:
    """Write ``table`` to ``path`` with the cells of some places replaced and with more columns at its end.

    ``filled`` maps a place in the row to its new cells, ``extra`` a name to a new column; all have one cell a row. A
    file without a header gets one if there are extra columns, since nothing else would say what they are.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=table.delimiter, lineterminator="\n")
    header = table.header
    if header is None and extra:
        header = tuple(f"column{place + 1}" for place in range(len(table.rows[0])))
    if header is not None:
        writer.writerow([*header, *_free(extra, header)])
    for index, row in enumerate(table.rows):
        cells = [filled[place][index] if place in filled else cell for place, cell in enumerate(row)]
        writer.writerow([*cells, *(column[index] for column in extra.values())])
    write_atomically(path, buffer.getvalue().encode())
    return path


def _cells(path: Path) -> tuple[str, list[int], list[tuple[str, ...]]]:
    """The delimiter, and each row that is not blank with the number of the line that it ends on."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"there is no file {path}: check the path.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give a CSV file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}): save it as a UTF-8 CSV.") from error
    first = next((line for line in text.splitlines() if line.strip()), "")
    if not first:
        raise InputError(f"{path} is empty: give a CSV with rows of numbers.")
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    lines: list[int] = []
    rows: list[tuple[str, ...]] = []
    try:
        for row in reader:
            if not any(cell.strip() for cell in row) and len(row) < 2:
                continue
            if rows and len(row) != len(rows[0]):
                raise InputError(
                    f"{path}, line {reader.line_num} has {len(row)} cells but line {lines[0]} has {len(rows[0])}: "
                    "every row needs the same number."
                )
            lines.append(reader.line_num)
            rows.append(tuple(row))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num} is not CSV ({error}): save the file again.") from error
    return delimiter, lines, rows


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names the columns: text above numbers, or the names 0, 1, 2, ... of a data frame."""
    first = [cell.strip() for cell in rows[0]]
    if len(first) > 2 and first == [str(place) for place in range(len(first))]:
        return True
    if any(_parses(cell) for cell in first):
        return False
    named = [place for place, cell in enumerate(first) if cell.lower() not in MISSING]
    return len(rows) == 1 or any(_parses(row[place]) for place in named for row in rows[1:])


def _chosen(path: Path, names: Sequence[str], wanted: Sequence[str]) -> list[Column]:
    for name in wanted:
        if (count := names.count(name)) != 1:
            what = "no column" if count == 0 else f"{count} columns"
            raise InputError(f"{path} has {what} '{name}': it has {', '.join(names)}.")
    return [Column(name, names.index(name)) for name in wanted]


def _numeric(path: Path, names: Sequence[str], named: bool, rows: Sequence[Sequence[str]]) -> list[Column]:
    """Every column with a number in it, except a clock at the front."""
    found = [
        Column(name, place)
        for place, name in enumerate(names)
        if not (named and place == 0 and len(names) > 1 and name.lower() in CLOCKS)
        and any(_parses(row[place]) for row in rows)
    ]
    if not found:
        raise InputError(f"{path} has no column of numbers: give a CSV with at least one.")
    return found


def _number(path: Path, line: int, column: Column, cell: str) -> float:
    text = cell.strip()
    if text.lower() in MISSING:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        raise InputError(
            f"{path}, line {line}, column '{column.name}' holds '{text[:40]}', which is not a number: correct it, "
            "leave the cell empty, or choose other columns with --columns."
        ) from None
    if math.isinf(value) or abs(value) > LARGEST:
        raise InputError(
            f"{path}, line {line}, column '{column.name}' holds {text[:40]}, which no float32 can: correct it or "
            "leave the cell empty."
        )
    return value


def _parses(cell: str) -> bool:
    """Whether the cell is a number (a missing value is not)."""
    if cell.strip().lower() in MISSING:
        return False
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _free(extra: Iterable[str], header: Sequence[str]) -> list[str]:
    """The names of new columns, made different from those that the file has."""
    names: list[str] = []
    for name in extra:
        taken, count = set(header) | set(names), 2
        free = name
        while free in taken:
            free, count = f"{name}_{count}", count + 1
        names.append(free)
    return names
