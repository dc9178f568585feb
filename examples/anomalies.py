"""Find the odd stretch of a series with TSPulse: the task that `edge run --task anomaly` runs, from Python.

python examples/anomalies.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import edge
from edge.families.base import get_family
from edge.progress import Progress
from edge.tasks import TaskRequest


def main(folder: Path) -> None:
    time = np.arange(640)
    series = np.sin(time / 8) + 0.05 * np.random.default_rng(0).standard_normal(len(time))
    series[560:580] = 0.2  # a sensor that is stuck for a while
    source = folder / "sensor.csv"
    np.savetxt(source, series, header="level", comments="")

    exported = edge.export("tspulse", target="cpu", runtime="onnx", quantize="fp32", output=folder)
    session = edge.load(exported.bundle.path)
    task = get_family("tspulse").tasks()["anomaly"]
    result = task.run(session, TaskRequest(csv=source, output=folder / "scores.csv", top=3), Progress())
    print(*result.lines, sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
