"""What a runtime's own profiler says of a run: events, from which each session class makes its per-operator table."""

from __future__ import annotations

import msgspec


class Event(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Something timed; in JSON the list of its fields. Times are nanoseconds of one clock.

    ``instruction`` is the index in the method of the instruction that it belongs to (TVM: the kernel's place in the
    order of calls), -1 for none. ``delegate_id`` is a delegate's own name for a part of its work, empty for the rest.
    """

    name: str
    instruction: int
    delegate_id: str
    start: int
    end: int


class Traced(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The events of each run of ``entry``, in order of their ends: what the native runner sends in place of a table."""

    entry: str
    runs: tuple[tuple[Event, ...], ...]
