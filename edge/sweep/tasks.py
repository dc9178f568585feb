"""What a worker of a sweep does: make a bundle, measure one. Called by name, with JSON in and JSON out.

A refusal (an EdgeError) is an answer like another, not a failure of the worker: trying again elsewhere would not help.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from edge.bundle import MANIFEST, open_bundle, sha256_file
from edge.cache import locked
from edge.errors import BundleError, EdgeError
from edge.measurement import Measurement
from edge.sweep.plan import Cell


class Outcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cell that was tried: its measurement, or the sentence that it was refused with."""

    cell: Cell
    measurement: Measurement | None = None
    refused: str | None = None


def make(raw: bytes, bundles: str, folder: str) -> str:
    """See that the bundle of the cell ``raw`` is in ``bundles`` on this worker; "" or the sentence of a refusal."""
    try:
        _bundle(msgspec.json.decode(raw, type=Cell), Path(bundles), Path(folder))
    except EdgeError as error:
        return str(error)
    return ""


def measure(raw: bytes, bundles: str, folder: str) -> bytes:
    """The outcome of the cell ``raw``, as JSON; its bundle is made first where this worker does not have it."""
    from edge import api

    cell = msgspec.json.decode(raw, type=Cell)
    try:
        bundle = _bundle(cell, Path(bundles), Path(folder))
        if cell.bundle and sha256_file(bundle / MANIFEST) != cell.bundle_sha256:
            raise BundleError(f"{bundle} is not the bundle that the sweep began with: run the sweep again.")
        measurement = api.profile(
            bundle, threads=cell.threads, runs=cell.runs, seconds=cell.seconds,
            device=cell.device, operators=False, roofline=False,
        )
        outcome = Outcome(cell=cell, measurement=measurement)
    except EdgeError as error:
        outcome = Outcome(cell=cell, refused=str(error))
    return msgspec.json.encode(outcome)


def _bundle(cell: Cell, bundles: Path, folder: Path) -> Path:
    if cell.bundle:
        return open_bundle(cell.bundle).path
    # Before torch is loaded: threads that spin while they wait take the cores from the sweep's other workers.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    path = bundles / cell.export_name
    bundles.mkdir(parents=True, exist_ok=True)
    with locked(bundles / f".{cell.export_name}.lock"):
        if not (path / MANIFEST).is_file():
            from edge.export import pipeline

            # A model of the user's own is looked up in the sweep's folder, where that is on this worker too.
            with contextlib.chdir(folder) if folder.is_dir() else contextlib.nullcontext():
                pipeline.export(
                    cell.model, target=cell.target, runtime=cell.runtime, quantize=cell.scheme, output=path.absolute()
                )
    return path
