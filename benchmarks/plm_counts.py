"""Instructions of one decoded token of the demo PLM on a Raspberry Pi's CPU: edge's kernels against XNNPACK's dense ones.

    python benchmarks/plm_counts.py [--quick] [--targets rpi4,rpi5] [--json FILE] [--folder FOLDER]

Counted under emulation with one thread (`edge profile --device qemu:rpi5 --count`), so the figures repeat exactly and are no
times: a core does several at once, and waits for memory. An ExecuTorch bundle holds no machine code, so that the same one
is counted for every target. The token is that of the bundle's first sample, at the end of a text that the demo has not learnt.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path

from sides import Row

import edge
from edge.bundle import open_bundle
from edge.cli.output import print_table
from edge.cli.terminal import terminal_progress
from edge.runtimes.native.counting import Counts, EntryCount, count

#: Tokens that the bundles hold: what a token attends to is those before it, whatever there is room for.
CONTEXT = 96
SIDES = {"on": "edge's kernels", "off": "XNNPACK"}
#: Operators that are named in the table: those with the most instructions.
TOP = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="int4 alone")
    parser.add_argument("--targets", type=lambda text: text.split(","), default=["rpi4", "rpi5"], metavar="A,B")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="keep the bundles here, and take those that are here already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-counts-") as scratch:
        folder = options.folder or Path(scratch)
        found = {
            (scheme, sparse, target): counted(made(folder, scheme, sparse), target)
            for scheme in (["int4"] if options.quick else ["int4", "int8-dynamic"])
            for sparse in SIDES
            for target in options.targets
        }
        position, zeros = token(made(folder, "int4", "on"))
    rows = []
    for (scheme, sparse, target), ours in found.items():
        if sparse == "off":
            continue
        theirs = found[scheme, "off", target]
        work = f"the demo PLM, a token after {position} others, {ours.cpu}, 1 thread"
        sides = [f"{SIDES[side]}, {scheme}" for side in ("on", "off")]
        rows.append(Row(work, sides[0], sides[1], millions(ours), millions(theirs), "million instructions"))
    print(f"the demo PLM, a token after {position} others, 1 thread; of the squared ReLUs {zeros:.0%} are zero; counts, no times")
    table(found, rows)
    if options.json is not None:
        options.json.write_text(json.dumps([row.as_json() for row in rows], indent=2) + "\n")


def made(folder: Path, scheme: str, sparse: str) -> Path:
    """The bundle, exported if it is not there."""
    path = folder / f"plm-{scheme}-{sparse}.edge"
    if not path.is_dir():
        print(f"exporting plm in {scheme} with --sparse {sparse}", file=sys.stderr)
        with terminal_progress() as progress:
            edge.export(
                "plm", target="rpi5", runtime="executorch", quantize=scheme, sparse=sparse, context=CONTEXT, output=path,
                progress=progress,
            )  # fmt: skip
    return path


def counted(bundle: Path, target: str) -> Counts:
    print(f"counting {bundle.name} on {target}", file=sys.stderr)
    return count(bundle, target, entries=("decode",))


def token(bundle: Path) -> tuple[int, float]:
    """How many tokens are before the one that is counted, and the share of zeros behind the squared ReLUs of such a text."""
    opened = open_bundle(bundle)
    inputs, _ = opened.samples("decode")[0]
    shares = [share for name, share in opened.manifest.report.items() if name.startswith("zeros/")]
    return int(inputs["position"][0]), statistics.fmean(shares)


def decode(counts: Counts) -> EntryCount:
    (entry,) = counts.entries
    return entry


def millions(counts: Counts) -> float:
    return decode(counts).inference.total / 1e6


def table(found: dict[tuple[str, str, str], Counts], rows: list[Row]) -> None:
    first = next(iter(found.values()))
    print(f"ExecuTorch {first.runtime_version}, {first.emulator}, {first.libc}")
    lines = []
    for (scheme, sparse, _), counts in found.items():
        inference = decode(counts).inference
        kinds: Counter[str] = Counter()
        for row in decode(counts).operators:
            kinds[row.kind] += row.instructions.total
        most = ", ".join(f"{kind} {share / inference.total:.0%}" for kind, share in kinds.most_common(TOP))
        steady = "yes" if decode(counts).steady else "no"
        share = f"{inference.simd_fp / inference.total:.0%}"
        lines.append((scheme, SIDES[sparse], counts.cpu, f"{inference.total / 1e6:.3f}", share, steady, most))
    print_table(("scheme", "by", "CPU", "million", "SIMD", "repeats", "most in"), lines, right=("million", "SIMD"))
    for row in rows:
        print(f"{row.work}: {row.variant} {row.ours:.3f} million, {row.peer} {row.theirs:.3f}, {row.theirs / row.ours:.2f} times as many")


if __name__ == "__main__":
    main()
