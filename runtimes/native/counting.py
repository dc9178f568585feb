"""Instructions per inference, by class and by operator, without a board: the runner under QEMU's user-mode emulation.

One thread, the target's own CPU model, addresses and random bytes fixed: the same bundle with the same runner and C
library gives the same counts, on any machine and every time. They say how much work a bundle is, not how long it takes: nothing here is a time.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge._version import __version__
from edge.bundle import MANIFEST, Bundle, open_bundle, sha256_file
from edge.cache import cache_dir
from edge.devices.arm64root import find_root
from edge.devices.messages import Began, Failed
from edge.devices.targets import load_target
from edge.errors import BundleError, DeviceError, EdgeError, UnsupportedError, UsageError
from edge.manifest import EntryRecord
from edge.progress import Progress
from edge.runtimes.base import session_class
from edge.runtimes.native.build import PROGRAM, runner_files
from edge.runtimes.native.marks import CountRequest, Instructions, Marked, MarkedEntry, MarkList, operators
from edge.runtimes.native.sdk import SDKS
from edge.spec import Target

SCHEMA = 1
PLUGIN = Path(__file__).parent / "plugin" / "count.c"
EMULATOR = "qemu-aarch64"
#: Where an arm64 C library is looked for: ``$EDGE_SYSROOT``, or Debian's cross packages and then `edge device root`.
SYSROOT = Path("/usr/aarch64-linux-gnu")
LOADER = "lib/ld-linux-aarch64.so.1"
C_LIBRARY, CXX_LIBRARY = "libc.so.6", "libstdc++.so.6"
#: CPUs that QEMU emulates by LLVM's name; others would run as something that no board has.
CPUS = ("cortex-a53", "cortex-a55", "cortex-a72", "cortex-a76", "neoverse-n1")
#: Inferences that are counted: they must agree, so that a few are enough.
RUNS = 3
PATIENCE = 900.0


class OperatorCount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row of an entry's table; named as `edge profile` names it. ``module`` is the part of the model, if known."""

    name: str
    kind: str
    provider: str
    module: str
    instructions: Instructions


class EntryCount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One inference of an entry. ``steady``: all counted inferences agree, else ``inference`` is the least of them.

    ``operators`` are of another run, with the runtime's profiler on; what is not in them is the runtime's own work.
    """

    entry: str
    inference: Instructions
    steady: bool
    operators: tuple[OperatorCount, ...]


class Counts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Deterministic cost of a bundle on a target's CPU: two are comparable where runtime, ``cpu`` and ``libc`` agree.

    ``manifest_sha256`` names the bundle's every byte.
    """

    schema: int = SCHEMA
    edge_version: str
    bundle: str
    manifest_sha256: str
    runtime: str
    runtime_version: str
    scheme: str
    target: str
    cpu: str
    emulator: str
    libc: str
    threads: int = 1
    entries: tuple[EntryCount, ...]


def count(
    path: Path | str, target: str, *, entries: Sequence[str] = (), runs: int = RUNS, progress: Progress | None = None
) -> Counts:
    """Count the bundle at ``path`` on the CPU of ``target`` (rpi5), every entry or those in ``entries``.

    Raises UsageError, BundleError, UnsupportedError (a runtime or CPU that cannot be counted, a program that is not
    installed), and DeviceError if the emulated runner dies.
    """
    opened = open_bundle(path)
    manifest = opened.manifest
    records = [manifest.entry(name) for name in entries] or list(manifest.entries)
    wanted = load_target(target)
    _check(opened, wanted)
    progress = progress or Progress()
    emulator, sysroot = find_emulator(), find_sysroot().absolute()
    progress.stage("build the runner and the counter")
    # The emulator is started in the bundle's folder: what it is given must not depend on where this process is.
    program = runner_files(manifest.runtime.name, "aarch64-linux-gnu")[PROGRAM].absolute()
    plugin = build_plugin(plugin_api(emulator_version(emulator))).absolute()
    request = CountRequest(
        device=f"qemu:{wanted.name}", bundle=".", entries=tuple(record.name for record in records), runs=runs
    )
    with tempfile.TemporaryDirectory(prefix="edge-count-") as scratch:
        out = Path(scratch) / "marks"
        command = [
            *_fixed_addresses(), emulator, "-seed", "1", "-0", PROGRAM, "-cpu", wanted.cpu, "-L", str(sysroot),
            "-plugin", f"file={_option(plugin)},out={_option(out)}", str(program),
        ]  # fmt: skip
        marked = _run(command, opened.path, request, progress)
        marks = MarkList.read(out)
    empty = marks.between(*marked.empty)
    return Counts(
        edge_version=__version__,
        bundle=opened.path.resolve().name,
        manifest_sha256=sha256_file(opened.path / MANIFEST),
        runtime=manifest.runtime.name,
        runtime_version=manifest.runtime.version,
        scheme=manifest.recipe.scheme.value,
        target=wanted.name,
        cpu=wanted.cpu,
        emulator=f"QEMU {emulator_version(emulator)}",
        libc=libc_version(sysroot),
        entries=tuple(
            _entry(opened, record, found, marks, empty, marked.mark_ns)
            for record, found in zip(records, marked.entries, strict=True)
        ),
    )


