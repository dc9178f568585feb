"""Verification by a worker: the bundle's stored samples through its runtime, where the worker runs, and the errors."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge.bundle import Bundle, read_manifest
from edge.errors import UsageError
from edge.errorstats import compare_all
from edge.measurement import EntryCheck
from edge.runtimes.base import Session, session_class


class VerifyRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="verify"):
    """Run the stored samples of the bundle at ``bundle`` with ``threads`` threads and compare with eager's outputs."""

    device: str
    bundle: str
    threads: int


class Verified(msgspec.Struct, frozen=True, kw_only=True, tag="verified"):
    checks: tuple[EntryCheck, ...]


def verify(request: VerifyRequest, began: Callable[[str], None]) -> Verified:
    """Answer ``request``; ``began`` hears the name of each phase. Raises whatever loading or running the bundle raises."""
    root = Path(request.bundle)
    opened = Bundle(root, read_manifest(root))
    began("load")
    session = session_class(opened.manifest.runtime.name)(root, opened.manifest, request.threads)
    return Verified(checks=check_samples(opened, session, request.device, began))


def check_samples(
    opened: Bundle, session: Session, device: str, began: Callable[[str], None] = lambda phase: None
) -> tuple[EntryCheck, ...]:
    """Every entry's stored samples through ``session``; ``device`` is where it runs. Raises MismatchError, UsageError."""
    checks = []
    for entry in opened.manifest.entries:
        began(f"verify {entry.name}")
        pairs = [(expected, session.run(entry.name, inputs)) for inputs, expected in opened.samples(entry.name)]
        if not pairs:
            raise UsageError(f"{opened.path.name} has no stored samples of '{entry.name}' to verify: export it again.")
        checks.append(EntryCheck(
            entry=entry.name,
            where=f"{opened.manifest.runtime.name} on {device} ({platform.machine()})",
            samples=len(pairs),
            tolerance=entry.tolerance,
            outputs=compare_all(pairs, entry.tolerance),
        ))
    return tuple(checks)
