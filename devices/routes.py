"""How a device answers a request: by its own Python, or by edge's native runner.

The Python route takes what is on the device already: Python, numpy, msgspec and the bundle's runtime; edge's own files
are pushed. The native route takes nothing but the device's kernel and C library: the runner is pushed, reads the same
request and writes the same messages. ONNX Runtime goes by Python; ExecuTorch and TVM go by Python where the device has
them and by the runner elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from edge.bundle import MANIFEST, sha256_file
from edge.devices import elf
from edge.devices.payload import worker_zip
from edge.devices.probe import BoardFacts
from edge.doctor import allows, read_requirements
from edge.errors import DeviceError, UnsupportedError
from edge.manifest import Manifest
from edge.runtimes.kernels import OWN_LIBRARY
from edge.runtimes.kernels import library as kernels_library

#: What each runtime needs on the device beside numpy and msgspec, by distribution.
RUNTIME_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnxruntime",),
    "executorch": ("torch", "executorch"),
    "tvm": ("apache-tvm",),
    "static": (),
}
#: Runtimes whose bundles hold a program that answers the worker's requests itself.
PROGRAMS = ("static",)
#: The folder in such a bundle with the program of the machine that exported it: not for the device.
EXPORTERS = "host/"
#: Runtimes that edge's native runner has.
NATIVE = ("executorch", "tvm")
BASE_PACKAGES = ("numpy", "msgspec")
OLDEST_PYTHON = ">=3.11"


@dataclass(frozen=True)
class Route:
    """``files`` (name: file here) go to ``folder`` on the device; ``argv`` then starts the worker there."""

    name: str
    folder: str
    files: Mapping[str, Path]
    argv: tuple[str, ...]
    environment: Mapping[str, str]


def choose_route(facts: BoardFacts, manifest: Manifest | None, root: Path | None = None, own_tensors: bool = False) -> Route:
    """The route for the bundle at ``root``, or for a request without one; DeviceError says what the device lacks.

    ``own_tensors``: it is to run on the user's tensors, which the native runner does not take (UnsupportedError).
    """
    runtime = manifest.runtime.name if manifest else None
    if manifest is not None and root is not None and runtime in PROGRAMS and not own_tensors:
        return program_route(facts, manifest, root)
    lack = lacking(facts, runtime)
    kernels = manifest is not None and manifest.kernels is not None
    if not lack and kernels and runtime == "executorch":
        lack = "Python there has no kernels of edge's own for ExecuTorch."  # they are in the runner
    if not lack:
        return python_route(facts, kernels=kernels and runtime == "onnx")
    if runtime is not None and runtime in (*NATIVE, *PROGRAMS):
        if own_tensors:
            raise UnsupportedError(f"edge's runner takes no tensors of your own. {lack}")
        return native_route(facts, runtime, lack)
    raise DeviceError(lack)


def lacking(facts: BoardFacts, runtime: str | None) -> str:
    """What keeps ``facts`` from running a bundle of ``runtime`` in Python, with the next step; "" if nothing does."""
    if facts.python is None:
        return f"{facts.address} has no python3: install Python 3.11 or newer there, or set EDGE_DEVICE_PYTHON to where it is."
    if not allows(OLDEST_PYTHON, facts.python.version):
        return (
            f"the Python of {facts.address} is {facts.python.version} and edge needs 3.11 or newer: install one there and "
            "set EDGE_DEVICE_PYTHON to its path."
        )
    wanted = (*BASE_PACKAGES, *(RUNTIME_PACKAGES.get(runtime, ()) if runtime else ()))
    missing = [name for name in wanted if name not in facts.python.packages]
    if missing:
        return (
            f"{facts.address} lacks {', '.join(missing)} for its {facts.python.path}: run there "
            f"`{facts.python.path} -m pip install {' '.join(_pinned(name) for name in missing)}`."
        )
    return ""


def python_route(facts: BoardFacts, kernels: bool = False) -> Route:
    """By the device's interpreter; edge's files come as a zip, its kernels' library beside it if they are called."""
    assert facts.python is not None
    source = worker_zip()
    folder = f"{facts.folder}/worker"
    files = {source.name: source}
    environment = {"PYTHONPATH": f"{folder}/{source.name}", "PYTHONDONTWRITEBYTECODE": "1"}
    if kernels:
        library = kernels_library(facts.triple)
        elf.check(library, facts, library.name)
        name = f"{elf.together({library.name: library})}-{library.name}"
        files[name] = library
        environment[OWN_LIBRARY] = f"{folder}/{name}"
    return Route(
        name="python",
        folder=folder,
        files=files,
        argv=(facts.python.path, "-P", "-m", "edge.devices.worker"),
        environment=environment,
    )


def native_route(facts: BoardFacts, runtime: str, lack: str) -> Route:
    """By the runner that edge builds for the device's architecture. DeviceError if there is none, or it cannot run there."""
    from edge.runtimes.native.build import PROGRAM, runner_files

    try:
        files = runner_files(runtime, facts.triple)
    except UnsupportedError as error:  # not for such a device: then by Python, if it gets what it lacks
        raise DeviceError(f"{error} For Python: {lack}") from error
    for name, path in files.items():
        elf.check(path, facts, name)
    folder = f"{facts.folder}/runner/{elf.together(files)}"
    return Route(
        name="native",
        folder=folder,
        files=files,
        argv=(f"{folder}/{PROGRAM}",),
        environment={"LD_LIBRARY_PATH": folder},
    )


def program_route(facts: BoardFacts, manifest: Manifest, root: Path) -> Route:
    """By the bundle's own program. DeviceError if it cannot run there."""
    files = {"model": root / manifest.entries[0].artifact}
    for name, path in files.items():
        elf.check(path, facts, name)
    folder = f"{facts.folder}/programs/{elf.together(files)}"
    return Route(name="native", folder=folder, files=files, argv=(f"{folder}/model",), environment={})


def check_loadable(facts: BoardFacts, root: Path, manifest: Manifest) -> None:
    """DeviceError if the bundle at ``root`` holds machine code, for the device, that it cannot load."""
    for record in manifest.files:
        if not record.path.startswith(EXPORTERS):
            elf.check(root / record.path, facts, record.path)


def bundle_files(root: Path, manifest: Manifest) -> Mapping[str, Path]:
    """What a device needs of the bundle at ``root``: its manifest and the files that it lists, but the exporting host's."""
    listed = {record.path: root / record.path for record in manifest.files if not record.path.startswith(EXPORTERS)}
    return {MANIFEST: root / MANIFEST, **listed}


def bundle_folder(facts: BoardFacts, root: Path) -> str:
    """Where the bundle goes on the device: by its content, so that another export is another folder."""
    return f"{facts.folder}/bundles/{sha256_file(root / MANIFEST)[:32]}.edge"


def _pinned(name: str) -> str:
    """The requirement for ``name`` as edge's own metadata states it: 'onnxruntime>=1.32,<1.33'."""
    for requirement in read_requirements(metadata.requires("edge") or []):
        if requirement.name == name:
            return f"'{name}{requirement.versions}'" if requirement.versions else name
    return name
