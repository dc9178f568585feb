"""This machine: a fresh Python process for each request, so that times and memory are the bundle's alone.

A bundle that is a program measures itself, as it does on a device: through a pipe its inputs and outputs would be in every run,
and its memory in none.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from edge.bundle import read_manifest
from edge.devices.base import Device
from edge.devices.conversation import converse
from edge.devices.messages import ProfileRequest, Reply, Request, RoofRequest
from edge.devices.routes import PROGRAMS
from edge.devices.watching import watched
from edge.progress import Progress
from edge.runtimes.static import HOST, PROGRAM, folder_here, runnable

#: -P: whatever lies in the user's current folder (an `edge/`, a `numpy.py`) must not be imported instead.
COMMAND = (sys.executable, "-P", "-m", "edge.devices.worker")


class LocalDevice(Device):
    def command(self, argv: Sequence[str]) -> tuple[str, ...]:
        return tuple(argv)

    def work(self, request: Request, timeout: float, progress: Progress) -> Reply:
        """Without pushing anything: the bundle is here."""
        if isinstance(request, ProfileRequest) and read_manifest(Path(request.bundle)).runtime.name in PROGRAMS:
            return self._by_program(request, timeout, progress)
        return converse(COMMAND, {**os.environ, **worker_environment(request)}, request, timeout, progress)


    def _by_program(self, request: ProfileRequest, timeout: float, progress: Progress) -> Reply:
        folder = folder_here(Path(request.bundle))
        paced = msgspec.structs.replace(request, paced=True)
        with tempfile.TemporaryDirectory(prefix="edge-program-") as scratch:
            program = runnable(folder / PROGRAM, Path(scratch))
            command = (program, *(("--host",) if folder.name == HOST else ()))
            return watched(
                self, request, lambda pace: converse(command, os.environ, paced, timeout, progress, None, pace), progress
            )


def worker_environment(request: Request) -> Mapping[str, str]:
    """Variables that a worker must be started with to answer ``request``."""
    if not isinstance(request, RoofRequest):
        return {}
    # numpy's BLAS reads its thread count once, when it is loaded.
    return dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(request.threads))


DEVICE = LocalDevice
