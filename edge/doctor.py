"""``edge doctor``: what is here, what is missing, and the next step for each lack.

The requirements are read from the installed package's own metadata, so that pyproject.toml stays the one place that
states them. Nothing is imported and nothing is started: it answers in a moment and cannot crash on a broken runtime.
"""

from __future__ import annotations

import enum
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from edge.cache import cache_dir
from edge.dependencies import version
from edge.devices.host import host_facts

#: Extras a user may want; ``dev`` and ``train`` are for those who work on edge itself.
EXTRAS = ("onnx", "executorch", "tvm", "native", "plot", "plm", "image", "export", "sweep")
OLDEST_PYTHON = (3, 11)
#: Where edge is tried; elsewhere its wheels may exist and nothing is promised.
TRIED = (("Linux", "x86_64"), ("Linux", "aarch64"))
#: Below this much free space or memory an export may fail half way: torch, a float32 and a quantized copy of a model.
LITTLE_DISK_GB = 2.0
LITTLE_RAM_MB = 2048

_REQUIREMENT = re.compile(
    r"""(?P<name>[A-Za-z0-9._-]+) \s* (\[(?P<extras>[^]]*)\])? \s* (?P<versions>[^;]*?) \s*
        (;.*\bextra\s*==\s*["'](?P<extra>[^"']+)["'].*)?""",
    re.VERBOSE,
)
_VERSION = re.compile(r"(?P<release>\d+(\.\d+)*)(?P<pre>(a|b|rc|\.dev)\d*)?(\.post(?P<post>\d+))?")


class Status(enum.StrEnum):
    OK = "ok"
    MISSING = "missing"
    WRONG = "wrong"
    LOW = "low"


class Requirement(msgspec.Struct, frozen=True):
    """A distribution that ``extra`` (None: the base) brings, and its versions ("==2.13.0", ">=1.32,<1.33")."""

    name: str
    versions: str
    extra: str | None
    brings: tuple[str, ...] = ()  # other extras of edge's own: edge[onnx,tvm]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing looked at. ``essential`` ones must be ok for edge to work; ``next_step`` is empty when all is well."""

    name: str
    status: Status
    found: str
    needed: str = ""
    next_step: str = ""
    group: str = "machine"
    essential: bool = False


def examine() -> tuple[Check, ...]:
    """Every check, the essential ones first."""
    requirements = read_requirements(metadata.requires("edge") or [])
    checks = [_python(), *(_package(requirement, None) for requirement in requirements if requirement.extra is None)]
    for extra in EXTRAS:
        checks += [_package(requirement, extra) for requirement in required_by(extra, requirements)]
    return (*checks, _platform(), _cross_compiler(), _cores(), _memory(), _cache())


def works(checks: Iterable[Check]) -> bool:
    """Whether the base works: bundles can be listed, checked and inspected."""
    return all(check.status is Status.OK for check in checks if check.essential)


def read_requirements(lines: Sequence[str]) -> tuple[Requirement, ...]:
    """Requirement lines of a package's metadata; of environment markers only ``extra`` is understood."""
    found = []
    for line in lines:
        match = _REQUIREMENT.fullmatch(line.strip())
        assert match is not None, line
        brings = tuple(sorted(part.strip() for part in (match["extras"] or "").split(",") if part.strip()))
        own = match["name"].lower() == "edge"
        found.append(
            Requirement(match["name"], match["versions"].strip("() "), match["extra"], brings=brings if own else ())
        )
    return tuple(found)


def required_by(extra: str, requirements: Sequence[Requirement]) -> list[Requirement]:
    """What ``extra`` itself asks for, apart from what it takes over from edge's other extras."""
    return [requirement for requirement in requirements if requirement.extra == extra and not requirement.brings]


def allows(versions: str, installed: str) -> bool:
    """Whether the version ``installed`` is among ``versions`` ("" allows any); a local part (+cpu) does not count."""
    have = _key(installed)
    for clause in filter(None, (part.strip() for part in versions.split(","))):
        operator = re.match(r"==|>=|<=|!=|<|>", clause)
        assert operator is not None, clause
        want = _key(clause[operator.end() :])
        fits: Mapping[str, bool] = {
            "==": have == want,
            "!=": have != want,
            ">=": have >= want,
            "<=": have <= want,
            ">": have > want,
            "<": have < want,
        }
        if not fits[operator.group()]:
            return False
    return True


