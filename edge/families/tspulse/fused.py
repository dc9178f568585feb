"""The mixers in the form that deploys: the same numbers from fewer and larger operators.

`MixerStack`'s state is four-dimensional and every mixer transposes it; here it is one matrix [series * tokens, width]
(series = batch * channels), so that every linear map is one GEMM with a constant, packed weight, and normalisation,
activation and gate work on whole matrices. Token mixing sees its transpose [series * width, tokens].

Runtimes differ in one thing that matters: XNNPACK has neither LayerNorm nor sums, so `Style.XNNPACK` writes both as
products with constant matrices, which keeps a model in one delegate; elsewhere the native operators are faster.
"""

from __future__ import annotations

import enum

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge.families.tspulse.mixer import Gate, MixerLayer, MixerStack, Mlp, Norm


class Style(enum.StrEnum):
    """Which runtime a fused module is written for."""

    ONNX = "onnx"
    XNNPACK = "xnnpack"
    TVM = "tvm"


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A frozen float32 linear map from tensors of any precision."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach().float().contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().float().contiguous(), requires_grad=False)
    return layer


def constant(value: Tensor) -> nn.Buffer:
    return nn.Buffer(value.detach().float().contiguous(), persistent=False)


class RowMean(nn.Module):
    """Means of the rows of a matrix, [rows, 1]: XNNPACK has no sum, but a linear map with constant weights."""

    def __init__(self, width: int, style: Style) -> None:
        super().__init__()
        self.map = linear(torch.full((1, width), 1.0 / width)) if style is Style.XNNPACK else None

    def forward(self, x: Tensor) -> Tensor:
        mean: Tensor = x.mean(1, keepdim=True) if self.map is None else self.map(x)
        return mean


class FusedNorm(nn.Module):
    """Normalises the rows of [rows, width]; with `folded` a linear map that follows takes over gain and shift.

    A batch normalisation at inference is gain and shift only. A native LayerNorm applies both at no cost.
    """

    def __init__(self, norm: nn.Module, style: Style, *, folded: bool) -> None:
        super().__init__()
        inner = norm.norm if isinstance(norm, Norm) else norm
        self.native = style is not Style.XNNPACK
        self.center: nn.Linear | None = None
        self.eps: float | None = None
        if isinstance(inner, nn.LayerNorm):
            gain, shift, self.eps = inner.weight.double(), inner.bias.double(), inner.eps
            width = gain.shape[0]
            self.mean = RowMean(width, style)
            if not self.native and width <= 64:
                # One small product subtracts the mean; for long rows a mean and a subtraction are cheaper.
                self.center = linear(torch.eye(width, dtype=torch.float64) - 1.0 / width)
        else:
            batch = getattr(inner, "batchnorm", None)
            assert (
                isinstance(batch, nn.BatchNorm1d) and batch.running_mean is not None and batch.running_var is not None
            )
            gain = batch.weight.double() / (batch.running_var.double() + batch.eps).sqrt()
            shift = batch.bias.double() - gain * batch.running_mean.double()
        self.folded = folded and (self.eps is None or not self.native)
        self.gain, self.shift = constant(gain), constant(shift)
        self._exact = (gain.detach(), shift.detach())

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """A linear map's weight and bias with gain and shift folded in, if this norm leaves them out."""
        weight, bias = weight.double(), bias.double()
        if not self.folded:
            return weight, bias
        gain, shift = self._exact
        return weight * gain, bias + weight @ shift

    def forward(self, x: Tensor) -> Tensor:
        if self.eps is not None and self.native:
            return F.layer_norm(x, self.gain.shape, self.gain, self.shift, self.eps)
        if self.eps is not None:
            centered = x - self.mean(x) if self.center is None else self.center(x)
            x = centered * torch.rsqrt(self.mean(centered * centered) + self.eps)
        return x if self.folded else x * self.gain + self.shift


class FusedMlp(nn.Module):
    """Linear, GELU, linear over the rows of a matrix, then the gate if there is one."""

    def __init__(self, mlp: Mlp, gate: Gate | None, norm: FusedNorm | None) -> None:
        super().__init__()
        weight, bias = mlp.fc1.weight, mlp.fc1.bias
        self.fc1 = linear(*((weight, bias) if norm is None else norm.fold(weight, bias)))
        self.fc2 = linear(mlp.fc2.weight, mlp.fc2.bias)
        self.gate = None if gate is None else FusedGate(gate)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        if self.gate is None:
            return y
        gated: Tensor = self.gate(y)
        return gated


class FusedGate(nn.Module):
    """x * softmax(Wx + b) or x * sigmoid(Wx + b) over the rows of a matrix."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.softmax = gate.activation == "softmax"
        self.logits = linear(gate.attn_layer.weight, gate.attn_layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits(x)
        return x * (torch.softmax(logits, -1) if self.softmax else torch.sigmoid(logits))


class FusedLayer(nn.Module):
    """One mixer layer on [series * tokens, width]."""

    def __init__(self, layer: MixerLayer, style: Style, series: int, channels: int) -> None:
        super().__init__()
        self.series, self.channels = series, channels
        mixer = layer.channel_feature_mixer
        self.channel_norm = None if mixer is None else FusedNorm(mixer.norm, style, folded=False)
        self.channel_gate = None if mixer is None or mixer.gating_block is None else FusedGate(mixer.gating_block)
        self.channel_mlp = None if mixer is None else FusedMlp(mixer.mlp, None, None)
        tokens = layer.patch_mixer
        self.token_norm = None if tokens is None else FusedNorm(tokens.norm, style, folded=False)
        self.token_mlp = None if tokens is None else FusedMlp(tokens.mlp, tokens.gating_block, None)
        features = layer.feature_mixer
        self.feature_norm = FusedNorm(features.norm, style, folded=True)
        self.feature_mlp = FusedMlp(features.mlp, features.gating_block, self.feature_norm)

    def forward(self, x: Tensor) -> Tensor:
        if self.channel_norm is not None and self.channel_mlp is not None:
            y = self._by_channel(self.channel_norm(x))
            if self.channel_gate is not None:
                y = self.channel_gate(y)
            x = x + self._from_channel(self.channel_mlp(y), x)
        if self.token_norm is not None and self.token_mlp is not None:
            x = x + self._transposed(self.token_mlp(self._transposed(self.token_norm(x))))
        return x + self.feature_mlp(self.feature_norm(x))

    def _transposed(self, x: Tensor) -> Tensor:
        """[series * a, b] to [series * b, a]."""
        width = x.shape[1]
        if self.series == 1:
            return x.transpose(0, 1)
        return x.reshape(self.series, -1, width).transpose(1, 2).reshape(self.series * width, -1)

    def _by_channel(self, x: Tensor) -> Tensor:
        """[batch * channels * tokens, width] to [batch * tokens * width, channels]."""
        batch = self.series // self.channels
        return x.reshape(batch, self.channels, -1).transpose(1, 2).reshape(-1, self.channels)

    def _from_channel(self, y: Tensor, like: Tensor) -> Tensor:
        batch = self.series // self.channels
        return y.reshape(batch, -1, self.channels).transpose(1, 2).reshape(like.shape)


class FusedMixers(nn.Module):
    """A whole stack on [series * tokens, width]; `series` = batch * `channels`, the channels that the stack sees."""

    def __init__(self, stack: MixerStack, style: Style, series: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for mixer in stack.mixers:
            if isinstance(mixer, MixerLayer):
                layers.append(FusedLayer(mixer, style, series, channels))
            else:
                assert isinstance(mixer, nn.Linear)
                layers.append(linear(mixer.weight, mixer.bias))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x
