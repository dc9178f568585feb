"""Goes on from a prompt, token by token, on any runtime."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec
import numpy as np

from edge.devices.resident import resident
from edge.errors import InputError
from edge.families.plm.config import PLMConfig
from edge.families.plm.decoder import ENTRIES, Decoder, passage_loss, session_decoder
from edge.families.plm.vocabulary import TOKENIZER, Vocabulary
from edge.progress import Progress
from edge.tasks import Perplexity, Task, TaskRequest, TaskResult, TextRequest, softmax

if TYPE_CHECKING:
    from edge.runtimes.base import Session


@dataclass
class Timing:
    """Seconds and counts of one generation, filled in as it goes."""

    prompt: int = 0
    prefill: float = 0.0  # until the logits after the prompt are there
    first: float = 0.0  # until the first token is chosen
    decoded: list[float] = field(default_factory=list)  # of each later token


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What --stats tells; the decode rate is that of the tokens after the first, None if there are none."""

    time_to_first_token_ms: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float | None
    cache_bytes: int
    peak_memory_bytes: int  # of the whole process


class Generate(Task):
    name: ClassVar[str] = "generate"
    summary: ClassVar[str] = "go on from a prompt"
    needs: ClassVar[tuple[str, ...]] = ENTRIES

    def run(self, session: Session, request: TaskRequest, progress: Progress) -> TaskResult:
        asked = request.text
        if not asked.prompt:
            raise InputError("there is no prompt to go on from: pass --prompt with some text.")
        config, vocabulary = opened(session)
        prompt = vocabulary.user_turn(asked.prompt) if asked.chat else vocabulary.encode(asked.prompt)
        decoder = session_decoder(session)
        if len(prompt) > decoder.context:
            raise InputError(
                f"the prompt is {len(prompt)} tokens long and the context has room for {decoder.context}: shorten it, or export "
                "with a longer --context."
            )
        # Tables are filled and pages touched on the first call, which is loading and not generating.
        decoder.last(prompt[:1])
        decoder.last(prompt[:2])
        decoder.reset()
        timing = Timing()
        text, stream, ids = "", vocabulary.stream(), []
        reason = "length"
        for token in generate(decoder, prompt, asked, timing):
            ids.append(token)
            if token in vocabulary.ends(config.eos):
                reason = "end"
                break
            piece = stream(token)
            text += piece
            progress.write(piece)
        progress.write("\n")
        if reason == "length" and len(ids) < asked.max_new_tokens:
            reason = "context"
            progress.warn(f"the context of {decoder.context} tokens is full: export with a longer --context to go on.")
        figures = _figures(timing, decoder)
        return TaskResult(
            lines=_lines(figures) if asked.stats else (),
            values={"text": text, "tokens": ids, "stopped": reason, "prompt_tokens": len(prompt), **msgspec.to_builtins(figures)},
        )


def measure_perplexity(session: Session, text: str, progress: Progress) -> Perplexity:
    """Perplexity of a loaded bundle on ``text``, in passages as long as its context."""
    _, vocabulary = opened(session)
    ids = np.array(vocabulary.encode(text))
    if len(ids) < 2:
        raise InputError("the text has fewer than two tokens, so there is nothing to predict: pass a longer one.")
    decoder = session_decoder(session)
    length = decoder.context
    passages = [ids[start : start + length] for start in range(0, len(ids), length)]
    lost, count, began = 0.0, 0, time.perf_counter()
    with progress.bar("reading", len(passages)) as bar:
        for passage in passages:
            nats, predicted = passage_loss(decoder, passage)
            lost, count = lost + nats, count + predicted
            bar.advance()
    seconds = time.perf_counter() - began
    return Perplexity(
        perplexity=math.exp(lost / count),
        bits_per_byte=lost / math.log(2) / len(text.encode()),
        tokens=count,
        passages=len(passages),
        tokens_per_second=count / seconds,
    )


def opened(session: Session) -> tuple[PLMConfig, Vocabulary]:
    """The config that the bundle was made from, and its tokenizer; InputError if it has none."""
    config = msgspec.convert(session.manifest.config, PLMConfig)
    path: Path = session.root / TOKENIZER
    if not path.is_file():
        raise InputError(
            "this bundle has no tokenizer, so it cannot read text: export it from a checkpoint with a tokenizer.json, or run its "
            "tensors with --npz."
        )
    return config, Vocabulary(path, config.vocab_size)


def generate(decoder: Decoder, prompt: list[int], asked: TextRequest, timing: Timing) -> Iterator[int]:
    """Tokens after ``prompt``, until as many are there as asked for or the context is full."""
    random = np.random.default_rng(asked.seed)
    timing.prompt = len(prompt)
    began = time.perf_counter()
    logits = decoder.last(prompt)
    timing.prefill = time.perf_counter() - began
    for index in range(asked.max_new_tokens):
        token = choose(logits, asked.temperature, asked.top_p, random)
        if index == 0:
            timing.first = time.perf_counter() - began
        yield token
        if index + 1 == asked.max_new_tokens or decoder.position == decoder.context:
            return
        start = time.perf_counter()
        logits = decoder.last([token])
        timing.decoded.append(time.perf_counter() - start)


def choose(logits: np.ndarray, temperature: float, top_p: float, random: np.random.Generator) -> int:
    """The likeliest id of ``logits`` [vocabulary], or with a temperature above 0 one drawn from the likeliest ``top_p``."""
    if temperature <= 0:
        return int(logits.argmax())
    chances = softmax(logits / temperature)
    order = np.argsort(-chances, kind="stable")
    # As few as reach top_p, and at least one.
    kept = order[: int(np.searchsorted(np.cumsum(chances[order]), top_p)) + 1]
    return int(random.choice(kept, p=chances[kept] / chances[kept].sum()))


def _figures(timing: Timing, decoder: Decoder) -> Figures:
    return Figures(
        time_to_first_token_ms=round(1e3 * timing.first, 3),
        prefill_tokens_per_second=round(timing.prompt / timing.prefill, 2),
        decode_tokens_per_second=round(len(timing.decoded) / sum(timing.decoded), 2) if timing.decoded else None,
        cache_bytes=decoder.cache_bytes,
        peak_memory_bytes=resident()[1],
    )


def _lines(figures: Figures) -> tuple[str, ...]:
    rate = figures.decode_tokens_per_second
    return (
        f"time to first token  {figures.time_to_first_token_ms:.1f} ms",
        f"prefill              {figures.prefill_tokens_per_second:.1f} tokens/s",
        f"decode               {'-' if rate is None else f'{rate:.1f} tokens/s'}",
        f"cache                {figures.cache_bytes / 1e6:.1f} MB",
        f"peak memory          {figures.peak_memory_bytes / 1e6:.1f} MB",
    )
