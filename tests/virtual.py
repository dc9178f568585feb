"""A Raspberry Pi that is not there: a real sshd in an arm64 Debian under qemu-user, reached over loopback.

Everything in it is arm64 code under emulation of the Pi's CPU: sshd, sh, coreutils, Python, ONNX Runtime. It needs no
root rights: in a user namespace of its own arm64 programs are given to QEMU (binfmt_misc), the board's /proc/cpuinfo and
/sys are mounted over this machine's, and sshd runs as the user pi.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import sshd

from edge.devices import arm64root
from edge.devices.boards import find_board
from edge.errors import DeviceError

#: An arm64 ELF's first 20 bytes and which of their bits count, as Debian's qemu-binfmt has them.
MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
#: $1: the root, $2: the board, $3: a folder to show inside at its own path; then the command.
ENTER = f"""
set -e
root=$1 board=$2 shared=$3; shift 3
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
echo ':edge-arm64:M::{MAGIC}:{MASK}:'"$(command -v qemu-aarch64)"':F' > /proc/sys/fs/binfmt_misc/register
mount --bind "$root" "$root"
mount --rbind /proc "$root/proc"
[ -z "$board" ] || mount --bind "$root/boards/$board/proc/cpuinfo" "$root/proc/cpuinfo"
[ -z "$board" ] || mount --bind "$root/boards/$board/sys" "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs none "$root/tmp"
mount -t tmpfs none "$root/home/pi"
mkdir -p "$root$shared"
mount --bind "$shared" "$root$shared"
# QEMU itself is this machine's: its loader and libraries, where it looks for them.
mkdir -p "$root/usr/lib/x86_64-linux-gnu"
mount --bind /usr/lib/x86_64-linux-gnu "$root/usr/lib/x86_64-linux-gnu"
mount --bind /lib64 "$root/lib64"
exec unshare --user --map-user=1000 --map-group=1000 --keep-caps chroot "$root" "$@"
"""


@functools.cache
def lacking() -> str:
    """Why there is no arm64 ground here; "" if there is."""
    missing = [name for name in ("qemu-aarch64", "unshare") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} is not installed"
    if why := arm64root.lacking():
        return why
    script = 'mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && test -w /proc/sys/fs/binfmt_misc/register'
    tried = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script], capture_output=True)
    return "" if tried.returncode == 0 else "this kernel (below 6.7?) has no binfmt_misc in user namespaces"


def ground() -> Path:
    """The arm64 root, built on first use and kept in $EDGE_ARM64_ROOT or the user's cache. Skips where it cannot be."""
    if why := lacking():
        pytest.skip(why)
    try:
        return arm64root.build_root()
    except DeviceError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no arm64 system: {error}")


def keep_outside_of_the_tests_cache(patch: pytest.MonkeyPatch) -> None:
    """The tests' cache is new every time; the root is worth keeping."""
    home = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(home) if home else Path.home() / ".cache") / "edge" / "arm64"
    patch.setenv("EDGE_ARM64_ROOT", os.environ.get("EDGE_ARM64_ROOT") or str(folder))


def enter(root: Path, board: str, shared: Path) -> list[str]:
    """The command that runs another, with its arguments after it, inside ``root``."""
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", ENTER, "enter", str(root), board, str(shared)]


@contextlib.contextmanager
def raspberry_pi(board: str, folder: Path) -> Iterator[sshd.Server]:
    """A running virtual Pi; keys and logs are in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [*enter(ground(), board, folder), "/usr/sbin/sshd"]
    extra = ["-o", f"SetEnv=QEMU_CPU={find_board(board).cpu}", "-o", f"HostKey={folder}/host"]
    with sshd.serve(folder, command, user="pi", extra=extra) as server:
        yield server
