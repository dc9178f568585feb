"""Real inputs for the entry points: the demo's held-out scenes and calibration pictures, clicked on by the simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.families.base import Arrays, Metric, Run
from edge.families.interformer.clicks import shares, unknown, with_click
from edge.families.interformer.config import InterFormerConfig
from edge.families.interformer.images import enlarged, normalise
from edge.families.interformer.interact import Encoded, Interaction, encode
from edge.families.interformer.simulate import iou, next_click

#: Clicks on each scene for the metric, and for calibration (label maps change as clicks add up).
CLICKS = 3


@dataclass(frozen=True)
class Scenes:
    """Pictures [n, side, side, 3] uint8 and masks [n, side, side] bool."""

    pictures: np.ndarray
    masks: np.ndarray

    def scaled(self, index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Scene ``index`` at ``size``: uint8 [h, w, 3] and bool [h, w]."""
        picture, mask = self.pictures[index], self.masks[index]
        if picture.shape[:2] == size:
            return picture, mask
        whole = np.concatenate([picture.transpose(2, 0, 1).astype(np.float32), mask[None].astype(np.float32) * 255])
        grown = enlarged(whole, *size).round().clip(0, 255)
        return grown[:3].transpose(1, 2, 0).astype(np.uint8), grown[3] > 127


def read(path: Path) -> tuple[Scenes, Scenes]:
    """The held-out scenes and those for calibration."""
    with np.load(path) as stored:
        side = stored["pictures"].shape[2]

        def scenes(prefix: str) -> Scenes:
            masks = np.unpackbits(stored[f"{prefix}masks"], axis=-1, count=side).astype(bool)
            return Scenes(stored[f"{prefix}pictures"], masks)

        return scenes(""), scenes("calibration_")


def encode_inputs(scenes: Scenes, count: int, config: InterFormerConfig) -> list[Arrays]:
    return [{"image": normalise(scenes.scaled(index, config.size)[0])} for index in range(count)]


def click_inputs(scenes: Scenes, count: int, config: InterFormerConfig, run: Run, clicks: int) -> list[Arrays]:
    """Inputs of ``click``: each of the first ``clicks`` clicks on each of ``count`` scenes, run by ``run``."""
    found: list[Arrays] = []

    def recorded(entry: str, inputs: Arrays) -> Arrays:
        if entry == "click":
            found.append(inputs)
        return run(entry, inputs)

    for index in range(count):
        picture, truth = scenes.scaled(index, config.size)
        play(recorded, encode(run, picture, config.size), truth, config, clicks)
        if len(found) < (index + 1) * clicks:  # the mask was right before that: the first click again
            first = next_click(np.zeros_like(truth), truth)
            assert first is not None
            labels = with_click(unknown(*config.size), first, config.click_radius)
            repeated = {**found[-1], "shares": shares(labels)}
            found.extend([repeated] * ((index + 1) * clicks - len(found)))
    return found


def play(run: Run, encoded: Encoded, truth: np.ndarray, config: InterFormerConfig, clicks: int) -> np.ndarray:
    """The mask after ``clicks`` simulated clicks, or after fewer if it is right by then."""
    interaction = Interaction(run, encoded, config.click_radius)
    for _ in range(clicks):
        click = next_click(interaction.mask, truth)
        if click is None:
            break
        interaction.click(click)
    return interaction.mask


def mean_iou(scenes: Scenes, config: InterFormerConfig, other: Run, entries: Sequence[str]) -> Metric:
    """Mean IoU after three clicks on every scene; ``other`` runs the entry point that the model at hand lacks."""

    def evaluate(run: Run) -> float:
        def either(entry: str, inputs: Arrays) -> Arrays:
            return run(entry, inputs) if entry in entries else other(entry, inputs)

        scores = []
        for picture, truth in zip(scenes.pictures, scenes.masks, strict=True):
            mask = play(either, encode(either, picture, config.size), truth, config, CLICKS)
            scores.append(iou(mask, truth))
        return float(np.mean(scores))

    return Metric(
        name="mean_iou_3_clicks",
        higher_is_better=True,
        data=f"{len(scenes.pictures)} held-out generated scenes of {scenes.masks.shape[1]}x{scenes.masks.shape[2]} pixels, simulated clicks",
        evaluate=evaluate,
    )
