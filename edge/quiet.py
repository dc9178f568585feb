"""Third-party code that talks to standard error: known lines are dropped, everything else goes through."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def quiet_stderr(*known: str) -> Iterator[Callable[[], str]]:
    """Hold back standard error, C code's included, and drop the lines that match one of ``known`` from their start.

    The rest is written at the end. Yields a function that returns all that was written so far, known lines too: what
    a C++ runtime says there is often the only explanation of the error it raises. Keep the body short, since the whole
    process is held back.
    """
    patterns = [re.compile(pattern) for pattern in known]
    before = sys.stderr
    before.flush()
    try:
        saved = os.dup(2)
    except OSError:  # a process without standard error
        yield lambda: ""
        return
    with tempfile.TemporaryFile(buffering=0) as held, os.fdopen(os.dup(held.fileno()), "w", buffering=1) as written:

        def so_far() -> str:
            before.flush()
            written.flush()
            size = os.fstat(held.fileno()).st_size
            return os.pread(held.fileno(), size, 0).decode(errors="replace")

        os.dup2(held.fileno(), 2)
        # pybind11 sends C++'s stream to Python's, which need not be the descriptor (in a notebook, under a test).
        sys.stderr = written
        try:
            yield so_far
        finally:
            text = so_far()
            sys.stderr = before
            os.dup2(saved, 2)
            os.close(saved)
            rest = [line for line in text.splitlines(keepends=True) if not any(p.match(line) for p in patterns)]
            before.write("".join(rest))
            before.flush()
