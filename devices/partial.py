"""What is left of a profile whose process ended before its reply: the blocks of timed runs that it had told of."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edge.devices.messages import Profiled, Sampled
from edge.measurement import EntryMeasurement, Latency

#: How a line of the worker's begins that is kept as it is until the process has ended: taking it apart meanwhile would
#: take time from the next block, where the worker runs on this machine.
SAMPLED = b'{"type":"sampled"'


def joined(lines: Sequence[bytes]) -> Profiled | None:
    """The ``Sampled`` messages in ``lines`` as one reply without warnings; None if no run was finished."""
    found: list[Sampled] = []
    decoder = msgspec.json.Decoder(Sampled)
    for line in lines:
        try:
            found.append(decoder.decode(line))
        except msgspec.DecodeError:
            break  # cut off in the middle of a line
    found = [one for one in found if one.entry.runs]
    if not found:
        return None
    parts: dict[str, list[EntryMeasurement]] = {}
    for one in found:
        parts.setdefault(one.entry.entry, []).append(one.entry)
    entries = tuple(_entry(same) for same in parts.values())
    blocks = [block for entry in entries for block in entry.blocks]
    last = found[-1]
    return Profiled(
        facts=last.facts,
        phases=last.phases,
        memory=last.memory,
        entries=entries,
        warnings=(),
        conditions=msgspec.structs.replace(
            last.conditions,
            readings=tuple(reading for one in found for reading in one.conditions.readings),
            repeated=sum(not block.kept for block in blocks),
            stayed_hot=any(block.kept and block.spoiled for block in blocks),
        ),
    )


def _entry(parts: Sequence[EntryMeasurement]) -> EntryMeasurement:
    """One entry's blocks after each other."""
    runs = tuple(run for part in parts for run in part.runs)
    return msgspec.structs.replace(
        parts[-1],
        runs=runs,
        latency=Latency.of([run.duration_us for run in runs]),
        blocks=tuple(block for part in parts for block in part.blocks),
    )
