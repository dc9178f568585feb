"""What a device is to the rest of edge, wherever it is: commands run on it, files go there, worker requests are answered.

A transport is one module in this folder with a ``Device`` subclass, named by what stands before the first colon of
`--device` (``local``, ``ssh``, ``adb``, ``qemu``). It says one thing: which command of this machine runs a command on
the device with its standard streams passed through. Everything else is built on that (``transfer``, ``probe``,
``remote``) and is the same for every transport.
"""

from __future__ import annotations

import importlib
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edge.devices.messages import Reply, Request
from edge.errors import DeviceError, UsageError
from edge.progress import Progress

if TYPE_CHECKING:
    from edge.devices.probe import BoardFacts

#: Module of each transport, by the word that begins `--device`.
TRANSPORTS: Mapping[str, str] = {
    "local": "edge.devices.local",
    "ssh": "edge.devices.ssh",
    "adb": "edge.devices.adb",
    "qemu": "edge.devices.qemu",
}
#: How each is written, for who mistyped it.
FORMS: Mapping[str, str] = {
    "local": "local", "ssh": "ssh://user@host[:port]", "adb": "adb:SERIAL", "qemu": "qemu:rpi4|rpi5|android",
}  # fmt: skip

#: Seconds for a short command: a board that swaps, or is emulated, takes a few.
PATIENCE = 60.0


class LostError(DeviceError):
    """The way to the device broke or never was: what was asked may or may not have been done there."""


class Finished(NamedTuple):
    """A command that ran on a device: exit status (128 + n after signal n), standard output, and standard error."""

    status: int
    output: bytes
    printed: str


class Device(ABC):
    """One device, by the whole address that the user gave ("ssh://pi"). Nothing is contacted before it is used."""

    #: Of the device's own folder for what is pushed there, where the user does not choose one; "" is in the home.
    folder = ""

    def __init__(self, address: str) -> None:
        self.address = address
        self._facts: BoardFacts | None = None

    @abstractmethod
    def command(self, argv: Sequence[str]) -> tuple[str, ...]:
        """The command of this machine that runs ``argv`` on the device.

        Every argument arrives there as it is, whatever characters it has. The streams and the exit status are those of
        the command on the device, as long as the transport works.
        """

    def lost(self, status: int, printed: str) -> str | None:
        """Why the transport failed, if that is what a command's exit status and standard error say: a clause and a step."""
        return None

    def run(self, argv: Sequence[str], *, given: bytes = b"", timeout: float = PATIENCE) -> Finished:
        """Run ``argv`` on the device to its end. Raises LostError if the device cannot be reached or went away."""
        try:
            # Files, not pipes: what a transport leaves running in the background may hold them open.
            with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as log:
                done = subprocess.run(self.command(argv), input=given, stdout=output, stderr=log, timeout=timeout)
                output.seek(0)
                log.seek(0)
                finished = Finished(done.returncode, output.read(), log.read().decode("utf-8", "replace").strip())
        except subprocess.TimeoutExpired:
            raise LostError(f"{self.address} did not answer within {timeout:.0f} s: check that it is on and try again.") from None
        except FileNotFoundError as error:
            raise DeviceError(f"the program {error.filename}, which reaches {self.address}, is not installed: install it.") from error
        if finished.status and (why := self.lost(finished.status, finished.printed)):
            raise LostError(f"{self.address} {why}.")
        return finished

    def alive(self) -> bool:
        """Whether a command can be run on it now."""
        try:
            return self.run(("true",), timeout=20.0).status == 0
        except DeviceError:
            return False

    def facts(self) -> BoardFacts:
        """What the device is and has, asked once."""
        if self._facts is None:
            from edge.devices.probe import probe

            self._facts = probe(self)
        return self._facts

    def push(self, files: Mapping[str, Path], folder: str, progress: Progress | None = None) -> None:
        """Have ``files`` (relative name: file here) in ``folder`` on the device: what is there already stays.

        Every file is checked by its SHA-256 on the device; a file that was cut off goes on where it stopped. Raises
        LostError, StorageError.
        """
        from edge.devices.transfer import push

        push(self, files, folder, progress or Progress())

    def pull(self, source: str, destination: Path) -> None:
        """Copy the file ``source`` of the device to ``destination``, whole or not at all."""
        from edge.devices.transfer import pull

        pull(self, source, destination)

    def work(self, request: Request, timeout: float, progress: Progress) -> Reply:
        """Have a fresh process on the device answer ``request`` (its ``bundle`` is a folder on this machine).

        Raises the EdgeError that the process reports, or DeviceError if it dies, if the connection is lost, if the
        device is in use, or if it takes more than ``timeout`` seconds.
        """
        from edge.devices.remote import answer

        return answer(self, request, timeout, progress)


def find_device(address: str) -> Device:
    """The device at ``address``; UsageError for a transport that does not exist or an address it cannot have."""
    transport, colon, _ = address.partition(":")
    if transport not in TRANSPORTS or (transport == "local" and colon) or (transport != "local" and not colon):
        raise UsageError(f"there is no device '{address}': give {', '.join(FORMS.values())}.")
    device = importlib.import_module(TRANSPORTS[transport]).DEVICE(address)
    assert isinstance(device, Device)
    return device
