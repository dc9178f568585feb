"""Large files of weights in huge pages of the system's cache, where whoever maps them finds them.

A decoded token reads every weight once, from end to end: in pages of 4 KB a CPU then spends much of its time on where the next
page lies, above all in a virtual machine, where each answer is looked up twice. Linux caches a file in huge pages if a mapping
that asks for them (madvise(2), MADV_HUGEPAGE) is what reads it first, on file systems with large folios (tried: ext4 of Linux 6.18);
any mapping of the file then has them. What lies in the cache in small pages already is dropped and read again, once it is
known that this helps. Nothing is copied, and the cache stays the system's to shrink.
"""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

HUGE = 2 << 20
#: Below this a CPU's own tables hold all of a file's small pages, or nearly.
LARGE = 64 << 20
#: So much of a file in huge pages is enough.
ENOUGH = 0.9
#: What is read again to see whether the file system can, and what is mapped at a time.
PROBE, WINDOW = 4 * HUGE, 32 * HUGE
_POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14; Python has no name for it


def cache_in_huge_pages(path: Path, least: int = LARGE) -> bool:
    """Bring the file into the system's cache in huge pages, unless it has fewer than ``least`` bytes; True if it is there so.

    Where the system cannot, nothing changes but that the file is in its cache.
    """
    if sys.platform != "linux" or path.stat().st_size < max(least, PROBE):
        return False
    try:
        if _share(path, path.stat().st_size) >= ENOUGH:
            return True
        if not _read_again(path, PROBE) or not _read_again(path, path.stat().st_size):
            return False
    except (OSError, ValueError):  # an older kernel, no /proc, no room for the mapping
        return False
    return True


def _read_again(path: Path, size: int) -> bool:
    with path.open("rb") as file:
        # What another process has mapped stays as it is.
        os.posix_fadvise(file.fileno(), 0, size, os.POSIX_FADV_DONTNEED)
    return _share(path, size) >= ENOUGH


def _share(path: Path, size: int) -> float:
    """Read the first ``size`` bytes through mappings that ask for huge pages; the part of them that has some.

    A window at a time, so that this process never holds the whole file.
    """
    whole, found = size // HUGE * HUGE, 0
    with path.open("rb") as file:
        for start in range(0, whole, WINDOW):
            length = min(WINDOW, whole - start)
            with mmap.mmap(file.fileno(), length, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED, offset=start) as mapped:
                before = _huge_bytes(path)
                mapped.madvise(mmap.MADV_HUGEPAGE)
                mapped.madvise(_POPULATE_READ)
                found += _huge_bytes(path) - before
    return found / whole


def _huge_bytes(path: Path) -> int:
    """Bytes of this process's mappings of the file that are in huge pages: FilePmdMapped of /proc/self/smaps, proc(5)."""
    name, found, mine = str(path.resolve()), 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        if not line.split(" ", 1)[0].endswith(":"):
            mine = line.endswith(" " + name)
        elif mine and line.startswith("FilePmdMapped:"):
            found += int(line.split()[1]) * 1024
    return found
