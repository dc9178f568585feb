"""edge's own kernels beside ONNX Runtime's MatMulNBits and ExecuTorch's XNNPACK: the MLP of squared ReLUs of PLM-1.8B's shape.

    python benchmarks/kernels.py [--quick] [--threads 2] [--json FILE]

Sides take turns. Beside the times: the share of zeros that came out, and what part of this machine's memory speed, measured in
the same turns, each of our parts reaches. Peers are the installed onnxruntime and executorch.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from sides import Row, Side, interleave, report

WORKER = Path(__file__).with_name("kernels_worker.py")
SHARES = (0.0, 0.5, 0.8, 0.9, 0.95)
CONTEXTS = (1000, 4000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="few rounds, and without ExecuTorch, whose export takes minutes"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rounds, runs = (5, 3) if arguments.quick else (21, 5)
    threads = str(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="edge-kernels-") as folder:

        def start(name: str, side: str, argument: float = 0.5, count: str = threads) -> Side:
            return Side(name, [sys.executable, str(WORKER), side, str(argument), count, folder])

        sides = [start(f"{share:.0%} zeros", "sparse", share) for share in SHARES]
        sides += [
            start("dense", "dense"),
            start("memory", "memory"),
            start("product", "product"),
            start("product, 1 thread", "product", count="1"),
        ]
        sides += [start(f"attention after {tokens}", "attention", tokens) for tokens in CONTEXTS]
        hosted = [start(f"{share:.0%} zeros, in ONNX Runtime", "hosted", share) for share in (0.5, 0.9)]
        peers = [start("ONNX Runtime MatMulNBits", "onnx")]
        if not arguments.quick:
            peers.append(start("ExecuTorch XNNPACK 8da4w", "executorch"))
        times = interleave([*sides, *hosted, *peers], rounds, runs)
        for side in (*sides, *hosted, *peers):
            side.close()
    medians = {name: statistics.median(values) for name, values in times.items()}
    facts = {side.name: side.facts for side in sides}
    limit = facts["memory"]["bytes"] / medians["memory"] / 1e6
    print(f"{facts['dense']['isa']}, {threads} threads; this machine read {limit:.1f} GB/s meanwhile")
    for name, fact in facts.items():
        speed = fact["bytes"] / medians[name] / 1e6
        zeros = f"{fact['zeros']:.1%} zeros found, " if fact.get("zeros") is not None else ""
        print(f"  {name:24} {zeros}{speed:.1f} GB/s, {speed / limit:.0%} of it")
    work = f"4 squared-ReLU MLPs 2048-8192-2048, int4, batch 1, {threads} threads"
    rows = [
        Row(work, name, peer, medians[name], medians[peer], "ms")
        for name in (*(f"{share:.0%} zeros" for share in SHARES), *(side.name for side in hosted))
        for peer in ("dense", *(side.name for side in peers))
    ]
    report(rows, arguments.json)


if __name__ == "__main__":
    main()
