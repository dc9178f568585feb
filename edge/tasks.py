"""What a task is: a family's real job on the user's own file, through any session."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec
import numpy as np

from edge.progress import Progress

if TYPE_CHECKING:
    from edge.runtimes.base import Session


class TextRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to write, for language models: greedy unless ``temperature`` is above 0."""

    prompt: str | None = None
    max_new_tokens: int = 64
    chat: bool = False  # the prompt is a user's turn in the model's chat format
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stats: bool = False  # time to first token, tokens/s, peak memory


class ImageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Pictures and clicks, for vision models. ``clicks`` are as typed: ``X,Y,+`` (foreground) or ``X,Y,-``."""

    image: Path | None = None
    features: Path | None = None  # what an encoder wrote, for the part that runs on the device
    clicks: tuple[str, ...] = ()
    overlay: Path | None = None  # the image with the mask drawn over it


class TaskRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked of ``edge run``; a task refuses (InputError) what it needs and lacks."""

    csv: Path | None = None
    columns: tuple[str, ...] = ()  # empty: every numeric column
    output: Path | None = None
    plot: Path | None = None
    reference: Path | None = None  # search: the CSV to look in
    modes: tuple[str, ...] = ()  # anomaly: time, fft, forecast; empty: all that the checkpoint has
    aggregation_length: int = 32  # anomaly: points at the window's end that a score covers
    smoothing: int = 8  # anomaly: length of the moving average
    top: int = 5
    text: TextRequest = TextRequest()
    image: ImageRequest = ImageRequest()


class TaskResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a task found: lines for the terminal, values for ``--json``, and the files it wrote."""

    lines: tuple[str, ...]
    values: dict[str, object]
    written: tuple[Path, ...] = ()


class Perplexity(msgspec.Struct, frozen=True, kw_only=True):
    """How well a language model predicts a text: exp of the mean loss of ``tokens`` tokens, read in ``passages``."""

    perplexity: float
    bits_per_byte: float  # of the text's UTF-8, whatever the tokenizer; the passages' first tokens are not predicted
    tokens: int
    passages: int
    tokens_per_second: float


class Task(ABC):
    name: ClassVar[str]
    summary: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]  # entry points it runs

    @abstractmethod
    def run(self, session: Session, request: TaskRequest, progress: Progress) -> TaskResult: ...


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis, float64."""
    shifted = np.exp(logits.astype(np.float64) - np.max(logits, axis=-1, keepdims=True))
    chances: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
    return chances
