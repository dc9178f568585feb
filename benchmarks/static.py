"""Static programs: size and start-up beside the same models as ExecuTorch and ONNX Runtime, float32, one thread.

    python benchmarks/static.py [--quick] [--json FILE] [--only tspulse,plm] [--peers executorch,...] [--rounds N]
                                [--folder DIR [--export-only]]

A side is a process that is started anew each time: it says when it is ready to run the entry point, gets the inputs' bytes and
answers with the outputs' bytes. Times are those of the parent: from just before the start to the line that says ready, and to the
last byte of the first answer. Sides take turns; files are in the page cache. Every answer is compared with what PyTorch's eager
module made of the same sample: a side that computes something else stops the run.

Peers: ``executorch`` is a C++ program on the wheel's libraries that does nothing else (static_start.cpp), ``executorch-python``
and ``onnxruntime-python`` are Python with the runtime imported (static_sides.py), and ``onnxruntime-session`` is what creating
the session takes in there, without Python's start: less than a C++ program would need, which could not be built, since no
wheel has the headers. Sizes: the program with the libraries that it loads, and with the model's files; Python is not counted.

Exporting takes most of the time. ``--folder`` keeps what was exported for the next run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import static_sides
from sides import Row, median_rows, report

import edge
from edge.bundle import Bundle, open_bundle

#: Largest difference to eager's output that is allowed, as a share of its root mean square.
TOLERANCE = 1e-2
RUNTIMES = {"static": "", "executorch": "executorch", "onnx": "onnxruntime"}  # and how the names of its peers begin
OURS = "static program"


@dataclass(frozen=True)
class Model:
    """A model, the entry point that is started, and how it is exported beyond float32 for this machine."""

    name: str
    entry: str
    random_weights: int | None = None
    part: str | None = None


MODELS = (
    Model("relu2-mlp", "classify"),
    Model("tspulse", "reconstruct"),
    Model("fmvit", "classify"),
    Model("fmvit-t", "classify", random_weights=0),  # its own size, for which no weights are published
    Model("interformer", "click", part="click"),
    Model("plm", "decode"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="relu2-mlp alone, few rounds")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help="models, separated by commas; all unless --quick")
    parser.add_argument("--peers", default=",".join(static_sides.PEERS), help="which peers take part")
    parser.add_argument("--rounds", type=int, help="starts of each side: 15, or 3 with --quick")
    parser.add_argument("--folder", type=Path, help="keep the exports here, and take those that are here already")
    parser.add_argument("--export-only", action="store_true", help="leave measuring for another run (needs --folder)")
    options = parser.parse_args()
    if options.export_only and options.folder is None:
        parser.error("--export-only needs --folder: another run goes on from there")
    wanted = ("relu2-mlp" if options.quick else ",".join(model.name for model in MODELS)) if options.only is None else options.only
    peers = options.peers.split(",")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if "executorch" in peers:
            static_sides.build(folder / "executorch")
        for model in chosen(wanted.split(",")):
            bundles = export_ours(folder, model, peers)
            if not options.export_only:
                rounds = options.rounds or (3 if options.quick else 15)
                rows += measure(model, bundles, static_sides.peers(peers, bundles, model.entry, folder), rounds, Path(scratch))
    if not options.export_only:
        report(rows, options.json)


def chosen(names: Sequence[str]) -> list[Model]:
    known = {model.name: model for model in MODELS}
    for name in names:
        if name not in known:
            raise SystemExit(f"there is no '{name}' here: choose some of {', '.join(known)}")
    return [known[name] for name in names]


def export_ours(folder: Path, model: Model, peers: Sequence[str]) -> dict[str, Bundle]:
    bundles = {}
    for runtime, beginning in RUNTIMES.items():
        if not any(peer.startswith(beginning) for peer in peers):
            continue
        path = folder / f"{model.name}-{runtime}.edge"
        if not path.is_dir():
            print(f"exporting {model.name} to {runtime}", file=sys.stderr)
            edge.export(
                model.name, target="cpu", runtime=runtime, quantize="fp32", random_weights=model.random_weights,
                part=model.part, output=path,
            )
        bundles[runtime] = open_bundle(path)
    return bundles


def measure(
    model: Model, bundles: dict[str, Bundle], peers: Sequence[static_sides.Side], rounds: int, scratch: Path
) -> list[Row]:
    sides = [static_sides.program(OURS, bundles["static"], model.entry, scratch / model.name), *peers]
    ready: dict[str, list[float]] = {}
    first: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        for side in sides if turn % 2 == 0 else reversed(sides):
            started = side.start()
            if turn == 0:  # reads the files from the disk, and is compared
                check(side.name, bundles["static"], model.entry, started.outputs)
                continue
            for name, alone in ((side.name, None), *side.alone.items()):
                took = started.facts.get(alone) if alone else started.ready_ms
                if took is not None:
                    ready.setdefault(name, []).append(took)
            first.setdefault(side.name, []).append(started.first_ms)
    work = f"{model.name} {model.entry}, 1 thread"
    theirs = [name for name in ready if name != OURS]
    rows = median_rows(f"{work}: start until ready", ready, [OURS], theirs)
    rows += median_rows(f"{work}: start until the first result", first, [OURS], [name for name in theirs if name in first])
    mine = sides[0]
    for side in sides[1:]:
        rows.append(Row(f"{work}: program and libraries", OURS, side.name, mine.code_mb, side.code_mb, "MB"))
        total = (mine.code_mb + mine.model_mb, side.code_mb + side.model_mb)
        rows.append(Row(f"{work}: all that is loaded", OURS, side.name, *total, "MB"))
    return rows


def check(side: str, bundle: Bundle, entry: str, found: Sequence[np.ndarray]) -> None:
    """The answer is what the eager module made of the sample."""
    _, expected = bundle.samples(entry)[0]
    for record, value in zip(bundle.manifest.entry(entry).outputs, found, strict=True):
        wanted = expected[record.name]
        error = np.abs(value - wanted).max() / max(np.sqrt(np.mean(wanted**2)), 1e-9)
        if not error < TOLERANCE:
            raise SystemExit(f"{side} differs from eager in {record.name}: {error:.2g} of its root mean square")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
