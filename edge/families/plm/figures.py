"""What a profile of the two entry points says of text: tokens/s, time to first token, energy of a token.

Both entry points attend over the whole cache, filled or not, so a call takes as long at any position and the medians
hold for any prompt. Choosing the token and writing rows into the cache is Python's or the application's part, and not
in them.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge.conditions import Figure
from edge.families.plm.decoder import DECODE, PREFILL
from edge.manifest import Manifest
from edge.measurement import EntryMeasurement


def figures(manifest: Manifest, entries: Mapping[str, EntryMeasurement]) -> tuple[Figure, ...]:
    found = []
    if prefill := entries.get(PREFILL):
        chunk = int(manifest.entry(PREFILL).inputs[0].shape[0])
        found += [
            _rate("prefill", chunk, prefill, f"{chunk} tokens over the median of prefill"),
            Figure(
                name=f"time to first token, prompt of {chunk}",
                value=prefill.latency.p50_us / 1e3,
                unit="ms",
                higher_is_better=False,
                method=f"the median of prefill, which reads up to {chunk} tokens; a longer prompt takes one for each {chunk}",
            ),
        ]
    if decode := entries.get(DECODE):
        found.append(_rate("decode", 1, decode, "one token over the median of decode"))
        if decode.energy is not None:
            found.append(Figure(
                name="energy of a token", value=decode.energy.joules, unit="J", higher_is_better=False,
                method=f"one run of decode; {decode.energy.method}",
            ))
    return tuple(found)


def _rate(name: str, tokens: int, entry: EntryMeasurement, method: str) -> Figure:
    return Figure(
        name=name, value=tokens / entry.latency.p50_us * 1e6, unit="tokens/s", higher_is_better=True, method=method
    )
