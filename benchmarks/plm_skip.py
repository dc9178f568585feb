"""What skipping the up half by its high bits brings and costs (`edge export --skip-up`), against edge's own plain int4.

    python benchmarks/plm_skip.py [--quick] [--threads 2] [--json FILE]

Times: squared-ReLU MLPs of PLM-1.8B's shape at 90 % zeros, batch 1, margins found as an export finds them; sides take turns. Costs:
the demo PLM decodes its held-out text token by token, and so does its int4 form with nothing skipped.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import sys
from pathlib import Path

import numpy as np
from sides import Row, Side, interleave, report, serve

WIDTH, HIDDEN, ZEROS = 2048, 8192, 0.9
#: As many as read more than any cache holds, made of a few that differ.
LAYERS, DIFFERENT = 16, 2
SHARES = (0.99, 0.999, 0.9999)
PASSAGES, TOKENS = 16, 128


def main() -> None:
    if sys.argv[1:2] == ["side"]:
        side(float(sys.argv[2]), int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, and a quarter of the text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("times", "costs"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[Row] = []
    if options.only != "costs":
        rows += times(options.threads, 5 if options.quick else 21)
    if options.only != "times":
        rows += costs(PASSAGES // 4 if options.quick else PASSAGES)
    report(rows, options.json)


def times(threads: int, rounds: int) -> list[Row]:
    def start(name: str, share: float) -> Side:
        return Side(name, [sys.executable, __file__, "side", str(share), str(threads)])

    sides = [start("int4, nothing skipped", 0), *(start(f"--skip-up {share}", share) for share in SHARES), start("memory", -1)]
    found = interleave(sides, rounds, 5)
    for each in sides:
        each.close()
    medians = {name: statistics.median(values) for name, values in found.items()}
    print(f"{sides[0].facts['isa']}, {threads} threads; this machine read {sides[-1].facts['bytes'] / medians['memory'] / 1e6:.1f} GB/s meanwhile")
    for each in sides[:-1]:
        fact = each.facts
        print(
            f"  {each.name:22} {fact['live']:.1%} live, {fact['read']:.1%} read whole, {fact['kept']:.3%} kept; "
            f"{fact['bytes'] / LAYERS / 1e6:.2f} MB a layer, {fact['bytes'] / medians[each.name] / 1e6:.1f} GB/s"
        )  # fmt: skip
    work = f"{LAYERS} squared-ReLU MLPs {WIDTH}-{HIDDEN}-{WIDTH}, int4, batch 1, {ZEROS:.0%} zeros, {threads} threads"
    plain = sides[0].name
    return [Row(work, each.name, plain, medians[each.name], medians[plain], "ms") for each in sides[1:-1]]


def side(share: float, threads: int) -> None:
    """``share`` 0 skips nothing, below it only reads memory."""
    import torch

    from edge.runtimes import kernels
    from edge.runtimes.kernels.skipping import Skipping

    library = kernels.load()
    pool = library.pool(threads)
    if share < 0:
        data = np.random.default_rng(0).integers(0, 255, LAYERS * HIDDEN * WIDTH * 9 // 16, np.uint8)
        serve(lambda: library.read(data, pool), 3, bytes=data.nbytes)
        return
    # Inputs have a direction that does not change, as trained networks' have, and a random part; weights are shifted against the former.
    random = np.random.default_rng(99)
    inputs = (1 + random.standard_normal((256, WIDTH))).astype(np.float32)
    shift = statistics.NormalDist().inv_cdf(ZEROS) * (2 / WIDTH) ** 0.5 / WIDTH**0.5
    made, kept = [], []
    for _ in range(DIFFERENT):
        up = random.standard_normal((HIDDEN, WIDTH), np.float32) / np.float32(WIDTH**0.5) - np.float32(shift)
        down = random.standard_normal((WIDTH, HIDDEN), np.float32) / np.float32(HIDDEN**0.5)
        plain = library.quantize(4, up, pool)
        neurons = library.pack_neurons(4, *library.quantize(4, np.ascontiguousarray(down.T), pool))
        if not share:
            made.append((library.pack_tiled(4, *plain), neurons))
            continue
        layer = torch.nn.Identity()
        skipping = Skipping(share, {layer: torch.from_numpy(inputs[:128])})
        made.append((*library.pack_planes(*plain, skipping.reach(layer, plain, torch.from_numpy(down))), neurons))
        kept.append(skipping.found[layer].kept or 0)
    layers = [tuple(part.copy() for part in made[index % DIFFERENT]) for index in range(LAYERS)]
    turn = itertools.cycle(inputs[128:, None])

    def one(x: np.ndarray, layer: tuple[np.ndarray, ...]) -> tuple[int, int]:
        if not share:
            return library.relu2_mlp(4, HIDDEN, *layer, x, pool)[1], HIDDEN
        return library.relu2_mlp_skip(HIDDEN, *layer, x, pool)[1:]

    def run() -> None:
        x = next(turn)
        for layer in layers:
            one(x, layer)

    live, read = (np.mean(each) / HIDDEN for each in zip(*(one(x, layers[0]) for x in inputs[128:160, None]), strict=True))
    first, *fine, down_bytes = (part.nbytes for part in layers[0])
    size = first + sum(fine) * read + down_bytes * live
    serve(run, 3, bytes=size * LAYERS, live=live, read=read, kept=float(np.mean(kept)) if kept else 1.0, isa=library.isa)


def costs(count: int) -> list[Row]:
    from plm_vs_llamacpp import divergence

    from edge.export.capture import call, capture
    from edge.export.kept_inputs import kept_inputs
    from edge.export.kernel_weights import kernel_weights
    from edge.families.base import Source, find
    from edge.families.plm.decoder import run_decoder
    from edge.families.plm.readings import test_rows
    from edge.progress import Progress
    from edge.runtimes.kernels.skipping import Skipping
    from edge.spec import Sparse

    family, _ = find("plm")
    entries = {entry.name: entry for entry in family.load("plm", None, Source(runtime="executorch", sparse=Sparse.ON)).entries}
    weights, _ = kernel_weights([capture(entry) for entry in entries.values()], 4, 0.999, Progress())
    ups = next(iter(entries.values())).kernels.ups
    passages = test_rows(True, entries["decode"].module.stack.config)[:count, :TOKENS]

    def decoded(modules: dict) -> np.ndarray:
        decoder = run_decoder({name: entry.inputs for name, entry in entries.items()}, lambda name, x: call(modules[name], entries[name], x))

        def one(passage: np.ndarray) -> np.ndarray:
            decoder.reset()
            return np.concatenate([logits.copy() for token in passage.tolist() for logits in decoder.feed([token])])

        return np.stack([one(passage) for passage in passages])

    with kept_inputs(ups) as heldout:
        exact = decoded({name: entry.module for name, entry in entries.items()})
    whole, rows, plain = np.empty(0), [], "int4, nothing skipped"
    work = f"the demo PLM, decode: KL from float32, {count} passages of {TOKENS} tokens"
    for share in (None, *SHARES):
        skipping = None if share is None else Skipping(share, weights.skipping.inputs)
        rounded = dataclasses.replace(weights, skipping=skipping)
        modules = {name: entry.kernels.build(rounded).eval() for name, entry in entries.items()}
        logits = decoded(modules)
        if share is None:
            whole = logits
            continue
        layers = zip(ups, modules["decode"].stack.layers, strict=True)
        found = [outcome(up, layer, heldout[up], skipping) for up, layer in layers if len(layer.up) == 2]
        margin, kept, read, live = np.mean(found, 0)
        print(
            f"  --skip-up {share}: {len(found)} of {len(ups)} layers (the others have 8 bits), margin {margin:.2f}; on held-out text "
            f"{live:.1%} live, {read:.1%} read whole, {kept:.3%} kept; KL that it adds to int4's own {1e3 * divergence(whole, logits):.3f} mnat"
        )  # fmt: skip
        rows.append(Row(work, f"--skip-up {share}", plain, 1e3 * divergence(exact, logits), 1e3 * divergence(exact, whole), "mnat"))
    return rows


def outcome(up, layer, inputs, skipping) -> tuple[float, float, float, float]:
    """What a layer's margin does to inputs that it was not found on: margin, and shares kept, read and live."""
    import torch

    from edge.runtimes import kernels
    from edge.runtimes.kernels.skipping import Estimates

    library = kernels.load()
    q, scales, _ = library.unpack_planes(up.out_features, up.in_features, *(part.numpy() for part in layer.up))
    down, scale = library.unpack_neurons(4, up.out_features, up.in_features, layer.down.numpy())
    dense = down * np.repeat(scale.astype(np.float32), 32, 1)[:, : down.shape[1]]
    found = Estimates((q, scales), torch.from_numpy(dense.T), inputs.numpy()).at_margin(skipping.found[up].margin)
    return found.margin, found.kept, found.read, found.live


if __name__ == "__main__":
    main()
