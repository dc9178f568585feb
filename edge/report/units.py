"""Figures as people read them: three digits and a unit."""

from __future__ import annotations

import math

from edge.errorstats import UNBOUNDED


def duration(us: float) -> str:
    """Microseconds as "834 ns", "12.3 µs", "4.56 ms" or "7.89 s"."""
    if us < 1.0:
        return f"{digits(us * 1e3)} ns"
    if us < 999.5:
        return f"{digits(us)} µs"
    if us < 999.5e3:
        return f"{digits(us / 1e3)} ms"
    return f"{digits(us / 1e6)} s"


def size(count: float) -> str:
    """Bytes as "512 B", "6.40 kB", "3.21 MB" or "1.02 GB" (powers of ten)."""
    if count < 1e3:
        return f"{count:.0f} B"
    for factor, unit in ((1e3, "kB"), (1e6, "MB")):
        if count < 999.5 * factor:
            return f"{digits(count / factor)} {unit}"
    return f"{digits(count / 1e9)} GB"


def binary_size(count: float) -> str:
    """Bytes of hardware as "512 KiB", "32 MiB" or "4 GiB"."""
    for factor, unit in ((2**10, "KiB"), (2**20, "MiB"), (2**30, "GiB")):
        if count < 1024 * factor or unit == "GiB":
            return f"{count / factor:.3g} {unit}"
    raise AssertionError


def count(number: float) -> str:
    """A count of operations as "950", "1.34 k", "18.2 M" or "2.11 G"."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= 0.9995 * factor:
            return f"{digits(number / factor)}{unit}"
    return f"{number:.0f}"


def percent(share: float) -> str:
    """0.1234 as "12.3 %"."""
    return f"{digits(100 * share)} %" if share >= 0.0995 else f"{100 * share:.1f} %"


def calls(number: float) -> str:
    """Calls per run: "1", or "2.5" where only some runs make one more."""
    return f"{number:.3g}"


def error(value: float) -> str:
    """An error in two digits; one without bound as "unbounded"."""
    return "unbounded" if value >= UNBOUNDED else f"{value:.1e}"


def energy(joules: float) -> str:
    """Joules as "12.3 µJ", "4.56 mJ" or "7.89 J"."""
    for factor, unit in ((1e-6, "µJ"), (1e-3, "mJ")):
        if joules < 999.5 * factor:
            return f"{digits(joules / factor)} {unit}"
    return f"{digits(joules)} J"


def figure(value: float, unit: str) -> str:
    """A task's figure with its unit: "0.321 ms" as "321 µs", "0.002 J" as "1.94 mJ", "99579 tokens/s" as "99,600 tokens/s"."""
    if unit == "ms":
        return duration(1e3 * value)
    if unit == "J":
        return energy(value)
    shown = digits(value) if value < 999.5 else f"{float(f'{value:.3g}'):,.0f}"
    return f"{shown} {unit}"


def plural(number: int, word: str) -> str:
    """ "1 block", "2 blocks"."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def digits(value: float) -> str:
    """Three significant digits, never in exponent form: 0.00123, 0.123, 1.23, 12.3, 123."""
    size = abs(value)
    if not 1e-9 <= size < math.inf:
        return "0" if size < 1e-9 else str(value)
    # The power of ten after rounding, so that 9.996 is 10.0.
    power = int(f"{size:.2e}".partition("e")[2])
    return f"{value:.{max(2 - power, 0)}f}"
