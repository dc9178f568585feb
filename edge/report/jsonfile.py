"""A measurement as JSON, and back: the same value, every field known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge.errors import InputError
from edge.files import write_atomically
from edge.measurement import SCHEMA, Measurement


class _Versioned(msgspec.Struct):
    schema: int


def encode(measurement: Measurement) -> bytes:
    return msgspec.json.encode(measurement) + b"\n"


def decode(raw: bytes, name: str = "the measurement") -> Measurement:
    """The value that ``encode`` wrote; InputError, with ``name`` in its sentence, for anything else."""
    try:
        schema = msgspec.json.decode(raw, type=_Versioned).schema
        if schema != SCHEMA:
            raise InputError(f"{name} has measurement schema {schema} and this edge reads {SCHEMA}: profile again.")
        return msgspec.json.decode(raw, type=Measurement)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{name} is not what `edge profile --json` writes ({error}): profile again.") from error


def save(measurement: Measurement, path: Path) -> None:
    """Write ``path``. Raises StorageError."""
    write_atomically(path, encode(measurement))


def save_all(measurements: Sequence[Measurement], path: Path) -> None:
    """Write ``path``, one measurement a line. Raises StorageError."""
    write_atomically(path, b"".join(encode(measurement) for measurement in measurements))


def load(path: Path) -> Measurement:
    """Read the one measurement at ``path``. Raises InputError."""
    return decode(_read(path), str(path))


def load_all(path: Path) -> list[Measurement]:
    """Read ``path``, which has a measurement on each line, one for each process that measured. Raises InputError."""
    lines = [line for line in _read(path).splitlines() if line.strip()]
    if len(lines) <= 1:
        return [load(path)]
    return [decode(line, f"{path}, line {number},") for number, line in enumerate(lines, 1)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): check the path.") from error
