"""The picture of a series and its anomaly scores, as a PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge.csvfile import Table
from edge.errors import MissingDependencyError
from edge.files import write_atomically

#: Columns that get a panel; more would not be legible.
PANELS = 8


def draw_scores(path: Path, table: Table, score: np.ndarray, top: Sequence[int]) -> Path:
    """Write the first columns of ``table``, one panel each, above ``score`` [rows]; ``top`` rows are marked."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingDependencyError("matplotlib", "plot", "--plot") from error
    names = table.names[:PANELS]
    figure = Figure(figsize=(12, 1.6 * len(names) + 2.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(names) + 1, 1, sharex=True, squeeze=False)[:, 0]
    for panel, name, column in zip(panels[:-1], names, table.values.T, strict=False):
        panel.plot(column, linewidth=0.8, color="#1f4e79")
        panel.set_ylabel(name)
    panels[-1].plot(score, linewidth=0.9, color="#b03a2e")
    panels[-1].set_ylabel("anomaly score")
    panels[-1].set_ylim(0, 1.05)
    panels[-1].set_xlabel("row")
    for panel in panels:
        for row in top:
            panel.axvline(row, color="#b03a2e", linewidth=0.8, alpha=0.35)
        panel.margins(x=0)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(path, buffer.getvalue())
    return path
