"""Files to a device and back, over nothing but its shell: the same for every transport.

A file arrives as ``NAME.part`` beside its place, is checked there by SHA-256, and is then renamed: it is there whole or
not at all. A push that was cut off goes on after what has arrived; if the whole then has another hash, it starts again
once. What is on the device already, with the right hash, is not sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from edge.bundle import sha256_file
from edge.devices.base import Device, LostError
from edge.devices.script import ended, failure, run_script, wrapped
from edge.errors import DeviceError, StorageError
from edge.files import write_atomically
from edge.progress import Progress

#: Bytes handed to the transport at a time, and seconds that it may take for one: a slow radio link passes 64 kB in that.
CHUNK = 2**16
#: Less than this is there before a bar is read.
WORTH_SHOWING = 2**20
#: How often a push that loses the connection is taken up again by itself, and seconds before each try.
TRIES = 3
PAUSE = 2.0
#: Seconds to hash what lies there: an SD card reads 20 MB/s or more.
HASHING = 600.0
#: Space to leave free on the device.
SPARE = 4 * 2**20

# $1: the folder; then names. Prints for each the hash of what is there, or "-", and how much of a part there is.
_STATE = """
umask 077
cd "$1" 2>/dev/null || mkdir -p "$1" && cd "$1" || exit 1
shift
for f; do h=-; n=0; [ -f "./$f" ] && h=$(sha256sum < "./$f"); [ -f "./$f.part" ] && n=$(wc -c < "./$f.part"); echo "${h%% *} $n"; done
"""
# $1: the folder, $2: the name, $3: its size, $4: its hash, $5: "x" for a program. Appends standard input to the part.
# A write that fails takes the part away: it must not keep a full disk full.
_APPEND = """
umask 077
cd "$1" || exit 1
case $2 in */*) mkdir -p "./${2%/*}" || exit 1;; esac
cat >> "./$2.part" || { rm -f "./$2.part"; exit 1; }
n=$(wc -c < "./$2.part")
[ "$n" -ge "$3" ] || exit 90
h=$(sha256sum < "./$2.part")
[ "${h%% *}" = "$4" ] || { rm -f "./$2.part"; exit 91; }
[ "$5" = x ] && chmod 755 "./$2.part"
mv -f "./$2.part" "./$2"
"""
_SHORT, _OTHER = 90, 91
_READ = """
[ -f "$1" ] || exit 92
h=$(sha256sum < "$1")
cat "$1"
echo
echo "${h%% *}"
"""
_ABSENT = 92


class _There(NamedTuple):
    """What the device has of a file: the hash of the whole ("-" if it is not there), and bytes of a part."""

    sha256: str
    part: int


def push(device: Device, files: Mapping[str, Path], folder: str, progress: Progress) -> None:
    """See ``Device.push``. Nothing is sent if the device has too little space for all of it (StorageError)."""
    wanted = {name: (sha256_file(path), path.stat().st_size) for name, path in files.items()}
    for attempt in range(TRIES):
        try:
            there = _state(device, folder, tuple(files))
            lacking = [name for name in files if there[name].sha256 != wanted[name][0]]
            if not lacking:
                return
            _check_space(device, sum(wanted[name][1] - min(there[name].part, wanted[name][1]) for name in lacking))
            _send_all(device, {name: files[name] for name in lacking}, wanted, there, folder, progress)
            return
        except LostError:
            if attempt + 1 == TRIES:
                raise
            progress.warn(f"the connection to {device.address} broke while sending: going on in {PAUSE:.0f} s.")
            time.sleep(PAUSE)


def pull(device: Device, source: str, destination: Path) -> None:
    """See ``Device.pull``. Raises DeviceError if the device has no such file or it arrives damaged."""
    done = device.run(wrapped(_READ, source), timeout=HASHING)
    output, status = ended(device, done.output, done.printed)
    if status == _ABSENT:
        raise DeviceError(f"{device.address} has no file {source!r}: nothing was copied.")
    if status:
        raise failure(device, status, done.printed)
    data, _, told = output.rstrip(b"\n").rpartition(b"\n")
    if hashlib.sha256(data).hexdigest().encode() != told:
        raise DeviceError(f"{source!r} of {device.address} arrived damaged: run the same command again.")
    write_atomically(destination, data)


def _state(device: Device, folder: str, names: tuple[str, ...]) -> dict[str, _There]:
    lines = run_script(device, _STATE, folder, *names, timeout=HASHING).decode("ascii", "replace").split("\n")
    pairs = [line.split() for line in lines if line.strip()]
    if len(pairs) != len(names) or any(len(pair) != 2 or not pair[1].isdigit() for pair in pairs):
        raise DeviceError(f"{device.address} does not say what it has in {folder}: check its sha256sum and wc.")
    return {name: _There(sha, int(part)) for name, (sha, part) in zip(names, pairs, strict=True)}


def _check_space(device: Device, needed: int) -> None:
    facts = device.facts()
    if facts.free_bytes and needed + SPARE > facts.free_bytes:
        raise StorageError(
            f"{device.address} has {facts.free_bytes / 1e6:.0f} MB free in {facts.folder} and {needed / 1e6:.1f} MB are to go "
            f"there: free some space, run `edge device clean {device.address}`, or set EDGE_DEVICE_DIR to another disk."
        )


def _send_all(
    device: Device, files: Mapping[str, Path], wanted: Mapping[str, tuple[str, int]], there: Mapping[str, _There],
    folder: str, progress: Progress,
) -> None:
    for name, path in files.items():
        sha256, size = wanted[name]
        offset = there[name].part if there[name].part <= size else 0
        if there[name].part > size:
            run_script(device, 'rm -f "$1/$2.part"', folder, name)
        status = _send(device, path, name, offset, size, sha256, folder, progress)
        if status == _OTHER and offset:  # what was there before is damaged; its remains are gone now
            status = _send(device, path, name, 0, size, sha256, folder, progress)
        if status:
            raise LostError(f"'{name}' did not arrive whole on {device.address}: run the same command again.")


def _send(
    device: Device, path: Path, name: str, offset: int, size: int, sha256: str, folder: str, progress: Progress
) -> int:
    """Send ``path`` from ``offset`` on; 0, or the status of ``_APPEND`` for a file that is short or another."""
    with path.open("rb") as stream:
        head = stream.read(4)
        stream.seek(offset)
        program = "x" if head == b"\x7fELF" else ""
        command = device.command(wrapped(_APPEND, folder, name, str(size), sha256, program))
        with tempfile.TemporaryFile() as log, tempfile.TemporaryFile() as answer, subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=answer, stderr=log, start_new_session=True
        ) as process:
            assert process.stdin is not None
            try:
                # It may end early: a full disk, a lost connection. Its status says which.
                shown = progress if size - offset >= WORTH_SHOWING else Progress()
                with shown.bar(f"sending {name}", size - offset) as bar, contextlib.suppress(BrokenPipeError):
                    while chunk := stream.read(CHUNK):
                        process.stdin.write(chunk)
                        bar.advance(len(chunk))
                    process.stdin.close()
                process.wait(HASHING)
            except BaseException:
                process.kill()
                raise
            log.seek(0)
            answer.seek(0)
            printed, output = log.read().decode("utf-8", "replace"), answer.read()
    if process.returncode and (why := device.lost(process.returncode, printed)):
        raise LostError(f"{device.address} {why}.")
    _, status = ended(device, output, printed)
    if status not in (0, _SHORT, _OTHER):
        raise failure(device, status, printed)
    return status