def encode(counts: Counts) -> bytes:
    """``counts`` as indented JSON: the same counts give the same bytes."""
    return msgspec.json.format(msgspec.json.encode(counts), indent=2) + b"\n"


def decode(data: bytes) -> Counts:
    """UsageError for anything but what ``encode`` wrote."""
    try:
        return msgspec.json.decode(data, type=Counts)
    except msgspec.DecodeError as error:
        raise UsageError(f"this is no file of instruction counts ({error}): make one with `edge profile --count --json FILE`.") from error


def _check(opened: Bundle, target: Target) -> None:
    runtime = opened.manifest.runtime.name
    if runtime not in SDKS:
        raise UnsupportedError(f"a bundle for {runtime} cannot be counted: the native runner is for {' and '.join(SDKS)}; export it for one of them.")
    if target.arch != "aarch64" or target.cpu not in CPUS:
        raise UsageError(f"{target.name} is {target.cpu} and instructions are counted for {', '.join(CPUS)}: choose another target, rpi5 say.")
    if opened.manifest.target.arch != target.arch and runtime == "tvm":
        raise BundleError(f"this bundle holds machine code for {opened.manifest.target.arch}: export it with `--target {target.name}`.")


def _entry(
    opened: Bundle, record: EntryRecord, found: MarkedEntry, marks: MarkList, empty: Instructions, mark_ns: int
) -> EntryCount:
    inferences = [marks.work(before, after, empty) for before, after in found.inferences]
    run = found.runs[-1]
    rows = session_class(opened.manifest.runtime.name).operators_of(opened.path, record, [run])
    known = {row.name: row for row in rows}
    counted: dict[str, Instructions] = {}
    for name, before, after in operators(run, mark_ns):
        counted[name] = counted.get(name, Instructions()) + marks.work(before, after, empty)
    return EntryCount(
        entry=record.name,
        inference=min(inferences, key=lambda each: each.total),
        steady=len(set(map(msgspec.structs.astuple, inferences))) == 1,
        operators=tuple(
            OperatorCount(
                name=name, kind=known[name].kind if name in known else "", provider=known[name].provider if name in known else "",
                module=known[name].module if name in known else "", instructions=instructions,
            )
            for name, instructions in counted.items()
        ),
    )


