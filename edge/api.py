"""The Python verbs beside ``edge.export``: load, verify and profile a bundle."""

from __future__ import annotations

import datetime
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from edge._version import __version__
from edge.bundle import MANIFEST, Bundle, open_bundle, sha256_file
from edge.conditions import Figure
from edge.devices import app, facts
from edge.devices.adb import AdbDevice
from edge.devices.base import Device, find_device
from edge.devices.harness import with_operators
from edge.devices.local import LocalDevice
from edge.devices.messages import Profiled, ProfileRequest, RoofFound, RoofRequest
from edge.devices.roofline import bound
from edge.devices.running import RunRequest
from edge.devices.targets import load_target
from edge.devices.verifying import Verified, VerifyRequest, check_samples
from edge.errors import DeviceError, EdgeError, UnsupportedError, UsageError
from edge.estimate import Estimate, measured, published
from edge.estimate import estimate as make_estimate
from edge.families.base import get_family
from edge.manifest import Manifest
from edge.measurement import BundleFacts, EntryCheck, EntryMeasurement, Measurement, Roof, Settings
from edge.npz import encode_npz, read_npz
from edge.progress import Progress
from edge.runtimes.base import Session, check_inputs, session_class
from edge.threads import choose

#: Seconds that a profile may take before it counts as hung, beyond the time asked for: slow boards take a minute to
#: import torch, and a slow model has its own limit (``edge.devices.timing.MOST_SECONDS``).
PATIENCE = 600.0
ROOF_PATIENCE = 180.0
#: Seconds that a profile may wait for a hot device to cool down.
COOL_SECONDS = 120.0


def load(path: Path | str, *, threads: int | None = None) -> Session:
    """Open and check the bundle at ``path`` and load it.

    ``threads`` defaults to what `edge tune` found on this machine, or else what the bundle's target uses, within this
    machine's cores. Raises UsageError, BundleError, and MissingDependencyError if its runtime is not installed.
    """
    return _load(open_bundle(path), threads)


def verify(
    path: Path | str, *, threads: int | None = None, device: str = "local", progress: Progress | None = None
) -> tuple[EntryCheck, ...]:
    """Run the stored samples through the bundle on ``device`` and compare with the stored outputs of eager.

    Returns what was found, passed or not; raises as ``load`` does, and MismatchError for outputs of another shape.
    """
    found = find_device(device)
    opened = open_bundle(path)
    if isinstance(found, LocalDevice):
        return check_samples(opened, _load(opened, threads), "this host")
    used = choose(opened, threads, found)
    request = VerifyRequest(device=device, bundle=str(opened.path.resolve()), threads=used.most)
    verified = found.work(request, PATIENCE, progress or Progress())
    assert isinstance(verified, Verified)
    return verified.checks


