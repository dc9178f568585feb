"""Anomaly scores of a series, by the authors' method (Ekambaram et al., arXiv 2505.13033; granite-tsfm 0.3.2).

Every column is standardised. In each window of 512 points, at every position, the patches of the last
``aggregation_length`` points are hidden one at a time and reconstructed, in time ("time") and through the spectrum
("fft"), and the next point is forecast ("forecast"). A window's score is the mean squared error, over all columns.
Scores are then moved to the middle of what they cover, brought to 0..1 over the series, smoothed, and the largest of
the modes counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edge.csvfile import Table, read_csv, write_csv
from edge.errors import InputError
from edge.families.base import Run
from edge.families.tspulse.plot import draw_scores
from edge.families.tspulse.windows import Geometry, run_rows, standardise
from edge.progress import Progress
from edge.tasks import Task, TaskRequest, TaskResult

if TYPE_CHECKING:
    from edge.runtimes.base import Session

#: Each mode, and the output of ``reconstruct`` that it needs.
MODES = {"time": "reconstruction_outputs", "fft": "reconstructed_ts_from_fft", "forecast": "forecast_output"}
#: Errors below this share of the variance of the series' steps are noise, and a noise's score stays below 0.2
#: (least_significant_scale and least_significant_score of the authors' TSPulseADUtility).
NOISE_SCALE = 1e-2
NOISE_SCORE = 0.2
#: Windows that go through the model between two steps of the progress bar.
BLOCK = 16


class Anomaly(Task):
    name: ClassVar[str] = "anomaly"
    summary: ClassVar[str] = "score every point of a series by how badly it is reconstructed and forecast"
    needs: ClassVar[tuple[str, ...]] = ("reconstruct",)

    def run(self, session: Session, request: TaskRequest, progress: Progress) -> TaskResult:
        geometry = Geometry.of(session, "reconstruct")
        modes = _modes(session, request.modes)
        table = read_csv(request.csv, request.columns)
        table.refuse_missing("anomaly scores need every value, so fill the gaps first with `--task impute`")
        table.require(geometry.context + 1, f"an anomaly score with a context of {geometry.context}")
        geometry.check(table)
        _check_lengths(request, geometry, len(table.rows))
        series, _, _ = standardise(table.values)
        raw = window_scores(session.run, series, geometry, modes, request.aggregation_length, progress)
        score = combine(raw, series, geometry, request.aggregation_length, request.smoothing)
        top = peaks(score, request.top, request.aggregation_length)
        written = []
        if request.output is not None:
            written.append(write_csv(request.output, table, {}, {"anomaly_score": [f"{value:.6g}" for value in score]}))
        if request.plot is not None:
            written.append(draw_scores(request.plot, table, score, top))
        return TaskResult(
            lines=(f"{len(score)} points scored by {', '.join(modes)}; the highest:", *_lines(table, score, top)),
            values={
                "modes": list(modes),
                "rows": len(score),
                "top": [{"row": row, "line": table.lines[row], "score": round(float(score[row]), 6)} for row in top],
            },
            written=tuple(written),
        )


def window_scores(
    run: Run, series: np.ndarray, geometry: Geometry, modes: Sequence[str], aggregation: int, progress: Progress
) -> dict[str, np.ndarray]:
    """The score of every window of ``series`` [rows, columns], [rows - context] a mode; window i starts at row i."""
    context, patch = geometry.context, geometry.patch
    data = np.ascontiguousarray(series.T, dtype=np.float32)
    starts = np.arange(context - aggregation, context, patch)
    hides = any(mode != "forecast" for mode in modes)
    variants = [*(starts if hides else []), *([None] if "forecast" in modes else [])]
    masks = np.ones((len(variants), context), np.float32)
    for mask, start in zip(masks, variants, strict=True):
        if start is not None:
            mask[start : start + patch] = 0
    count, columns = data.shape[1] - context, len(data)
    scores = {mode: np.empty(count) for mode in modes}
    with progress.bar("scoring windows", count) as bar:
        for first in range(0, count, BLOCK):
            block = range(first, min(first + BLOCK, count))
            # [windows, columns, context] and, for the rows of one run, [windows, variants, columns, context]
            past = np.stack([data[:, start : start + context] for start in block])
            shape = (len(block), len(variants), columns, context)
            values = np.broadcast_to(past[:, None], shape).reshape(-1, context)
            observed = np.broadcast_to(masks[None, :, None], shape).reshape(-1, context)
            wanted = [MODES[mode] for mode in modes]
            found = run_rows(run, "reconstruct", values, observed, geometry.channels, wanted)
            for mode in modes:
                out = found[MODES[mode]].reshape(*shape[:3], -1).astype(np.float64)
                if mode == "forecast":
                    truth = np.stack([data[:, start + context] for start in block])
                    error = (out[:, -1, :, 0] - truth)[..., None]
                else:
                    parts = [out[:, index, :, start : start + patch] for index, start in enumerate(starts)]
                    error = np.concatenate(parts, axis=-1) - past[..., context - aggregation :]
                scores[mode][block.start : block.stop] = np.mean(error**2, axis=(1, 2))
            bar.advance(len(block))
    return scores


def combine(
    raw: dict[str, np.ndarray], series: np.ndarray, geometry: Geometry, aggregation: int, smoothing: int
) -> np.ndarray:
    """One score a row, in 0..1, from the scores of windows; ``series`` [rows, columns] says what is noise."""
    steps = np.std(np.diff(series, axis=0), axis=0)
    noise = NOISE_SCALE * float(np.max(steps**2))
    scaled = []
    for mode, score in raw.items():
        if mode == "forecast":
            padded = np.concatenate([np.full(geometry.context, score[0]), score])
            scaled.append(_to_unit(padded, noise * np.sqrt(2)))
        else:
            half = aggregation // 2
            padded = np.concatenate([np.full(geometry.context - half, score[0]), score, np.full(half, score[-1])])
            scaled.append(_smooth(_to_unit(padded, noise * (1 + geometry.patch)), smoothing))
    combined: np.ndarray = np.max(scaled, axis=0)
    return combined


def peaks(score: np.ndarray, count: int, apart: int) -> list[int]:
    """The rows of the ``count`` highest scores, the highest first, no two closer than ``apart`` rows."""
    left = score.copy()
    found: list[int] = []
    while len(found) < count and np.isfinite(left).any():
        row = int(np.nanargmax(left))
        found.append(row)
        left[max(0, row - apart + 1) : row + apart] = np.nan
    return found


def _to_unit(score: np.ndarray, noise: float) -> np.ndarray:
    """Min-max to 0..1, what exceeds the noise set apart by a factor; up to 0.2 only if nothing does."""
    significant = score > noise
    lifted = np.where(significant, score / NOISE_SCORE, score)
    spread = lifted.max() - lifted.min()
    unit: np.ndarray = (lifted - lifted.min()) / (spread if spread > 0 else 1.0)
    return unit if significant.any() else unit * NOISE_SCORE


def _smooth(score: np.ndarray, length: int) -> np.ndarray:
    return score if length < 2 else np.convolve(score, np.full(length, 1.0 / length), mode="same")


def _modes(session: Session, wanted: Sequence[str]) -> tuple[str, ...]:
    """The modes to score by: those asked for, or all whose heads the checkpoint has."""
    outputs = {spec.name for spec in session.manifest.entry("reconstruct").outputs}
    have = tuple(mode for mode, output in MODES.items() if output in outputs)
    for mode in wanted:
        if mode not in MODES:
            raise InputError(f"there is no anomaly mode '{mode}': choose from {', '.join(MODES)}.")
        if mode not in have:
            raise InputError(f"this checkpoint has no head for the mode '{mode}': choose from {', '.join(have)}.")
    return tuple(mode for mode in have if mode in wanted) if wanted else have


def _check_lengths(request: TaskRequest, geometry: Geometry, rows: int) -> None:
    length, patch = request.aggregation_length, geometry.patch
    if length % patch or not patch <= length <= geometry.context:
        raise InputError(
            f"the aggregation length must be a multiple of {patch} from {patch} to {geometry.context}, not {length}."
        )
    if not 1 <= request.smoothing <= rows:
        raise InputError(f"the smoothing length must be from 1 to the series' {rows} rows, not {request.smoothing}.")


def _lines(table: Table, score: np.ndarray, top: Sequence[int]) -> list[str]:
    return [f"  {table.label(row)}: {score[row]:.3f}" for row in top]
