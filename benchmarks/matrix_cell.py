"""One cell of ``matrix``, in a process of its own: export a demo model, verify it, measure it; a JSON object on stdout.

    python benchmarks/matrix_cell.py MODEL RUNTIME SCHEME THREADS RUNS SECONDS FOLDER
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import edge
from edge.errors import EdgeError
from edge.manifest import Manifest


def main(model: str, runtime: str, scheme: str, threads: str, runs: str, seconds: str, folder: str) -> None:
    began = time.monotonic()
    try:
        exported = edge.export(model, target="cpu", runtime=runtime, quantize=scheme, output=Path(folder) / "cell.edge")
    except EdgeError as error:
        print(json.dumps({"exported": False, "reason": str(error)}))
        return
    found = describe(exported.bundle.manifest)
    found["bytes"] = exported.bundle.artifact_bytes
    found["export_seconds"] = time.monotonic() - began
    found["export_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found["warnings"] = list(exported.warnings)
    for count in map(int, threads.split(",")):
        measured = edge.profile(
            exported.bundle.path, threads=count, runs=int(runs), seconds=float(seconds), operators=False, roofline=False
        )
        found["p50_ms"][str(count)] = {entry.entry: entry.latency.p50_us / 1e3 for entry in measured.entries}
        found["rss_bytes"] = max(found["rss_bytes"], measured.memory.peak)
        found["busy"] = max(found["busy"], measured.device.busy)
    print(json.dumps(found))


def describe(manifest: Manifest) -> dict:
    """What verification found of the lowered entry points, the worst first, and the task's own metric."""
    outputs = [
        output
        for entry in manifest.entries
        for stage in entry.stages
        if stage.stage == "lowered"
        for output in stage.outputs
    ]
    return {
        "exported": True,
        "worst_relative": max(output.relative for output in outputs),
        "worst_cosine": min(output.cosine for output in outputs),
        "metrics": [
            {"name": metric.name, "higher_is_better": metric.higher_is_better, "eager": metric.eager, "bundle": metric.bundle}
            for metric in manifest.metrics
        ],
        "p50_ms": {},
        "rss_bytes": 0,
        "busy": 0.0,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
