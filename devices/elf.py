"""What a native program or library needs of the system that is to load it, read from the file itself (ELF)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from edge.bundle import sha256_file
from edge.devices.probe import BoardFacts
from edge.errors import DeviceError

#: e_machine of the ELF header, by what `uname -m` says.
MACHINES: Mapping[str, str] = {"EM_AARCH64": "aarch64", "EM_X86_64": "x86_64", "EM_ARM": "armv7l", "EM_RISCV": "riscv64"}


class Needs(NamedTuple):
    """``arch`` as `uname -m` has it; ``glibc`` is the newest symbol version asked for, () if none, and ``of`` the library
    that it is asked of (libm.so.6); ``alignment`` is the largest of its load segments, in bytes; ``libraries`` are those
    it names."""

    arch: str
    glibc: tuple[int, ...]
    of: str
    alignment: int
    libraries: tuple[str, ...]


def read_needs(path: Path) -> Needs | None:
    """What ``path`` needs; None if it is no ELF file. DeviceError for one that is damaged."""
    with path.open("rb") as stream:
        if stream.read(4) != b"\x7fELF":
            return None
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile

        stream.seek(0)
        try:
            file = ELFFile(stream)
            arch = MACHINES.get(file["e_machine"], str(file["e_machine"]))
            glibc, of = _glibc(file)
            alignment = max((part["p_align"] for part in file.iter_segments("PT_LOAD")), default=0)
            dynamic = next(file.iter_segments("PT_DYNAMIC"), None)
            libraries = tuple(tag.needed for tag in dynamic.iter_tags("DT_NEEDED")) if dynamic else ()
        except (ELFError, ValueError, KeyError, UnicodeDecodeError) as error:
            raise DeviceError(f"{path.name} is a damaged program or library ({error}): build or export it again.") from error
        return Needs(arch, glibc, of, alignment, libraries)


def problem(needs: Needs, facts: BoardFacts, name: str) -> str:
    """Why the device cannot load it, with the next step; "" if nothing is known against it."""
    if facts.arch and needs.arch != facts.arch:
        return (
            f"{name} is for {needs.arch} and {facts.address} is {facts.arch}: export the bundle for a target of that "
            "architecture (see `edge targets`)."
        )
    if needs.glibc and facts.libc != "glibc" and facts.libc != "unknown":
        return f"{name} needs glibc and {facts.address} has {facts.libc}: use a build for {facts.triple}."
    if needs.glibc and facts.libc_version and needs.glibc > version(facts.libc_version):
        wanted = ".".join(map(str, needs.glibc))
        return (
            f"{name} needs glibc {wanted} (of {needs.of}) and {facts.address} has {facts.libc_version}: upgrade the system "
            "there, or use a runner that is built for it."
        )
    if facts.page_size and needs.alignment and needs.alignment % facts.page_size:
        return (
            f"{name} is aligned to pages of {needs.alignment} bytes and {facts.address} has pages of {facts.page_size}: build "
            "it with `-z max-page-size=65536`."
        )
    return ""


def check(path: Path, facts: BoardFacts, name: str) -> None:
    """DeviceError if ``path`` is native code that the device cannot load."""
    needs = read_needs(path)
    if needs is not None and (sentence := problem(needs, facts, name)):
        raise DeviceError(sentence)


def together(files: Mapping[str, Path]) -> str:
    """One short name for the content of all ``files``."""
    lines = (f"{name} {sha256_file(path)}\n" for name, path in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def _glibc(file: object) -> tuple[tuple[int, ...], str]:
    """The newest GLIBC_x.y among the symbol versions needed (.gnu.version_r), and of which library."""
    from elftools.elf.gnuversions import GNUVerNeedSection

    found: list[tuple[tuple[int, ...], str]] = []
    for section in file.iter_sections():  # type: ignore[attr-defined]  # pyelftools has no types
        if isinstance(section, GNUVerNeedSection):
            for library, versions in section.iter_versions():
                found += [
                    (version(entry.name.removeprefix("GLIBC_")), library.name)
                    for entry in versions
                    if re.fullmatch(r"GLIBC_[0-9.]+", entry.name)
                ]
    return max(found, default=((), ""))