def run_on(
    path: Path | str, entry: str | None, inputs: Mapping[str, np.ndarray], *, device: str, threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """Outputs of entry point ``entry`` (None: the only one) of the bundle at ``path``, computed on ``device``.

    Raises as ``load`` does, InputError for inputs that do not fit, and DeviceError.
    """
    found = find_device(device)
    opened = open_bundle(path)
    record = opened.manifest.entry(entry or only_entry(opened.manifest))
    check_inputs(record, inputs)
    with tempfile.TemporaryDirectory(prefix="edge-run-") as folder:
        given, outputs = Path(folder) / "in.npz", Path(folder) / "out.npz"
        given.write_bytes(encode_npz(inputs))
        request = RunRequest(
            device=device, bundle=str(opened.path.resolve()), threads=choose(opened, threads, found).of(record.name),
            entry=record.name, inputs=str(given), outputs=str(outputs),
        )
        found.work(request, PATIENCE, progress or Progress())
        return read_npz(outputs)


def only_entry(manifest: Manifest) -> str:
    """The name of the one entry point; UsageError where there are several."""
    if len(manifest.entries) > 1:
        raise UsageError(f"which entry point? Give --entry: {', '.join(record.name for record in manifest.entries)}.")
    return manifest.entries[0].name


def profile(
    path: Path | str,
    *,
    threads: int | None = None,
    entries: Sequence[str] = (),
    runs: int = 50,
    seconds: float = 1.0,
    device: str = "local",
    operators: bool = True,
    roofline: bool = True,
    cool_seconds: float = COOL_SECONDS,
    energy: bool = True,
    timeout: float | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Measure the bundle at ``path`` in a fresh process on ``device``.

    Every entry (or those in ``entries``) is run on its first stored sample at least ``runs`` times and ``seconds``
    seconds, with ``threads`` threads, or by default with those of ``load``. ``operators`` adds the per-operator pass,
    ``roofline`` what the machine could do at most, ``energy`` the passes for the device's energy meter, if it has one.
    Where the device says its temperature, timed runs begin when it is as cool as when idle, which is waited for
    ``cool_seconds`` at most (0: not at all). Raises as ``load`` does, and DeviceError if the process dies, the way to it
    breaks or it takes more than ``timeout`` seconds; the error's ``measurement`` then has the runs that were finished, if
    any were.
    """
    if runs < 1 or not (0 <= seconds < math.inf and 0 <= cool_seconds < math.inf):
        raise UsageError(
            f"profiling needs at least 1 run and no negative or endless time, not {runs} runs, {seconds} s and {cool_seconds} s to cool."
        )
    found = find_device(device)
    opened = open_bundle(path)
    manifest = opened.manifest
    for name in entries:
        manifest.entry(name)
    used = choose(opened, threads, found).only(entries)
    progress = progress or Progress()
    asked = len(entries) or len(manifest.entries)
    request = ProfileRequest(
        device=device, bundle=str(opened.path.resolve()), threads=used.most, apart=used.apart,
        entries=tuple(entries), runs=runs, seconds=seconds, operators=operators, cool_seconds=cool_seconds, energy=energy,
    )
    settings = Settings(threads=used.most, apart=used.apart, tuned=used.tuned, runs=runs, seconds=seconds)
    profiled: Profiled | None = None
    roof, without = None, ""
    try:
        reply = found.work(request, timeout or PATIENCE + cool_seconds + 4 * asked * max(seconds, 1.0), progress)
        assert isinstance(reply, Profiled)
        profiled = with_operators(reply, opened.path, manifest)
        if roofline:
            try:
                roof = _roof(found, used.most, progress)
            except UnsupportedError as error:  # a phone has no Python to measure it
                without = f"there is no roofline: {error}"
    except DeviceError as error:
        error.partial = profiled or error.partial
        if error.partial is not None:
            cut = f"the measurement was cut short: {error}"
            error.measurement = _measurement(opened, error.partial, settings, None, cut, cut_short=True)
        raise
    return _measurement(opened, profiled, settings, roof, without)


def profile_in_app(
    path: Path | str, *, device: str, threads: int | None = None, runs: int = 50, timeout: float | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Have the demo app on the phone ``device`` (``adb:SERIAL``) measure its own copy of the bundle at ``path``.

    Raises UsageError for another kind of device, BundleError, and DeviceError where the app is not there, has another
    bundle of that name, or writes nothing within ``timeout`` seconds.
    """
    if runs < 1 or (threads is not None and threads < 1):
        raise UsageError(f"profiling needs at least 1 run and 1 thread, not {runs} and {threads}.")
    found = find_device(device)
    if not isinstance(found, AdbDevice):
        raise UsageError(f"the app is on a phone, and {device} is none: give --device adb:SERIAL.")
    opened = open_bundle(path)
    measured = app.measure(
        found, opened.path.resolve().name, sha256_file(opened.path / MANIFEST), threads=threads, runs=runs,
        timeout=timeout or PATIENCE, progress=progress or Progress(),
    )
    return msgspec.structs.replace(
        measured,
        device=msgspec.structs.replace(measured.device, device=device),
        figures=_figures(opened.manifest, measured.entries),
    )


def _measurement(
    opened: Bundle, profiled: Profiled, settings: Settings, roof: Roof | None, trouble: str, *,
    cut_short: bool = False,
) -> Measurement:
    """What the process found as a result; ``trouble`` ("": none) is a warning more."""
    manifest, measured = opened.manifest, profiled.entries
    if roof is not None:
        measured = tuple(
            msgspec.structs.replace(
                entry, bound=bound(entry.cost, entry.latency.p50_us, roof, manifest.recipe.scheme)
            )
            for entry in measured
        )
    return Measurement(
        edge_version=__version__,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        bundle=_bundle_facts(opened),
        device=profiled.facts,
        settings=settings,
        phases=profiled.phases,
        memory=profiled.memory,
        entries=measured,
        roof=roof,
        warnings=(*facts.warnings(profiled.facts, settings.threads), *profiled.warnings, *([trouble] if trouble else [])),
        conditions=profiled.conditions,
        figures=_figures(manifest, measured),
        cut_short=cut_short,
    )


def estimate(
    path: Path | str, *, target: str | None = None, threads: int | None = None, progress: Progress | None = None
) -> Estimate:
    """What the bundle at ``path`` may take on ``target`` (default: its own), from the target's published figures.

    For ``cpu`` the limits of this machine are measured. Nothing of the bundle is run. Raises UsageError for a target
    that does not say enough, ConfigError for one that is wrong, BundleError.
    """
    opened = open_bundle(path)
    wanted = load_target(target) if target else opened.manifest.target
    # A bundle for `cpu` was made on some machine: what is asked for is this one.
    here = wanted.name == "cpu"
    wanted = load_target("cpu") if here else wanted
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads cannot run a model: give 1 or more.")
    used = threads or wanted.threads
    limits = measured(_roof(find_device("local"), used, progress or Progress())) if here else published(wanted)
    if here:
        # The measured peak is that of the threads in use.
        wanted = msgspec.structs.replace(wanted, cores=used, threads=used)
    return make_estimate(
        opened.path.resolve().name, opened.manifest, opened.artifact_bytes, wanted, limits, used
    )


def _figures(manifest: Manifest, entries: Sequence[EntryMeasurement]) -> tuple[Figure, ...]:
    """What the times mean for the family's task; nothing for a family that this edge does not know."""
    try:
        family = get_family(manifest.family)
    except EdgeError:
        return ()
    return family.figures(manifest, {entry.entry: entry for entry in entries})


def _load(opened: Bundle, threads: int | None) -> Session:
    used = choose(opened, threads, find_device("local"))
    return session_class(opened.manifest.runtime.name)(opened.path, opened.manifest, used.most, used.apart)


def _roof(device: Device, threads: int, progress: Progress) -> Roof:
    reply = device.work(RoofRequest(threads=threads), ROOF_PATIENCE, progress)
    assert isinstance(reply, RoofFound)
    return reply.roof


def _bundle_facts(opened: Bundle) -> BundleFacts:
    manifest = opened.manifest
    return BundleFacts(
        name=opened.path.resolve().name,
        model=manifest.model,
        runtime=manifest.runtime.name,
        runtime_version=manifest.runtime.version,
        scheme=manifest.recipe.scheme.value,
        target=manifest.target.name,
        manifest_sha256=sha256_file(opened.path / MANIFEST),
        artifact_bytes=opened.artifact_bytes,
        total_bytes=sum(record.size for record in manifest.files),
        metrics=manifest.metrics,
    )
