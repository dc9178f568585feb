"""The gate on instruction counts: no board and no statistics, since the same bundle gives the same count every time.

What `edge profile --device qemu:TARGET --count --json` writes is read here by the fields that a gate needs. Counts of
one CPU model are compared with those of the same; a count that did not repeat is said to be the least of several.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge.errors import InputError
from edge.progress import Progress


class _Classes(msgspec.Struct, frozen=True):
    integer: int
    branch: int
    load_store: int
    simd_fp: int
    other: int

    @property
    def total(self) -> int:
        return self.integer + self.branch + self.load_store + self.simd_fp + self.other


class _Entry(msgspec.Struct, frozen=True):
    entry: str
    inference: _Classes
    steady: bool


class CountFile(msgspec.Struct, frozen=True):
    """The part of a counts file that is compared."""

    bundle: str
    target: str
    cpu: str
    emulator: str
    threads: int
    entries: tuple[_Entry, ...]
    runtime: str = ""
    runtime_version: str = ""
    libc: str = ""

    @property
    def counted_with(self) -> tuple[str, ...]:
        """Whose instructions are counted beside the bundle's own."""
        return f"{self.runtime} {self.runtime_version}".strip(), self.libc


class CountVerdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Instructions of one inference, before and now; ``ratio`` is exact."""

    entry: str
    baseline: int
    now: int
    ratio: float
    regressed: bool


class CountReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    allowed: float
    cpu: str
    verdicts: tuple[CountVerdict, ...]
    warnings: tuple[str, ...]

    @property
    def regressed(self) -> bool:
        return any(verdict.regressed for verdict in self.verdicts)


def read(path: Path) -> CountFile | None:
    """The counts in ``path``; None if it holds something else, or is no file."""
    try:
        return decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def decode(raw: bytes) -> CountFile:
    return msgspec.json.decode(raw, type=CountFile)


def counted(source: Path, target: str, entries: Sequence[str], progress: Progress) -> bytes:
    """The counts of ``source``, a bundle, on the CPU of ``target``, as a counts file; or the file that ``source`` is.

    Raises what counting raises, and InputError for a file of something else.
    """
    if source.is_dir():
        from edge.runtimes.native.counting import count, encode

        return encode(count(source, target, entries=entries, progress=progress))
    if read(source) is None:
        raise InputError(f"{source} holds no instruction counts: give a bundle, or what `edge profile --count --json` wrote.")
    return source.read_bytes()


def judge(before: CountFile, now: CountFile, allowed: float) -> CountReport:
    """Compare entry by entry. Raises InputError for counts of another CPU or without an entry that is there now."""
    if (before.cpu, before.threads) != (now.cpu, now.threads):
        raise InputError(
            f"the baseline was counted on {before.cpu} with {before.threads} threads and this on {now.cpu} with {now.threads}: "
            "count a new one."
        )
    known = {entry.entry: entry for entry in before.entries}
    verdicts, warnings = [], []
    if before.emulator != now.emulator:
        warnings.append(f"the baseline was counted by {before.emulator}, this by {now.emulator}.")
    for old_part, part in zip(before.counted_with, now.counted_with, strict=True):
        if old_part != part:
            warnings.append(f"the baseline was counted with {old_part or 'another'}, this with {part or 'another'}: part of any difference is that.")
    for entry in now.entries:
        if entry.entry not in known:
            raise InputError(f"the baseline has no entry point '{entry.entry}': count a new one.")
        old = known.pop(entry.entry)
        if not (entry.steady and old.steady):
            warnings.append(f"the count of {entry.entry} did not repeat: the least of several is compared.")
        ratio = entry.inference.total / max(old.inference.total, 1)
        verdicts.append(CountVerdict(
            entry=entry.entry, baseline=old.inference.total, now=entry.inference.total, ratio=ratio,
            regressed=ratio > 1.0 + allowed,
        ))
    if known:
        warnings.append(f"the baseline also has {', '.join(sorted(known))}, which was not counted now.")
    return CountReport(allowed=allowed, cpu=now.cpu, verdicts=tuple(verdicts), warnings=tuple(warnings))
