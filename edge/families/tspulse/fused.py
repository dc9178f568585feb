"""Parts of the form that deploys: linear maps, norms, MLPs and gates on the rows of one matrix, weights folded.

Each part can stand for several parallel ones of the same shape (`count`), whose weights then form one block-diagonal
matrix: the zeros cost less than a second operator. Runtimes differ in one thing that matters: XNNPACK has neither
LayerNorm nor sums, so `Style.XNNPACK` writes both as products with constants, which keeps a model in one delegate;
elsewhere the native operators are faster.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge.families.tspulse.mixer import Gate, Mlp, Norm


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


def blocks(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Parallel linear maps as one, over concatenated inputs and outputs; in float64."""
    weight: Tensor = torch.block_diag(*(weight.detach().double() for weight in weights))  # type: ignore[no-untyped-call]
    return weight, torch.cat([bias.detach().double() for bias in biases])


def constant(value: Tensor) -> nn.Buffer:
    return nn.Buffer(value.detach().float().contiguous(), persistent=False)


def repeated(x: Tensor, times: int, style: Style) -> Tensor:
    """A matrix beside itself, [rows, times * width]."""
    # XNNPACK concatenates two tensors or more, not one with itself, so its copies are products with 1.
    return torch.cat([x, *(x * 1.0 if style is Style.XNNPACK else x for _ in range(times - 1))], 1)


class RowMean(nn.Module):
    """Means of the rows of a matrix, [rows, 1]: XNNPACK has no sum, but a linear map with constant weights."""

    def __init__(self, width: int, style: Style, plus: float = 0.0) -> None:
        super().__init__()
        self.parts: nn.Linear | None = None
        self.whole: nn.Linear | None = None
        self.plus = plus
        if style is Style.XNNPACK:
            # A map to one output is padded to a whole tile of weights, so a long row is averaged in two steps.
            part = max(n for n in range(1, 65) if width % n == 0)
            if part < width:
                self.parts = linear(torch.full((1, part), 1.0 / part))
            size = width // part if part < width else width
            self.whole = linear(torch.full((1, size), 1.0 / size), torch.full((1,), plus) if plus else None)

    def forward(self, x: Tensor) -> Tensor:
        """The means plus a constant."""
        if self.whole is None:
            mean = x.mean(1, keepdim=True)
            return mean + self.plus if self.plus else mean
        if self.parts is not None:
            x = self.parts(x.reshape(-1, self.parts.in_features)).reshape(-1, self.whole.in_features)
        total: Tensor = self.whole(x)
        return total


class FusedNorm(nn.Module):
    """Normalises the rows of [rows, width], and applies gain and shift if `affine` says so; see `fold` and `scaling`.

    A native LayerNorm applies them at no cost. Otherwise a linear map that follows had better take them over, or the
    caller multiplies where it is cheapest. A batch normalisation at inference is gain and shift only.
    """

    def __init__(self, norms: Sequence[Norm | nn.LayerNorm], style: Style) -> None:
        super().__init__()
        self.eps: float | None = None
        self.center: nn.Linear | None = None
        pairs = []
        for norm in norms:
            inner = norm.norm if isinstance(norm, Norm) else norm
            if isinstance(inner, nn.LayerNorm):
                self.eps = inner.eps
                pairs.append((inner.weight.detach().double(), inner.bias.detach().double()))
            else:
                batch = getattr(inner, "batchnorm", None)
                assert isinstance(batch, nn.BatchNorm1d)
                assert batch.running_mean is not None and batch.running_var is not None
                gain = batch.weight.detach().double() / (batch.running_var.double() + batch.eps).sqrt()
                pairs.append((gain, batch.bias.detach().double() - gain * batch.running_mean.double()))
        self.scaling = pairs
        self.native = style is not Style.XNNPACK
        self.affine = self.eps is not None and self.native and len(pairs) == 1
        self.width = pairs[0][0].shape[0]
        self.gain, self.shift = constant(pairs[0][0]), constant(pairs[0][1])
        if self.eps is not None and not self.native:
            self.mean = RowMean(self.width, style)
            self.variance = RowMean(self.width, style, plus=self.eps)
            if self.width <= 64:
                # One small product subtracts the mean; for long rows a mean and a subtraction are cheaper.
                self.center = linear(torch.eye(self.width, dtype=torch.float64) - 1.0 / self.width)

    def fold(self, weight: Tensor, bias: Tensor, which: int = 0) -> tuple[Tensor, Tensor]:
        """A following linear map's weight and bias, with gain and shift folded in where they are not applied."""
        weight, bias = weight.detach().double(), bias.detach().double()
        if self.affine:
            return weight, bias
        gain, shift = self.scaling[which]
        return weight * gain, bias + weight @ shift

    def forward(self, x: Tensor) -> Tensor:
        if self.eps is None:
            return x
        if self.native:
            gain, shift = (self.gain, self.shift) if self.affine else (None, None)
            return F.layer_norm(x, (self.width,), gain, shift, self.eps)
        centered: Tensor = x - self.mean(x) if self.center is None else self.center(x)
        return centered * torch.rsqrt(self.variance(centered * centered))

    def applied(self, x: Tensor) -> Tensor:
        """`forward` with gain and shift applied to the rows in any case."""
        y: Tensor = self(x)
        return y if self.affine else y * self.gain + self.shift


class FusedGate(nn.Module):
    """x * softmax(Wx + b) or x * sigmoid(Wx + b) over the rows of a matrix, in `count` equal parts of a row."""

    def __init__(self, gates: Sequence[Gate]) -> None:
        super().__init__()
        self.softmax, self.count = gates[0].activation == "softmax", len(gates)
        layers = [gate.attn_layer for gate in gates]
        self.logits = linear(*blocks([layer.weight for layer in layers], [layer.bias for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits(x)
        if not self.softmax:
            return x * torch.sigmoid(logits)
        if self.count == 1:
            return x * torch.softmax(logits, 1)
        rows, width = x.shape
        return x * torch.softmax(logits.reshape(rows * self.count, width // self.count), 1).reshape(rows, width)


class FusedMlp(nn.Module):
    """Linear, GELU, linear over the rows of a matrix, then the gate if there is one.

    `first` are the weights and biases of the first linear maps where something is folded into them.
    """

    def __init__(self, mlps: Sequence[Mlp], gates: Sequence[Gate], first: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__()
        self.fc1 = linear(*(first or blocks([mlp.fc1.weight for mlp in mlps], [mlp.fc1.bias for mlp in mlps])))
        self.fc2 = linear(*blocks([mlp.fc2.weight for mlp in mlps], [mlp.fc2.bias for mlp in mlps]))
        self.gate = FusedGate(gates) if gates else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        if self.gate is None:
            return y
        gated: Tensor = self.gate(y)
        return gated
