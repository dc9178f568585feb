"""The shape of a squared-ReLU MLP, as its config.json gives it."""

from __future__ import annotations

from typing import Literal

import msgspec

from edge.errors import ConfigError


class Relu2MLPConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The stack's shape: embed (in_features to width), a block per entry of `hidden`, head (width to out_features)."""

    in_features: int
    out_features: int
    width: int
    hidden: tuple[int, ...]  # each block's hidden size: as many blocks as entries
    residual: bool = True
    norm: Literal["none", "rms"] = "rms"
    bias: bool = False
    embed: bool = True  # without it in_features must be width
    head: bool = True  # without it out_features must be width
    norm_eps: float = 1e-6
    model_type: Literal["relu2-mlp"] = "relu2-mlp"

    def __post_init__(self) -> None:
        sizes = (self.in_features, self.out_features, self.width, *self.hidden)
        if not self.hidden or min(sizes) < 1:
            raise ConfigError("relu2-mlp config: in_features, out_features, width and each hidden must be at least 1.")
        if not self.embed and self.in_features != self.width:
            raise ConfigError(f"relu2-mlp config: without embed, in_features must be width ({self.width}).")
        if not self.head and self.out_features != self.width:
            raise ConfigError(f"relu2-mlp config: without head, out_features must be width ({self.width}).")
