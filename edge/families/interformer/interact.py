"""Clicks one after the other on one picture: what the task, the annotation page and the metric have in common.

Numpy only; the model runs through any ``Run`` (a session's, or eager torch's).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from edge.families.base import Run
from edge.families.interformer.clicks import Click, refuse_outside, shares, unknown, with_click, with_prediction
from edge.families.interformer.images import enlarged, fitted, normalise, padded


@dataclass(frozen=True)
class Encoded:
    """One picture, encoded. ``picture`` is what the encoder saw (without padding), RGB uint8 [h, w, 3].

    ``size`` is height and width of the user's own picture, which may be larger; ``padded`` is the exported size.
    """

    picture: np.ndarray
    size: tuple[int, int]
    padded: tuple[int, int]
    features: Mapping[str, np.ndarray]


def encode(run: Run, picture: np.ndarray, size: tuple[int, int]) -> Encoded:
    """``picture`` through the entry point ``encode``, which takes images of ``size`` (height, width)."""
    seen = fitted(picture, *size)
    features = run("encode", {"image": padded(normalise(seen), *size)})
    height, width = picture.shape[:2]
    return Encoded(seen, (height, width), size, {name: np.array(value) for name, value in features.items()})


@dataclass(frozen=True)
class _State:
    """Before a click: the label map of the exported size, and the mask of the user's own size."""

    labels: np.ndarray
    mask: np.ndarray


@dataclass
class Interaction:
    """The clicks so far and their mask, bool [height, width] of the user's own picture. Clicks are in its pixels."""

    run: Run
    encoded: Encoded
    radius: int
    clicks: list[Click] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._before: list[_State] = []
        self._now = _State(unknown(*self.encoded.padded), np.zeros(self.encoded.size, bool))

    @property
    def mask(self) -> np.ndarray:
        return self._now.mask

    def click(self, click: Click) -> np.ndarray:
        """The mask after ``click``; InputError if it is outside the picture."""
        height, width = self.encoded.size
        refuse_outside(click, height, width)
        seen_height, seen_width = self.encoded.picture.shape[:2]
        # The pixel of the scaled picture that the middle of the clicked one falls into.
        x, y = int((click.x + 0.5) * seen_width / width), int((click.y + 0.5) * seen_height / height)
        labels = with_click(self._now.labels, Click(x, y, click.positive), self.radius)
        logits = self.run("click", {**self.encoded.features, "shares": shares(labels)})["logits"][0]
        # What decides is the margin; resizing it is resizing both logits.
        margin = enlarged(logits[1:] - logits[:1], *self.encoded.padded)
        after = with_prediction(labels, margin[0] > 0)
        own = margin[:, :seen_height, :seen_width]
        mask: np.ndarray = (own if own.shape[1:] == (height, width) else enlarged(own, height, width))[0] > 0
        self._before.append(self._now)
        self._now = _State(after, mask)
        self.clicks.append(click)
        return mask

    def undo(self) -> None:
        """Take back the last click, if there is one."""
        if self._before:
            self._now = self._before.pop()
            self.clicks.pop()

    def reset(self) -> None:
        while self._before:
            self.undo()
