"""What an InterFormer is built from: the config.json beside a checkpoint, and the two models of the paper.

Sizes are in pixels unless said otherwise. Raises ConfigError for values that do not fit together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from edge.errors import ConfigError

#: The label map's values, in the order of the rows of ``neck.patch_embed``.
LABELS = 5
STRIDES = (4, 8, 16, 32)  # of the four feature maps, in image pixels
MOST_PIXELS = 1024 * 1024


class InterFormerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An encoder (a plain ViT and a pyramid of four maps) and the part that runs at every click.

    ``image_size`` is what the encoder's position tables and the neck's pools were made for; ``input_size`` (height,
    width) is what is exported, that same square if it is left out.
    """

    model_type: Literal["interformer"] = "interformer"
    image_size: int = 512
    input_size: tuple[int, int] | None = None
    patch_size: int = 16
    embed_dims: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_ratio: int = 4
    fpn_dims: tuple[int, int, int, int] = (32, 64, 128, 256)
    neck_heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    depths: tuple[int, int, int, int] = (1, 1, 2, 1)
    refine_start: tuple[int, int, int, int] = (1, 1, 2, 1)  # blocks from here on refine, and may work on a crop
    neck_mlp_ratios: tuple[int, int, int, int] = (8, 8, 4, 4)
    pool_ratios: tuple[tuple[int, ...], ...] = ((12, 16, 20, 24), (6, 8, 10, 12), (3, 4, 5, 6), (1, 2, 3, 4))
    head_channels: int = 64
    pool_scales: tuple[int, ...] = (1, 2, 3, 6)
    auxiliary_head: bool = True  # only trained with, but part of the authors' checkpoints
    click_radius: int = 5

    def __post_init__(self) -> None:
        positive = (
            self.embed_dims, self.num_layers, self.num_heads, self.mlp_ratio, self.head_channels, self.click_radius,
            *self.fpn_dims, *self.neck_heads, *self.neck_mlp_ratios, *self.refine_start, *self.pool_scales,
            *(ratio for ratios in self.pool_ratios for ratio in ratios),
        )  # fmt: skip
        if min(positive) < 1:
            raise ConfigError("every size of an InterFormer must be 1 or more: correct the config.")
        if self.patch_size != 16:
            raise ConfigError("InterFormer's pyramid is made for patches of 16 pixels: set patch_size to 16.")
        if self.embed_dims % self.num_heads or self.embed_dims % 4:
            raise ConfigError(
                f"embed_dims {self.embed_dims} must divide by 4 and by num_heads {self.num_heads}: correct the config."
            )
        for index, (width, heads) in enumerate(zip(self.fpn_dims, self.neck_heads, strict=True)):
            if width % heads:
                raise ConfigError(f"fpn_dims[{index}] {width} does not divide by its {heads} heads: correct the config.")
        if any(depth < start for depth, start in zip(self.depths, self.refine_start, strict=True)):
            raise ConfigError(f"depths {self.depths} are below refine_start {self.refine_start}: correct the config.")
        if len(self.pool_ratios) != len(self.fpn_dims) or not all(self.pool_ratios):
            raise ConfigError("pool_ratios must list the ratios of each of the four stages: correct the config.")
        for name, size in (("image_size", self.image_size), *(("input_size", side) for side in self.size)):
            if size < STRIDES[-1] or size % STRIDES[-1]:
                raise ConfigError(f"{name} {size} must be a multiple of {STRIDES[-1]}: the coarsest map has that stride.")
        if self.size[0] * self.size[1] > MOST_PIXELS:
            raise ConfigError(f"input_size {self.size} has more than {MOST_PIXELS} pixels: choose a smaller one.")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the exported image."""
        return self.input_size or (self.image_size, self.image_size)

    @property
    def grid(self) -> int:
        """Side of the encoder's own grid of patches."""
        return self.image_size // self.patch_size

    @property
    def maps(self) -> tuple[tuple[int, int], ...]:
        """Height and width of the four feature maps at the exported size."""
        return tuple((self.size[0] // stride, self.size[1] // stride) for stride in STRIDES)

    def pool_sides(self, stage: int, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """What each pool of a stage's attention makes of a map of that size (the paper's code, ``PoolingAttention``).

        A ratio asks for target / ratio, at most the map itself, then for the nearest size that divides it into equal
        whole steps; ``round`` is to even, as in Python. A ratio of 1 keeps the map.
        """
        target = self.image_size // STRIDES[stage]

        def side(length: int, ratio: int) -> int:
            asked = min(target / ratio, length)
            return round(length / round(length / asked))

        return tuple(
            (height, width) if ratio == 1 else (side(height, ratio), side(width, ratio))
            for ratio in self.pool_ratios[stage]
        )


#: ICCV 2023, arXiv 2304.02942. "Tiny" is the larger one: it names the neck's reach, on a ViT-L.
VARIANTS: Mapping[str, InterFormerConfig] = {
    "light": InterFormerConfig(),
    "tiny": InterFormerConfig(embed_dims=1024, num_layers=24, num_heads=16, depths=(2, 2, 6, 3)),
}
