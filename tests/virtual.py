"""A Raspberry Pi and a phone that are not there: real daemons in an arm64 Debian under qemu-user, reached over loopback.

Everything in it is arm64 code under emulation of the board's CPU: sshd or adbd, sh, coreutils, Python, ONNX Runtime. It
needs no root rights: in a user namespace of its own arm64 programs are given to QEMU (binfmt_misc), the board's
/proc/cpuinfo and /sys are mounted over this machine's, and sshd runs as the user pi. adbd listens on every interface, so
it has a network of its own with nothing in it; adb's client and server are started in there.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sshd
from trees import THERMALSERVICE

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
"""
AS_PI = 'exec unshare --user --map-user=1000 --map-group=1000 --keep-caps chroot "$root" "$@"\n'
#: adbd runs as root of its namespaces, in /data/local/tmp as on a phone.
AS_PHONE = f"""
ip link set lo up
mkdir -p "$root/data/local/tmp" "$root/usr/local/bin" "$root/sdcard"
mount -t tmpfs -o size=64m none "$root/data/local/tmp"
mount -t tmpfs none "$root/usr/local/bin"
mount -t tmpfs none "$root/sdcard"
cp "$shared/getprop" "$shared/dumpsys" "$shared/am" "$root/usr/local/bin/"
export QEMU_CPU={find_board("android").cpu} ADBD_PORT=5555 SHELL=/bin/sh HOME=/data/local/tmp
exec chroot "$root" "$@"
"""
#: What a phone has and Debian's adbd does not, in its place: it says so itself.
GETPROP = """#!/bin/sh
case $1 in
  ro.product.manufacturer) echo Nobody;;
  ro.product.model) echo "a shim of the tests";;
  ro.build.version.sdk) echo 0;;
esac
"""
#: The same: the thermal service, saying what a real phone's said (see trees.THERMALSERVICE).
DUMPSYS = f"""#!/bin/sh
[ "$1" = thermalservice ] || exit 1
cat <<'END'
{THERMALSERVICE}END
"""
#: The same: Android's activity manager with the demo app behind it. It measures nothing: what a test pushed to
#: /data/local/tmp/BUNDLE.json is put where the app puts its result, a moment later.
AM = """#!/bin/sh
[ "$1 $2 $3 $4" = "start -S -n edge.demo/.HeadlessActivity" ] || { echo "Error: Unknown command: $*" >&2; exit 1; }
shift 4
while [ $# -gt 0 ]; do
  case $2 in
    bundle) bundle=$3;;
    iterations) iterations=$3;;
    result) result=$3;;
    threads) threads=$3;;
  esac
  shift 3
done
[ -e /data/local/tmp/app-is-installed ] || { echo "Error: Activity class {edge.demo/edge.demo.HeadlessActivity} does not exist."; exit 0; }
echo "Starting: Intent { cmp=edge.demo/.HeadlessActivity (has extras) }"
folder=/sdcard/Android/data/edge.demo/files/profiles
mkdir -p "$folder"
echo "$bundle $iterations $threads" > /data/local/tmp/asked
if [ -e "/data/local/tmp/$bundle.json" ]; then
  (sleep 2; cp "/data/local/tmp/$bundle.json" "$folder/.$result"; mv "$folder/.$result" "$folder/$result.json") > /dev/null 2>&1 &
else
  echo "the app has no bundle '$bundle': it has none." > "$folder/$result.error"
fi
"""


@functools.cache
def lacking() -> str:
    """Why there is no arm64 ground here; "" if there is."""
    if platform.machine() != "x86_64":
        return "the arm64 system is emulated on x86-64"
    missing = [name for name in ("qemu-aarch64", "unshare", "nsenter") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} is not installed"
    if why := arm64root.lacking():
        return why
    script = 'mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && test -w /proc/sys/fs/binfmt_misc/register'
    tried = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script], capture_output=True)
    return "" if tried.returncode == 0 else "this kernel (below 6.7?) has no binfmt_misc in user namespaces"


