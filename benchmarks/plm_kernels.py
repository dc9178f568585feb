"""What edge's kernels alone make of PLM-1.8B: every matrix of its full shape in int4 with random bits, read once a token.

    python benchmarks/plm_kernels.py [--quick] [--threads 2] [--layers 32] [--json FILE]

Decode at several contexts and shares of zeros, a prompt as bundles read it (chunks without logits, then one token), and the
process's peak memory. The head is in two matrices of 4 bits, of which a token reads the second where it matters: with random
bits that is as much as it may be, one tile in 16. No runtime around the kernels, no
norms, no sampling: what a runtime can come to at most. Zeros are put into the activations, since the weights mean nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
from sides import peak_rss_mb

from edge.runtimes import kernels
from edge.runtimes.kernels.binding import MLAShape

HIDDEN, MIDDLE, VOCABULARY = 2048, 8192, 151936
SHAPE = MLAShape(heads=16, nope=128, rope=64, value=128, latent=512)
WIDE = 16 * 192 + 576
PROMPT, CHUNK = 128, 64


class Model:
    def __init__(self, threads: int, layers: int, context: int) -> None:
        self.library = kernels.load()
        self.pool = self.library.pool(threads)
        self.random = np.random.default_rng(0)
        self.project = [self.tiled(WIDE, HIDDEN) for _ in range(layers)]
        self.to_key = [self.tiled(512, 128, 16) for _ in range(layers)]
        self.to_value = [self.tiled(128, 512, 16) for _ in range(layers)]
        self.out = [self.tiled(HIDDEN, HIDDEN) for _ in range(layers)]
        self.up = [self.tiled(MIDDLE, HIDDEN) for _ in range(layers)]
        size = self.library.library.edge_neurons_bytes(4, MIDDLE, HIDDEN)
        self.down = [self.bits(size, MIDDLE, slice(0, 128)) for _ in range(layers)]
        self.head, self.rest = (self.tiled(VOCABULARY, HIDDEN) for _ in range(2))
        self.cache = np.full((layers, context, SHAPE.row), 0.1, np.float16)

    def tiled(self, rows: int, columns: int, blocks: int = 1) -> np.ndarray:
        size = blocks * self.library.library.edge_tiled_bytes(4, rows, columns)
        return self.bits(size, size // 288, slice(256, 288))

    def bits(self, size: int, blocks: int, scales: slice) -> np.ndarray:
        made = self.random.integers(0, 256, size, np.uint8).reshape(blocks, -1)
        made[:, scales] = np.full(made[:, scales].shape[1] // 2, 2e-3, np.float16).view(np.uint8)
        return made.reshape(-1)

    @property
    def weight_bytes(self) -> int:
        lists = (self.project, self.to_key, self.to_value, self.out, self.up, self.down, [self.head, self.rest])
        return sum(each.nbytes for matrices in lists for each in matrices)

    def run(self, tokens: int, position: int, zeros: float) -> None:
        """Tokens through every layer, and the head if it is one: more of them are only read."""
        library, pool = self.library, self.pool
        x = self.random.standard_normal((tokens, HIDDEN)).astype(np.float32)
        angles = np.ones((tokens, 32), np.float32), np.zeros((tokens, 32), np.float32)
        middle = np.where(self.random.random((tokens, MIDDLE)) < zeros, 0, 1).astype(np.float32)
        for layer in range(len(self.cache)):
            projected = library.matmul(4, WIDE, self.project[layer], x[:, None], pool)[:, 0]
            mixed, _ = library.mla_layer(
                SHAPE, 4, self.to_key[layer], self.to_value[layer], projected, angles, 1e-6, position, self.cache[layer], pool
            )
            library.matmul(4, HIDDEN, self.out[layer], mixed[:, None], pool)
            library.matmul(4, MIDDLE, self.up[layer], x[:, None], pool)
            library.sparse_down(4, HIDDEN, self.down[layer], middle, pool)
        if tokens == 1:
            library.head(VOCABULARY, self.head, self.rest, x, pool)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=32, help="fewer: to see that it works")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rounds = 5 if arguments.quick else 15
    model = Model(arguments.threads, arguments.layers, 4096)
    print(f"{model.library.isa}, {arguments.threads} threads, {model.weight_bytes / 1e6:.0f} MB of weights")
    cases = {(context, zeros): [] for context in (0, 1000, 4000) for zeros in (0.0, 0.5, 0.9)}
    reads: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        model.library.read(model.head, model.pool)
        reads.append(time.perf_counter() - start)
        for (context, zeros), found in cases.items():
            start = time.perf_counter()
            model.run(1, context, zeros)
            found.append(time.perf_counter() - start)
    prefill = []
    for _ in range(1 if arguments.quick else 3):
        start = time.perf_counter()
        for position in range(0, PROMPT - 1, CHUNK):
            model.run(min(CHUNK, PROMPT - 1 - position), position, 0.5)
        model.run(1, PROMPT - 1, 0.5)
        prefill.append(time.perf_counter() - start)
    print(f"memory read at {model.head.nbytes / statistics.median(reads) / 1e9:.1f} GB/s, at best {model.head.nbytes / min(reads) / 1e9:.1f}")
    rows = []
    for (context, zeros), found in cases.items():
        tokens = 1 / statistics.median(found)
        rows.append({"work": f"decode after {context}, {zeros:.0%} zeros", "tokens_per_second": tokens, "best": 1 / min(found)})
    rows.append({"work": f"prefill of {PROMPT}, 50% zeros", "tokens_per_second": PROMPT / statistics.median(prefill), "best": PROMPT / min(prefill)})
    for row in rows:
        print(f"{row['work']:34} {row['tokens_per_second']:6.1f} tokens/s, at best {row['best']:.1f}")
    peak = peak_rss_mb()
    print(f"peak memory {peak:.0f} MiB")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "peak_mib": peak}, indent=2) + "\n")


if __name__ == "__main__":
    main()
