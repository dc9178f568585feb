"""One user of a board at a time: two profiles on the same cores would measure each other.

The lock is the kernel's (flock) on a file in edge's folder there, held by a shell on the device for as long as this
process talks to it. Who holds it dies, and the kernel lets go: no stale lock is left, whatever the clock says. A
connection that breaks ends the shell at once, one that falls silent ends it after ``SILENCE`` seconds without a sign
from here.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

from edge.devices.base import Device, LostError
from edge.devices.script import failure
from edge.errors import DeviceError

#: Seconds between signs of life, and without one until the device gives up on us. Few enough not to disturb what is
#: being measured: one byte each.
BEAT = 20.0
SILENCE = 90

# $1: the folder, $2: who we are, $3: SILENCE.
_HOLD = """
umask 077
mkdir -p "$1" && cd "$1" && exec 3<&0 9>>lock || exit 1
flock -n 9 || { echo "busy $(cat lock)"; exit 0; }
echo "$2" > lock
echo locked
while [ "$(timeout "$3" dd bs=1 count=1 2>/dev/null <&3)" = . ]; do :; done
: > lock
"""


class Beat:
    """A byte now and then into ``stream``, so that the device knows that we are there, until the context ends."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Beat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError, ValueError):  # the device went away: whoever reads from it will notice
                self._stream.write(b".")
                self._stream.flush()


@contextlib.contextmanager
def locked(device: Device, folder: str) -> Iterator[None]:
    """Hold the lock of ``device``, whose folder for edge is ``folder``. DeviceError if another holds it."""
    text = "; ".join(line.strip() for line in _HOLD.strip().splitlines())
    command = device.command(("sh", "-c", text, "edge", folder, _who(), str(SILENCE)))
    with tempfile.TemporaryFile() as log, subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            answer = process.stdout.readline().decode("utf-8", "replace").strip()
            if answer.startswith("busy"):
                who = "".join(char for char in answer.removeprefix("busy").strip() if char.isprintable())[:100]
                raise DeviceError(f"{device.address} is in use{f' by {who}' if who else ''}: wait until that is done.")
            if answer != "locked":
                status = process.wait(30)
                log.seek(0)
                printed = log.read().decode("utf-8", "replace")
                if why := device.lost(status, printed):
                    raise LostError(f"{device.address} {why}.")
                raise failure(device, status, printed)
            with Beat(process.stdin):
                yield
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()


def _who() -> str:
    """This process, for whoever finds the board in use."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        user = str(os.getuid())
    return f"{user} on {platform.node()}, process {os.getpid()}"
