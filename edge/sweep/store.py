"""What a sweep has found so far: a file for each cell, whole or not there, written by the one process that collects.

That makes a sweep resumable, and every cell's result one: however often a cell was tried because its worker died, one
outcome is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from edge import results
from edge.errors import InputError
from edge.files import write_atomically
from edge.sweep.plan import Cell
from edge.sweep.tasks import Outcome


class SweepStore:
    """``folder`` is the sweep's own: cells/ID.json, bundles/, and at last the page and the table."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cells = folder / "cells"
        self.bundles = folder / "bundles"

    def outcome(self, cell: Cell) -> Outcome | None:
        """What was found of ``cell``, None if it has not been tried. Raises InputError for a damaged file."""
        path = self._path(cell)
        if not path.is_file():
            return None
        try:
            return msgspec.json.decode(path.read_bytes(), type=Outcome)
        except msgspec.DecodeError as error:
            raise InputError(f"{path} is not what a sweep wrote ({error}): delete it, the cell is measured again.") from error

    def keep(self, outcome: Outcome) -> None:
        """Write ``outcome``, and its measurement among the user's results. Raises StorageError."""
        if outcome.measurement is not None:
            results.keep(outcome.measurement)
        write_atomically(self._path(outcome.cell), msgspec.json.encode(outcome) + b"\n")

    def forget_refused(self, cells: Iterable[Cell]) -> None:
        """So that they are tried again: something was installed since, say."""
        for cell in cells:
            found = self.outcome(cell)
            if found is not None and found.refused is not None:
                self._path(cell).unlink()

    def _path(self, cell: Cell) -> Path:
        return self.cells / f"{cell.id}.json"
