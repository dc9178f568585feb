"""A bundle: the folder ``NAME.edge/`` that goes to a device.

``write`` builds it in a temporary sibling, fsyncs every file and renames: it appears whole or not at all, and the same
inputs give the same bytes. ``open_bundle`` checks schema, paths, sizes and hashes before anything in it is loaded.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np

from edge.errors import BundleError, StorageError, UsageError
from edge.hugepages import cache_in_huge_pages
from edge.manifest import SCHEMA, FileRecord, Manifest

MANIFEST = "manifest.json"
SAMPLES = "samples.npz"
#: A fixed zip timestamp (the format's earliest), so that equal arrays give equal bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)

Samples = Sequence[tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]]


@dataclass(frozen=True)
class Bundle:
    """An opened, checked bundle."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """The path of a file that the manifest lists; BundleError for any other."""
        if name not in {record.path for record in self.manifest.files}:
            raise BundleError(f"{self.path.name} lists no file '{name}': export it again.")
        return self.path / name

    @property
    def artifact_bytes(self) -> int:
        """Size of what the runtime loads: every artifact once."""
        names = {entry.artifact for entry in self.manifest.entries}
        shared = {record.path for record in self.manifest.files if record.path.startswith("weights")}
        return sum(record.size for record in self.manifest.files if record.path in names | shared)

    def samples(self, entry: str) -> list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
        """The stored (inputs, eager outputs) of ``entry``."""
        record = self.manifest.entry(entry)
        found: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]] = []
        with np.load(self.file(SAMPLES), allow_pickle=False) as stored:
            for index in range(record.samples):
                prefix = f"{entry}/{index}"
                found.append((
                    {spec.name: stored[f"{prefix}/in/{spec.name}"] for spec in record.inputs},
                    {spec.name: stored[f"{prefix}/out/{spec.name}"] for spec in record.outputs},
                ))
        return found


def sha256_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn the operating system's complaints about the disk into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError(f"the disk is full while writing {what}: free some space and run it again.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError(f"{what} cannot be written (permission denied or read-only): choose another folder.") from error
        raise StorageError(f"{what} cannot be written: {error.strerror or error}.") from error


def check_destination(destination: Path) -> None:
    """Refuse (UsageError, StorageError) a place that no bundle can be written to; asked before the long work begins."""
    if destination.is_dir() and not (destination / MANIFEST).is_file() and any(destination.iterdir()):
        raise UsageError(f"{destination} exists and is not a bundle: choose another output.")
    if destination.exists() and not destination.is_dir():
        raise UsageError(f"{destination} is a file and a bundle is a folder: choose another output.")
    existing = next(parent for parent in destination.absolute().parents if parent.exists())
    if not existing.is_dir():
        raise UsageError(f"{existing} is a file, so {destination} cannot lie in it: choose another output.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise StorageError(f"{existing} may not be written to: choose another output.")


def write(destination: Path, manifest: Manifest, files: Mapping[str, Path], samples: Mapping[str, Samples]) -> Bundle:
    """Write a bundle to ``destination`` and return it opened.

    ``files`` maps names in the bundle to files to copy in; ``samples`` holds each entry's (inputs, eager outputs).
    An older bundle at ``destination`` is replaced in one step. Raises StorageError.
    """
    check_destination(destination)
    with storage_errors(str(destination)):
        destination.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        with storage_errors(str(destination)):
            staging.chmod(0o755)
            records = []
            for name, source in sorted(files.items()):
                _check_name(name)
                target = staging / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
                records.append(_record(staging, name))
            _write_bytes(staging / SAMPLES, _pack_samples(samples))
            records.append(_record(staging, SAMPLES))
            manifest = msgspec.structs.replace(manifest, files=tuple(sorted(records, key=lambda record: record.path)))
            _write_bytes(staging / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2))
            for record in records:
                _fsync(staging / record.path)
            _fsync(staging)
            _replace(staging, destination)
            _fsync(destination.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Bundle(destination, manifest)


def open_bundle(path: Path | str) -> Bundle:
    """Open and check the bundle at ``path``; BundleError says what is not whole."""
    path = Path(path)
    if not path.exists():
        raise UsageError(f"there is no bundle at {path}: check the path, or make one with `edge export`.")
    manifest = read_manifest(path)
    seen: set[str] = set()
    for record in manifest.files:
        _check_name(record.path)
        if record.path in seen:
            raise BundleError(f"{path.name}/{MANIFEST} lists '{record.path}' twice: export it again.")
        seen.add(record.path)
        target = path / record.path
        if target.is_symlink() or not target.is_file():
            raise BundleError(f"{path.name} lacks '{record.path}', which its manifest lists: copy or export it again.")
        cache_in_huge_pages(target)  # which reads it, so before the hash does
        if target.stat().st_size != record.size or sha256_file(target) != record.sha256:
            raise BundleError(f"'{record.path}' in {path.name} is not what was exported (its hash differs): copy or export it again.")
    for entry in manifest.entries:
        if entry.artifact not in seen:
            raise BundleError(f"entry point '{entry.name}' of {path.name} names '{entry.artifact}', which is not listed: export it again.")
    if SAMPLES not in seen:
        raise BundleError(f"{path.name} has no {SAMPLES}: export it again.")
    return Bundle(path, manifest)


def read_manifest(path: Path) -> Manifest:
    """The manifest of the bundle at ``path``, decoded strictly; the files it lists are not looked at."""
    source = path / MANIFEST
    if not source.is_file():
        raise BundleError(f"{path} is not a bundle (it has no {MANIFEST}): give the folder that `edge export` wrote.")
    try:
        raw = source.read_bytes()
        schema = msgspec.json.decode(raw, type=_Versioned).schema
        if schema != SCHEMA:
            raise BundleError(f"{path.name} has bundle schema {schema} and this edge reads {SCHEMA}: export it again, or use the edge that wrote it.")
        return msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path.name}/{MANIFEST} does not follow the schema ({error}): export it again.") from error


class _Versioned(msgspec.Struct):
    schema: int


def _check_name(name: str) -> None:
    """A bundle's paths are relative, POSIX, and stay inside it."""
    pure = PurePosixPath(name)
    if not name or pure.is_absolute() or "\\" in name or "\0" in name or any(part in ("..", ".") for part in name.split("/")):
        raise BundleError(f"the manifest names the path '{name}', which leads outside the bundle: do not use this bundle.")


def _record(root: Path, name: str) -> FileRecord:
    return FileRecord(path=name, sha256=sha256_file(root / name), size=(root / name).stat().st_size)


def _write_bytes(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(staging: Path, destination: Path) -> None:
    """Move ``staging`` into place; an older bundle there steps aside first and goes last."""
    if not destination.exists():
        staging.rename(destination)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{destination.name}.old.", dir=destination.parent))
    destination.rename(aside / "old")
    try:
        staging.rename(destination)
    except OSError:
        (aside / "old").rename(destination)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _pack_samples(samples: Mapping[str, Samples]) -> bytes:
    """An .npz with fixed timestamps and order (numpy's own stamps the current time)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for entry, pairs in sorted(samples.items()):
            for index, (inputs, outputs) in enumerate(pairs):
                for side, arrays in (("in", inputs), ("out", outputs)):
                    for name, array in sorted(arrays.items()):
                        member = io.BytesIO()
                        np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
                        info = zipfile.ZipInfo(f"{entry}/{index}/{side}/{name}.npy", _EPOCH)
                        info.compress_type = zipfile.ZIP_DEFLATED
                        archive.writestr(info, member.getvalue())
    return buffer.getvalue()
