"""Filling the holes of a series, by the authors' method (granite-tsfm 0.3.2's imputation pipeline).

Every column is standardised over what is known. The model reconstructs every window of 512 points; a missing value is
the mean of all reconstructions that cover it, and a known value stays as it is, to the letter. Windows without a hole
cannot change anything, so they are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edge.csvfile import Table, read_csv, write_csv
from edge.errors import InputError
from edge.families.base import Run
from edge.families.tspulse.windows import Geometry, run_rows, standardise
from edge.progress import Progress
from edge.tasks import Task, TaskRequest, TaskResult

if TYPE_CHECKING:
    from edge.runtimes.base import Session

#: Rows that go through the model between two steps of the progress bar.
BLOCK = 32


class Impute(Task):
    name: ClassVar[str] = "impute"
    summary: ClassVar[str] = "fill the missing values of a series"
    needs: ClassVar[tuple[str, ...]] = ("impute",)

    def run(self, session: Session, request: TaskRequest, progress: Progress) -> TaskResult:
        if request.output is None:
            raise InputError("imputation writes the filled series: say where with -o.")
        geometry = Geometry.of(session, "impute")
        table = read_csv(request.csv, request.columns)
        table.require(geometry.context, f"imputation with a context of {geometry.context}")
        geometry.check(table)
        holes = np.isnan(table.values)
        _check_columns(table, holes, geometry.context, progress)
        filled = fill(session.run, table.values, geometry, progress)
        cells = {
            column.place: [
                f"{filled[row, index]:.7g}" if holes[row, index] else cells[column.place]
                for row, cells in enumerate(table.rows)
            ]
            for index, column in enumerate(table.columns)
        }
        counts = {name: int(count) for name, count in zip(table.names, holes.sum(axis=0), strict=True)}
        total = sum(counts.values())
        return TaskResult(
            lines=(
                f"{total} of {holes.size} values filled" if total else "nothing is missing: the output is the input",
                *(f"  {name}: {count}" for name, count in counts.items() if count),
            ),
            values={"filled": total, "columns": counts, "rows": len(table.rows)},
            written=(write_csv(request.output, table, cells, {}),),
        )


def fill(run: Run, values: np.ndarray, geometry: Geometry, progress: Progress) -> np.ndarray:
    """``values`` [rows, columns] with every NaN replaced."""
    context = geometry.context
    known = ~np.isnan(values)
    series, mean, scale = standardise(values)
    data = np.ascontiguousarray(np.nan_to_num(series).T, dtype=np.float32)
    seen = np.ascontiguousarray(known.T, dtype=np.float32)
    jobs = _jobs(~known, context, geometry.mixes)
    total, covered = np.zeros(data.shape), np.zeros(data.shape)
    block = max(1, BLOCK // geometry.channels) * geometry.channels
    with progress.bar("filling windows", len(jobs)) as bar:
        for first in range(0, len(jobs), block):
            part = jobs[first : first + block]
            inputs = np.stack([data[column, start : start + context] for start, column in part])
            observed = np.stack([seen[column, start : start + context] for start, column in part])
            found = run_rows(run, "impute", inputs, observed, geometry.channels, ["reconstruction_outputs"])
            for (start, column), row in zip(part, found["reconstruction_outputs"], strict=True):
                total[column, start : start + context] += row
                covered[column, start : start + context] += 1
            bar.advance(len(part))
    guess = (total / np.maximum(covered, 1)).T * scale + mean
    return np.where(known, values, guess)


def _jobs(holes: np.ndarray, context: int, mixes: bool) -> list[tuple[int, int]]:
    """(first row, column) of every window with a hole; a model that mixes needs all columns of such a window."""
    before = np.concatenate([np.zeros((1, holes.shape[1]), int), np.cumsum(holes, axis=0)])
    has_hole = before[context:] > before[:-context]
    if mixes:
        has_hole = np.broadcast_to(has_hole.any(axis=1, keepdims=True), has_hole.shape)
    return [(int(start), int(column)) for start, column in np.argwhere(has_hole)]


def _check_columns(table: Table, holes: np.ndarray, context: int, progress: Progress) -> None:
    """Refuse a column with nothing in it; say so where a gap is longer than the context."""
    for name, column in zip(table.names, holes.T, strict=True):
        if column.all():
            raise InputError(f"column '{name}' of {table.path} has no value at all: leave it out with --columns.")
        edges = np.flatnonzero(np.diff(np.concatenate([[0], column.astype(int), [0]])))
        longest = int(np.max(edges[1::2] - edges[::2], initial=0))
        if longest >= context:
            progress.warn(
                f"column '{name}' has a gap of {longest} rows, longer than the model's context of {context}: "
                "what is filled in there is a guess from nothing."
            )
