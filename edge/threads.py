"""How many threads run a bundle: what was asked for, what `edge tune` found on the device, or what its target uses.

What was found is kept in the user's cache, a file a bundle, by the SHA-256 of its manifest. Each entry of it holds for one
machine: its CPU, its cores, the version of the runtime there. Another bundle or another machine knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from edge.bundle import MANIFEST, Bundle, sha256_file
from edge.cache import read_cached, write_cached
from edge.dependencies import version
from edge.devices.base import Device
from edge.devices.host import MachineFacts, host_facts
from edge.devices.local import LocalDevice
from edge.devices.routes import RUNTIME_PACKAGES
from edge.errors import UsageError
from edge.measurement import threads_in_words

if TYPE_CHECKING:
    from edge.manifest import Manifest


class Threads(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``most`` threads, and those of the entry points that take fewer. ``tuned``: `edge tune` chose them."""

    most: int
    apart: Mapping[str, int] = {}
    tuned: bool = False

    @classmethod
    def each(cls, chosen: Mapping[str, int]) -> Threads:
        """As tuned: ``chosen`` has the threads of every entry point."""
        most = max(chosen.values())
        return cls(most=most, apart={name: count for name, count in chosen.items() if count != most}, tuned=True)

    def of(self, entry: str) -> int:
        return self.apart.get(entry, self.most)

    def only(self, entries: Sequence[str]) -> Threads:
        """Those that ``entries`` need; no names means all."""
        return Threads.each({name: self.of(name) for name in entries}) if self.tuned and entries else self

    def __str__(self) -> str:
        return threads_in_words(self.most, self.apart)


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a choice of threads depends on beside the bundle."""

    arch: str
    model: str
    cpu: str
    cores: int
    runtime: str


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    machine: Machine
    threads: Mapping[str, int]  # of every entry point


def choose(opened: Bundle, threads: int | None, device: Device) -> Threads:
    """As many as were asked for, or as were found best there, or as the target uses within the cores of where it runs.

    Raises UsageError for fewer than one, DeviceError where a device must be asked and does not answer.
    """
    if threads is not None:
        if threads < 1:
            raise UsageError(f"{threads} threads cannot run a model: give 1 or more.")
        return Threads(most=threads)
    if (found := remembered(opened, device)) is not None:
        return found
    return Threads(most=max(min(opened.manifest.target.threads, machine_facts(device).cores), 1))


def remembered(opened: Bundle, device: Device) -> Threads | None:
    """What `edge tune` found for the bundle on ``device``; None if it was not tuned there."""
    known = _read(opened)
    if not known:
        return None
    here = machine(opened.manifest, device)
    return next((Threads.each(one.threads) for one in known if one.machine == here), None)


def remember(opened: Bundle, device: Device, threads: Mapping[str, int]) -> None:
    """Keep ``threads`` (of every entry point) as what is best on ``device``."""
    here = machine(opened.manifest, device)
    others = [one for one in _read(opened) if one.machine != here]
    write_cached(_name(opened), msgspec.json.encode([*others, Remembered(machine=here, threads=threads)]))


def machine(manifest: Manifest, device: Device) -> Machine:
    facts = machine_facts(device)
    packages = RUNTIME_PACKAGES.get(manifest.runtime.name, ())
    if isinstance(device, LocalDevice):
        versions = [version(name) for name in packages]
    else:
        python = device.facts().python
        versions = [python.packages.get(name) if python else None for name in packages]
    # Without the packages it runs by edge's own runner, which has the version that the bundle was made by.
    runtime = " ".join(found or manifest.runtime.version for found in versions) or manifest.runtime.version
    return Machine(arch=facts.arch, model=facts.model, cpu=facts.cpu, cores=facts.cores, runtime=runtime)


def machine_facts(device: Device) -> MachineFacts:
    return host_facts() if isinstance(device, LocalDevice) else device.facts()


def _name(opened: Bundle) -> str:
    return f"threads/{sha256_file(opened.path / MANIFEST)}.json"


def _read(opened: Bundle) -> list[Remembered]:
    kept = read_cached(_name(opened))
    try:
        found = msgspec.json.decode(kept, type=list[Remembered]) if kept else []
    except msgspec.MsgspecError:
        return []
    names = {entry.name for entry in opened.manifest.entries}
    return [one for one in found if set(one.threads) == names and min(one.threads.values()) >= 1]
