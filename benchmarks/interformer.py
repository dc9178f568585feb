"""InterFormer light, one click at 512x512: edge's click bundles against the straightforward module of the same weights.

    python benchmarks/interformer.py [--quick] [--json FILE] [--runtimes onnx,executorch,tvm] [--tune-trials N]
                                     [--threads 1,2] [--folder DIR]

Ours: the entry point ``click`` in each runtime, float32 and int8, from the label map to logits at a quarter of the size. Theirs: the
paper's module (`interformer_peers.py`) from the encoder's four maps and the same label map to the same logits, in PyTorch
eager, and exported as it is (only its adaptive pools rewritten, which ONNX lacks) to ONNX Runtime, OpenVINO and ExecuTorch. All
take turns in one run, at 1 and 2 threads. Weights are those of the tests' golden data. Before anything is timed, logits are
compared: in float32 to rounding; int8's masks must agree on 99.5 % of the pixels: where they do
not, the table says so and the exit status is 1.

Exporting takes most of the time. ``--folder`` keeps what was exported for the next run; ``--threads ''`` exports only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np
from sides import Row, Side, interleave, median_rows, peer_python, report

import edge
from edge.families.interformer.config import VARIANTS

HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parent / "tests" / "golden" / "interformer"
PEERS = ("openvino==2026.4.1",)
PEER_SIDES = ("eager", "onnxruntime", "openvino", "executorch")
#: Largest difference allowed between two float32 sides, as a share of the logits' root mean square.
TOLERANCE = 1e-3
AGREEMENT = 0.995
SHORT = "short of"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one thread count, few rounds")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--runtimes", default="onnx,executorch,tvm")
    parser.add_argument("--tune-trials", type=int, default=0, help="MetaSchedule trials for TVM; 0 takes what the cache has")
    parser.add_argument("--threads", help="thread counts, 1,2 unless --quick")
    parser.add_argument("--peers", default=",".join(PEER_SIDES), help="which forms of the plain module take part; eager always does")
    parser.add_argument("--folder", type=Path, help="keep the exports here, and take those that are here already")
    options = parser.parse_args()
    python = peer_python("interformer", PEERS)
    counts = ("2" if options.quick else "1,2") if options.threads is None else options.threads
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as folder:
        scratch = options.folder or Path(folder)
        checkpoint = write_checkpoint(scratch)
        bundles = export_ours(scratch, checkpoint, options.runtimes.split(","), options.tune_trials)
        if not (scratch / "plain.onnx").exists():
            peers(sys.executable, "prepare", checkpoint, scratch, 2)
        for threads in map(int, filter(None, counts.split(","))):
            rows += measure(scratch, checkpoint, bundles, threads, python, options)
    report(rows, options.json)
    # A figure that is not exact enough is shown, and is a failure.
    if short := sorted({row.variant for row in rows if SHORT in row.variant}):
        raise SystemExit(f"not exact enough: {'; '.join(short)}")


def write_checkpoint(scratch: Path) -> Path:
    """The golden data's weights as a checkpoint, unless it is there already."""
    import torch
    from safetensors.torch import save_file

    spec = importlib.util.spec_from_file_location("recipe", GOLDEN / "recipe.py")
    assert spec is not None and spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    names = json.loads((GOLDEN / "light_state_dict.json").read_text())
    folder = scratch / "light"
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: torch.from_numpy(np.asarray(recipe.fill(name, shape)))
        for name, shape, _ in names
        if not name.endswith("relative_position_index")
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_bytes(msgspec.json.encode(VARIANTS["light"]))
    return folder


def export_ours(scratch: Path, checkpoint: Path, runtimes: list[str], tune_trials: int) -> dict[str, Path]:
    bundles = {}
    for runtime in runtimes:
        for scheme in ("fp32", "int8"):
            bundles[f"{runtime} {scheme}"] = path = scratch / f"{runtime}-{scheme}.edge"
            if path.exists():
                continue
            print(f"exporting to {runtime}, {scheme}", file=sys.stderr)
            edge.export(
                "interformer-light", target="cpu", runtime=runtime, quantize=scheme, checkpoint=checkpoint, part="click",
                tune_trials=tune_trials if runtime == "tvm" else 0, output=path,
            )  # fmt: skip
    return bundles


def peers(python: str, side: str, checkpoint: Path, scratch: Path, threads: int) -> None:
    subprocess.run([python, HERE / "interformer_peers.py", side, checkpoint, scratch, str(threads)], check=True)


def measure(
    scratch: Path, checkpoint: Path, bundles: dict[str, Path], threads: int, python: str, options: argparse.Namespace
) -> list[Row]:
    peer_sides = list(dict.fromkeys(["eager", *options.peers.split(",")]))
    sides = []
    for name, bundle in bundles.items():
        command = [sys.executable, HERE / "interformer_ours.py", bundle, scratch, threads, name.replace(" ", "-")]
        sides.append(Side(name, [str(part) for part in command]))
    for side in peer_sides:
        interpreter = python if side == "openvino" else sys.executable
        command = [interpreter, HERE / "interformer_peers.py", side, checkpoint, scratch, threads]
        sides.append(Side(f"the plain module, {side}", [str(part) for part in command]))
    agreement = check(scratch, list(bundles), peer_sides)
    times = interleave(sides, rounds=4 if options.quick else 15, runs=4)
    for side in sides:
        side.close()
    ours = {f"{name}{agreement[name]}": times.pop(name) for name in bundles}
    work = f"InterFormer light, one click, 512x512, {threads} thread(s)"
    return median_rows(work, {**ours, **times}, list(ours), list(times))


def check(scratch: Path, ours: list[str], peer_sides: list[str]) -> dict[str, str]:
    """Every side computes what eager does; how many pixels the quantized ones' masks share with it, for the table."""
    expected = np.load(scratch / "out-eager.npy")
    found = {}
    for name in (*ours, *peer_sides):
        logits = np.load(scratch / f"out-{name.replace(' ', '-')}.npy")
        error = np.abs(logits - expected).max() / np.sqrt(np.mean(expected**2))
        agree = float(np.mean((logits[:, 1] > logits[:, 0]) == (expected[:, 1] > expected[:, 0])))
        quantized = "int8" in name
        if not quantized and not error < TOLERANCE:
            raise SystemExit(f"{name} differs from eager: {error:.2g} of the root mean square, masks agree on {agree:.2%}")
        short = "" if agree >= AGREEMENT else f", {SHORT} {AGREEMENT:.1%}"
        found[name] = f" (masks agree on {agree:.2%}{short})" if quantized else ""
    return found


if __name__ == "__main__":
    main()
