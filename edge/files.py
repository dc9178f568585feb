"""Writing what the user asked for: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from edge.bundle import storage_errors
from edge.errors import UsageError


def write_atomically(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` through a temporary sibling, so that a full disk leaves no half a file. StorageError.

    Something that is not a regular file (``/dev/stdout``) is written straight; a link stays, and what it leads to is
    replaced.
    """
    path = path.resolve() if path.is_symlink() else path
    if path.is_dir():
        raise UsageError(f"{path} is a folder: give the name of a file to write.")
    with storage_errors(str(path)):
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, staging = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
            Path(staging).chmod(0o666 & ~_umask())
            Path(staging).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(staging).unlink()
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
