"""Small scripts run by the device's own ``sh``: what every Linux board, Android phone and BusyBox has.

A script gets what it works on as arguments ($1, $2, ...), never pasted into its text, so no file name can be taken for a
command. It prints ``edge-end`` and its status last: without that line the connection broke in the middle, whatever the
transport makes of it.
"""

from __future__ import annotations

from edge.devices.base import PATIENCE, Device, LostError
from edge.errors import DeviceError, StorageError

_END = b"edge-end "


def wrapped(script: str, *arguments: str) -> tuple[str, ...]:
    """The command that runs ``script`` with ``arguments`` on the device and prints its status at the end."""
    # One line: a login shell like csh takes no line ends in quotes.
    text = "; ".join(line.strip() for line in script.strip().splitlines())
    return ("sh", "-c", f"( {text}; ); s=$?; echo; echo {_END.decode()}$s", "edge", *arguments)


def run_script(device: Device, script: str, *arguments: str, given: bytes = b"", timeout: float = PATIENCE) -> bytes:
    """What ``script`` printed on standard output. Raises LostError, StorageError for a full disk, or DeviceError."""
    done = device.run(wrapped(script, *arguments), given=given, timeout=timeout)
    output, status = ended(device, done.output, done.printed)
    if status:
        raise failure(device, status, done.printed)
    return output


def ended(device: Device, output: bytes, printed: str) -> tuple[bytes, int]:
    """A script's own output and its status; LostError, with the last of what was ``printed``, if its end is missing."""
    body, found, status = output.rpartition(b"\n" + _END)
    if not found or not status.strip().isdigit():
        said = f" ({_last(printed)})" if printed.strip() else ""
        raise LostError(f"the connection to {device.address} was lost{said}: check it and run the same command again.")
    return body, int(status)


def failure(device: Device, status: int, printed: str) -> DeviceError | StorageError:
    """The error for a script that failed on the device, from what it printed on standard error."""
    if "No space left" in printed or "Disk quota exceeded" in printed:
        return StorageError(
            f"the disk of {device.address} is full: free some space there, run `edge device clean {device.address}`, or "
            "set EDGE_DEVICE_DIR to a folder on another disk of the device."
        )
    if "Permission denied" in printed or "Read-only file system" in printed:
        return StorageError(
            f"{device.address} does not let its user write there ({_last(printed)}): set EDGE_DEVICE_DIR to a folder of the "
            "device that may be written to."
        )
    return DeviceError(f"a command failed on {device.address} with status {status} ({_last(printed)}): check the device.")


def _last(printed: str) -> str:
    lines = [" ".join(line.split()) for line in printed.splitlines() if line.strip()]
    return lines[-1][:200].rstrip(".") if lines else "it printed nothing"
