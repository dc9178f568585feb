"""From marks to instructions: what the runner says it marked, and what the emulator's plugin counted up to each mark.

Every reading of the runner's clock is a mark (src/clock.cpp), and each event's "time" is the mark's number times
``mark_ns``. The plugin (plugin/count.c) writes a line of counts for each mark.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from edge.errors import DeviceError
from edge.runtimes._events import Event

#: Events that others are inside of.
_WHOLE = ("Method::execute", "OPERATOR_CALL", "DELEGATE_CALL", "run")
_NATIVE = "native_call_"


class CountRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="count"):
    """Mark ``runs`` inferences of each entry of the bundle at ``bundle``, and its operators."""

    device: str
    bundle: str
    threads: int = 1
    entries: tuple[str, ...] = ()
    runs: int


class MarkedEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The marks before and after each inference; the events of a run under the runtime's own profiler."""

    entry: str
    inferences: tuple[tuple[int, int], ...]
    runs: tuple[tuple[Event, ...], ...]


class Marked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="marked"):
    """``empty`` are two marks with nothing in between."""

    empty: tuple[int, int]
    mark_ns: int
    entries: tuple[MarkedEntry, ...]


class Instructions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A64 instructions by the classes of the Arm ARM's main encoding table (C4.1).

    ``load_store`` includes those of SIMD registers; ``other`` are hints, barriers and system registers.
    """

    integer: int = 0
    branch: int = 0
    load_store: int = 0
    simd_fp: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        return sum(msgspec.structs.astuple(self))

    def __add__(self, other: Instructions) -> Instructions:
        return Instructions(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})

    def less(self, other: Instructions, times: int = 1) -> Instructions:
        """Without ``times`` times ``other``; no class goes below 0."""
        return Instructions(**{
            name: max(getattr(self, name) - times * getattr(other, name), 0) for name in self.__struct_fields__
        })


class MarkList:
    """What the plugin wrote: the counts before each mark. Marks are numbered from 1."""

    def __init__(self, rows: Sequence[Instructions]) -> None:
        self.rows = rows

    @classmethod
    def read(cls, path: Path) -> MarkList:
        """DeviceError for a file that is not the plugin's."""
        try:
            lines = path.read_text(encoding="ascii").splitlines()
            return cls([Instructions(**dict(zip(Instructions.__struct_fields__, map(int, line.split()), strict=True))) for line in lines])
        except (OSError, ValueError) as error:
            raise DeviceError(f"the emulator's counts cannot be read ({error}): count again.") from error

    def between(self, before: int, after: int) -> Instructions:
        """What was executed between two marks. DeviceError for marks that are not there."""
        if not 1 <= before <= after <= len(self.rows):
            raise DeviceError(f"the runner marked up to {after} and the emulator counted {len(self.rows)} marks: count again.")
        return self.rows[after - 1].less(self.rows[before - 1])

    def work(self, before: int, after: int, empty: Instructions) -> Instructions:
        """The same without the readings of the clock, of which each costs ``empty``."""
        return self.between(before, after).less(empty, after - before)


def operators(events: Sequence[Event], mark_ns: int) -> Iterator[tuple[str, int, int]]:
    """(name, mark before, mark after) of each operator of a run, named as in the per-operator table."""
    parts: list[Event] = []
    for event in events:
        if event.delegate_id:
            parts.append(event)
        elif event.name == "DELEGATE_CALL":
            # XNNPACK reads the clock after each operator and gives durations, which ExecuTorch puts one after the
            # other from an earlier reading: the last of them ends at the reading before the delegate's own end.
            shift = event.end // mark_ns - 1 - parts[-1].end // mark_ns if parts else 0
            for part in parts:
                yield f"{part.instruction}/{part.delegate_id}", part.start // mark_ns + shift, part.end // mark_ns + shift
            parts = []
        elif event.name.startswith(_NATIVE):
            name = event.name.removeprefix(_NATIVE)
            yield f"{event.instruction}/{name}", event.start // mark_ns, event.end // mark_ns
        elif event.name not in _WHOLE:
            yield f"{event.name}@{event.instruction}", event.start // mark_ns, event.end // mark_ns
