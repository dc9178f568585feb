"""Scenes to segment: overlapping textured shapes over a textured background, with the mask of one of them.

Textures are flat colours, gradients, stripes, checks and noise, and pieces of scikit-learn's two sample photographs
(china.jpg and flower.jpg, CC BY 2.0). Training sees the left three quarters of each photograph, held-out scenes the rest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

#: Share of the picture that the object must fill, visible.
LEAST, MOST = 0.03, 0.5


def photographs(held_out: bool) -> list[np.ndarray]:
    """The part of each photograph for that split, uint8 [height, width, 3]."""
    found = []
    for name in ("china.jpg", "flower.jpg"):
        photo = load_sample_image(name)
        cut = photo.shape[1] * 3 // 4
        found.append(photo[:, cut:] if held_out else photo[:, :cut])
    return found


def scene(random: np.random.Generator, photos: list[np.ndarray], side: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture [side, side, 3] uint8 and the visible mask [side, side] bool of one shape in it."""
    while True:
        picture = texture(random, photos, side)
        owner = np.zeros((side, side), np.int32)
        count = int(random.integers(2, 7))
        for number in range(1, count + 1):
            shape = SHAPES[random.integers(len(SHAPES))](random, side)
            paint = texture(random, photos, side)
            if random.random() < 0.5:
                paint = shaded(random, paint)
            picture[shape] = paint[shape]
            owner[shape] = number
        areas = np.bincount(owner.reshape(-1), minlength=count + 1)[1:] / owner.size
        fit = np.flatnonzero((areas > LEAST) & (areas < MOST)) + 1
        if len(fit):
            noise = random.standard_normal((side, side, 1), np.float32) * random.uniform(0, 8)
            return np.clip(picture + noise, 0, 255).astype(np.uint8), owner == random.choice(fit)


def texture(random: np.random.Generator, photos: list[np.ndarray], side: int) -> np.ndarray:
    """float32 [side, side, 3], 0 to 255."""
    kind = random.integers(6)
    first, second = random.uniform(0, 255, (2, 3)).astype(np.float32)
    if kind < 2:
        photo = photos[random.integers(len(photos))]
        size = int(random.integers(side // 3, min(photo.shape[:2])))
        row, column = (int(random.integers(0, length - size + 1)) for length in photo.shape[:2])
        piece = Image.fromarray(photo[row : row + size, column : column + size]).resize((side, side))
        found = np.asarray(piece, np.float32)
        if random.random() < 0.5:
            found = found[:, ::-1]
        # Colours of the photographs are few: channels change places and brightness.
        return np.clip(found[..., random.permutation(3)] * random.uniform(0.5, 1.4), 0, 255).astype(np.float32)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    angle = random.uniform(0, np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    if kind == 2:
        share = np.clip(along * random.uniform(0.2, 1), 0, 1)
    elif kind == 3:
        share = 0.5 + 0.5 * np.sin(2 * np.pi * random.uniform(3, 16) * along)
    elif kind == 4:
        scale = random.uniform(3, 12)
        share = ((np.floor(along * scale) + np.floor(across * scale)) % 2).astype(np.float32)
    else:
        size = int(random.integers(4, side // 2))
        noise = Image.fromarray(random.integers(0, 256, (size, size), np.uint8)).resize((side, side), Image.Resampling.BILINEAR)
        share = np.asarray(noise, np.float32) / 255
    if random.random() < 0.4:  # a texture that is almost flat
        second = np.clip(first + random.uniform(-40, 40, 3), 0, 255).astype(np.float32)
    return first + share[..., None].astype(np.float32) * (second - first)


def shaded(random: np.random.Generator, paint: np.ndarray) -> np.ndarray:
    """Lit from one side."""
    side = len(paint)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    angle = random.uniform(0, 2 * np.pi)
    light = 1 + random.uniform(0.2, 0.7) * (np.cos(angle) * x + np.sin(angle) * y)
    return np.clip(paint * light[..., None], 0, 255).astype(np.float32)


def blob(random: np.random.Generator, side: int) -> np.ndarray:
    """A star-shaped region whose radius is a short Fourier series of the angle."""
    distance, angle = polar(random, side)
    radius = np.full_like(angle, random.uniform(0.1, 0.32) * side)
    for order in range(2, 6):
        radius *= 1 + random.uniform(0, 0.5 / order) * np.cos(order * angle + random.uniform(0, 2 * np.pi))
    return distance < radius


def polygon(random: np.random.Generator, side: int) -> np.ndarray:
    """A regular polygon or, every other corner pulled in, a star."""
    distance, angle = polar(random, side)
    corners = int(random.integers(3, 8))
    turn = (angle + random.uniform(0, 2 * np.pi)) % (2 * np.pi / corners) - np.pi / corners
    outer = random.uniform(0.14, 0.36) * side
    if random.random() < 0.4:
        return distance * (np.cos(turn) + random.uniform(0.5, 2) * np.abs(np.sin(turn))) < outer * 0.8
    return distance * np.cos(turn) < outer * np.cos(np.pi / corners)


def ellipse(random: np.random.Generator, side: int) -> np.ndarray:
    distance, angle = polar(random, side)
    wide, high = random.uniform(0.07, 0.35, 2) * side
    angle = angle + random.uniform(0, np.pi)
    return (distance * np.cos(angle) / wide) ** 2 + (distance * np.sin(angle) / high) ** 2 < 1


def box(random: np.random.Generator, side: int) -> np.ndarray:
    distance, angle = polar(random, side)
    wide, high = random.uniform(0.06, 0.32, 2) * side
    angle = angle + random.uniform(0, np.pi)
    return (np.abs(distance * np.cos(angle)) < wide) & (np.abs(distance * np.sin(angle)) < high)


def ring(random: np.random.Generator, side: int) -> np.ndarray:
    distance, _ = polar(random, side)
    outer = random.uniform(0.15, 0.35) * side
    return (distance < outer) & (distance > outer * random.uniform(0.3, 0.6))


SHAPES: tuple[Callable[[np.random.Generator, int], np.ndarray], ...] = (blob, blob, polygon, ellipse, box, ring)


def polar(random: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Distance and angle of every pixel from a random centre."""
    row, column = random.uniform(0.12, 0.88, 2) * side
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    return np.hypot(x - column, y - row), np.arctan2(y - row, x - column)
