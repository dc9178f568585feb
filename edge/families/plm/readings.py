"""Real inputs for PLM's entry points: held-out text that eager has read, at several places of it; perplexity on more.

The caches of a sample hold all that was read, also beyond the sample's position: a graph that looks there is wrong, and
shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge import checkpoints
from edge.families.base import Arrays, Metric, Run
from edge.families.plm.config import PLMConfig
from edge.families.plm.decoder import DECODE, PREFILL, READ, Decoder, perplexity, run_decoder
from edge.families.plm.vocabulary import TOKENIZER, Vocabulary
from edge.progress import Progress, ProgressBar
from edge.spec import TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edge.families.plm.deployed import Chunk

DEMO = "plm"
#: Rows of the demo's training text that static quantization is calibrated on.
CALIBRATION = 8
#: Tokens of a row that rounding is calibrated on; a large model reads only ``CALIBRATION`` of them.
STUDIED = 128
#: Tokens that a sample's text has: two chunks and a half.
TEXT = 80
#: Bytes of caches from which one sample of each entry has to do: every sample holds them whole.
LARGE = 32 << 20
#: Of the demo's held-out rows, and tokens of each, for the metric: a second's work for a small model.
ROWS, TOKENS = 6, 193


@dataclass(frozen=True)
class Readings:
    """Samples and calibration inputs by entry point, and what the reading showed: {"zeros/layer0": 0.83, ...}."""

    samples: Mapping[str, Sequence[Arrays]]
    calibration: Mapping[str, Sequence[Arrays]]
    zeros: Mapping[str, float]
    cache_bytes: int


def read(
    config: PLMConfig, modules: Mapping[str, Chunk], specs: Mapping[str, Sequence[TensorSpec]], real: bool, progress: Progress
) -> Readings:
    """Let eager read: the demo's text if ``real`` (the ids mean the demo's tokens), else seeded random ids."""
    decoder = run_decoder(specs, partial(_eager, modules, specs))
    with _zeros(modules[PREFILL]) as zeros, progress.bar("reading the samples", TEXT) as bar:
        samples = _places(decoder, test_rows(real, config)[0], bar)
    calibration: dict[str, list[Arrays]] = {entry: [] for entry in specs}
    if real:
        with np.load(checkpoints.demo_folder(DEMO) / "samples.npz") as stored:
            rows = stored["calibration"][:CALIBRATION].astype(np.int64)
        for row in rows:
            for entry, inputs in _places(decoder, row).items():
                calibration[entry].extend(inputs)
    shares = {f"zeros/layer{index}": round(float(np.mean(found)), 6) for index, found in enumerate(zeros)}
    return Readings(samples, calibration, shares, decoder.cache_bytes)


def study_rows(config: PLMConfig, tokenizer: Path | None, large: bool) -> np.ndarray | None:
    """The demo's training text in ids of ``tokenizer``, [n, STUDIED] int64; None without one."""
    if tokenizer is None:
        return None
    folder = checkpoints.demo_folder(DEMO)
    with np.load(folder / "samples.npz") as stored:
        rows: np.ndarray = stored["calibration"].astype(np.int64)
    if tokenizer.read_bytes() != (folder / TOKENIZER).read_bytes():
        demo = Vocabulary(folder / TOKENIZER, 1 << 16)
        ids = Vocabulary(tokenizer, config.vocab_size).encode(demo.tokenizer.decode(rows.reshape(-1).tolist()))
        rows = np.array(ids[: len(ids) // STUDIED * STUDIED], np.int64).reshape(-1, STUDIED)
    return rows[:CALIBRATION] if large else rows


def study(modules: Mapping[str, Chunk], specs: Mapping[str, Sequence[TensorSpec]], rows: np.ndarray) -> None:
    """Let eager read ``rows``, in whole chunks."""
    decoder = run_decoder(specs, partial(_eager, modules, specs))
    length = min(rows.shape[1], decoder.context) // decoder.chunk * decoder.chunk
    for row in rows:
        decoder.reset()
        for _ in decoder.feed(row[:length].tolist()):
            pass


def test_rows(real: bool, config: PLMConfig) -> np.ndarray:
    """Held-out rows of ids, [n, tokens] int64."""
    if not real:
        return np.random.default_rng(0).integers(0, config.vocab_size, (1, TEXT))
    with np.load(checkpoints.demo_folder(DEMO) / "samples.npz") as stored:
        rows: np.ndarray = stored["test"].astype(np.int64)
    return rows


def metric(config: PLMConfig, specs: Mapping[str, Sequence[TensorSpec]]) -> Metric:
    """Perplexity of the demo's tokens on text that its training has not seen."""
    rows = test_rows(True, config)[:ROWS, :TOKENS]

    def evaluate(run: Run) -> float:
        decoder = run_decoder(specs, run)
        return perplexity(decoder, [row[: decoder.context] for row in rows])

    return Metric(
        name="perplexity",
        higher_is_better=False,
        data=f"{ROWS} held-out passages of {TOKENS - 1} tokens from the documentation of Python",
        evaluate=evaluate,
    )


def _places(decoder: Decoder, tokens: np.ndarray, bar: ProgressBar | None = None) -> dict[str, list[Arrays]]:
    """Read ``tokens`` (as many as the context takes), then the inputs of both entries at the beginning and further on."""
    decoder.reset()
    decoder.caches[:] = 0
    tokens = tokens[: min(TEXT, decoder.context)]
    for logits in decoder.feed(tokens.tolist()):
        if bar is not None:
            bar.advance(len(logits))
    caches = {f"cache{index}": cache[None].copy() for index, cache in enumerate(decoder.caches)}

    def inputs(begin: int, size: int) -> Arrays:
        chunk = np.zeros(size, np.int64)
        here = tokens[begin : begin + size]
        chunk[: len(here)] = here
        return {"tokens": chunk, "position": np.array([begin]), **caches}

    # A later chunk, the first, and one that is cut short; a token far on, one half way, and the first.
    chunks = sorted(range(0, len(tokens), decoder.chunk), key=lambda begin: begin != decoder.chunk)
    singles = sorted({0, len(tokens) // 2, len(tokens) - 1}, reverse=True)
    if decoder.cache_bytes > LARGE:
        chunks, singles = chunks[:1], singles[:1]
    found = {
        PREFILL: [inputs(begin, decoder.chunk) for begin in chunks],
        DECODE: [inputs(begin, 1) for begin in singles],
    }
    if decoder.read_chunk:
        found[READ] = [inputs(len(tokens) // 5, decoder.read_chunk)]
    return found


def _eager(
    modules: Mapping[str, nn.Module], specs: Mapping[str, Sequence[TensorSpec]], entry: str, inputs: Arrays
) -> Arrays:
    import torch

    with torch.inference_mode():
        found = modules[entry](*(torch.from_numpy(inputs[spec.name]) for spec in specs[entry]))
    return {name: value.numpy() for name, value in zip(("logits", "rows")[-len(found) :], found, strict=True)}


@contextmanager
def _zeros(module: nn.Module) -> Iterator[list[list[float]]]:
    """The share of exact zeros behind each squared ReLU of ``module``, by layer, for each time that it runs."""

    from edge.families.plm.modules import Relu2

    layers = [part for part in module.modules() if isinstance(part, Relu2)]
    found: list[list[float]] = [[] for _ in layers]

    def count(index: int, _module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        found[index].append(float((output == 0).double().mean()))

    hooks = [part.register_forward_hook(partial(count, index)) for index, part in enumerate(layers)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
