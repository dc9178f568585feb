"""The shape of an FMViT, as its config.json gives it, and the five published sizes.

The sizes follow the paper's table (parameters, operations at 224 x 224); widths and depths are this reconstruction's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from edge.errors import ConfigError

#: Mean and standard deviation of ImageNet's pixels (red, green, blue; 1 is white), as is usual for image models.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
#: Height and width are halved this often before each stage: twice by the stem, once by each later stage.
STRIDES = (4, 8, 16, 32)
#: Every so many blocks of the third stage, one mixes frequencies; so does the last block of stages two and four.
MIXED_EVERY = 5

Four = tuple[int, int, int, int]


class FMViTConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Four stages of ``depths`` blocks of ``channels`` after a ``stem`` of two convolutions; pictures are square, RGB.

    ``group`` is the width of a group of a local mix and of an attention head. ``reductions`` says how far keys and values
    are pooled in each stage. ``crop`` is the share of a picture's shorter side that is looked at. ``labels`` name the
    classes, in order, or are left out.
    """

    channels: Four
    depths: Four
    stem: tuple[int, int]
    group: int
    reductions: Four = (8, 4, 2, 1)
    num_classes: int = 1000
    image_size: int = 224
    crop: float = 0.875
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    labels: tuple[str, ...] = ()
    implementation: Literal["reconstruction"] = "reconstruction"  # not the authors' code, and no accuracy of theirs
    model_type: Literal["fmvit"] = "fmvit"

    def __post_init__(self) -> None:
        if min(*self.channels, *self.depths, *self.stem, *self.reductions, self.group, self.num_classes) < 1:
            raise ConfigError(
                "fmvit config: every width, depth, reduction and the number of classes must be 1 or more."
            )
        if self.image_size < 32 or self.image_size % 32:
            raise ConfigError(f"fmvit config: image_size must be a multiple of 32, not {self.image_size}.")
        if not 0 < self.crop <= 1 or min(self.std) <= 0:
            raise ConfigError("fmvit config: crop must be above 0 and at most 1, and each std above 0.")
        if self.labels and len(self.labels) != self.num_classes:
            raise ConfigError(f"fmvit config: {len(self.labels)} labels for {self.num_classes} classes.")
        for stage, (width, size) in enumerate(zip(self.channels, self.sizes, strict=True)):
            mixes = any(self.mixes(stage, block) for block in range(self.depths[stage]))
            if width % self.group or (mixes and self.low(width) >= width):
                raise ConfigError(
                    f"fmvit config: stage {stage + 1} is {width} channels wide, which cannot be divided into groups of "
                    f"{self.group}{', three quarters of them apart' if mixes else ''}."
                )
            if mixes and size % self.reductions[stage]:
                raise ConfigError(
                    f"fmvit config: stage {stage + 1} is {size} x {size}, which a reduction of {self.reductions[stage]} "
                    "does not divide."
                )

    @property
    def sizes(self) -> Four:
        """Height and width of each stage's feature map."""
        first, second, third, fourth = (self.image_size // stride for stride in STRIDES)
        return first, second, third, fourth

    def low(self, width: int) -> int:
        """How many channels of a block that mixes go through attention: about three quarters, in whole groups."""
        return (3 * width + 2 * self.group) // (4 * self.group) * self.group

    def mixes(self, stage: int, block: int) -> bool:
        """Whether a block (both counted from 0) mixes high and low frequencies; the others are convolutions alone."""
        if stage == 2:
            return (block + 1) % MIXED_EVERY == 0
        return stage in (1, 3) and block + 1 == self.depths[stage]


VARIANTS: Mapping[str, FMViTConfig] = {
    "t": FMViTConfig(channels=(24, 64, 128, 256), depths=(2, 3, 5, 2), stem=(12, 24), group=8),
    "s": FMViTConfig(channels=(32, 64, 256, 384), depths=(2, 2, 5, 3), stem=(16, 32), group=16),
    "m": FMViTConfig(channels=(64, 128, 384, 512), depths=(2, 2, 5, 3), stem=(32, 64), group=32),
    "b": FMViTConfig(channels=(64, 128, 384, 512), depths=(2, 2, 15, 3), stem=(32, 64), group=32),
    "l": FMViTConfig(channels=(96, 192, 512, 512), depths=(2, 2, 15, 2), stem=(48, 96), group=32),
}