def _run(command: Sequence[str], folder: Path, request: CountRequest, progress: Progress) -> Marked:
    """Run it in the bundle's folder and with an environment of its own: names and their lengths must not count."""
    try:
        done = subprocess.run(
            command, input=msgspec.json.encode(request) + b"\n", capture_output=True, timeout=PATIENCE, cwd=folder,
            env={"LD_BIND_NOW": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise DeviceError(f"the emulated runner took more than {PATIENCE:.0f} s: count one entry point, with --entry.") from None
    decoder: msgspec.json.Decoder[Began | Failed | Marked] = msgspec.json.Decoder(Began | Failed | Marked)
    for line in done.stdout.splitlines():
        with contextlib.suppress(msgspec.DecodeError):
            message = decoder.decode(line)
            if isinstance(message, Marked):
                return message
            if isinstance(message, Failed):
                from edge import errors

                raise getattr(errors, message.kind, EdgeError)(message.sentence)
            progress.stage(message.phase)
    said = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    raise DeviceError(
        f"the emulated runner ended without an answer (exit status {done.returncode}"
        f"{f'; it printed: {said[-1][:200]}' if said else ''}): check {EMULATOR} and the arm64 C library."
    )


def find_emulator() -> str:
    found = shutil.which(EMULATOR)
    if found is None:
        raise UnsupportedError(f"counting needs {EMULATOR}, which is not installed: install your system's qemu-user.")
    return found


def find_sysroot() -> Path:
    """The folder with an arm64 C and C++ library that the emulated program is given as its root."""
    chosen = os.environ.get("EDGE_SYSROOT")
    built = find_root()
    for root in [Path(chosen)] if chosen else [SYSROOT, *([built] if built else [])]:
        if (root / LOADER).exists() and _library(root, CXX_LIBRARY):
            return root
    raise UnsupportedError(
        f"counting needs an arm64 C and C++ library and {chosen or SYSROOT} has none: install Debian's libc6-arm64-cross and "
        "libstdc++6-arm64-cross, or run `edge device root`."
    )


def libc_version(sysroot: Path) -> str:
    """What the emulated program's C library says of itself, "glibc 2.36": its code is counted too."""
    path = _library(sysroot, C_LIBRARY)
    found = re.search(rb"GNU C Library [^\n]*version (\d+\.\d+)", path.read_bytes()) if path else None
    return f"glibc {found[1].decode()}" if found else "unknown"


def _library(root: Path, name: str) -> Path | None:
    places = (root / "lib", root / "lib" / "aarch64-linux-gnu", root / "usr" / "lib" / "aarch64-linux-gnu")
    return next((place / name for place in places if (place / name).is_file()), None)


@functools.cache
def emulator_version(emulator: str) -> str:
    said = subprocess.run([emulator, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"version (\d+(\.\d+)+)", said)
    return found[1] if found else "unknown"


def plugin_api(version: str) -> int:
    """The plugin API that a QEMU takes: 1 up to 8.2, a new one with each of 9.0, 9.1 and 9.2. Tried: 7.2."""
    release = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    return 1 + sum(release >= since for since in ((9, 0), (9, 1), (9, 2)))


def build_plugin(api: int) -> Path:
    """The counter as a shared library for this machine's emulator, in edge's cache."""
    from edge.dependencies import require

    require("native", "building the instruction counter", "ziglang")
    key = sha256_file(PLUGIN)[:16]
    library = cache_dir() / "runner" / f"count-{api}-{key}.so"
    if library.is_file():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".count-", dir=library.parent) as scratch:
        made = Path(scratch) / library.name
        done = subprocess.run(
            [
                sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra",
                f"-DEDGE_PLUGIN_API={api}", "-Wl,-z,undefs", "-o", str(made), str(PLUGIN),
            ],
            env=os.environ | {"ZIG_LOCAL_CACHE_DIR": f"{scratch}/zig"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            reason = [line for line in done.stderr.splitlines() if "error:" in line] or ["no message"]
            raise UnsupportedError(f"the instruction counter cannot be built ({reason[0].strip()[:200]}): reinstall ziglang.")
        made.replace(library)
    return library


def _option(path: Path) -> str:
    """``path`` as a value among QEMU's options, where a comma begins the next unless it is doubled."""
    return str(path).replace(",", ",,")


def _fixed_addresses() -> tuple[str, ...]:
    """A prefix that has the kernel put everything at the same addresses, where there is one (util-linux) and it may be asked to.

    Containers often forbid it; counts repeat without it too, as long as nothing depends on an address.
    """
    found = shutil.which("setarch")
    if found is None or subprocess.run([found, "-R", "true"], capture_output=True, check=False).returncode:
        return ()
    return found, "-R"
