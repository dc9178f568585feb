"""Where a runtime's C++ headers and libraries are, for this machine or another: its own wheel from PyPI has both.

For this machine it is the installed package. For another architecture the wheel of the same version is downloaded by pip
(from the index that pip is set up with) and what is needed of it kept in edge's cache.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.cache import cache_dir
from edge.dependencies import version
from edge.devices.host import host_facts
from edge.errors import MissingDependencyError, StorageError, UnsupportedError

#: The platform tag of the wheels, by architecture: both runtimes are built for glibc 2.28 and later.
PLATFORMS: Mapping[str, str] = {"x86_64": "manylinux_2_28_x86_64", "aarch64": "manylinux_2_28_aarch64"}


@dataclass(frozen=True)
class Package:
    """A wheel: its distribution, its import name, and the folders in it that a build needs."""

    distribution: str
    module: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class RuntimeSdk:
    """What a runner is built with: the wheels, then paths in them (relative to the folder they are installed in)."""

    packages: tuple[Package, ...]
    includes: tuple[str, ...]
    libraries: tuple[str, ...]
    defines: tuple[str, ...]


SDKS: Mapping[str, RuntimeSdk] = {
    "executorch": RuntimeSdk(
        packages=(Package("executorch", "executorch", ("executorch/include/", "executorch/lib/libexecutorch")),),
        includes=("executorch/include", "executorch/include/executorch/runtime/core/portable_type/c10"),
        libraries=(
            "executorch/lib/libexecutorch.so",
            "executorch/lib/libexecutorch_backend_xnnpack.so",
            "executorch/lib/libexecutorch_kernels_optimized.so",
            "executorch/lib/libexecutorch_kernels_quantized.so",
            "executorch/lib/libexecutorch_threadpool.so",
        ),
        defines=(
            # As the wheel's own CMake package has them.
            "C10_USING_CUSTOM_GENERATED_MACROS", "ET_EVENT_TRACER_ENABLED",
            # The one standard type inside what its API hands over by value is a variant: lay it out as libstdc++ does.
            "_LIBCPP_ABI_VARIANT_INDEX_TYPE_OPTIMIZATION",
        ),
    ),
    "tvm": RuntimeSdk(
        packages=(
            Package("apache-tvm", "tvm", ("tvm/lib/libtvm_runtime.so",)),
            Package("apache-tvm-ffi", "tvm_ffi", ("tvm_ffi/include/", "tvm_ffi/lib/libtvm_ffi.so")),
        ),
        includes=("tvm_ffi/include",),
        libraries=("tvm/lib/libtvm_runtime.so", "tvm_ffi/lib/libtvm_ffi.so"),
        defines=(),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Sdk:
    """A runtime's SDK on this machine: ``root`` has what ``runtime`` names below it."""

    runtime: RuntimeSdk
    root: Mapping[str, Path]  # by distribution: where its files are
    versions: Mapping[str, str]

    def path(self, relative: str) -> Path:
        """The path of one of the includes or libraries."""
        top = relative.split("/", 1)[0]
        owner = next(package for package in self.runtime.packages if package.module == top)
        return self.root[owner.distribution] / relative


def installed(runtime: str) -> bool:
    """Whether this machine has the packages that a runner for ``runtime`` is built with."""
    return all(version(package.distribution) is not None for package in SDKS[runtime].packages)


def find_sdk(runtime: str, arch: str) -> Sdk:
    """The SDK of ``runtime`` for ``arch``; downloads it where it is not this machine's own.

    Raises UnsupportedError for a runtime or an architecture that there is none for, MissingDependencyError where the
    runtime is not installed here (its version decides), StorageError where the cache cannot be written.
    """
    if runtime not in SDKS:
        raise UnsupportedError(
            f"there is no native runner for {runtime}: it needs Python on the device (`pip install 'edge[device-onnx]'`)."
            if runtime == "onnx" else f"there is no native runner for '{runtime}': choose one of {', '.join(SDKS)}."
        )
    if arch not in PLATFORMS:
        raise UnsupportedError(f"there is no native runner for {arch}: {runtime}'s wheels are for {' and '.join(PLATFORMS)}.")
    sdk = SDKS[runtime]
    versions: dict[str, str] = {}
    roots: dict[str, Path] = {}
    for package in sdk.packages:
        found = version(package.distribution)
        if found is None:
            raise MissingDependencyError(package.distribution, runtime, "building the runner")
        versions[package.distribution] = found
        roots[package.distribution] = _root(package, found, arch)
    return Sdk(sdk, roots, versions)


def _root(package: Package, number: str, arch: str) -> Path:
    host = host_facts()
    if arch == host.arch and host.system.startswith("Linux"):
        spec = importlib.util.find_spec(package.module)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            return Path(place).parent
    kept = cache_dir() / "sdk" / f"{package.distribution}-{number}-{arch}"
    if not kept.is_dir():
        _download(package, number, arch, kept)
    return kept


def _download(package: Package, number: str, arch: str, kept: Path) -> None:
    """Fetch the wheel and keep its ``parts`` as the folder ``kept``, whole or not at all."""
    requirement = f"{package.distribution}=={number.split('+')[0]}"
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".sdk-", dir=kept.parent) as scratch:
            _pip(("download", "--quiet", "--no-deps", "--only-binary=:all:", "--platform", PLATFORMS[arch], "--dest", scratch, requirement), requirement, arch)
            wheel = next(Path(scratch).glob("*.whl"))
            staging = Path(scratch) / "kept"
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    # `extract` drops what would lead outside the folder.
                    if name.startswith(package.parts) and not name.endswith("/"):
                        archive.extract(name, staging)
            _settle(staging, kept)
    except OSError as error:
        raise StorageError(f"edge's cache {kept.parent} cannot be written ({error.strerror}): set EDGE_CACHE to a folder that can.") from error


def _pip(arguments: Sequence[str], requirement: str, arch: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise UnsupportedError(f"pip cannot download {requirement} for {arch} ({said[-1].strip()}): connect to a package index and try again.")


def _settle(staging: Path, kept: Path) -> None:
    """Move a finished folder into place; who was faster has the same in it."""
    try:
        staging.rename(kept)
    except OSError:
        if not kept.is_dir():
            raise
        shutil.rmtree(staging, ignore_errors=True)
