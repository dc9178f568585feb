"""Progress on stderr: a spinner and bars on a terminal, plain lines anywhere else."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from edge.progress import Progress, ProgressBar

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

#: Plain bars print a line at most this often, in seconds: a log of an hour's tuning stays readable.
PLAIN_INTERVAL = 10.0


class TerminalProgress(Progress):
    """A progress display with a heading: the model that is being worked on, when there are several."""

    heading = ""
    result: TextIO | None = None  # where pieces of the result go; None: nowhere

    def write(self, text: str) -> None:
        if self.result is not None:
            self.result.write(text)
            self.result.flush()

    def begin(self, heading: str) -> None:
        """The stages that follow belong to ``heading``."""
        self.heading = f"{heading}: "


@contextmanager
def terminal_progress(result: bool = False) -> Iterator[TerminalProgress]:
    """The display that suits stderr; everything it drew is gone when the context ends, finished stages stay.

    Meanwhile whatever else is printed on stdout (a user's module, a compiler) goes to stderr too: stdout is for the
    command's own result, which ``--json`` promises to be JSON and nothing else. With ``result``, what a task writes as
    it goes (``Progress.write``) does reach stdout.
    """
    if not sys.stderr.isatty():
        with _stdout_to_stderr() as stdout, contextlib.redirect_stdout(sys.stderr), _lasting_stderr() as stderr:
            display: TerminalProgress = PlainProgress(stderr)
            display.result = stdout if result else None
            yield display
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with _lasting_stderr() as stderr, _stdout_to_stderr() as stdout:
        console = Console(file=stderr, highlight=False)
        with RichProgress(*columns, console=console, transient=True) as bars:
            live = LiveProgress(bars)
            live.result = stdout if result else None
            yield live
            live.finish()


class PlainProgress(TerminalProgress):
    """One line a stage, and a line now and then for a bar."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def stage(self, name: str) -> None:
        self.say(f"{self.heading}{name}")

    def warn(self, sentence: str) -> None:
        self.say(f"{self.heading}warning: {sentence}")

    def say(self, text: str) -> None:
        print(f"edge: {text}", file=self.stream, flush=True)

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[ProgressBar]:
        yield PlainBar(self.say, f"{self.heading}{description}", total)


class PlainBar(ProgressBar):
    def __init__(self, say: Callable[[str], None], description: str, total: int) -> None:
        self.say, self.description, self.total, self.done, self.text = say, description, total, 0, ""
        self.last = time.monotonic()
        if total > 1:
            self._line()

    def advance(self, steps: int = 1) -> None:
        self.done += steps
        if self.done >= self.total or time.monotonic() - self.last > PLAIN_INTERVAL:
            self.last = time.monotonic()
            self._line()

    def note(self, text: str) -> None:
        self.text = text

    def _line(self) -> None:
        self.say(f"{self.description} {self.done}/{self.total}{f' ({self.text})' if self.text else ''}")


class LiveProgress(TerminalProgress):
    """A spinner for the stage at work; each finished stage leaves a line with its time."""

    def __init__(self, bars: RichProgress) -> None:
        self.bars = bars
        self.current: tuple[str, TaskID, float] | None = None

    def stage(self, name: str) -> None:
        self.finish()
        label = f"{self.heading}{name}"
        self.current = (label, self.bars.add_task(label, total=None, note=""), time.monotonic())

    def finish(self) -> None:
        """The stage at work is done."""
        if self.current is not None:
            label, task, began = self.current
            self.bars.remove_task(task)
            self.bars.console.print(f"  {label} [dim]{time.monotonic() - began:.1f} s[/dim]")
            self.current = None

    def begin(self, heading: str) -> None:
        self.finish()
        super().begin(heading)

    def warn(self, sentence: str) -> None:
        from rich.text import Text

        self.bars.console.print(Text(f"  {self.heading}warning: {sentence}", style="yellow"))

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[ProgressBar]:
        task = self.bars.add_task(f"{self.heading}{description}", total=total, note="")
        try:
            yield LiveBar(self.bars, task, total)
        finally:
            self.bars.remove_task(task)


class LiveBar(ProgressBar):
    def __init__(self, bars: RichProgress, task: TaskID, total: int) -> None:
        self.bars, self.task, self.total, self.done, self.text = bars, task, total, 0, ""

    def advance(self, steps: int = 1) -> None:
        self.done += steps
        self._draw()

    def note(self, text: str) -> None:
        self.text = text
        self._draw()

    def _draw(self) -> None:
        self.bars.update(self.task, completed=self.done, note=f"{self.done}/{self.total} {self.text}")


@contextmanager
def _stdout_to_stderr() -> Iterator[TextIO | None]:
    """The file descriptor itself, for what C code and child processes print; yields the real stdout, if there is one."""
    sys.stdout.flush()
    try:
        saved = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # a process without standard output, or error
        yield None
        return
    try:
        with os.fdopen(saved, "w", closefd=False) as stdout:
            yield stdout
    finally:
        os.dup2(saved, 1)
        os.close(saved)


@contextmanager
def _lasting_stderr() -> Iterator[TextIO]:
    """Standard error as it is now: progress must not wait where a library's words are held back (``edge.quiet``)."""
    try:
        descriptor = os.dup(sys.stderr.fileno())
    except OSError:  # no descriptor behind it: a notebook's, a test's
        yield sys.stderr
        return
    with os.fdopen(descriptor, "w", buffering=1) as stream:
        yield stream
