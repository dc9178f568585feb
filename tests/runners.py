"""What the tests of the native runner share: runners built once for all workers, and conversations with them."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from edge.devices.messages import Message
from edge.runtimes.native.build import PROGRAM, runner_files


@contextmanager
def shared(factory: pytest.TempPathFactory, name: str, what: str) -> Iterator[Path]:
    """A folder that every worker of this test run uses; one at a time makes ``what`` in it."""
    base = factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / name
    folder.mkdir(exist_ok=True)
    with (folder / f".{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def built(factory: pytest.TempPathFactory, runtime: str, triple: str) -> Path:
    """The runner's program, its libraries beside it."""
    with shared(factory, "runners", f"{runtime}-{triple}") as cache, pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_CACHE", str(cache))
        return runner_files(runtime, triple)[PROGRAM]


def exported(factory: pytest.TempPathFactory, model: str, target: str, runtime: str, scheme: str, *more: str) -> Path:
    """A bundle that every worker of this test run shares. Do not change it."""
    from edge import cli

    name = "-".join((model, target, runtime, scheme, *more)) + ".edge"
    with shared(factory, "bundles", name) as folder:
        if not (folder / name).is_dir():
            arguments = ["--target", target, "--runtime", runtime, "--quantize", scheme, *more, "-o", str(folder / name)]
            assert cli.invoke(["export", model, *arguments]) == 0
        return folder / name


def talk(command: Sequence[str | Path], request: bytes) -> tuple[int, list[Message]]:
    """Exit status and messages, decoded by the types that the Python worker's are."""
    done = subprocess.run(command, input=request + b"\n", capture_output=True, timeout=240)
    return done.returncode, [msgspec.json.decode(line, type=Message) for line in done.stdout.splitlines()]
