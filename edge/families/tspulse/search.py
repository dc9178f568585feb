"""Where in a long series does something like this happen? Search by the registers' state in the decoder.

The last 512 rows of the query are compared with every place of the reference: first at every patch, then, around the
best, at every row. Both files are standardised as a whole, and the model standardises each window, so level and size
do not count. The distance is Euclidean, over the embeddings of all columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edge.csvfile import read_csv, write_csv
from edge.errors import InputError
from edge.families.base import Run
from edge.families.tspulse.windows import Geometry, run_rows, standardise
from edge.progress import Progress
from edge.tasks import Task, TaskRequest, TaskResult

if TYPE_CHECKING:
    from edge.runtimes.base import Session

#: Windows that go through the model between two steps of the progress bar.
BLOCK = 16


class Search(Task):
    name: ClassVar[str] = "search"
    summary: ClassVar[str] = "find the places of a reference series that are most like a query"
    needs: ClassVar[tuple[str, ...]] = ("embed",)

    def run(self, session: Session, request: TaskRequest, progress: Progress) -> TaskResult:
        geometry = Geometry.of(session, "embed")
        if request.reference is None:
            raise InputError("search needs a series to look in: give one with --reference.")
        query, reference = read_csv(request.csv, request.columns), read_csv(request.reference, request.columns)
        for table in (query, reference):
            table.refuse_missing("search needs every value, so fill the gaps first with `--task impute`")
            table.require(geometry.context, f"search with a context of {geometry.context}")
            geometry.check(table)
        if len(query.columns) != len(reference.columns):
            raise InputError(
                f"{query.path} has {len(query.columns)} columns of numbers and {reference.path} has "
                f"{len(reference.columns)}: choose the same ones with --columns."
            )
        asked = standardise(query.values)[0][-geometry.context :]
        sought = embeddings(session.run, asked, [0], geometry, Progress())[0]
        found = nearest(session.run, standardise(reference.values)[0], sought, geometry, request.top, progress)
        written = []
        if request.output is not None:
            scores = dict(found)
            cells = [f"{scores[row]:.6g}" if row in scores else "" for row in range(len(reference.rows))]
            written.append(write_csv(request.output, reference, {}, {"distance": cells}))
        last = geometry.context - 1
        return TaskResult(
            lines=(
                f"most like the last {geometry.context} rows of {query.path}:",
                *(
                    f"  from {reference.label(row)} to {reference.label(row + last)}: distance {distance:.4g}"
                    for row, distance in found
                ),
            ),
            values={
                "matches": [{"first": row, "last": row + last, "distance": distance} for row, distance in found],
            },
            written=tuple(written),
        )


def embeddings(
    run: Run, series: np.ndarray, starts: Sequence[int], geometry: Geometry, progress: Progress
) -> np.ndarray:
    """The embedding of the window at each of ``starts`` in ``series`` [rows, columns]: [starts, columns * size]."""
    data = np.ascontiguousarray(series.T, dtype=np.float32)
    parts = []
    with progress.bar("embedding windows", len(starts)) as bar:
        for first in range(0, len(starts), BLOCK):
            block = starts[first : first + BLOCK]
            rows = np.concatenate([data[:, start : start + geometry.context] for start in block])
            found = run_rows(run, "embed", rows, np.ones_like(rows), geometry.channels, ["register_embedding"])
            parts.append(found["register_embedding"].reshape(len(block), -1))
            bar.advance(len(block))
    return np.concatenate(parts)


def nearest(
    run: Run, series: np.ndarray, sought: np.ndarray, geometry: Geometry, count: int, progress: Progress
) -> list[tuple[int, float]]:
    """(first row, distance) of up to ``count`` windows nearest to ``sought``, no two overlapping by more than half."""
    final = len(series) - geometry.context
    coarse = sorted({*range(0, final + 1, geometry.patch), final})
    distances = np.linalg.norm(embeddings(run, series, coarse, geometry, progress) - sought, axis=1)
    best: list[int] = []
    for index in np.argsort(distances, kind="stable"):
        if len(best) < count and all(abs(coarse[index] - other) >= geometry.context // 2 for other in best):
            best.append(coarse[index])
    found = []
    for place in best:
        around = range(max(0, place - geometry.patch + 1), min(final, place + geometry.patch - 1) + 1)
        fine = np.linalg.norm(embeddings(run, series, around, geometry, Progress()) - sought, axis=1)
        found.append((around[int(np.argmin(fine))], round(float(fine.min()), 6)))
    return sorted(found, key=lambda match: match[1])
