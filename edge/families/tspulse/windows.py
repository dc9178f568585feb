"""Windows of a series through an entry point: any number of series, whatever number of channels the bundle has.

A row is one channel of one window, [context]. A model that treats its channels alike takes any rows side by side, so a
bundle of 8 channels runs 8 of them at once; one that mixes channels takes exactly the columns of one window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge.csvfile import Table
from edge.errors import InputError
from edge.families.base import Run

if TYPE_CHECKING:
    from edge.runtimes.base import Session


@dataclass(frozen=True)
class Geometry:
    """What an exported entry point takes: points a window, channels a run, and whether it mixes them."""

    context: int
    channels: int
    mixes: bool
    patch: int

    @classmethod
    def of(cls, session: Session, entry: str) -> Geometry:
        config = session.manifest.config
        _, context, channels = session.manifest.entry(entry).inputs[0].shape
        patch = config["patch_length"]
        assert isinstance(context, int) and isinstance(channels, int) and isinstance(patch, int)
        mixes = channels > 1 and "mix_channel" in (config["mode"], config["decoder_mode"])
        return cls(context, channels, mixes, patch)

    def check(self, table: Table) -> None:
        """InputError if the table's columns do not fit a model that mixes channels."""
        if self.mixes and len(table.columns) != self.channels:
            raise InputError(
                f"the model mixes {self.channels} channels but {table.path} has {len(table.columns)} columns of "
                f"numbers: choose {self.channels} of them with --columns."
            )


def run_rows(
    run: Run, entry: str, values: np.ndarray, observed: np.ndarray | None, channels: int, outputs: Sequence[str]
) -> dict[str, np.ndarray]:
    """``outputs`` [rows, ...] of ``entry`` for ``values`` [rows, context] and their mask (None: the entry takes none).

    Rows are taken ``channels`` at a time, in order; the last run is filled up with copies. Points that ``observed``
    marks as missing are given to the model as zero.
    """
    count = len(values)
    values = np.asarray(values, np.float32)
    if observed is not None:
        observed = np.asarray(observed, np.float32)
        values = np.where(observed > 0, values, np.float32(0))
    found: dict[str, list[np.ndarray]] = {name: [] for name in outputs}
    for start in range(0, count, channels):
        place = np.minimum(np.arange(start, start + channels), count - 1)
        inputs = {"past_values": np.ascontiguousarray(values[place].T[None])}
        if observed is not None:
            inputs["past_observed_mask"] = np.ascontiguousarray(observed[place].T[None])
        results = run(entry, inputs)
        for name in outputs:
            # Embeddings are [1, channels, size]; series are [1, time, channels].
            rows = results[name][0] if entry == "embed" else results[name][0].T
            found[name].append(np.array(rows[: count - start]))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def standardise(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each column of ``values`` [rows, columns] to mean 0 and variance 1, NaN left out; with the means and the scales.

    A column that is constant, up to what float64 can tell, keeps its scale (1), as scikit-learn's StandardScaler does.
    """
    mean, variance = np.nanmean(values, axis=0), np.nanvar(values, axis=0)
    noise = len(values) * np.finfo(np.float64).eps
    constant = variance <= noise * variance + (noise * mean) ** 2
    scale = np.where(constant, 1.0, np.sqrt(variance))
    return (values - mean) / scale, mean, scale
