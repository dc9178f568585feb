"""`edge doctor --device D`: what a device has and lacks, as checks with a next step each. Nothing is written there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from edge.bundle import open_bundle
from edge.devices import elf
from edge.devices.probe import BoardFacts
from edge.devices.routes import BASE_PACKAGES, EXPORTERS, NATIVE, OLDEST_PYTHON, RUNTIME_PACKAGES, lacking
from edge.doctor import Check, Status, allows, read_requirements
from edge.errors import UnsupportedError

#: The wheels of onnxruntime and executorch for Linux are tagged manylinux_2_28 (pypi.org).
WHEELS_GLIBC = "2.28"
#: Architectures that runtimes have packages for.
ARCHS = ("aarch64", "x86_64")
#: A small bundle, edge's own files and a runner with its libraries.
LITTLE_DISK = 64 * 2**20
LITTLE_RAM_MB = 512
#: What to do on a device without Python, by its C library ("": the others).
NO_PYTHON: Mapping[str, str] = {
    "bionic": "use static bundles, which need none: edge export MODEL --target android --runtime tvm --static",
    "": "static bundles run without, ExecuTorch and TVM bundles by the native runner; for ONNX bundles install Python 3.11 or newer there",
}


def examine_device(facts: BoardFacts, bundle: Path | None = None) -> tuple[Check, ...]:
    """Every check of the device that ``facts`` describes; with ``bundle``, whether it can load that."""
    return (*_board(facts), *_python(facts), *(_bundle(facts, bundle) if bundle else ()))


def _board(facts: BoardFacts) -> Iterator[Check]:
    cpu = " ".join((facts.cpu, *facts.features))
    yield _check(
        "system", f"{facts.system}, {facts.arch}, {cpu}, {facts.cores} cores", "board",
        needed=f"Linux on {' or '.join(ARCHS)}",
        step="" if facts.arch in ARCHS else "install a 64-bit system there: no runtime has packages for this one",
    )
    if facts.model:
        yield _check("model", facts.model, "board")
    yield _check(
        "memory", f"{facts.ram_mb} MB", "board", needed=f"{LITTLE_RAM_MB} MB", status=Status.LOW,
        step="" if facts.ram_mb >= LITTLE_RAM_MB else "expect only the smallest bundles to fit",
    )
    yield _check(
        "free space", f"{facts.free_bytes / 1e6:.0f} MB in {facts.folder}", "board", needed=f"{LITTLE_DISK / 1e6:.0f} MB",
        status=Status.LOW,
        step="" if facts.free_bytes >= LITTLE_DISK else "free some space there, or set EDGE_DEVICE_DIR to a folder on another disk",
    )
    old = facts.libc == "glibc" and bool(facts.libc_version) and elf.version(facts.libc_version) < elf.version(WHEELS_GLIBC)
    yield _check(
        "C library", f"{facts.libc} {facts.libc_version}".strip(), "board",
        needed=f"glibc >={WHEELS_GLIBC} for the packages of onnxruntime and executorch",
        step="upgrade the system there, or use bundles for the native runner" if old else "",
    )
    yield _check("page size", f"{facts.page_size} bytes", "board")
    yield _check(
        "programs", f"lacks {', '.join(facts.lacks)}" if facts.lacks else "all there", "board",
        needed="for pushing and locking", status=Status.MISSING,
        step="install coreutils and util-linux there" if facts.lacks else "",
    )


def _python(facts: BoardFacts) -> Iterator[Check]:
    if facts.python is None:
        yield _check(
            "Python", "none", "python", needed=OLDEST_PYTHON, status=Status.MISSING, step=NO_PYTHON.get(facts.libc, NO_PYTHON[""]),
        )
        return
    python = facts.python
    new = allows(OLDEST_PYTHON, python.version)
    yield _check(
        "Python", f"{python.version} ({python.path})", "python", needed=OLDEST_PYTHON,
        step="" if new else "install Python 3.11 or newer there and set EDGE_DEVICE_PYTHON to its path",
    )
    wanted = wanted_versions()
    for name in BASE_PACKAGES:
        yield _package(name, python.packages.get(name), wanted.get(name, ""), python.path, "python", optional=False)
    for runtime, names in RUNTIME_PACKAGES.items():
        for name in names:
            # No board needs torch: where it has none, the native runner does the work.
            optional = runtime in NATIVE
            yield _package(name, python.packages.get(name), wanted.get(name, ""), python.path, runtime, optional)


def _package(name: str, installed: str | None, versions: str, python: str, group: str, optional: bool) -> Check:
    install = f"run `{python} -m pip install '{name}{versions}'` there"
    if installed is None:
        found = "not installed (the native runner does without)" if optional else "not installed"
        return _check(name, found, group, versions, "" if optional else install, Status.MISSING)
    return _check(name, installed, group, versions, "" if allows(versions, installed) else install)


def _bundle(facts: BoardFacts, path: Path) -> Iterator[Check]:
    """The bundle's own machine code, and the runner's where the device has not got the runtime in Python."""
    opened = open_bundle(path)
    files = {record.path: path / record.path for record in opened.manifest.files if not record.path.startswith(EXPORTERS)}
    yield from _loadable(files, facts, path.name)
    runtime = opened.manifest.runtime.name
    if runtime not in NATIVE or not lacking(facts, runtime):
        return
    from edge.runtimes.native.build import runner_files

    try:
        yield from _loadable(runner_files(runtime, facts.triple), facts, "native runner")
    except UnsupportedError as error:
        yield _check("native runner", "none", runtime, step=str(error).rstrip("."), status=Status.MISSING)


def _loadable(files: Mapping[str, Path], facts: BoardFacts, group: str) -> Iterator[Check]:
    for name, path in files.items():
        needs = elf.read_needs(path)
        if needs is None:
            continue
        asks = [needs.arch]
        if needs.glibc:
            asks.append(f"glibc {'.'.join(map(str, needs.glibc))}")
        asks.append(f"pages up to {needs.alignment}")
        yield _check(name, ", ".join(asks), group, needed="what the board has", step=elf.problem(needs, facts, name).rstrip("."))


def wanted_versions() -> Mapping[str, str]:
    """What edge's own metadata asks of each distribution: {"onnxruntime": ">=1.32,<1.33"}."""
    return {requirement.name: requirement.versions for requirement in read_requirements(metadata.requires("edge") or [])}


def _check(name: str, found: str, group: str, needed: str = "", step: str = "", status: Status = Status.WRONG) -> Check:
    return Check(name=name, status=status if step else Status.OK, found=found, needed=needed, next_step=step, group=group)


def fit(checks: Sequence[Check]) -> bool:
    """Whether nothing is lacking."""
    return all(check.status is Status.OK for check in checks)
