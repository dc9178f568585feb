"""A measurement as JSON, and back: the same value, every field known."""

from __future__ import annotations

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


def load(path: Path) -> Measurement:
    """Read ``path``. Raises InputError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): check the path.") from error
    return decode(raw, str(path))

