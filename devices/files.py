"""Reading the kernel's small files, which may exist and still refuse to be read."""

from __future__ import annotations

from pathlib import Path


def text(path: Path) -> str | None:
    """What ``path`` says, stripped; None if it cannot be read (a thermal zone that is off gives EINVAL)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def number(path: Path) -> int | None:
    """The whole number that ``path`` says; None if it cannot be read or is none."""
    try:
        return int(text(path) or "")
    except ValueError:
        return None
