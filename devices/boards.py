"""/proc/cpuinfo and /sys of a Raspberry Pi 4 and 5, for libraries under emulation that choose their kernels by them.

cpuinfo is what the arm64 kernel prints for those cores (arch/arm64/kernel/cpuinfo.c; part numbers from MIDR_EL1 in the
Technical Reference Manuals of Cortex-A72 and Cortex-A76). Clock and temperature are left out: an emulator has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Board(NamedTuple):
    """``cpu`` is QEMU's name and LLVM's; ``part`` and ``features`` are as /proc/cpuinfo has them; ``model`` as the device tree."""

    model: str
    cpu: str
    part: str
    revision: str
    features: str
    caches: Mapping[str, str]
    cores: int = 4


#: L1d, L1i, L2 and L3 sizes from the boards' product briefs (BCM2711: 1 MB L2 for all; BCM2712: 512 kB each, 2 MB L3).
BOARDS: Mapping[str, Board] = {
    "rpi4": Board(
        "Raspberry Pi 4 Model B Rev 1.4 (emulated)", "cortex-a72", "0xd08", "3", "fp asimd evtstrm crc32 cpuid",
        {"L1 Data": "32K", "L1 Instruction": "48K", "L2 Unified": "1024K"},
    ),
    "rpi5": Board(
        "Raspberry Pi 5 Model B Rev 1.0 (emulated)", "cortex-a76", "0xd0b", "1",
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
        {"L1 Data": "64K", "L1 Instruction": "64K", "L2 Unified": "512K", "L3 Unified": "2048K"},
    ),
}
#: A phone's fast cores: as the Pi 5's; there is no phone of which more can be said.
ALIKE: Mapping[str, str] = {"android": "rpi5"}


def find_board(name: str) -> Board:
    return BOARDS[ALIKE.get(name, name)]


def board_names() -> tuple[str, ...]:
    return (*BOARDS, *ALIKE)


def write_boards(root: Path) -> None:
    """For each board a folder boards/NAME in ``root``: the root itself by links, and the board's own /proc and /sys.

    As a prefix for QEMU (-L) it is a system on that board; to a chroot, proc/cpuinfo and sys can be bind-mounted.
    """
    tops = [path for path in root.iterdir() if path.name not in ("proc", "sys", "boards", "tmp", "dev", "run", "home")]
    for name in board_names():
        board, folder = find_board(name), root / "boards" / name
        for path in tops:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / path.name).symlink_to(f"../../{path.name}")
        _put(folder / "proc/cpuinfo", cpuinfo(board))
        _put(folder / "proc/device-tree/model", f"{board.model}\0")
        cpus = folder / "sys/devices/system/cpu"
        for listed in ("possible", "present", "online"):
            _put(cpus / listed, f"0-{board.cores - 1}\n")
        for core in range(board.cores):
            _put(cpus / f"cpu{core}/topology/core_id", f"{core}\n")
            _put(cpus / f"cpu{core}/topology/physical_package_id", "0\n")
            _put(cpus / f"cpu{core}/topology/core_siblings_list", f"0-{board.cores - 1}\n")
            _put(cpus / f"cpu{core}/topology/thread_siblings_list", f"{core}\n")
            for index, (kind, size) in enumerate(board.caches.items()):
                level, what = kind.split()
                for key, value in (("level", level[1:]), ("type", what), ("size", size)):
                    _put(cpus / f"cpu{core}/cache/index{index}/{key}", f"{value}\n")
        (folder / "sys/class/thermal").mkdir(parents=True)


def cpuinfo(board: Board) -> str:
    """/proc/cpuinfo of ``board``."""
    cores = "".join(
        f"processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: {board.features}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        f"CPU variant\t: 0x{'4' if board.part == '0xd0b' else '0'}\nCPU part\t: {board.part}\nCPU revision\t: {board.revision}\n\n"
        for core in range(board.cores)
    )
    return f"{cores}Model\t\t: {board.model}\n"


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
