"""Progress on stderr: what a terminal shows, and what a log keeps."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import pytest

from edge.cli import terminal
from edge.cli.terminal import LiveProgress, PlainProgress, terminal_progress


def test_a_log_gets_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "PLAIN_INTERVAL", 0.0)
    with terminal_progress() as progress:  # pytest's stderr is no terminal
        assert isinstance(progress, PlainProgress)
        progress.begin("tspulse")
        progress.stage("lower")
        with progress.bar("tuning", 3) as bar:
            bar.advance()
            bar.note("best 1.2 ms")
            bar.advance(2)
        progress.warn("slow.")
    assert capsys.readouterr().err.splitlines() == [
        "edge: tspulse: lower",
        "edge: tspulse: tuning 0/3",
        "edge: tspulse: tuning 1/3",
        "edge: tspulse: tuning 3/3 (best 1.2 ms)",
        "edge: tspulse: warning: slow.",
    ]


def test_a_log_of_long_work_stays_short(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress(sys.stderr).bar("tuning", 1000) as bar:
        for _ in range(1000):
            bar.advance()
    assert capsys.readouterr().err.splitlines() == ["edge: tuning 0/1000", "edge: tuning 1000/1000"]


def test_progress_is_seen_while_a_librarys_words_are_held_back() -> None:
    script = """
import os, sys
from edge.cli.terminal import terminal_progress
from edge.quiet import quiet_stderr
with terminal_progress() as progress, quiet_stderr("noise"):
    print("noise", file=sys.stderr)
    print("news", file=sys.stderr)
    progress.stage("lower")
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stderr.splitlines() == ["edge: lower", "news"]


def test_a_terminal_keeps_finished_stages_and_warnings() -> None:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, highlight=False)
    with RichProgress(console=console, transient=True) as bars:
        progress = LiveProgress(bars)
        progress.begin("tspulse")
        progress.stage("capture")
        progress.stage("lower")
        with progress.bar("tuning", 4) as bar:
            bar.advance(4)
            bar.note("best 1.2 ms")
            assert [task.fields.get("note") for task in bars.tasks][-1] == "4/4 best 1.2 ms"
        progress.warn("[slow] on this host.")  # not taken for markup
        progress.finish()
        assert bars.tasks == []
    kept = screen.getvalue()
    assert "tspulse: capture" in kept and "tspulse: lower" in kept
    assert "warning: [slow] on this host." in kept


def test_a_real_terminal_gets_colour_and_a_pipe_does_not() -> None:
    code = """if True:
        import os
        from edge.cli.terminal import terminal_progress
        with terminal_progress() as progress:
            progress.stage("capture")
            print("said by a module")
            os.system("echo said by a compiler")
        print(type(progress).__name__)
    """
    leader, follower = pty.openpty()
    try:
        environment = {**os.environ, "TERM": "xterm-256color"}
        on_terminal = subprocess.run(
            [sys.executable, "-c", code],
            stderr=follower,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            check=True,
        )
        seen = os.read(leader, 65536)
    finally:
        os.close(follower)
        os.close(leader)
    assert on_terminal.stdout == "LiveProgress\n"
    assert b"said by a module" in seen and b"said by a compiler" in seen
    assert b"\x1b[" in seen and b"capture" in seen
    in_a_pipe = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert in_a_pipe.stdout == "PlainProgress\n"
    assert in_a_pipe.stderr == "edge: capture\nsaid by a module\nsaid by a compiler\n"
