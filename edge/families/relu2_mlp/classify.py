"""Each row of a CSV through the classifier: its class and how sure the model is."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edge.csvfile import Table, read_csv, write_csv
from edge.errors import InputError
from edge.progress import Progress
from edge.tasks import Task, TaskRequest, TaskResult, softmax

if TYPE_CHECKING:
    from edge.runtimes.base import Session


class Classify(Task):
    name: ClassVar[str] = "classify"
    summary: ClassVar[str] = "tell the class of each row of numbers"
    needs: ClassVar[tuple[str, ...]] = ("classify",)

    def run(self, session: Session, request: TaskRequest, progress: Progress) -> TaskResult:
        table = read_csv(request.csv, request.columns)
        table.refuse_missing("give every feature a value")
        features = session.manifest.entry("classify").inputs[0].shape[-1]
        if len(table.columns) != features:
            raise InputError(
                f"the model takes {features} numbers a row but {table.path} has {len(table.columns)} columns of them: "
                "choose the right ones with --columns."
            )
        chances = []
        with progress.bar("classifying rows", len(table.rows)) as bar:
            for row in table.values.astype(np.float32):
                chances.append(softmax(session.run("classify", {"features": row[None]})["logits"][0]))
                bar.advance()
        classes = [int(chance.argmax()) for chance in chances]
        sure = [float(chance.max()) for chance in chances]
        written = []
        if request.output is not None:
            extra = {"class": [str(label) for label in classes], "probability": [f"{value:.6g}" for value in sure]}
            written.append(write_csv(request.output, table, {}, extra))
        # What is in the file need not scroll by as well.
        lines = _summary(classes) if written else _each(table, classes, sure)
        return TaskResult(
            lines=tuple(lines),
            values={"classes": classes, "probabilities": [round(value, 6) for value in sure]},
            written=tuple(written),
        )


def _each(table: Table, classes: list[int], sure: list[float]) -> list[str]:
    pairs = enumerate(zip(classes, sure, strict=True))
    return [f"{table.label(row)}: class {label} (probability {value:.3f})" for row, (label, value) in pairs]


def _summary(classes: list[int]) -> list[str]:
    counts = sorted(Counter(classes).items())
    return [f"{len(classes)} rows classified", *(f"  class {label}: {count}" for label, count in counts)]
