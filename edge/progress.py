"""How long work reports itself: one small interface, so that no layer below the CLI knows a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """Says nothing: the default for the Python API. The CLI passes one that draws bars."""

    def stage(self, name: str) -> None:
        """A new stage begins ("capture", "quantize", ...)."""

    def warn(self, sentence: str) -> None:
        """Something the user should know, in one sentence."""

    def write(self, text: str) -> None:
        """A piece of the result itself, as soon as it is there (a language model's text): no line end is added."""

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[ProgressBar]:
        """A bar of ``total`` steps."""
        yield ProgressBar()


class ProgressBar:
    def advance(self, steps: int = 1) -> None:
        """``steps`` more are done."""

    def note(self, text: str) -> None:
        """A short figure to show beside the bar (best time so far, say)."""
