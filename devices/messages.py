"""What a worker is asked and what it answers: JSON objects, a line each, told apart by ``type``.

The Python worker (``harness``, ``verifying``, ``running``) and the native runner (``runtimes/native/src``) speak the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from edge.conditions import Conditions
from edge.devices.running import Ran, RunRequest
from edge.devices.verifying import Verified, VerifyRequest
from edge.measurement import DeviceFacts, EntryMeasurement, Memory, Phase, Roof
from edge.runtimes._events import Traced


class ProfileRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="profile"):
    """Measure the bundle at ``bundle``; no ``entries`` means all of them. ``runs`` and ``seconds`` are both least.

    ``apart`` are the threads of the entry points that take fewer than ``threads``.

    ``cool_seconds`` is how long to wait, over the whole profile, for the device to cool down; 0 turns the thermal guard
    off. ``energy`` adds a pass for the device's energy meter, where it has one.
    """

    device: str
    bundle: str
    threads: int
    apart: Mapping[str, int] = {}
    entries: tuple[str, ...] = ()
    runs: int
    seconds: float
    operators: bool
    cool_seconds: float = 120.0
    energy: bool = True
    paced: bool = False  # the native runner alone: it asks before each block (see ``Waiting``)


class RoofRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="roof"):
    """Measure memory bandwidth and float32 peak with ``threads`` threads, or read them from the device's cache."""

    threads: int


class Began(msgspec.Struct, frozen=True, kw_only=True, tag="began"):
    """A phase begins: progress for the user, and where it was if the process dies."""

    phase: str


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The request was refused: the name of the EdgeError's class and its sentence."""

    kind: str
    sentence: str


class Profiled(msgspec.Struct, frozen=True, kw_only=True, tag="profiled"):
    """``traces`` are the events of the entries whose per-operator table is still to be made (see ``with_operators``)."""

    facts: DeviceFacts
    phases: tuple[Phase, ...]
    memory: Memory
    entries: tuple[EntryMeasurement, ...]
    warnings: tuple[str, ...]
    conditions: Conditions = Conditions()
    traces: tuple[Traced, ...] = ()


class Sampled(msgspec.Struct, frozen=True, kw_only=True, tag="sampled"):
    """What was measured up to here, in case the process ends before its reply: sent between blocks of timed runs.

    ``entry`` has only the runs and blocks since the last one, and ``conditions`` only the readings since then; the rest
    is as far as it is known. ``edge.devices.partial`` puts them together.
    """

    facts: DeviceFacts
    phases: tuple[Phase, ...]
    memory: Memory
    entry: EntryMeasurement
    conditions: Conditions = Conditions()
    whole: bool = True  # where it answers ``Go``: the block is as long as that asked for


class Waiting(msgspec.Struct, frozen=True, kw_only=True, tag="waiting"):
    """The native runner, if it is ``paced``, is ready for more runs of ``entry`` and waits for ``Go`` or ``Enough``.

    ``phase`` is "runs" (a block is answered by ``Sampled``) or "energy" (by ``Repeated``); ``at_us`` is now.
    """

    phase: str
    entry: str
    at_us: float


class Go(msgspec.Struct, frozen=True, kw_only=True, tag="go"):
    """To the runner: at least ``runs`` runs and ``seconds`` seconds, after ``ramp`` seconds of runs that do not count."""

    runs: int
    seconds: float
    ramp: float


class Enough(msgspec.Struct, frozen=True, kw_only=True, tag="enough"):
    """To the runner: no more of these."""


class Repeated(msgspec.Struct, frozen=True, kw_only=True, tag="repeated"):
    """So many runs in so many seconds, none timed by itself."""

    runs: int
    seconds: float


class RoofFound(msgspec.Struct, frozen=True, kw_only=True, tag="roof-found"):
    roof: Roof


Request = ProfileRequest | RoofRequest | VerifyRequest | RunRequest
Reply = Profiled | RoofFound | Verified | Ran
Message = Began | Failed | Sampled | Waiting | Repeated | Profiled | RoofFound | Verified | Ran
