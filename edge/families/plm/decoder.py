"""Runs PLM's entry points over one latent cache: any text, chunk by chunk, with nothing copied but the new rows.

``prefill`` takes a chunk of tokens, ``decode`` one; ``read``, where there is one, takes a larger chunk and gives no
logits. All read the caches where they lie, since their inputs are bound to these arrays once; what comes back of a
token is a row for each layer, which is written behind the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edge.errors import InputError
from edge.families.base import Arrays, Run
from edge.spec import DTYPES, TensorSpec

if TYPE_CHECKING:
    from edge.runtimes.base import Session

PREFILL, DECODE = "prefill", "decode"
ENTRIES = (PREFILL, DECODE)
#: For the part of a prompt whose logits nobody asks for: a head is a sixth of PLM-1.8B's work.
READ = "read"
READ_CHUNK = 64
#: Tokens that prefill takes at a time: enough for matrix products to be worth their weights, few to pad.
CHUNK = 32
#: Bytes: what TVM's kernels assume of a tensor's address, and a cache line.
ALIGNMENT = 64

#: Ties an entry point to inputs, which stay the caller's; each call of what comes back reads them anew.
Bind = Callable[[str, Arrays], Callable[[], Arrays]]


class Decoder:
    """A sequence of tokens being read. ``specs`` are the inputs of the entry points, by entry."""

    def __init__(self, specs: Mapping[str, Sequence[TensorSpec]], bind: Bind) -> None:
        caches = [spec for spec in specs[DECODE] if spec.name.startswith("cache")]
        self.context, row = (int(axis) for axis in caches[0].shape[1:])
        self.caches = aligned((len(caches), self.context, row), DTYPES[caches[0].dtype].type)
        self.position = 0
        self._start = aligned((1,), np.int64)
        named = {spec.name: cache[None] for spec, cache in zip(caches, self.caches, strict=True)}
        self._tokens = {entry: aligned((int(specs[entry][0].shape[0]),), np.int64) for entry in specs}
        self._calls = {
            entry: bind(entry, {"tokens": self._tokens[entry], "position": self._start, **named}) for entry in specs
        }

    @property
    def chunk(self) -> int:
        return len(self._tokens[PREFILL])

    @property
    def read_chunk(self) -> int:
        """Tokens that ``read`` takes, 0 without it."""
        return len(self._tokens[READ]) if READ in self._tokens else 0

    @property
    def cache_bytes(self) -> int:
        return self.caches.nbytes

    def reset(self) -> None:
        """Begin a new sequence; the rows of the last one are overwritten as it grows."""
        self.position = 0

    def feed(self, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        """Append ``tokens`` and give their logits, [n, vocabulary] for each chunk of n; valid until the next chunk.

        Raises InputError if the context has no room for them. To be exhausted: what is not asked for is not read.
        """
        self._check_room(tokens)
        for begin in range(0, len(tokens), self.chunk):
            yield self._advance(tokens[begin : begin + self.chunk])

    def last(self, tokens: Sequence[int]) -> np.ndarray:
        """Append ``tokens``, at least one, and give the logits [vocabulary] of what follows."""
        self._check_room(tokens)
        while self.read_chunk and len(tokens) > self.chunk:
            some = tokens[: min(self.read_chunk, len(tokens) - 1)]
            self._take(READ, some)
            tokens = tokens[len(some) :]
        logits = np.empty(0)
        for logits in self.feed(tokens):  # noqa: B007
            pass
        row: np.ndarray = logits[-1]
        return row

    def _check_room(self, tokens: Sequence[int]) -> None:
        if self.position + len(tokens) > self.context:
            raise InputError(
                f"{len(tokens)} tokens after {self.position} are more than the context of {self.context}: shorten the text, or "
                "export with a longer --context."
            )

    def _advance(self, tokens: Sequence[int]) -> np.ndarray:
        logits: np.ndarray = self._take(DECODE if len(tokens) == 1 else PREFILL, tokens)["logits"][: len(tokens)]
        return logits

    def _take(self, entry: str, tokens: Sequence[int]) -> Arrays:
        count = len(tokens)
        # What is left of an earlier chunk pads this one: no token sees those behind it.
        self._tokens[entry][:count] = tokens
        self._start[0] = self.position
        found = self._calls[entry]()
        self.caches[:, self.position : self.position + count] = found["rows"][:, :count]
        self.position += count
        return found


def session_decoder(session: Session) -> Decoder:
    """A decoder on a loaded bundle, bound to its memory."""
    from edge.runtimes.base import check_inputs

    def bind(entry: str, inputs: Arrays) -> Callable[[], Arrays]:
        record = session.manifest.entry(entry)
        call = session.bind(record, check_inputs(record, inputs))
        return lambda: {spec.name: value for spec, value in zip(record.outputs, call(), strict=True)}

    return Decoder({entry.name: entry.inputs for entry in session.manifest.entries}, bind)


def run_decoder(specs: Mapping[str, Sequence[TensorSpec]], run: Run) -> Decoder:
    """A decoder on anything that runs an entry point on given arrays."""
    return Decoder(specs, lambda entry, inputs: lambda: run(entry, inputs))


def aligned(shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> np.ndarray:
    """Zeros at an address that every runtime can use in place."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def losses(logits: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Nats that each id of ``following`` [n] costs under its row of ``logits`` [n, vocabulary]; float64."""
    wide = logits.astype(np.float64)
    most = wide.max(1, keepdims=True)
    total = np.log(np.exp(wide - most).sum(1)) + most[:, 0]
    lost: np.ndarray = total - wide[np.arange(len(following)), following]
    return lost


def passage_loss(decoder: Decoder, ids: np.ndarray) -> tuple[float, int]:
    """Nats that ``ids`` [n] cost, read from an empty context, and how many of them were predicted (not the first)."""
    decoder.reset()
    lost, done = 0.0, 0
    for logits in decoder.feed(ids[:-1].tolist()):
        lost += float(losses(logits, ids[done + 1 : done + 1 + len(logits)]).sum())
        done += len(logits)
    return lost, done


def perplexity(decoder: Decoder, passages: Sequence[np.ndarray]) -> float:
    found = [passage_loss(decoder, passage) for passage in passages]
    return float(np.exp(sum(lost for lost, _ in found) / sum(count for _, count in found)))
