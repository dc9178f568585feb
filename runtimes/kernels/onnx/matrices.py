"""A bundle's packed matrices, mapped once for all its sessions.

Left to itself, ONNX Runtime maps them anew for each entry point, and what several of them touch counts as often in the
process's resident memory. ``matrices.json`` says where each entry point's constants lie in the bundle's file of weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edge.errors import BundleError

if TYPE_CHECKING:
    from onnxruntime import OrtValue, SessionOptions

INDEX = "matrices.json"


class Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Entry point, name of the constant: its first byte and its length in ``file``."""

    file: str
    places: Mapping[str, Mapping[str, tuple[int, int]]]


class Matrices:
    """Those of the bundle at ``root``; to be kept for as long as a session that ``lend`` was called for."""

    def __init__(self, root: Path) -> None:
        self._values: dict[tuple[int, int], OrtValue] = {}
        try:
            self._index = msgspec.json.decode((root / INDEX).read_bytes(), type=Index)
            self._data = np.memmap(root / self._index.file, np.uint8, "r")
        except (OSError, ValueError, msgspec.ValidationError) as error:
            raise BundleError(f"the bundle's packed matrices cannot be read ({error}): export it again.") from error

    def lend(self, options: SessionOptions, entry: str) -> None:
        """Let a session of ``entry`` with ``options`` read its constants from here."""
        from onnxruntime import OrtValue

        for name, (start, size) in self._index.places.get(entry, {}).items():
            if (start, size) not in self._values:
                self._values[start, size] = OrtValue.ortvalue_from_numpy(self._data[start : start + size])
            options.add_initializer(name, self._values[start, size])
