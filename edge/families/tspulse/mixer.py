"""TSPulse's mixer blocks in plain torch, for training and as the reference for the fused form.

State: [batch, channels, tokens, width]. A layer mixes channels (only in `mix_channel` mode), then tokens, then
features; each of the three normalises over the features, applies a gated two-layer MLP along its own axis, and adds the
result to the state. Module and parameter names are those of granite-tsfm's state dict.
"""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor, nn


class MixerShape(msgspec.Struct, frozen=True, kw_only=True):
    """What a stack of mixer layers is made of; `expansion` and `channel_expansion` are hidden over input size."""

    layers: int
    tokens: int
    width: int
    channels: int
    expansion: int
    channel_expansion: int
    mix_channels: bool
    gated: bool
    gate: str
    norm: str
    eps: float
    dropout: float


class Mlp(nn.Module):
    """Linear, erf GELU, Linear, with dropout after each, over the last axis."""

    def __init__(self, size: int, hidden: int, dropout: float, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(size, hidden)
        self.fc2 = nn.Linear(hidden, size if out is None else out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(nn.functional.gelu(self.fc1(x)))
        out: Tensor = self.dropout(self.fc2(hidden))
        return out


class Gate(nn.Module):
    """x times an activation of a square linear map of x, over the last axis."""

    def __init__(self, size: int, activation: str) -> None:
        super().__init__()
        self.attn_layer = nn.Linear(size, size)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        logits = self.attn_layer(x)
        return x * (torch.softmax(logits, dim=-1) if self.activation == "softmax" else torch.sigmoid(logits))


class _FeatureBatchNorm(nn.Module):
    """Batch normalisation of each feature over batch, channels and tokens."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.batchnorm = nn.BatchNorm1d(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.batchnorm(x.reshape(-1, x.shape[-1]))
        return y.reshape(x.shape)


class Norm(nn.Module):
    """LayerNorm over the features, or a batch normalisation of each feature."""

    def __init__(self, width: int, kind: str, eps: float) -> None:
        super().__init__()
        self.norm: nn.Module = _FeatureBatchNorm(width, eps) if kind == "BatchNorm" else nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        return y


class _Mixer(nn.Module):
    """Norm, MLP and gate along one axis; `gate_first` says on which side of the MLP the gate stands."""

    gate_first = False
    axis = -1

    def __init__(self, shape: MixerShape, size: int, expansion: int) -> None:
        super().__init__()
        self.norm = Norm(shape.width, shape.norm, shape.eps)
        self.mlp = Mlp(size, size * expansion, shape.dropout)
        self.gating_block = Gate(size, shape.gate) if shape.gated else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x).transpose(self.axis, -1)
        if self.gating_block is not None and self.gate_first:
            y = self.gating_block(y)
        y = self.mlp(y)
        if self.gating_block is not None and not self.gate_first:
            y = self.gating_block(y)
        mixed: Tensor = x + y.transpose(self.axis, -1)
        return mixed


class ChannelMixer(_Mixer):
    """Mixes the channels; here the gate comes before the MLP."""

    gate_first = True
    axis = 1

    def __init__(self, shape: MixerShape) -> None:
        super().__init__(shape, shape.channels, shape.channel_expansion)


class PatchMixer(_Mixer):
    """Mixes the tokens of a channel."""

    axis = 2

    def __init__(self, shape: MixerShape) -> None:
        super().__init__(shape, shape.tokens, shape.expansion)


class FeatureMixer(_Mixer):
    """Mixes the features of a token."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__(shape, shape.width, shape.expansion)


class MixerLayer(nn.Module):
    """Channels (if mixed at all), tokens, features."""

    def __init__(self, shape: MixerShape) -> None:
        super().__init__()
        self.patch_mixer = PatchMixer(shape) if shape.tokens > 1 else None
        self.feature_mixer = FeatureMixer(shape)
        self.channel_feature_mixer = ChannelMixer(shape) if shape.mix_channels else None

    def forward(self, x: Tensor) -> Tensor:
        if self.channel_feature_mixer is not None:
            x = self.channel_feature_mixer(x)
        if self.patch_mixer is not None:
            x = self.patch_mixer(x)
        y: Tensor = self.feature_mixer(x)
        return y


class MixerStack(nn.Module):
    """`layers` mixer layers after a linear map where the incoming width differs."""

    def __init__(self, shape: MixerShape, in_width: int | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.mixers = nn.ModuleList()
        if in_width is not None and in_width != shape.width:
            self.mixers.append(nn.Linear(in_width, shape.width))
        self.mixers.extend(MixerLayer(shape) for _ in range(shape.layers))

    def forward(self, x: Tensor) -> Tensor:
        for mixer in self.mixers:
            x = mixer(x)
        return x
