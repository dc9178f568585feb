"""FMViT-S at 224 x 224, batch 1, float32 and int8: edge in each runtime against the plain fused module everywhere.

    python benchmarks/fmvit.py [--quick] [--json FILE] [--model fmvit-s] [--ours onnx-fp32,onnx-int8,...]

Sides, all on the same weights (random ones of seed 0: no checkpoint was published), picture and threads, taking turns in one
run: ours in ONNX Runtime, ExecuTorch and TVM; the fused module in PyTorch eager, and plain exports of it in ONNX
Runtime, OpenVINO and ExecuTorch. OpenVINO lives in a virtual environment of its own, made on first use. Outputs are
compared before anything is timed: a float32 side that computes something else stops the run, and so does an int8 side
whose logits point elsewhere. Random weights are the hardest case for int8, as nothing taught them to be robust.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import fmvit_peers
import numpy as np
from sides import Row, Side, interleave, median_rows, peer_python, report

import edge
from edge.families.base import Source, find

HERE = Path(__file__).resolve().parent
PEERS = ("openvino==2026.4.1",)
OURS = ("onnx-fp32", "onnx-int8", "executorch-fp32", "executorch-int8", "tvm-fp32", "tvm-int8")
#: Largest difference allowed between float32 sides, as a share of the logits' root mean square; least cosine of int8's.
TOLERANCE, COSINE = 1e-2, 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one thread count, few rounds")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", default="fmvit-s", help="fmvit-t, -s, -m, -b or -l")
    parser.add_argument("--ours", default=",".join(OURS), help="which of edge's bundles take part")
    parser.add_argument("--threads", help="thread counts, 1,2 unless --quick")
    parser.add_argument("--folder", type=Path, help="keep the exports here, and take those that are here already")
    options = parser.parse_args()
    python = peer_python("fmvit", PEERS)
    counts = ("2" if options.quick else "1,2") if options.threads is None else options.threads
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        inputs = write_plain(folder, options.model)
        bundles = export_ours(folder, options.model, options.ours.split(","))
        for threads in map(int, filter(None, counts.split(","))):
            rows += measure(folder, threads, bundles, inputs, python, options)
    report(rows, options.json)


def write_plain(folder: Path, model: str) -> Path:
    """The peers' files, and the picture that every side looks at: the first of the model's own samples."""
    family, variant = find(model)
    entry = family.load(model, variant, Source(random_seed=0)).entries[0]
    picture = entry.samples[0]["image"]
    path = folder / "inputs.npz"
    np.savez(path, image=picture)
    fmvit_peers.prepare(entry.module, picture, folder)
    return path


def export_ours(folder: Path, model: str, chosen: list[str]) -> dict[str, Path]:
    bundles = {}
    for name in chosen:
        path = folder / f"{model}-{name}.edge"
        bundles[name.replace("-", " ")] = path
        if path.is_dir():
            continue
        print(f"exporting {model} to {name}", file=sys.stderr)
        runtime, scheme = name.split("-", 1)
        edge.export(
            model,
            target="cpu",
            runtime=runtime,
            quantize=scheme,
            random_weights=0,
            allow_mismatch=scheme != "fp32",  # of random weights; ``check`` has its own bound
            output=path,
        )
    return bundles


def measure(
    folder: Path, threads: int, bundles: dict[str, Path], inputs: Path, python: str, options: argparse.Namespace
) -> list[Row]:
    sides, outputs = [], {}
    for name, bundle in bundles.items():
        outputs[name] = folder / f"out-{bundle.stem}-{threads}.npz"
        command = [sys.executable, HERE / "bundle_worker.py", bundle, "classify", inputs, threads, outputs[name]]
        sides.append(Side(name, [str(part) for part in command]))
    for side in fmvit_peers.SIDES:
        name = f"plain, {side}"
        outputs[name] = folder / f"out-{side}-{threads}.npz"
        command = [python if side == "openvino" else sys.executable, HERE / "fmvit_peers.py", side, inputs, threads, outputs[name]]
        sides.append(Side(name, [str(part) for part in command]))
    check(outputs)
    times = interleave(sides, rounds=4 if options.quick else 20, runs=10)
    for side in sides:
        side.close()
    ours, peers = [side.name for side in sides[: len(bundles)]], [side.name for side in sides[len(bundles) :]]
    return median_rows(f"{options.model}, 224 x 224, batch 1, {threads} thread(s)", times, ours, peers)


def check(outputs: dict[str, Path]) -> None:
    """Every side computes what the fused module does in eager, int8 as far as it can."""
    logits = {}
    for side, path in outputs.items():
        with np.load(path) as stored:
            logits[side] = stored["logits"].astype(np.float64).ravel()
    reference = logits["plain, eager"]
    for side, found in logits.items():
        if side.endswith("int8"):
            cosine = float(found @ reference / np.linalg.norm(found) / np.linalg.norm(reference))
            print(f"{side}: cosine of the logits with eager's {cosine:.4f}", file=sys.stderr)
            if not cosine > COSINE:
                raise SystemExit(f"{side} points elsewhere than the fused module in eager: cosine {cosine:.3f}")
            continue
        error = np.abs(found - reference).max() / np.sqrt(np.mean(reference**2))
        if not error < TOLERANCE:
            raise SystemExit(f"{side} differs from the fused module in eager: {error:.2g} of its root mean square")


if __name__ == "__main__":
    main()
