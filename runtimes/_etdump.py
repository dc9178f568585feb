"""Read an ETDump, the record that ExecuTorch's event tracer writes, with nothing but ``struct``.

In: the file's bytes (a size-prefixed FlatBuffer, identifier ED00; the schema is executorch's
``devtools/etdump/etdump_schema_flatcc.fbs``). Out: one ``Block`` per stretch of work, with its timed events in order of
their ends. Raises BundleError for anything else. ExecuTorch's own Inspector reads the same file, but takes torch,
pandas and seconds to import, and a device has none of them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from edge.errors import BundleError
from edge.runtimes._events import Event

_IDENTIFIER = b"ED00"
# Field numbers of the schema's tables.
_RUN_DATA = 1  # ETDump
_RUN_NAME, _RUN_EVENTS = 0, 3  # RunData
_PROFILE_EVENT = 0  # Event
_NAME, _INSTRUCTION, _DELEGATE_ID, _START, _END = 0, 2, 4, 6, 7  # ProfileEvent


@dataclass(frozen=True)
class Block:
    """``Default`` for loading, ``Execute`` for one run of a method."""

    name: str
    events: tuple[Event, ...]


def read(data: bytes) -> list[Block]:
    if data[8:12] != _IDENTIFIER:
        raise BundleError("what ExecuTorch's event tracer wrote is no ETDump: install the executorch that edge pins.")
    try:
        buffer = _Buffer(memoryview(data)[4:])
        return [_block(buffer, run) for run in buffer.tables(buffer.pointer(0), _RUN_DATA)]
    except (struct.error, UnicodeDecodeError) as error:
        raise BundleError(f"an ETDump is cut short ({error}): profile again.") from error


def _block(buffer: _Buffer, run: int) -> Block:
    events = []
    for event in buffer.tables(run, _RUN_EVENTS):
        timed = buffer.field(event, _PROFILE_EVENT)
        if timed:
            table = buffer.pointer(timed)
            events.append(Event(
                name=buffer.text(table, _NAME),
                instruction=buffer.number(table, _INSTRUCTION, "<i", -1),
                delegate_id=buffer.text(table, _DELEGATE_ID),
                start=buffer.number(table, _START, "<Q", 0),
                end=buffer.number(table, _END, "<Q", 0),
            ))  # fmt: skip
    return Block(buffer.text(run, _RUN_NAME), tuple(events))


class _Buffer:
    """The FlatBuffers encoding (flatbuffers.dev/internals): tables with a vtable each, relative offsets."""

    def __init__(self, data: memoryview) -> None:
        self.data = data

    def pointer(self, place: int) -> int:
        """Where the offset at ``place`` points."""
        return place + int(struct.unpack_from("<I", self.data, place)[0])

    def field(self, table: int, index: int) -> int:
        """The place of a table's field, 0 if it is absent (its default)."""
        vtable = table - int(struct.unpack_from("<i", self.data, table)[0])
        size = struct.unpack_from("<H", self.data, vtable)[0]
        slot = 4 + 2 * index
        offset = int(struct.unpack_from("<H", self.data, vtable + slot)[0]) if slot < size else 0
        return table + offset if offset else 0

    def number(self, table: int, index: int, code: str, default: int) -> int:
        place = self.field(table, index)
        return int(struct.unpack_from(code, self.data, place)[0]) if place else default

    def text(self, table: int, index: int) -> str:
        place = self.field(table, index)
        if not place:
            return ""
        start = self.pointer(place)
        length = struct.unpack_from("<I", self.data, start)[0]
        return bytes(self.data[start + 4 : start + 4 + length]).decode()

    def tables(self, table: int, index: int) -> list[int]:
        """The places of a vector's tables."""
        place = self.field(table, index)
        if not place:
            return []
        start = self.pointer(place)
        length = struct.unpack_from("<I", self.data, start)[0]
        return [self.pointer(start + 4 + 4 * item) for item in range(length)]
