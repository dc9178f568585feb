"""Every demo model through every runtime in every scheme: what is exported, how exact, how large, how fast, or why not.

    python benchmarks/matrix.py [--quick] [--json FILE] [--markdown FILE] [--only tspulse,fmvit] [--runtime onnx]
                                [--scheme fp32,int8] [--again] [--seconds S] [--bundles FOLDER [--export-only]]

First every cell is exported and verified, then all of them are measured, so that they are measured on the same machine in
the same state; each in processes of its own, so that a crash, a hang or a full memory is that cell's alone. With ``--json``
the file is written after every cell, and cells that it has already are not made again unless ``--again`` says so; those
that crashed or took too long are. ``--bundles`` keeps the bundles, so that measuring can be done later (or again), on a
quiet machine. Latencies are medians over the bundle's first sample; peak RSS is the measuring process's, which loads the
bundle and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.families.base import family_names, get_family
from edge.report.units import digits, size
from edge.runtimes.base import runtime_names
from edge.spec import Scheme

CELL = Path(__file__).resolve().parent / "matrix_cell.py"
#: Entry points whose latency stands for a model that has several: what runs on the device again and again.
HEADLINES = ("decode", "click")
#: Seconds for one cell: exports take up to a few minutes on a busy machine.
PATIENCE = 2400.0
#: For the exporting process: on a busy machine, torch's threads that spin while they wait make it three times as long. The
#: runtimes have pools of their own, whose size is what a cell measures.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True)
class Cell:
    model: str
    runtime: str
    scheme: str

    @property
    def name(self) -> str:
        return f"{self.model} {self.runtime} {self.scheme}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repetitions, one thread count")
    parser.add_argument("--json", type=Path, help="results, read first if it is there")
    parser.add_argument("--markdown", type=Path, help="the tables, as they stand in the README")
    parser.add_argument("--only", type=listed, metavar="A,B", help="families; default: all that have a demo")
    parser.add_argument("--runtime", type=listed, metavar="A,B", help="default: all")
    parser.add_argument("--scheme", type=listed, metavar="A,B", help="default: all")
    parser.add_argument("--again", action="store_true", help="make cells again that the JSON has already")
    parser.add_argument("--timeout", type=float, default=PATIENCE, metavar="SECONDS", help="for one cell")
    parser.add_argument("--bundles", type=Path, metavar="FOLDER", help="keep the bundles here; default: a temporary folder")
    parser.add_argument("--export-only", action="store_true", help="leave measuring for another run (needs --bundles, --json)")
    parser.add_argument("--seconds", type=float, default=2.0, help="least time for each latency; and at least 50 runs")
    options = parser.parse_args()
    if options.export_only and not (options.bundles and options.json):
        parser.error("--export-only needs --bundles and --json: another run goes on from there")
    cells = wanted(options.only, options.runtime, options.scheme)
    with tempfile.TemporaryDirectory(prefix="edge-matrix-") as scratch:
        folder = (options.bundles or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        known = work_through(cells, folder, options)
    if options.export_only:
        return
    text = markdown({cell: known[cell] for cell in cells})
    print(text)
    if options.markdown is not None:
        options.markdown.write_text(text)


def work_through(cells: Sequence[Cell], folder: Path, options: argparse.Namespace) -> dict[Cell, dict]:
    """Export what is not known yet, then measure what has not been; the JSON is written after every step."""
    known = read(options.json)

    def each(doing: str, due: Callable[[Cell], bool], step: Callable[[Cell], dict]) -> None:
        for number, cell in enumerate(cells, 1):
            said = f"[{number}/{len(cells)}] {cell.name}: "
            if not due(cell):
                continue
            print(f"{said}{doing}", file=sys.stderr, flush=True)
            began = time.monotonic()
            known[cell] = step(cell)
            print(f"{said}{outcome(known[cell])} ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
            write(options.json, known)

    def due(cell: Cell) -> bool:
        """Whether it has to be exported: nothing is known, it broke, or its times are missing and so is its bundle."""
        found = known.get(cell)
        if found is None or options.again or found.get("broken"):
            return True
        return bool(found["exported"]) and not found["p50_ms"] and not (folder / bundle_name(cell)).is_dir()

    def unmeasured(cell: Cell) -> bool:
        return bool(known[cell]["exported"]) and not known[cell]["p50_ms"]

    for cell in cells:
        if not due(cell) and not unmeasured(cell):
            print(f"{cell.name}: known", file=sys.stderr)
    each("exporting", due, lambda cell: export(cell, folder, options.timeout))
    if not options.export_only:
        each("measuring", unmeasured, lambda cell: known[cell] | measure(cell, folder, options))
    return known


def bundle_name(cell: Cell) -> str:
    return f"{cell.model}-{cell.runtime}-{cell.scheme}.edge"


def listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def systems() -> list[str]:
    """Families with a trained checkpoint in the package."""
    return [name for name in family_names() if get_family(name).has_demo]


def wanted(
    only: Sequence[str] | None, runtimes: Sequence[str] | None, schemes: Sequence[str] | None
) -> list[Cell]:
    """The cells that were asked for; SystemExit names what there is none of."""
    axes = []
    for chosen, known in ((only, systems()), (runtimes, runtime_names()), (schemes, [scheme.value for scheme in Scheme])):
        if unknown := [name for name in chosen or () if name not in known]:
            raise SystemExit(f"there is no '{unknown[0]}': choose among {', '.join(known)}")
        axes.append([name for name in known if chosen is None or name in chosen])
    return [Cell(model, runtime, scheme) for model in axes[0] for runtime in axes[1] for scheme in axes[2]]


def export(cell: Cell, folder: Path, timeout: float) -> dict:
    """What ``matrix_cell export`` found; ``broken`` if it did not come to an end."""
    bundle = folder / bundle_name(cell)
    if bundle.is_dir():
        shutil.rmtree(bundle)
    return ask(("export", cell.model, cell.runtime, cell.scheme, str(bundle)), timeout)


def measure(cell: Cell, folder: Path, options: argparse.Namespace) -> dict:
    """Its latencies and memory, or why the cell is ``broken``."""
    how = ("1", "10", "0.2") if options.quick else ("1,2", "50", str(options.seconds))
    return ask(("measure", str(folder / bundle_name(cell)), *how), options.timeout)


def ask(arguments: Sequence[str], timeout: float) -> dict:
    """What ``matrix_cell`` says to ``arguments``."""
    try:
        ended = subprocess.run(
            [sys.executable, str(CELL), *arguments],
            capture_output=True, text=True, timeout=timeout, check=False, env=os.environ | ENVIRONMENT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"exported": False, "broken": True, "reason": f"it took more than {timeout:g} s."}
    lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    if ended.returncode == 0 and lines:
        found: dict = json.loads(lines[-1])
        return found
    last = next((line.strip() for line in reversed(ended.stderr.splitlines()) if line.strip()), "nothing was said")
    how = f"signal {-ended.returncode}" if ended.returncode < 0 else f"status {ended.returncode}"
    return {"exported": False, "broken": True, "reason": f"the process ended with {how} ({last[:300]})."}


def outcome(found: dict) -> str:
    return f"exported, {size(found['bytes'])}" if found["exported"] else str(found["reason"])


def read(path: Path | None) -> dict[Cell, dict]:
    if path is None or not path.is_file():
        return {}
    return {Cell(row["work"], row["runtime"], row["scheme"]): row for row in json.loads(path.read_text())}


def write(path: Path | None, known: dict[Cell, dict]) -> None:
    """All rows; written beside and renamed, so that an interruption leaves the file whole."""
    if path is None:
        return
    rows = [
        {"work": cell.model, "runtime": cell.runtime, "scheme": cell.scheme, "variant": f"{cell.runtime} {cell.scheme}"} | found
        for cell, found in sorted(known.items(), key=lambda pair: order(pair[0]))
    ]
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(json.dumps(rows, indent=2) + "\n")
    beside.replace(path)


def order(cell: Cell) -> tuple[str, str, int]:
    return cell.model, cell.runtime, [scheme.value for scheme in Scheme].index(cell.scheme)


def markdown(results: dict[Cell, dict]) -> str:
    """A table for each model, a row for each runtime and scheme."""
    parts = []
    for model in dict.fromkeys(cell.model for cell in results):
        rows = {cell: found for cell, found in results.items() if cell.model == model}
        metric = next((found["metrics"][0]["name"] for found in rows.values() if found.get("metrics")), "metric")
        timed = next((headline(found) for found in rows.values() if found["exported"]), "")
        head = ("runtime", "scheme", "worst error (cosine)", f"{metric}: eager, here", "size", f"{timed} p50, 1 / 2 threads", "peak RSS")
        parts.append(f"**{model}**\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
        parts += [f"| {cell.runtime} | {cell.scheme} | {' | '.join(figures(found))} |" for cell, found in rows.items()]
        parts.append("")
    return "\n".join(parts)


def headline(found: dict) -> str:
    """The entry point whose latency the table shows."""
    entries = list(next(iter(found["p50_ms"].values())))
    return next((name for name in HEADLINES if name in entries), entries[0])


def figures(found: dict) -> list[str]:
    if not found["exported"]:
        return [f"not exported: {str(found['reason']).replace('|', '/')}", "", "", "", ""]
    metric = found["metrics"][0] if found["metrics"] else None
    entry = headline(found)
    latencies = [f"{digits(found['p50_ms'][count][entry])} ms" if count in found["p50_ms"] else "-" for count in ("1", "2")]
    return [
        f"{found['worst_relative']:.1e} ({found['worst_cosine']:.6f})",
        f"{metric['eager']:.4f}, {metric['bundle']:.4f}" if metric else "-",
        size(found["bytes"]),
        " / ".join(latencies),
        size(found["rss_bytes"]),
    ]


if __name__ == "__main__":
    main()
