"""One run of an entry point by a worker: tensors in as an .npz where the worker is, tensors out as another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from edge.bundle import read_manifest
from edge.files import write_atomically
from edge.npz import encode_npz, read_npz
from edge.runtimes.base import session_class


class RunRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="run"):
    """Run ``entry`` of the bundle on the tensors in the file ``inputs`` and write its outputs to the file ``outputs``."""

    device: str
    bundle: str
    threads: int
    entry: str
    inputs: str
    outputs: str


class Ran(msgspec.Struct, frozen=True, kw_only=True, tag="ran"):
    outputs: str


def run(request: RunRequest, began: Callable[[str], None]) -> Ran:
    """Answer ``request``. Raises whatever loading or running the bundle raises, and InputError."""
    root = Path(request.bundle)
    manifest = read_manifest(root)
    inputs = read_npz(Path(request.inputs))
    began("load")
    session = session_class(manifest.runtime.name)(root, manifest, request.threads)
    began(f"run {request.entry}")
    outputs = session.run(request.entry, inputs)
    write_atomically(Path(request.outputs), encode_npz(outputs))
    return Ran(outputs=request.outputs)
