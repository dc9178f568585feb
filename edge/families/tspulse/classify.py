"""The class of a series: each stretch of 512 rows, one after the other, through a classification checkpoint.

Values are given as they are in the file: level and spread are inputs of the classifier too, so scale them as they
were for its training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edge.csvfile import read_csv
from edge.errors import InputError
from edge.families.tspulse.windows import Geometry
from edge.files import write_atomically
from edge.progress import Progress
from edge.tasks import Task, TaskRequest, TaskResult, softmax

if TYPE_CHECKING:
    from edge.runtimes.base import Session


class Classify(Task):
    name: ClassVar[str] = "classify"
    summary: ClassVar[str] = "tell the class of each stretch of a series (needs a classification checkpoint)"
    needs: ClassVar[tuple[str, ...]] = ("classify",)

    def run(self, session: Session, request: TaskRequest, progress: Progress) -> TaskResult:
        geometry = Geometry.of(session, "classify")
        table = read_csv(request.csv, request.columns)
        table.refuse_missing("classification needs every value: fill the gaps first")
        table.require(geometry.context, f"classification with a context of {geometry.context}")
        if len(table.columns) != geometry.channels:
            raise InputError(
                f"the model takes {geometry.channels} channels but {table.path} has {len(table.columns)} columns of "
                f"numbers: choose {geometry.channels} of them with --columns."
            )
        data = table.values.astype(np.float32)
        starts = range(0, len(data) - geometry.context + 1, geometry.context)
        found = []
        with progress.bar("classifying", len(starts)) as bar:
            for start in starts:
                window = np.ascontiguousarray(data[start : start + geometry.context][None])
                found.append(softmax(session.run("classify", {"past_values": window})["prediction_outputs"][0]))
                bar.advance()
        probabilities = np.stack(found)
        classes = probabilities.argmax(axis=1)
        rows = [(start, start + geometry.context - 1) for start in starts]
        written = []
        if request.output is not None:
            write_atomically(request.output, _csv(rows, classes, probabilities).encode())
            written.append(request.output)
        return TaskResult(
            lines=tuple(
                f"rows {first} to {last}: class {label} (probability {chance[label]:.3f})"
                for (first, last), label, chance in zip(rows, classes, probabilities, strict=True)
            ),
            values={
                "windows": [
                    {"first": first, "last": last, "class": int(label), "probabilities": chance.round(6).tolist()}
                    for (first, last), label, chance in zip(rows, classes, probabilities, strict=True)
                ]
            },
            written=tuple(written),
        )


def _csv(rows: list[tuple[int, int]], classes: np.ndarray, probabilities: np.ndarray) -> str:
    names = [f"p{index}" for index in range(probabilities.shape[1])]
    lines = [",".join(["first_row", "last_row", "class", *names])]
    for (first, last), label, chance in zip(rows, classes, probabilities, strict=True):
        lines.append(",".join([str(first), str(last), str(label), *(f"{value:.6g}" for value in chance)]))
    return "\n".join(lines) + "\n"
