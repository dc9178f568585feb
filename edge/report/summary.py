"""The device's conditions in a few words, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Sequence

from edge.conditions import NOT_READABLE, Conditions
from edge.report import units


def conditions(found: Conditions) -> list[tuple[str, str]]:
    """(what, how it was) for clock, temperature, throttling and energy; empty for profiles of before there were sensors."""
    if not found.sources:
        return []
    return [
        ("clock", _spread([max(one.frequencies_mhz, default=None) for one in found.readings], "MHz", 0, found, "frequency")),
        ("temperature", _temperature(found)),
        ("throttling", _throttling(found)),
        ("energy", found.sources.get("energy", NOT_READABLE)),
    ]


def _temperature(found: Conditions) -> str:
    text = _spread([one.temperature_c for one in found.readings], "°C", 1, found, "temperature")
    if found.idle is not None:
        text += f"; idle is {found.idle.low_c:.1f} to {found.idle.high_c:.1f} °C"
    if found.waited_s:
        text += f"; waited {found.waited_s:.0f} s for it to cool"
    return text


def _throttling(found: Conditions) -> str:
    source = found.sources.get("throttling", NOT_READABLE)
    seen = [one.throttled for one in found.readings if one.throttled is not None]
    if not seen:
        return source
    names = list(dict.fromkeys(name for one in seen for name in one))
    text = f"{', '.join(names)} ({source})" if names else f"none seen ({source})"
    if found.repeated:
        text += f"; {units.plural(found.repeated, 'block')} of runs repeated"
    return text


def _spread(values: Sequence[float | None], unit: str, decimals: int, found: Conditions, name: str) -> str:
    """ "2400 MHz" or "51.8 before, 49.0 to 63.5 °C, 62.0 after"; where it was read if it was not."""
    known = [value for value in values if value is not None]
    if not known:
        return found.sources.get(name, NOT_READABLE)
    low, high = f"{min(known):.{decimals}f}", f"{max(known):.{decimals}f}"
    if low == high:
        return f"{low} {unit}"
    return f"{known[0]:.{decimals}f} before, {low} to {high} during, {known[-1]:.{decimals}f} {unit} after"
