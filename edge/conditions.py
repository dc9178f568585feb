"""What the device's own sensors said around a measurement: clock, temperature, throttling, energy.

Every value that a device does not offer is absent here (None or empty), and ``Conditions.sources`` says why; nothing is
guessed. Times are microseconds on the measurement's own time line, as in ``edge.measurement``.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

#: How ``Conditions.sources`` begins for what a device does not say.
NOT_READABLE = "not readable"


class Reading(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sensors at one moment, never while a timed call runs.

    ``frequencies_mhz`` has one value for each group of cores that shares a clock, in the kernel's order (empty: not
    readable). ``throttled`` names what holds the clock back now: empty is nothing, None is not readable or not asked
    for at this moment (asking can take a program's start).
    """

    at_us: float
    frequencies_mhz: tuple[float, ...] = ()
    temperature_c: float | None = None
    throttled: tuple[str, ...] | None = None
    rss_bytes: int | None = None  # of the measuring process


class Block(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Timed runs in one stretch, after the wait for a cool device.

    ``spoiled`` says what held the clock back during it. A spoiled block is run again; ``kept`` is false for one whose
    runs are not among the entry's, and true with ``spoiled`` for the last of several that stayed hot.
    """

    start_us: float
    duration_us: float
    runs: int
    waited_s: float = 0.0
    spoiled: tuple[str, ...] = ()
    kept: bool = True


class Energy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Energy of one run, from a pass of its own over ``runs`` runs in ``seconds`` seconds.

    ``joules`` is all that the meter counted, divided by the runs; ``net_joules`` leaves out what the device drew while
    idle just before (None where that was not measured). ``method`` names the meter and what it covers.
    """

    method: str
    joules: float
    net_joules: float | None
    watts: float
    idle_watts: float | None
    runs: int
    seconds: float


class IdleBand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The temperatures, in degrees Celsius, between which this device settles when it has nothing to do."""

    low_c: float
    high_c: float


class Conditions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All readings in order of time, and what the thermal guard did.

    ``sources`` tells for ``frequency``, ``temperature``, ``throttling`` and ``energy`` where each was read, or begins
    with "not readable" and says why. ``waited_s`` is the time spent waiting for the device to cool, ``repeated`` the
    blocks run again; ``stayed_hot`` marks a result whose device never cooled or never stopped throttling.
    """

    readings: tuple[Reading, ...] = ()
    sources: Mapping[str, str] = {}
    idle: IdleBand | None = None
    waited_s: float = 0.0
    repeated: int = 0
    stayed_hot: bool = False


class Figure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the times mean for the model's own task: tokens/s, time to first token, time of a click.

    ``value`` is in ``unit``; ``method`` says how it comes from what was measured.
    """

    name: str
    value: float
    unit: str
    higher_is_better: bool
    method: str
