"""Memory of this process, as the kernel counts it."""

from __future__ import annotations

import os
from pathlib import Path


def resident() -> tuple[int, int]:
    """(resident set now, its high-water mark) in bytes; VmRSS and VmHWM of proc(5)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    now, peak = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


def resident_now() -> int:
    """The resident set in bytes, by the cheapest way there is: /proc/self/statm, proc(5)."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def proportional() -> int | None:
    """The proportional set size in bytes: Pss of /proc/self/smaps_rollup (Linux 4.14 and later), None without it.

    The kernel walks all page tables for it: milliseconds for a large process, so never between timed runs.
    """
    try:
        rollup = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return None
    found = [line for line in rollup.splitlines() if line.startswith("Pss:")]
    return int(found[0].split()[1]) * 1024 if found else None


def reset_peak() -> bool:
    """Set VmHWM to VmRSS ("5" to clear_refs, proc(5)); False where the kernel or the container forbids it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
