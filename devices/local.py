"""This machine: a fresh Python process for each request, so that times and memory are the bundle's alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from edge.devices.base import Device
from edge.devices.conversation import converse
from edge.devices.messages import Reply, Request, RoofRequest
from edge.progress import Progress

#: -P: whatever lies in the user's current folder (an `edge/`, a `numpy.py`) must not be imported instead.
COMMAND = (sys.executable, "-P", "-m", "edge.devices.worker")


class LocalDevice(Device):
    def command(self, argv: Sequence[str]) -> tuple[str, ...]:
        return tuple(argv)

    def work(self, request: Request, timeout: float, progress: Progress) -> Reply:
        """Without pushing anything: the bundle is here."""
        return converse(COMMAND, {**os.environ, **worker_environment(request)}, request, timeout, progress)


def worker_environment(request: Request) -> Mapping[str, str]:
    """Variables that a worker must be started with to answer ``request``."""
    if not isinstance(request, RoofRequest):
        return {}
    # numpy's BLAS reads its thread count once, when it is loaded.
    return dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(request.threads))


DEVICE = LocalDevice
