"""One step of ``matrix``, in a process of its own: export a demo model and verify it, or measure a bundle; JSON on stdout.

    python benchmarks/matrix_cell.py export MODEL RUNTIME SCHEME BUNDLE
    python benchmarks/matrix_cell.py measure BUNDLE THREADS RUNS SECONDS
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import edge
from edge.devices.resident import resident
from edge.errors import EdgeError
from edge.manifest import Manifest


def export(model: str, runtime: str, scheme: str, bundle: str) -> dict:
    began = time.monotonic()
    try:
        exported = edge.export(model, target="cpu", runtime=runtime, quantize=scheme, output=Path(bundle))
    except EdgeError as error:
        return {"exported": False, "reason": str(error)}
    return describe(exported.bundle.manifest) | {
        "bytes": exported.bundle.artifact_bytes,
        "export_seconds": time.monotonic() - began,
        "export_rss_bytes": resident()[1],
        "warnings": list(exported.warnings),
    }


def measure(bundle: str, threads: str, runs: str, seconds: str) -> dict:
    """Medians in ms by number of threads and entry point; the highest resident memory and share of a busy machine."""
    measured = {
        count: edge.profile(
            Path(bundle), threads=int(count), runs=int(runs), seconds=float(seconds), operators=False, roofline=False
        )
        for count in threads.split(",")
    }
    return {
        "p50_ms": {
            count: {entry.entry: entry.latency.p50_us / 1e3 for entry in one.entries} for count, one in measured.items()
        },
        "rss_bytes": max(one.memory.peak for one in measured.values()),
        "busy": max(one.device.busy for one in measured.values()),
    }


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
    }


if __name__ == "__main__":
    print(json.dumps({"export": export, "measure": measure}[sys.argv[1]](*sys.argv[2:])))
