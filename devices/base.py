"""What a device is to the rest of edge: something that answers a worker's request, wherever the worker runs.

A transport is one module in this folder with a ``Device`` subclass; `--device` names it by what stands before the first
colon (``local``).
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping

from edge.devices.harness import Reply, Request
from edge.errors import UsageError
from edge.progress import Progress

#: Module of each transport, by the word that begins `--device`.
TRANSPORTS: Mapping[str, str] = {"local": "edge.devices.local"}


class Device(ABC):
    """One device, by the address that the user gave. Raises DeviceError if it is not there."""

    def __init__(self, address: str) -> None:
        self.address = address

    @abstractmethod
    def work(self, request: Request, timeout: float, progress: Progress) -> Reply:
        """Have a fresh process on the device answer ``request`` (its ``bundle`` is a folder on this machine).

        Raises the EdgeError that the process reports, or DeviceError if it dies or takes more than ``timeout`` seconds.
        """


def find_device(address: str) -> Device:
    """The device at ``address``; UsageError for a transport that does not exist."""
    transport, colon, rest = address.partition(":")
    if transport not in TRANSPORTS or (transport == "local" and colon):
        raise UsageError(f"there is no device '{address}': choose one of {', '.join(TRANSPORTS)}.")
    device = importlib.import_module(TRANSPORTS[transport]).DEVICE(rest)
    assert isinstance(device, Device)
    return device
