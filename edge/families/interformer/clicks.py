"""The label map: what clicks and predictions so far say about every pixel. Numpy only, for the device.

Five values: definitely and possibly background, unknown, possibly and definitely foreground.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
import numpy as np

from edge.errors import InputError

BACKGROUND, MAYBE_BACKGROUND, UNKNOWN, MAYBE_FOREGROUND, FOREGROUND = range(5)
#: left, up, right, bottom in pixels.
Box = tuple[int, int, int, int]

_CLICK = re.compile(r"\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*([+-])\s*")
#: The zoom of the authors' demo: from the third click on, a box grown by 1.4, at least 32 pixels.
ZOOM_FROM_CLICK = 3
_GROW, _LEAST, _SNAP = 1.4, 32, 32


class Click(msgspec.Struct, frozen=True):
    """Column and row of a pixel, and whether it is on the object."""

    x: int
    y: int
    positive: bool


def parse_clicks(texts: Sequence[str], height: int, width: int) -> tuple[Click, ...]:
    """Clicks as typed, ``X,Y,+`` or ``X,Y,-``; InputError for another form or a place outside the image."""
    clicks = []
    for text in texts:
        found = _CLICK.fullmatch(text)
        if found is None:
            raise InputError(f"'{text}' is no click: write X,Y,+ for a pixel of the object or X,Y,- for one beside it.")
        click = Click(int(found[1]), int(found[2]), found[3] == "+")
        refuse_outside(click, height, width)
        clicks.append(click)
    return tuple(clicks)


def refuse_outside(click: Click, height: int, width: int) -> None:
    if not (0 <= click.x < width and 0 <= click.y < height):
        raise InputError(
            f"the click {click.x},{click.y} lies outside the image of {width}x{height} pixels: x goes from 0 to "
            f"{width - 1} and y from 0 to {height - 1}."
        )


def unknown(height: int, width: int) -> np.ndarray:
    """The label map before the first click, [height, width] uint8."""
    return np.full((height, width), UNKNOWN, np.uint8)


def with_click(labels: np.ndarray, click: Click, radius: int) -> np.ndarray:
    """``labels`` with the click's disk (Euclidean distance at most ``radius``) written in."""
    rows, columns = np.ogrid[: labels.shape[0], : labels.shape[1]]
    disk = (rows - click.y) ** 2 + (columns - click.x) ** 2 <= radius**2
    return np.where(disk, np.uint8(FOREGROUND if click.positive else BACKGROUND), labels)


#: Where the mask is 1: unknown becomes possible, the opposite possibility unknown; likewise where it is 0.
_AFTER_OBJECT = np.array([BACKGROUND, UNKNOWN, MAYBE_FOREGROUND, MAYBE_FOREGROUND, FOREGROUND], np.uint8)
_AFTER_BACKGROUND = np.array([BACKGROUND, MAYBE_BACKGROUND, MAYBE_BACKGROUND, UNKNOWN, FOREGROUND], np.uint8)


def with_prediction(labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``labels`` after a prediction: only what no click has settled moves, one step towards ``mask``."""
    moved: np.ndarray = np.where(mask.astype(bool), _AFTER_OBJECT[labels], _AFTER_BACKGROUND[labels])
    return moved


def zoom_box(mask: np.ndarray, labels: np.ndarray) -> Box:
    """The box to refine in, snapped outwards to 32 pixels: around the last mask and the clicks, with a margin.

    Both are [H, W], sides multiples of 32; without mask and clicks it is the whole image.
    """
    marked = mask.astype(bool) | (labels == FOREGROUND) | (labels == BACKGROUND)
    height, width = marked.shape
    left, right = _grown(marked.any(0), width)
    up, bottom = _grown(marked.any(1), height)
    return left, up, right, bottom


def _grown(marked: np.ndarray, length: int) -> tuple[int, int]:
    """First and last (exclusive) along one axis; ``round`` is to even, as in the authors' code."""
    places = np.flatnonzero(marked)
    first, last = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, length)
    center = (first + last) / 2
    # In float32, as theirs: 1.4 times a half-integer may round differently in double.
    half = float(np.float32(_GROW) * np.float32(center - first))
    start = max(min(round(center - half), round(center - _LEAST / 2)), 0)
    end = min(max(round(center + half), round(center + _LEAST / 2)), length)
    return start // _SNAP * _SNAP, -(-end // _SNAP) * _SNAP


def shares(labels: np.ndarray) -> np.ndarray:
    """What the model takes: [1, 5, H/4, W/4] float32, the share of each value in the middle 2x2 of each 4x4 block."""
    found = np.zeros((1, FOREGROUND + 1, labels.shape[0] // 4, labels.shape[1] // 4), np.float32)
    for row in (1, 2):
        for column in (1, 2):
            seen = labels[row::4, column::4]
            for value in range(FOREGROUND + 1):
                found[0, value] += np.float32(0.25) * (seen == value)
    return found
