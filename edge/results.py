"""The results that this user has measured: every sample kept, and an index to find them by.

    $EDGE_RESULTS (or ~/.local/share/edge/results, $XDG_DATA_HOME respected)
      index.sqlite               one row for each entry point of each result; can be deleted, it is made again
      ID/profile.json.gz         the measurement, as `edge profile --json` writes it
      ID/samples.jsonl.gz        one JSON line for each timed run, whole in itself: bundle, device, versions, governor

ID is the time of the measurement and a part of its SHA-256, so that keeping one twice keeps it once. A result appears
whole or not at all.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import tempfile
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge.bundle import storage_errors
from edge.errors import UsageError
from edge.measurement import EntryMeasurement, Measurement
from edge.report import jsonfile

PROFILE, SAMPLES = "profile.json.gz", "samples.jsonl.gz"
#: Samples of one result are much alike: the fastest level packs them to a thirtieth.
LEVEL = 1
_ID = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}")


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One timed run with all that it takes to judge it alone. Temperature and clock are the last ones read before it."""

    result: str
    entry: str
    start_us: float
    duration_us: float
    frequencies_mhz: tuple[float, ...]
    temperature_c: float | None
    model: str
    bundle_sha256: str  # of the manifest, which lists the hashes of all else
    runtime: str
    runtime_version: str
    scheme: str
    target: str
    threads: int
    created: str
    edge_version: str
    device: str
    cpu: str
    system: str
    governor: str | None
    versions: dict[str, str]


def results_dir() -> Path:
    """Where results are kept; the folder need not exist yet."""
    if own := os.environ.get("EDGE_RESULTS"):
        return Path(own).expanduser()
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "edge" / "results"


def keep(measurement: Measurement) -> str:
    """Store ``measurement``; its ID. Raises StorageError."""
    from edge import results_index

    raw = jsonfile.encode(measurement)
    name = identity(measurement, raw)
    folder = results_dir()
    with storage_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / name).is_dir():
            _write(folder, name, measurement, raw)
    results_index.add(folder, name, measurement)
    return name


def identity(measurement: Measurement, raw: bytes) -> str:
    """The ID of ``measurement``, whose JSON is ``raw``."""
    moment = re.sub(r"[^0-9T]", "", measurement.created.split("+", 1)[0])[:15]
    return f"{moment}-{hashlib.sha256(raw).hexdigest()[:8]}"


def is_identity(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def identities(folder: Path | None = None) -> list[str]:
    """Every result there is, oldest first."""
    folder = folder or results_dir()
    found = folder.iterdir() if folder.is_dir() else iter(())
    return sorted(path.name for path in found if is_identity(path.name) and (path / PROFILE).is_file())


def load(name: str, folder: Path | None = None) -> Measurement:
    """The result called ``name``, or the only one whose ID begins with it. Raises UsageError and InputError."""
    folder = folder or results_dir()
    near = [known for known in identities(folder) if known.startswith(name)] if name else []
    if len(near) != 1:
        what = f"{len(near)} results begin with '{name}'" if near else f"there is no result '{name}'"
        raise UsageError(f"{what}: give an ID that `edge results` lists.")
    path = folder / near[0] / PROFILE
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"the result {near[0]} cannot be read ({error}): delete {path.parent}.") from error
    return jsonfile.decode(raw, f"the result {near[0]}")


def samples(measurement: Measurement, name: str) -> Iterator[Sample]:
    """Every timed run of ``measurement``, which is kept as ``name``."""
    for entry in measurement.entries:
        yield from _samples(measurement, entry, name)


def _samples(measurement: Measurement, entry: EntryMeasurement, name: str) -> Iterator[Sample]:
    bundle, device = measurement.bundle, measurement.device
    readings = measurement.conditions.readings
    moments = [reading.at_us for reading in readings]
    for run in entry.runs:
        index = bisect_right(moments, run.start_us) - 1
        reading = readings[index] if index >= 0 else None
        yield Sample(
            result=name,
            entry=entry.entry,
            start_us=run.start_us,
            duration_us=run.duration_us,
            frequencies_mhz=reading.frequencies_mhz if reading else (),
            temperature_c=reading.temperature_c if reading else None,
            model=bundle.model,
            bundle_sha256=bundle.manifest_sha256,
            runtime=bundle.runtime,
            runtime_version=bundle.runtime_version,
            scheme=bundle.scheme,
            target=bundle.target,
            threads=measurement.settings.threads_of(entry.entry),
            created=measurement.created,
            edge_version=measurement.edge_version,
            device=device.device,
            cpu=device.cpu,
            system=device.system,
            governor=device.governor,
            versions=dict(device.versions),
        )


def _write(folder: Path, name: str, measurement: Measurement, raw: bytes) -> None:
    staging = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    try:
        (staging / PROFILE).write_bytes(gzip.compress(raw, LEVEL, mtime=0))
        encoder = msgspec.json.Encoder()
        with (staging / SAMPLES).open("wb") as file, gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as packed:
            lines: list[bytes] = []
            for sample in samples(measurement, name):
                lines.append(encoder.encode(sample))
                if len(lines) == 1000:
                    packed.write(b"\n".join(lines) + b"\n")
                    lines = []
            if lines:
                packed.write(b"\n".join(lines) + b"\n")
        staging.chmod(0o755)
        try:
            staging.rename(folder / name)
        except OSError:
            if not (folder / name).is_dir():  # else another process kept the same one meanwhile
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
