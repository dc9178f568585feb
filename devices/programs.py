"""The device's own small programs (vcgencmd, dumpsys), for what no file says."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence

#: Runs a program without a shell and returns its standard output; None if it is not there, fails or hangs.
Programs = Callable[[Sequence[str]], str | None]

PATIENCE = 5.0


def local_programs(command: Sequence[str]) -> str | None:
    """``Programs`` for this machine."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def no_programs(command: Sequence[str]) -> str | None:
    """``Programs`` where only files are to be read: a recorded tree, say."""
    return None
