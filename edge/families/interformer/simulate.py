"""A person who clicks, simulated: the next click goes to the middle of the largest error.

The protocol of the literature on interactive segmentation (Sofiiuk et al., arXiv 2102.06583), for training and for the
mean IoU after so many clicks.
"""

from __future__ import annotations

import numpy as np

from edge.families.interformer.clicks import Click


def next_click(mask: np.ndarray, truth: np.ndarray) -> Click | None:
    """Where ``mask`` differs most from ``truth`` (both [height, width]); None if they are equal.

    "Most" is farthest from any pixel that is right (or of the other kind of error): the last pixels left by erosion.
    """
    mask, truth = mask.astype(bool), truth.astype(bool)
    missed, wrong = (_depths(error) for error in (truth & ~mask, mask & ~truth))
    deepest = np.maximum(missed, wrong)
    if not deepest.any():
        return None
    rows, columns = np.nonzero(deepest == deepest.max())
    # Of the pixels that are equally deep, the one nearest to their middle.
    middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    row, column = int(rows[middle]), int(columns[middle])
    return Click(column, row, bool(truth[row, column]))


def _depths(region: np.ndarray) -> np.ndarray:
    """How many erosions each pixel survives, diamonds and squares in turn: nearly the Euclidean distance to the border."""
    depths = np.zeros(region.shape, np.int32)
    left, square = np.pad(region, 1), False
    while left.any():
        depths += left[1:-1, 1:-1]
        core = left[1:-1, 1:-1] & left[:-2, 1:-1] & left[2:, 1:-1] & left[1:-1, :-2] & left[1:-1, 2:]
        if square:
            core &= left[:-2, :-2] & left[:-2, 2:] & left[2:, :-2] & left[2:, 2:]
        left, square = np.pad(core, 1), not square
    return depths


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two masks; 1 if both are empty."""
    union = np.count_nonzero(mask.astype(bool) | truth.astype(bool))
    return np.count_nonzero(mask.astype(bool) & truth.astype(bool)) / union if union else 1.0