def _key(text: str) -> tuple[tuple[int, ...], int, int]:
    """Sorts versions: release numbers without trailing zeros, then pre-releases before finals before post-releases."""
    match = _VERSION.match(text.strip())
    if match is None:
        return (), 0, 0
    release = [int(part) for part in match["release"].split(".")]
    while len(release) > 1 and release[-1] == 0:
        release.pop()
    return tuple(release), -1 if match["pre"] else 0, int(match["post"] or -1) + 1


def _package(requirement: Requirement, extra: str | None) -> Check:
    installed = version(requirement.name)
    install = f"pip install 'edge[{extra}]'" if extra else "pip install --force-reinstall edge"
    if installed is None:
        status, found, step = Status.MISSING, "not installed", f"run `{install}`"
    elif not allows(requirement.versions, installed):
        # A package that another extra or another project pulled to the wrong version: name the version itself.
        status, found = Status.WRONG, installed
        step = f"run `pip install '{requirement.name}{requirement.versions}'`"
    else:
        status, found, step = Status.OK, installed, ""
    return Check(
        name=requirement.name,
        status=status,
        found=found,
        needed=requirement.versions,
        next_step=step,
        group=extra or "base",
        essential=extra is None,
    )


def _python() -> Check:
    old = sys.version_info[:2] < OLDEST_PYTHON
    oldest = ".".join(map(str, OLDEST_PYTHON))
    return Check(
        name="Python",
        status=Status.WRONG if old else Status.OK,
        found=f"{platform.python_version()} ({sys.executable})",
        needed=f">={oldest}",
        next_step=f"make a virtual environment with Python {oldest} or newer" if old else "",
        group="base",
        essential=True,
    )


def _platform() -> Check:
    facts = host_facts()
    tried = (facts.system.split()[0], facts.arch) in TRIED and facts.libc == "glibc"
    return Check(
        name="platform",
        status=Status.OK if tried else Status.WRONG,
        found=f"{facts.system}, {facts.arch}, {facts.libc}, {' '.join((facts.cpu, *facts.features))}",
        needed="Linux with glibc on x86_64 or aarch64",
        next_step="" if tried else "expect surprises: edge has not been tried here",
    )


def _cross_compiler() -> Check:
    """What links TVM's code for a Raspberry Pi: ziglang from PyPI, or the distribution's own."""
    found = []
    if (zig := version("ziglang")) is not None:
        found.append(f"ziglang {zig}")
    if (gcc := shutil.which("aarch64-linux-gnu-g++")) is not None:
        found.append(gcc)
    if platform.machine() == "aarch64" and (native := shutil.which("g++") or shutil.which("clang++")):
        found.append(native)
    return Check(
        name="arm64 linker",
        status=Status.OK if found else Status.MISSING,
        found=", ".join(found) or "none",
        needed="for TVM bundles",
        next_step="" if found else "run `pip install 'edge[tvm]'`, which brings ziglang",
    )


def _cores() -> Check:
    facts = host_facts()
    return Check(name="cores", status=Status.OK, found=f"{facts.cores} usable of {os.cpu_count() or facts.cores}")


def _memory() -> Check:
    ram = host_facts().ram_mb
    low = ram < LITTLE_RAM_MB
    return Check(
        name="memory",
        status=Status.LOW if low else Status.OK,
        found=f"{ram / 1024:.1f} GB",
        needed=f"{LITTLE_RAM_MB / 1024:.0f} GB to export",
        next_step="export on a larger machine, run the bundles here" if low else "",
    )


def _cache() -> Check:
    folder = cache_dir()
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free / 1e9
    if not os.access(existing, os.W_OK) or not existing.is_dir():
        status, step = Status.WRONG, "set EDGE_CACHE to a folder that you may write to"
    elif free < LITTLE_DISK_GB:
        status, step = Status.LOW, f"free some space in {existing}, or set EDGE_CACHE to another disk"
    else:
        status, step = Status.OK, ""
    return Check(
        name="cache",
        status=status,
        found=f"{_home(folder)}, {free:.1f} GB free",
        needed=f"{LITTLE_DISK_GB:.0f} GB",
        next_step=step,
    )


def _home(path: Path) -> str:
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)
