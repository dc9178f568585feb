"""From pictures to a model's input, and the demo's own pictures: handwritten digits, in colour.

``fit`` and ``normalise`` are what every picture goes through, at calibration as at run time. ``Digits`` renders the 8x8
digits that ship with the demo, each in two colours of its own, so that the samples look like what the model was made
for; where a model takes larger pictures, several digits share one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge.dependencies import require
from edge.families.fmvit.config import FMViTConfig

#: One digit a picture up to this size; larger ones hold a grid of them.
CELL = 64
#: Least difference in brightness between ink and paper, of 255.
CONTRAST = 90.0
#: Rec. 709's share of red, green and blue in brightness.
BRIGHTNESS = np.array([0.2126, 0.7152, 0.0722])
#: The digits' pixels count the set bits of 4x4 blocks.
DEEPEST = 16.0


def fit(picture: np.ndarray, config: FMViTConfig) -> np.ndarray:
    """uint8 [h, w, 3] scaled so that the centre square that is kept is ``image_size``: [image_size, image_size, 3]."""
    require("image", "scaling a picture", "PIL")
    from PIL import Image

    height, width = picture.shape[:2]
    side = config.crop * min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    size = (config.image_size, config.image_size)
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC, box=box))


def normalise(picture: np.ndarray, config: FMViTConfig) -> np.ndarray:
    """uint8 [size, size, 3] to float32 [1, 3, size, size] by the config's mean and standard deviation."""
    mean, std = (np.array(values, np.float32) for values in (config.mean, config.std))
    scaled = (picture.astype(np.float32) / np.float32(255.0) - mean) / std
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], dtype=np.float32)


class Digits:
    """The digits in a demo's ``samples.npz``: ``test`` (held out, with labels) and ``calibration``, uint8 [n, 8, 8]."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as stored:
            self.test, self.labels = stored["test_images"], stored["test_labels"]
            self.calibration = stored["calibration_images"]

    @staticmethod
    def picture(images: np.ndarray, index: int, size: int) -> np.ndarray:
        """Picture ``index`` of ``images``, uint8 [size, size, 3]; as a grid of digits from there on if it is large."""
        cells = max(1, size // CELL)
        cell = -(-size // cells)
        rows = []
        for row in range(cells):
            places = [(index * cells * cells + row * cells + column) % len(images) for column in range(cells)]
            rows.append(np.concatenate([render(images[place], cell, place) for place in places], 1))
        return np.concatenate(rows, 0)[:size, :size]


def render(digit: np.ndarray, size: int, seed: int) -> np.ndarray:
    """[8, 8] from 0 to 16 as uint8 [size, size, 3]: scaled bilinearly, a margin around, ink and paper from ``seed``."""
    generator = np.random.default_rng(seed)
    ink, paper = colours(generator)
    # Pixel centres of the picture in the digit's own pixels; the digit fills four fifths of it.
    centres = ((np.arange(size) + 0.5) / size - 0.5) * 8 / 0.8 + 3.5
    weight = np.maximum(0.0, 1.0 - np.abs(centres[:, None] - np.arange(8)))  # [size, 8], 0 outside the digit
    cover = (weight @ (digit / DEEPEST) @ weight.T)[:, :, None]
    picture: np.ndarray = np.round(cover * ink + (1.0 - cover) * paper).astype(np.uint8)
    return picture


def colours(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ink and paper, [3] from 0 to 255, that differ in brightness."""
    while True:
        ink, paper = generator.uniform(0, 255, (2, 3))
        if abs(float((ink - paper) @ BRIGHTNESS)) >= CONTRAST:
            return ink, paper
