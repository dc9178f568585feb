"""Talking to a worker: a request as JSON in, messages as JSON lines out, whatever command starts it.

The worker may be a child of this process or run on a device at the other end of one (ssh, adb). Then its standard input
stays open, with a byte now and then as a sign of life (``Link``), so that it can be ended when nobody listens any more.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Protocol

import msgspec

from edge import errors
from edge.devices.base import LostError
from edge.devices.lock import Beat
from edge.devices.messages import (
    Began,
    Enough,
    Failed,
    Go,
    Message,
    ProfileRequest,
    Repeated,
    Reply,
    Request,
    Sampled,
    Waiting,
)
from edge.devices.partial import SAMPLED, joined
from edge.errors import DeviceError, EdgeError
from edge.progress import Progress

#: What a device says when it ends a worker because no sign of life came.
SILENT = "edge-heard-nothing"


@dataclass(frozen=True)
class Link:
    """The way to a worker on a device: who it is, and why the way broke, if it did (see ``Device.lost``)."""

    address: str
    lost: Callable[[int, str], str | None]
    alive: Callable[[], bool]


class Pace(Protocol):
    """What decides when a paced runner runs and which of its blocks count."""

    def __call__(self, waiting: Waiting, ask: Callable[[Go], Sampled | Repeated], keep: Callable[[Sampled], None]) -> None:
        """Answer ``waiting``: ``ask`` for blocks as often as is wanted, and ``keep`` what is to be left if it ends badly."""


def converse(
    command: Sequence[str],
    environment: Mapping[str, str],
    request: Request,
    timeout: float,
    progress: Progress,
    link: Link | None = None,
    pace: Pace | None = None,
) -> Reply:
    """Start ``command``, a worker or (with ``link``) the way to one, hand it ``request`` and return its reply.

    ``pace`` answers a runner that asks before each block of timed runs.

    Raises what the worker refused, in its own class and sentence; DeviceError if it died, was killed by a signal, or
    took more than ``timeout`` seconds; LostError if the way to it broke. The runs that a profile had finished by then are
    the error's ``partial``. What was started here, with its children, is gone when this returns, whichever way.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
        late = threading.Event()
        finished: list[bytes] = []

        def stop() -> None:
            late.set()
            _kill(process)

        timer = threading.Timer(timeout, stop)
        timer.start()
        try:
            assert process.stdin is not None
            with Beat(process.stdin) if link else contextlib.nullcontext():
                last, final = _listen(process, request, progress, finished, link, pace)
            if final is None:
                # Not reaped yet, so that its number, which is its group's, cannot become another process'.
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        except DeviceError as trouble:  # of the pace, which asks the device too
            trouble.partial = joined(finished)
            raise
        finally:
            timer.cancel()
            timer.join()
            _kill(process)
            status = process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        if final is not None and not isinstance(final, Failed):
            return final
        partial = joined(finished)
        if final is not None:
            refused = _error(final)
            if isinstance(refused, DeviceError):
                refused.partial = partial
            raise refused
        during = f"during '{last}'" if last else "at its start"
        end = "; no timed run was finished, so nothing is kept." if isinstance(request, ProfileRequest) and partial is None else "."
        if link is not None and _fell_silent(log):
            error = DeviceError(
                f"{link.address} heard nothing from here for a while and stopped measuring {during}: keep this computer awake, and "
                f"run it again{end}"
            )
        elif late.is_set():
            error = DeviceError(f"the measuring process was stopped {during}, after {timeout:.0f} s: raise the timeout{end}")
        elif link is not None and (why := _broken(link, status, log)):
            error = LostError(f"the connection to {link.address} ended {during}; it {why}, and run it again{end}")
        else:
            if link is not None and status > 128:
                status = 128 - status  # a shell's way of telling a signal
            error = DeviceError(f"the measuring process {_death(status)} {during}{_last_words(log)}{end}")
        error.partial = partial
        raise error


class _EndedError(Exception):
    """The worker ended, or gave its last message, where another was expected."""

    def __init__(self, final: Message | None) -> None:
        self.final = final


def _listen(
    process: subprocess.Popen[bytes], request: Request, progress: Progress, finished: list[bytes], link: Link | None,
    pace: Pace | None,
) -> tuple[str, Failed | Reply | None]:
    """Send the request, follow the phases, gather the lines that tell of ``finished`` runs, let ``pace`` lead.

    Returns the last phase and the final message, None if the worker never sent one.
    """
    assert process.stdin is not None and process.stdout is not None
    source, sink = process.stdout, process.stdin
    decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
    last = ""

    def send(message: Request | Go | Enough, mark: bytes = b"") -> None:
        with contextlib.suppress(BrokenPipeError):  # it died before reading: its status says how
            sink.write(mark + msgspec.json.encode(message) + b"\n")
            sink.flush()

    def hear() -> Message:
        nonlocal last
        for line in source:
            if pace is None and line.startswith(SAMPLED):
                finished.append(line)
                continue
            try:
                message = decoder.decode(line)
            except msgspec.DecodeError:
                break  # cut off in the middle of a line
            if isinstance(message, Began):
                last = message.phase
                progress.stage(last)
            elif isinstance(message, Sampled) and pace is None:  # written with other spaces
                finished.append(line)
            else:
                return message
        raise _EndedError(None)

    def ask(go: Go) -> Sampled | Repeated:
        send(go, mark)
        answer = hear()
        if isinstance(answer, Sampled | Repeated):
            return answer
        raise _EndedError(answer)

    # Between signs of life, on a device, a line is told from them by its first byte (see ``remote``).
    mark = b":" if link else b""
    send(request)
    if link is None and pace is None:
        with contextlib.suppress(BrokenPipeError):
            sink.close()
    try:
        while isinstance(message := hear(), Waiting):
            if pace is None:
                break
            pace(message, ask, lambda sampled: finished.append(msgspec.json.encode(sampled)))
            send(Enough(), mark)
    except _EndedError as ended:
        if ended.final is None:
            return last, None
        message = ended.final
    if isinstance(message, Waiting | Sampled | Repeated | Began):
        raise DeviceError(f"the measuring process answered out of turn during '{last}': use the edge that it was built by.")
    return last, message


def _fell_silent(log: IO[bytes]) -> bool:
    log.seek(0)
    return SILENT.encode() in log.read().split()


def _broken(link: Link, status: int, log: IO[bytes]) -> str | None:
    """Why and what to do, if it was the way to the worker that ended, and not the worker."""
    log.seek(0)
    why = link.lost(status, log.read().decode("utf-8", "replace"))
    if why is None and status <= 128 and not link.alive():
        why = "does not answer any more: check it"
    return why


def _error(failed: Failed) -> EdgeError:
    """The worker's refusal as the class that it was raised as."""
    kind = getattr(errors, failed.kind, None)
    if isinstance(kind, type) and issubclass(kind, EdgeError) and kind is not errors.MissingDependencyError:
        return kind(failed.sentence)
    return EdgeError(failed.sentence)


def _death(status: int) -> str:
    if status >= 0:
        return f"ended without an answer (exit status {status})"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    if -status == signal.SIGKILL:
        return f"was killed ({name}; out of memory is the usual cause)"
    return f"died by {name}"


def _last_words(log: IO[bytes]) -> str:
    """The last line that the process printed, if any: a runtime's abort message is there."""
    end = log.seek(0, os.SEEK_END)
    log.seek(max(end - 4096, 0))
    lines = [" ".join(line.split()) for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return f" (it printed: {lines[-1][:200].rstrip('.')})" if lines else ""


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process that we started, and its children, which share its process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
