"""``qemu:rpi4``, ``qemu:rpi5``, ``qemu:android``: arm64 programs on this machine, one at a time, in QEMU's user mode.

The emulated CPU has the board's instructions (-cpu), so what runs here runs there; its times mean nothing and are not
measured. Bundles for Python need the arm64 Debian of ``arm64root`` (`edge device root`); the native runner needs it for
its C library only, and a static program not at all. Nothing is pushed: the emulated program sees this machine's files.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from edge.bundle import read_manifest
from edge.devices import elf
from edge.devices.arm64root import find_root
from edge.devices.base import Device
from edge.devices.boards import board_names, find_board
from edge.devices.conversation import converse
from edge.devices.host import name_cpu
from edge.devices.messages import ProfileRequest, Reply, Request, RoofRequest
from edge.devices.probe import BoardFacts, PythonFacts
from edge.devices.probe import probe as probe_host
from edge.devices.routes import PROGRAMS, Route, check_loadable, choose_route
from edge.devices.running import RunRequest
from edge.errors import DeviceError, UsageError
from edge.progress import Progress

PROGRAM = "qemu-aarch64"
PYTHON = "/usr/bin/python3"
#: Of this process' variables those that a program expects; none of Python's or a linker's own.
KEPT = ("PATH", "HOME", "LANG", "TMPDIR")


class QemuDevice(Device):
    def __init__(self, address: str) -> None:
        super().__init__(address)
        name = address.partition(":")[2]
        if name not in board_names():
            raise UsageError(f"there is no emulated device '{address}': choose one of {', '.join(f'qemu:{known}' for known in board_names())}.")
        self.name = name
        self.board = find_board(name)

    def command(self, argv: Sequence[str]) -> tuple[str, ...]:
        """This machine's own programs for what handles files: only the worker is emulated."""
        return tuple(argv)

    def prefix(self) -> Path:
        """The system that emulated programs take their libraries and /proc/cpuinfo from. DeviceError without one."""
        root = find_root()
        if root is None:
            raise DeviceError(f"{self.address} needs an arm64 system in a folder: run `edge device root`, which builds one.")
        return root / "boards" / self.name

    def emulated(self, argv: Sequence[str]) -> tuple[str, ...]:
        """The command that runs the arm64 program ``argv``; its path is this machine's, or one in the prefix."""
        if shutil.which(PROGRAM) is None:
            raise DeviceError(f"{self.address} needs {PROGRAM}, which is not installed: run `apt-get install qemu-user`.")
        if find_root() is None:  # what needs one was refused before
            return (PROGRAM, "-cpu", self.board.cpu, *argv)
        prefix = self.prefix()
        inside = prefix / argv[0].lstrip("/")
        program = str(inside) if inside.exists() else argv[0]
        return (PROGRAM, "-cpu", self.board.cpu, "-L", str(prefix), program, *argv[1:])

    def facts(self) -> BoardFacts:
        if self._facts is None:
            host = probe_host(_Here("local"))
            cpu, features = name_cpu("aarch64", [{
                "Features": self.board.features, "CPU implementer": "0x41", "CPU part": self.board.part,
            }])
            self._facts = msgspec.structs.replace(
                host, address=self.address, arch="aarch64", model=self.board.model, cpu=cpu, features=features,
                cores=min(host.cores, self.board.cores), page_size=4096, libc="unknown", libc_version="", python=None,
            )
            if find_root() is not None:
                prefix = self.prefix()
                self._facts = msgspec.structs.replace(
                    self._facts, libc="glibc", libc_version=_glibc(prefix), python=_python(prefix),
                )
        return self._facts

    def work(self, request: Request, timeout: float, progress: Progress) -> Reply:
        if isinstance(request, ProfileRequest | RoofRequest):
            raise UsageError(f"{self.address} is an emulator and its times mean nothing: verify there, and profile on a board.")
        manifest = read_manifest(Path(request.bundle))
        if manifest.runtime.name not in PROGRAMS or isinstance(request, RunRequest):
            self.prefix()
        facts = self.facts()
        check_loadable(facts, Path(request.bundle), manifest)
        route = self._local(choose_route(facts, manifest, Path(request.bundle), own_tensors=isinstance(request, RunRequest)), progress)
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        return converse(self.emulated(route.argv), {**kept, **route.environment}, request, timeout, progress)

    def _local(self, route: Route, progress: Progress) -> Route:
        """``route`` with its files in one folder here, as the device would have them."""
        self.push(route.files, route.folder, progress)
        return route


class _Here(Device):
    """This machine by its shell, to ask what the emulator shares with it: memory, disk, kernel."""

    def command(self, argv: Sequence[str]) -> tuple[str, ...]:
        return tuple(argv)


def possible() -> Mapping[str, str]:
    """Each emulated device and what it still needs here ("" when it is ready)."""
    step = ""
    if platform.system() != "Linux":
        step = "needs Linux"
    elif shutil.which(PROGRAM) is None:
        step = "needs qemu-user: apt-get install qemu-user"
    elif find_root() is None:
        step = "ready for static bundles; others need an arm64 system: edge device root"
    return {f"qemu:{name}": step for name in board_names()}


def _python(prefix: Path) -> PythonFacts | None:
    """The root's interpreter and packages, read from its files: starting it would take a second."""
    program = prefix / PYTHON.lstrip("/")
    if not program.exists():
        return None
    version = program.resolve().name.removeprefix("python")
    packages = {}
    for folder in prefix.glob("usr/local/lib/python3*/dist-packages/*.dist-info"):
        name, _, release = folder.name.removesuffix(".dist-info").partition("-")
        packages[name] = release
    return PythonFacts(path=PYTHON, version=f"{version}.0", packages=packages)


def _glibc(prefix: Path) -> str:
    """The newest version that the root's libc.so.6 defines."""
    from elftools.elf.elffile import ELFFile
    from elftools.elf.gnuversions import GNUVerDefSection

    with (prefix / "lib/aarch64-linux-gnu/libc.so.6").open("rb") as stream:
        names = [
            auxiliary.name
            for section in ELFFile(stream).iter_sections()
            if isinstance(section, GNUVerDefSection)
            for _, auxiliaries in section.iter_versions()
            for auxiliary in auxiliaries
        ]
    versions = [elf.version(name) for name in names if name.startswith("GLIBC_2")]
    return ".".join(map(str, max(versions)))


DEVICE = QemuDevice
