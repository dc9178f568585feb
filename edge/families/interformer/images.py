"""From pictures to the encoder's input and back: fitting into the exported size, normalising, masks, overlays.

PIL is imported where it is used.
"""

from __future__ import annotations

import io

import numpy as np

from edge.dependencies import require

#: ImageNet's channel means and deviations, RGB, of values from 0 to 255: what the authors' encoder was trained with.
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)
#: The overlay's colour, and how much of it.
TINT, SHARE = np.array([30, 144, 255], np.float32), 0.5


def normalise(picture: np.ndarray) -> np.ndarray:
    """RGB uint8 [h, w, 3] to what the encoder takes: [1, 3, h, w] float32."""
    return np.ascontiguousarray(((picture.astype(np.float32) - MEAN) / STD).transpose(2, 0, 1)[None])


def fitted(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """``picture``, scaled down if it is larger than that, its proportions kept; never scaled up."""
    own_height, own_width = picture.shape[:2]
    scale = min(height / own_height, width / own_width)
    if scale >= 1:
        return picture
    require("image", "scaling a picture", "PIL")
    from PIL import Image

    size = (max(1, min(width, round(own_width * scale))), max(1, min(height, round(own_height * scale))))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))


def padded(normalised: np.ndarray, height: int, width: int) -> np.ndarray:
    """Zeros below and to the right, up to that size."""
    own_height, own_width = normalised.shape[2:]
    return np.pad(normalised, ((0, 0), (0, 0), (0, height - own_height), (0, width - own_width)))


def enlarged(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """[channels, h, w] resized bilinearly (half-pixel centres, edges repeated) to [channels, height, width] float32."""
    rows, columns = (_weights(own, size) for own, size in zip(logits.shape[1:], (height, width), strict=True))
    found: np.ndarray = rows @ logits.astype(np.float32) @ columns.T
    return found


def _weights(own: int, size: int) -> np.ndarray:
    """The matrix of a bilinear resize along one axis, [size, own] float32."""
    place = np.clip((np.arange(size) + 0.5) * own / size - 0.5, 0, own - 1)
    weights: np.ndarray = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(own)))
    return weights.astype(np.float32)


def png(array: np.ndarray) -> bytes:
    """uint8 [h, w] (grey) or [h, w, 3] as a PNG file."""
    require("image", "writing a picture", "PIL")
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def mask_png(mask: np.ndarray) -> bytes:
    """A mask (bool [h, w]) as a grey PNG: 255 where the object is."""
    return png(mask.astype(np.uint8) * 255)


def overlaid(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``picture`` with the mask's pixels tinted and its border white."""
    shown = picture.astype(np.float32)
    shown[mask] = (1 - SHARE) * shown[mask] + SHARE * TINT
    inner = np.pad(mask, 1, mode="edge")
    inner = inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
    shown[mask & ~inner] = 255
    return shown.round().astype(np.uint8)
