"""Where edge keeps what is worth keeping between runs on this machine: nothing in it is needed, all of it can go."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def cache_dir() -> Path:
    """The user's cache folder for edge: ``$EDGE_CACHE``, or ``~/.cache/edge`` (``$XDG_CACHE_HOME/edge`` if set)."""
    if own := os.environ.get("EDGE_CACHE"):
        return Path(own).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "edge"


def read_cached(name: str) -> bytes | None:
    """The content of the cached file ``name``, or None."""
    try:
        return (cache_dir() / name).read_bytes()
    except OSError:
        return None


def write_cached(name: str, data: bytes) -> None:
    """Keep ``data`` as ``name``, whole or not at all; a cache that cannot be written is not an error."""
    target = cache_dir() / name
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
            Path(temporary).replace(target)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``: of several processes that would make the same thing one does, and the others wait.

    The system opens the lock of a process that died. OSError if the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
