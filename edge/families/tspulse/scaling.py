"""From a raw window to the model's two inputs, the scaled series and its spectrum, and back.

Series are [batch, time, channels] float32; `observed` is 1 (or True) where a point is known. A spectrum of a series of
even length T keeps T/2 of its T/2 + 1 frequencies as [real | imaginary], T values, and its dropped one apart.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from edge.families.tspulse.config import TSPulseConfig


class Scaled(NamedTuple):
    """A scaled series, and the location and scale, [batch, 1, channels], that undo it."""

    values: Tensor
    loc: Tensor
    scale: Tensor


class MaskToken(nn.Module):
    """Replaces missing points by a learned token of one block's length, tiled over time; or else by zeros."""

    def __init__(self, config: TSPulseConfig) -> None:
        super().__init__()
        self.length = config.mask_block_length
        self.context = config.context_length
        # Random point masking fills with zeros in training, so a token beside it stays what it was at the start.
        self.zero = config.mask_type == "random"
        self.mask_token = nn.Parameter(torch.randn(self.length)) if config.use_learnable_mask_token else None

    def tiled(self) -> Tensor:
        """The value of a missing point at each time, [time]."""
        if self.mask_token is None or self.zero:
            return torch.zeros(self.context)
        return self.mask_token.repeat(-(-self.context // self.length))[: self.context]

    def forward(self, series: Tensor, observed: Tensor) -> Tensor:
        return torch.where(observed > 0.5, series, self.tiled()[:, None])


class RevIN(nn.Module):
    """Standardises the observed points, leaves the others, and then applies one learned affine map to all.

    Reversible instance normalisation, Kim et al., ICLR 2022; the variance, not the scale, is clamped from below.
    """

    def __init__(self, minimum: float, affine: bool) -> None:
        super().__init__()
        self.minimum = minimum
        self.affine_weight = nn.Parameter(torch.ones(1, 1, 1)) if affine else None
        self.affine_bias = nn.Parameter(torch.zeros(1, 1, 1)) if affine else None

    def forward(self, series: Tensor, observed: Tensor) -> Scaled:
        loc, variance = _moments(series, observed)
        scale = variance.clamp_min(self.minimum).sqrt()
        values = torch.where(observed > 0.5, (series - loc) / scale, series)
        if self.affine_weight is not None and self.affine_bias is not None:
            values = values * self.affine_weight + self.affine_bias
        return Scaled(values, loc, scale)

    def inverse(self, values: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        if self.affine_weight is not None and self.affine_bias is not None:
            values = (values - self.affine_bias) / self.affine_weight
        return values * scale + loc


class _PlainScaler(nn.Module):
    def inverse(self, values: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        return values * scale + loc


class StdScaler(_PlainScaler):
    """(x - mean) / sqrt(variance + minimum), over the observed points and applied to all."""

    def __init__(self, minimum: float) -> None:
        super().__init__()
        self.minimum = minimum

    def forward(self, series: Tensor, observed: Tensor) -> Scaled:
        loc, variance = _moments(series, observed)
        scale = (variance + self.minimum).sqrt()
        return Scaled((series - loc) / scale, loc, scale)


class MeanScaler(_PlainScaler):
    """x / mean|x|; a channel without observations takes the mean over the batch."""

    def __init__(self, minimum: float) -> None:
        super().__init__()
        self.minimum = minimum

    def forward(self, series: Tensor, observed: Tensor) -> Scaled:
        weight = observed.to(series.dtype)
        total = (series * weight).abs().sum(1, keepdim=True)
        count = weight.sum(1, keepdim=True)
        fallback = total.sum(0, keepdim=True) / count.sum(0, keepdim=True).clamp_min(1.0)
        scale = torch.where(count > 0, total / count.clamp_min(1.0), fallback).clamp_min(self.minimum)
        return Scaled(series / scale, torch.zeros_like(scale), scale)


class NoScaler(_PlainScaler):
    """Leaves the series as it is."""

    def forward(self, series: Tensor, observed: Tensor) -> Scaled:
        zero = torch.zeros_like(series[:, :1])
        return Scaled(series, zero, zero + 1)


def _moments(series: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of the observed points, each [batch, 1, channels]."""
    weight = observed.to(series.dtype)
    count = weight.sum(1, keepdim=True).clamp_min(1.0)
    loc = (series * weight).sum(1, keepdim=True) / count
    return loc, ((series - loc) * weight).square().sum(1, keepdim=True) / count


Scaler = RevIN | StdScaler | MeanScaler | NoScaler


def make_scaler(config: TSPulseConfig) -> Scaler:
    """The scaler that `config.scaling` names."""
    if config.scaling == "revin":
        return RevIN(config.minimum_scale, bool(config.revin_affine))
    if config.scaling == "mean":
        return MeanScaler(config.minimum_scale)
    if config.scaling in ("std", True):
        return StdScaler(config.minimum_scale)
    return NoScaler()


def analysis_basis(length: int, removed: str) -> np.ndarray:
    """[length, length + 1] float64: series @ basis = real parts kept, imaginary parts kept, the dropped frequency.

    A real FFT as a matrix, since no deployment runtime here has the operator: X_k = sum_n x_n exp(-2 pi i k n / T).
    `removed` is "dc" (k = 0) or "last" (k = T/2); both are real, so their imaginary part needs no column.
    """
    kept, dropped = _frequencies(length, removed)
    n = np.arange(length)
    angle = 2 * np.pi * ((n[:, None] * kept[None, :]) % length) / length
    base = np.cos(np.pi * n) if dropped else np.ones(length)
    return np.concatenate([np.cos(angle), -np.sin(angle), base[:, None]], axis=1)


def synthesis_basis(length: int, removed: str) -> np.ndarray:
    """[length + 1, length] float64, the inverse of `analysis_basis`; imaginary parts of dc and T/2 have no effect."""
    kept, dropped = _frequencies(length, removed)
    n = np.arange(length)
    angle = 2 * np.pi * ((kept[:, None] * n[None, :]) % length) / length
    twice = np.where((kept == 0) | (kept == length // 2), 1.0, 2.0)[:, None]
    sine = np.where(twice == 2.0, np.sin(angle), 0.0)
    base = np.cos(np.pi * n) if dropped else np.ones(length)
    return np.concatenate([twice * np.cos(angle), -2.0 * sine, base[None, :]], axis=0) / length


def _frequencies(length: int, removed: str) -> tuple[np.ndarray, int]:
    half = length // 2
    return (np.arange(1, half + 1), 0) if removed == "dc" else (np.arange(half), half)


class Spectrum(NamedTuple):
    """A normalised spectrum [batch, T, channels] and what undoes it, each [batch, 1, channels]."""

    values: Tensor
    real_max: Tensor
    imag_max: Tensor
    dropped: Tensor


class Fourier(nn.Module):
    """Series to normalised spectrum and back, by constant matrices that stay out of the state dict."""

    analysis: Tensor
    synthesis: Tensor

    def __init__(self, config: TSPulseConfig) -> None:
        super().__init__()
        self.kept = config.context_length // 2
        self.epsilon = config.minimum_scale
        removed = str(config.fft_remove_component)
        for name, basis in (("analysis", analysis_basis), ("synthesis", synthesis_basis)):
            table = torch.from_numpy(basis(config.context_length, removed).T.astype(np.float32).copy())
            self.register_buffer(name, table, persistent=False)

    def forward(self, series: Tensor) -> Spectrum:
        """Real and imaginary parts, each divided by its own largest absolute value plus epsilon."""
        parts = self.analysis @ series
        real, imag, dropped = torch.split(parts, [self.kept, self.kept, 1], 1)
        real_max = real.abs().amax(1, keepdim=True) + self.epsilon
        imag_max = imag.abs().amax(1, keepdim=True) + self.epsilon
        return Spectrum(torch.cat([real / real_max, imag / imag_max], 1), real_max, imag_max, dropped)

    def inverse(self, spectrum: Spectrum) -> Tensor:
        """The series of a normalised spectrum, [batch, T, channels]."""
        real, imag = torch.split(spectrum.values, self.kept, 1)
        parts = torch.cat([real * spectrum.real_max, imag * spectrum.imag_max, spectrum.dropped], 1)
        return self.synthesis @ parts

    def power_softmax(self, series: Tensor, mode: str, length: int | None) -> Tensor:
        """Softmax over the magnitudes of all frequencies but dc, [batch, length, channels]: a training target.

        `mode`: "log" takes log(1 + magnitude), "plain" the magnitude, any other the real part.
        """
        spectrum = torch.fft.rfft(series, dim=1)[:, 1:]
        if mode not in ("log", "plain"):
            return torch.softmax(spectrum.real, dim=1)
        magnitude = spectrum.abs()
        power = torch.log1p(magnitude) if mode == "log" else magnitude
        return torch.softmax(power[:, :length], dim=1)
