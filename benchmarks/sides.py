"""Sides of a benchmark: each is a process of its own that answers "time N runs", and all are asked in turn.

A worker prints ``{"ready": true, ...}`` once it has loaded and warmed up, then answers each line ``N`` on its standard
input with a JSON list of N durations in milliseconds. Taking turns in short rounds means that a machine whose speed
drifts slows every side alike.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class Side:
    """A running worker. ``facts`` is what it said when ready."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        # One OpenMP/BLAS pool per side would otherwise take every core whatever the side's own setting says.
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
        )
        self.facts = self._answer()

    def times(self, runs: int) -> list[float]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{runs}\n")
        self._process.stdin.flush()
        answer = self._answer()
        return [float(value) for value in answer["ms"]]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"the side '{self.name}' ended without an answer (exit {self._process.wait()}): run its command by hand")


def interleave(sides: Sequence[Side], rounds: int, runs: int) -> dict[str, list[float]]:
    """``rounds`` turns of ``runs`` timed runs for every side; all durations in ms, by side."""
    found: dict[str, list[float]] = {side.name: [] for side in sides}
    for turn in range(rounds):
        order = sides if turn % 2 == 0 else list(reversed(sides))
        for side in order:
            found[side.name] += side.times(runs)
    return found


@dataclass(frozen=True)
class Row:
    """One comparison; ``ratio`` above 1 means ours is better."""

    work: str
    variant: str
    peer: str
    ours: float
    theirs: float
    unit: str

    def as_json(self) -> dict:
        return {**self.__dict__, "ratio": self.theirs / self.ours}


def median_rows(work: str, times: dict[str, list[float]], ours: Sequence[str], peers: Sequence[str]) -> list[Row]:
    medians = {name: statistics.median(values) for name, values in times.items()}
    return [Row(work, mine, peer, medians[mine], medians[peer], "ms") for mine in ours for peer in peers]


def report(rows: Sequence[Row], path: Path | None) -> None:
    """Print the table; write the rows as JSON if asked."""
    from rich.console import Console
    from rich.table import Table

    table = Table("work", "ours", "peer", "ours", "theirs", "ratio", title="median, interleaved; ratio above 1: ours is better")
    for row in rows:
        table.add_row(row.work, row.variant, row.peer, f"{row.ours:.3f} {row.unit}", f"{row.theirs:.3f} {row.unit}", f"{row.theirs / row.ours:.2f}")
    Console(width=160).print(table)
    if path is not None:
        path.write_text(json.dumps([row.as_json() for row in rows], indent=2) + "\n")


def peer_python(name: str, requirements: Sequence[str]) -> str:
    """The interpreter of the peers' own virtual environment, made on first use."""
    from edge.cache import cache_dir  # not at the top: workers of peers run where there is no edge

    folder = cache_dir() / "peers" / name
    python = folder / "bin" / "python"
    stamp = folder / "requirements.txt"
    wanted = "\n".join(requirements)
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"installing the peers into {folder} (first use)", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        for requirement in requirements:  # in order: torch first, so that nothing pulls another build of it
            subprocess.run([python, "-m", "pip", "install", "-q", *requirement.split()], check=True)
        stamp.write_text(wanted)
    return str(python)


def peak_rss_mb() -> float:
    """This process's peak, proc(5)'s VmHWM. Not getrusage's, which begins with what the process that started it had."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024


def serve(run, runs_before: int = 20, **facts: object) -> None:
    """The worker's end: warm up, say ready, answer until standard input closes."""
    import time

    for _ in range(runs_before):
        run()
    print(json.dumps({"ready": True, **facts}), flush=True)
    for line in sys.stdin:
        durations = []
        for _ in range(int(line)):
            start = time.perf_counter()
            run()
            durations.append(1e3 * (time.perf_counter() - start))
        print(json.dumps({"ms": durations}), flush=True)
