"""The mixers in the form that deploys: the same numbers from fewer and larger operators.

`MixerStack`'s state is four-dimensional and every mixer transposes it; here it is one matrix, [series * tokens * count,
width], so that every linear map is one GEMM with a constant, packed weight, and norms, activations and gates work on
whole matrices. `series` is batch * channels; `count` is the number of stacks of one shape that run side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edge.families.tspulse.fused import FusedGate, FusedMlp, FusedNorm, Style, blocks, constant, linear
from edge.families.tspulse.mixer import Gate, MixerLayer, MixerStack


class FusedTokenMixer(nn.Module):
    """The mixing of tokens, on [series * tokens * count, width], without the residual."""

    def __init__(self, layers: Sequence[MixerLayer], style: Style, series: int) -> None:
        super().__init__()
        mixers = [layer.patch_mixer for layer in layers if layer.patch_mixer is not None]
        self.series, self.count = series, len(mixers)
        self.norm = FusedNorm([mixer.norm for mixer in mixers], style)
        # Rows hold the tokens of one feature, the stacks' interleaved, so the first map's columns are interleaved too.
        weight, bias = blocks([mixer.mlp.fc1.weight for mixer in mixers], [mixer.mlp.fc1.bias for mixer in mixers])
        interleaved = weight.reshape(weight.shape[0], self.count, -1).transpose(1, 2).reshape(weight.shape)
        self.mlp = FusedMlp([mixer.mlp for mixer in mixers], _gates(mixers), (interleaved, bias))
        if not self.norm.affine:
            # Cheaper on the transpose, whose rows are longer: one value a row, or one an element if stacks differ.
            tokens = weight.shape[1] // self.count if self.count > 1 else 1
            for name, index in (("gain", 0), ("shift", 1)):
                values = torch.stack([pair[index] for pair in self.norm.scaling], 1)  # [width, count]
                self.register_buffer(name, constant(values.repeat(series, tokens)), persistent=False)

    gain: Tensor
    shift: Tensor

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[1]
        y: Tensor = self.norm(x)
        if self.series == 1:
            y = y.transpose(0, 1)
        else:
            y = y.reshape(self.series, -1, width).transpose(1, 2).reshape(self.series * width, -1)
        if not self.norm.affine:
            y = y * self.gain + self.shift
        y = self.mlp(y)
        if self.count == 1 and self.series == 1:
            return y.transpose(0, 1)
        if self.count == 1:
            return y.reshape(self.series, width, -1).transpose(1, 2).reshape(x.shape)
        return y.reshape(self.series, width, self.count, -1).transpose(1, 3).reshape(x.shape)


class FusedChannelMixer(nn.Module):
    """The mixing of channels, on [batch * channels * tokens, width], without the residual."""

    def __init__(self, layer: MixerLayer, style: Style, series: int, channels: int) -> None:
        super().__init__()
        assert layer.channel_feature_mixer is not None
        mixer = layer.channel_feature_mixer
        self.batch, self.channels = series // channels, channels
        self.norm = FusedNorm([mixer.norm], style)
        self.gate = None if mixer.gating_block is None else FusedGate([mixer.gating_block])
        self.mlp = FusedMlp([mixer.mlp], [])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = (
            self.norm.applied(x).reshape(self.batch, self.channels, -1).transpose(1, 2).reshape(-1, self.channels)
        )
        if self.gate is not None:
            y = self.gate(y)
        y = self.mlp(y)
        return y.reshape(self.batch, -1, self.channels).transpose(1, 2).reshape(x.shape)


class FusedLayer(nn.Module):
    """One mixer layer, or several side by side, on [series * tokens * count, width]."""

    def __init__(self, layers: Sequence[MixerLayer], style: Style, series: int, channels: int) -> None:
        super().__init__()
        first = layers[0]
        self.channel_mixer: FusedChannelMixer | None = None
        if first.channel_feature_mixer is not None:
            assert len(layers) == 1, "stacks that mix channels are not merged"
            self.channel_mixer = FusedChannelMixer(first, style, series, channels)
        self.token_mixer = None if first.patch_mixer is None else FusedTokenMixer(layers, style, series)
        mixers = [layer.feature_mixer for layer in layers]
        self.norm = FusedNorm([mixer.norm for mixer in mixers], style)
        folded = [self.norm.fold(mixer.mlp.fc1.weight, mixer.mlp.fc1.bias, i) for i, mixer in enumerate(mixers)]
        start = blocks([weight for weight, _ in folded], [bias for _, bias in folded])
        self.mlp = FusedMlp([mixer.mlp for mixer in mixers], _gates(mixers), start)
        self.count = len(layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.channel_mixer is not None:
            x = x + self.channel_mixer(x)
        if self.token_mixer is not None:
            x = x + self.token_mixer(x)
        y: Tensor = self.norm(x)
        if self.count > 1:
            y = y.reshape(-1, self.count * y.shape[1])
        mixed: Tensor = self.mlp(y)
        return x + (mixed.reshape(x.shape) if self.count > 1 else mixed)


class FusedMixers(nn.Module):
    """Whole stacks of one shape on [series * tokens * count, width]; `series` is batch * `channels`."""

    def __init__(self, stacks: Sequence[MixerStack], style: Style, series: int, channels: int) -> None:
        super().__init__()
        columns = list(zip(*(stack.mixers for stack in stacks), strict=True))
        self.widen: nn.Linear | None = None  # where the decoder is of another width than the encoder
        if isinstance(columns[0][0], nn.Linear):
            self.widen = linear(columns[0][0].weight, columns[0][0].bias)
            columns = columns[1:]
        self.layers = nn.ModuleList(FusedLayer(column, style, series, channels) for column in columns)

    def forward(self, x: Tensor) -> Tensor:
        if self.widen is not None:
            x = self.widen(x)
        for layer in self.layers:
            x = layer(x)
        return x


def _gates(mixers: Sequence[nn.Module]) -> list[Gate]:
    return [mixer.gating_block for mixer in mixers if isinstance(mixer.gating_block, Gate)]