def ground() -> Path:
    """The arm64 root, built on first use and kept in $EDGE_ARM64_ROOT or the user's cache. Skips where it cannot be."""
    return built(arm64root.build_root)


def built(build: Callable[[], Path]) -> Path:
    if why := lacking():
        pytest.skip(why)
    try:
        return build()
    except DeviceError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no arm64 system: {error}")


def keep_outside_of_the_tests_cache(patch: pytest.MonkeyPatch) -> None:
    """The tests' cache is new every time; the root is worth keeping."""
    home = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(home) if home else Path.home() / ".cache") / "edge" / "arm64"
    patch.setenv("EDGE_ARM64_ROOT", os.environ.get("EDGE_ARM64_ROOT") or str(folder))


def enter(root: Path, board: str, shared: Path, last: str = AS_PI, *namespaces: str) -> list[str]:
    """The command that runs another, with its arguments after it, inside ``root``."""
    script = ["sh", "-c", ENTER + last, "enter", str(root), board, str(shared)]
    return ["unshare", "--user", "--map-root-user", "--mount", *namespaces, *script]


@contextlib.contextmanager
def raspberry_pi(board: str, folder: Path) -> Iterator[sshd.Server]:
    """A running virtual Pi; keys and logs are in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [*enter(ground(), board, folder), "/usr/sbin/sshd"]
    extra = ["-o", f"SetEnv=QEMU_CPU={find_board(board).cpu}"]
    with sshd.serve(folder, command, user="pi", extra=extra) as server:
        yield server


@dataclass(frozen=True)
class Phone:
    """``address`` for --device, ``client`` for EDGE_ADB; ``unplug`` ends adbd, as pulling the cable does."""

    address: str
    client: str
    daemon: subprocess.Popen[bytes]

    def unplug(self) -> None:
        self.daemon.kill()
        self.daemon.wait()


@contextlib.contextmanager
def phone(folder: Path) -> Iterator[Phone]:
    """A running virtual phone: the real adbd. Its keys and logs are in ``folder``."""
    if shutil.which("adb") is None or shutil.which("ip") is None:
        pytest.skip("adb or ip (iproute2) is not installed")
    root = built(arm64root.build_phone)
    (folder / "home").mkdir(parents=True)
    for name, text in (("getprop", GETPROP), ("dumpsys", DUMPSYS), ("am", AM)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    command = [*enter(root, "android", folder, AS_PHONE, "--net"), "/usr/sbin/adbd"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL) as daemon:
        inside = ["nsenter", "--target", str(daemon.pid), "--user", "--net", "--preserve-credentials"]
        _wait_for_namespaces(daemon)
        # Keeps the network when adbd has ended, so that adb can still be asked.
        holder = subprocess.Popen([*inside, "sleep", "600"], stdin=subprocess.DEVNULL)
        inside[2] = str(holder.pid)
        # In the phone's own network no port is taken; adb's key and log go to a home of its own.
        home = f"{folder}/home"
        client = f"env HOME={home} ANDROID_USER_HOME={home} TMPDIR={home} {' '.join(inside)} adb"
        try:
            _connect(client, daemon, folder / "log")
            yield Phone("adb:127.0.0.1:5555", client, daemon)
        finally:
            subprocess.run([*client.split(), "kill-server"], capture_output=True, stdin=subprocess.DEVNULL)
            holder.kill()
            holder.wait()
            daemon.kill()


def _wait_for_namespaces(process: subprocess.Popen[bytes]) -> None:
    ours = Path("/proc/self/ns/net").readlink()
    for _ in range(100):
        if Path(f"/proc/{process.pid}/ns/net").readlink() != ours:
            time.sleep(0.1)  # the user namespace's map is written after it is made
            return
        time.sleep(0.05)


def _connect(client: str, daemon: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(100):
        command = [*client.split(), "connect", "127.0.0.1:5555"]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if "connected to" in done.stdout:
            return
        if daemon.poll() is not None:
            break
        time.sleep(0.2)
    raise RuntimeError(f"adbd does not answer: {log.read_text()}")
