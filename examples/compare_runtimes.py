"""The same model through two runtimes and two schemes: how large, how exact, how fast here.

python examples/compare_runtimes.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import edge

CHOICES = [("onnx", "fp32"), ("onnx", "int8"), ("executorch", "fp32"), ("executorch", "int8-dynamic")]


def main(folder: Path) -> None:
    print(f"{'runtime':12}{'scheme':14}{'kB':>8}{'accuracy':>10}{'p50 us':>9}{'p99 us':>9}")
    for runtime, scheme in CHOICES:
        output = folder / f"{runtime}-{scheme}.edge"
        bundle = edge.export("relu2-mlp", target="cpu", runtime=runtime, quantize=scheme, output=output).bundle
        measurement = edge.profile(bundle.path, threads=1, runs=200, seconds=0.2, operators=False, roofline=False)
        latency = measurement.entry("classify").latency
        (accuracy,) = bundle.manifest.metrics
        size = bundle.artifact_bytes / 1e3
        print(f"{runtime:12}{scheme:14}{size:8.1f}{accuracy.bundle:10.4f}{latency.p50_us:9.1f}{latency.p99_us:9.1f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
