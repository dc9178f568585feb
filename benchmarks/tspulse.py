"""TSPulse, context 512, batch 1, every head, float32: edge in each runtime against IBM's own code and plain exports of it.

    python benchmarks/tspulse.py [--quick] [--json FILE] [--tune-trials N] [--checkpoint DIR]

Sides, all on the same weights, input and threads, taking turns in one run: ours in ONNX Runtime, ExecuTorch and TVM; IBM's
granite-tsfm 0.3.2 in PyTorch eager; one straightforward ``torch.onnx.export`` of it (FFTs as matmuls) in ONNX Runtime
and in OpenVINO. Peers live in a virtual environment of their own, made on first use. Outputs are compared before anything
is timed: a side that computes something else stops the run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from sides import Row, Side, interleave, median_rows, peer_python, report

import edge

HERE = Path(__file__).resolve().parent
DEMO = Path(edge.__file__).resolve().parent / "demo" / "tspulse"
PEERS = ("torch==2.13.0", "granite-tsfm==0.3.2 pandas<3", "openvino==2026.4.1 onnx onnxruntime==1.32.0 onnxscript")
RUNTIMES = ("onnx", "executorch", "tvm")
PEER_SIDES = ("eager", "onnxruntime", "openvino")
#: Largest difference allowed between two sides, as a share of the output's root mean square.
TOLERANCE = 1e-2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one thread count, few rounds")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tune-trials", type=int, default=0, help="MetaSchedule trials for TVM; 0 takes what the cache has")
    parser.add_argument("--checkpoint", type=Path, default=DEMO)
    options = parser.parse_args()
    python = peer_python("tspulse", PEERS)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as scratch:
        for channels in (1, 8):
            inputs = write_inputs(Path(scratch), channels)
            bundles = export_ours(Path(scratch), channels, options.checkpoint, options.tune_trials)
            for threads in (2,) if options.quick else (1, 2):
                rows += measure(Path(scratch), channels, threads, bundles, inputs, python, options)
    report(rows, options.json)


def write_inputs(scratch: Path, channels: int) -> Path:
    """A seeded multi-tone series per channel, every point observed."""
    random = np.random.default_rng(7)
    time = np.arange(512)
    series = [
        np.sin(2 * np.pi * time / period) + 0.4 * np.sin(2 * np.pi * time / 7.3) + 0.1 * random.standard_normal(512)
        for period in 20 + 6 * np.arange(channels)
    ]
    values = np.stack(series, -1)[None].astype(np.float32)
    path = scratch / f"inputs-{channels}.npz"
    np.savez(path, past_values=values, past_observed_mask=np.ones_like(values))
    return path


def export_ours(scratch: Path, channels: int, checkpoint: Path, tune_trials: int) -> dict[str, Path]:
    config = scratch / f"config-{channels}.json"
    config.write_text(json.dumps({**json.loads((checkpoint / "config.json").read_text()), "num_input_channels": channels}))
    bundles = {}
    for runtime in RUNTIMES:
        print(f"exporting {channels} channel(s) to {runtime}", file=sys.stderr)
        exported = edge.export(
            "tspulse",
            target="cpu",
            runtime=runtime,
            quantize="fp32",
            checkpoint=checkpoint,
            config=config,
            tune_trials=tune_trials if runtime == "tvm" else 0,
            output=scratch / f"{runtime}-{channels}.edge",
        )
        bundles[runtime] = exported.bundle.path
    return bundles


def measure(
    scratch: Path, channels: int, threads: int, bundles: dict[str, Path], inputs: Path, python: str, options: argparse.Namespace
) -> list[Row]:
    sides, outputs = [], {}
    for runtime, bundle in bundles.items():
        name = f"{runtime} fp32"
        outputs[name] = scratch / f"out-{runtime}-{channels}-{threads}.npz"
        command = [sys.executable, HERE / "bundle_worker.py", bundle, "reconstruct", inputs, threads, outputs[name]]
        sides.append(Side(name, [str(part) for part in command]))
    for side in PEER_SIDES:
        name = f"granite-tsfm, {side}"
        outputs[name] = scratch / f"out-{side}-{channels}-{threads}.npz"
        command = [python, HERE / "tspulse_peers.py", side, options.checkpoint, inputs, threads, outputs[name], scratch]
        sides.append(Side(name, [str(part) for part in command]))
    check(outputs)
    times = interleave(sides, rounds=4 if options.quick else 20, runs=25)
    for side in sides:
        side.close()
    ours, peers = [side.name for side in sides[: len(bundles)]], [side.name for side in sides[len(bundles) :]]
    work = f"TSPulse all heads, context 512, batch 1, {channels} channel(s), {threads} thread(s)"
    return median_rows(work, times, ours, peers)


def check(outputs: dict[str, Path]) -> None:
    """Every side computes what IBM's eager code does."""
    with np.load(outputs["granite-tsfm, eager"]) as stored:
        reference = {name: stored[name] for name in stored.files}
    for side, path in outputs.items():
        with np.load(path) as found:
            for name, expected in reference.items():
                error = np.abs(found[name] - expected).max() / np.sqrt(np.mean(expected**2))
                if not error < TOLERANCE:
                    raise SystemExit(f"{side} differs from IBM's code in {name}: {error:.2g} of its root mean square")


if __name__ == "__main__":
    main()
