"""Lays bundles out as an APK wants them: their files as assets, each bundle's program as a native library named by its SHA-256.

    python pack.py FOLDER BUNDLE...

Android starts programs from the folder of native libraries only. Each is checked before: opened as edge opens it, static,
for a CPU that Android has, its segments aligned to 16 KB. What a bundle holds for the machine that exported it stays out.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
from elftools.elf.elffile import ELFFile

from edge.bundle import MANIFEST, open_bundle, sha256_file
from edge.errors import EdgeError, UsageError

#: Android's names of CPUs, by ELF's.
ABIS = {"EM_AARCH64": "arm64-v8a", "EM_X86_64": "x86_64"}
PAGE = 16384
HOST = "host/"


def pack(bundle: Path, folder: Path) -> None:
    """Add ``bundle`` to the layout in ``folder``. Raises UsageError, and what opening a bundle raises."""
    opened = open_bundle(bundle)
    manifest = opened.manifest
    if manifest.runtime.name != "static":
        raise UsageError(f"{bundle.name} is for {manifest.runtime.name}, and the app starts programs: export it with --runtime tvm --static.")
    name = bundle.resolve().name
    target = folder / "assets" / "bundles" / name
    programs = {entry.artifact for entry in manifest.entries}
    for record in manifest.files:
        if record.path in programs:
            library = folder / "lib" / abi(opened.file(record.path)) / f"libedge-{record.sha256}.so"
            library.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(opened.file(record.path), library)
        elif not record.path.startswith(HOST):
            (target / record.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(opened.file(record.path), target / record.path)
    shutil.copyfile(bundle / MANIFEST, target / MANIFEST)
    print(f"{name}: {', '.join(entry.name for entry in manifest.entries)}; manifest {sha256_file(bundle / MANIFEST)[:12]}")


def write_series(path: Path) -> None:
    """A series for the first look at TSPulse: a sensor that is stuck for a while (as in examples/anomalies.py)."""
    time = np.arange(640)
    series = np.sin(time / 8) + 0.05 * np.random.default_rng(0).standard_normal(len(time))
    series[560:580] = 0.2
    np.savetxt(path, series, header="level", comments="", fmt="%.5f")


def abi(program: Path) -> str:
    """Android's name of the CPU that ``program`` is for; UsageError if Android cannot start it."""
    with program.open("rb") as stream:
        elf = ELFFile(stream)
        machine = elf["e_machine"]
        if machine not in ABIS:
            raise UsageError(f"{program} is for {machine}, which no phone has: export with --target android.")
        least = min(segment["p_align"] for segment in elf.iter_segments("PT_LOAD"))
        if least < PAGE:
            raise UsageError(f"{program} has segments aligned to {least} bytes, and phones with pages of 16 KB cannot start it: export it again.")
    return ABIS[machine]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("bundles", type=Path, nargs="*")
    asked = parser.parse_args()
    for name in ("assets", "lib"):
        (asked.folder / name).mkdir(parents=True, exist_ok=True)
    write_series(asked.folder / "assets" / "sample.csv")
    try:
        for bundle in asked.bundles:
            pack(bundle, asked.folder)
    except EdgeError as error:
        print(f"pack.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
