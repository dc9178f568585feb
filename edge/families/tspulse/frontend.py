"""From a raw window to tokens, and from scaled outputs back, in the form that deploys.

Inside, a series is a row: [series, time] with series = batch * channels. Missing points are marked by 0.0 in a float
mask and may hold any finite value.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge.families.tspulse.config import TSPulseConfig
from edge.families.tspulse.fused import FusedNorm, RowMean, Style, constant, linear
from edge.families.tspulse.modules import Backbone
from edge.families.tspulse.scaling import (
    MaskToken,
    MeanScaler,
    NoScaler,
    RevIN,
    Scaler,
    StdScaler,
    analysis_basis,
    synthesis_basis,
)


class Rows(NamedTuple):
    """Scaled series [series, time], and [series, 1] each: location and scale (None where they are 0 and 1)."""

    values: Tensor
    loc: Tensor | None
    scale: Tensor | None


def row_max(x: Tensor, parts: int) -> Tensor:
    """The largest |value| in each of `parts` equal parts of a row: [rows, n] to [rows, parts, 1].

    As a pooling, the one form that XNNPACK delegates, TVM converts without a sort, and ONNX Runtime has a kernel for.
    """
    size = x.shape[1] // parts
    return F.max_pool2d(x.abs().reshape(-1, parts, 1, size), (1, size)).reshape(-1, parts, 1)


class FusedScaler(nn.Module):
    """Masking and scaling: rows and mask to scaled rows.

    With mask m in {0, 1}, missing points end as one constant a time step, so that masking, standardising and the affine
    map are z = (x - loc) m a + (c - m t), where t is that constant less the shift and c = t + shift.
    """

    token: Tensor

    def __init__(self, config: TSPulseConfig, scaler: Scaler, masker: MaskToken | None, style: Style) -> None:
        super().__init__()
        self.kind = type(scaler)
        self.minimum = config.minimum_scale
        self.least = 1.0 / config.context_length  # the share of one observed point
        token = torch.zeros(1, config.context_length) if masker is None else masker.tiled()[None]
        self.keeps_missing = masker is None  # then their raw values go through the scaler
        self.affine, self.shift = 1.0, 0.0
        if isinstance(scaler, RevIN) and scaler.affine_weight is not None and scaler.affine_bias is not None:
            self.affine, self.shift = scaler.affine_weight.item(), scaler.affine_bias.item()
        self.token = constant(token)
        self.scaled_token = constant(token.double() * self.affine)
        self.shifted_token = constant(token.double() * self.affine + self.shift)
        self.mean = RowMean(config.context_length, style)

    def filled(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The raw series with the mask token at missing points."""
        if mask is None or self.keeps_missing:
            return x
        return x * mask + (self.token - mask * self.token)

    def forward(self, x: Tensor, mask: Tensor | None, batch: int) -> Rows:
        if self.kind is NoScaler:
            return Rows(self.filled(x, mask), None, None)
        if self.kind is MeanScaler:
            return self._by_mean(x, mask, batch)
        if mask is None:
            loc = self.mean(x)
            deviation = x - loc
            variance = self.mean(deviation * deviation)
        else:
            share = torch.clamp(self.mean(mask), min=self.least)
            loc = self.mean(x * mask) / share
            deviation = (x - loc) * mask
            variance = self.mean(deviation * deviation) / share
        if self.kind is StdScaler:
            scale = torch.sqrt(variance + self.minimum)
            return Rows((self.filled(x, mask) - loc) / scale, loc, scale)
        scale = torch.sqrt(torch.clamp(variance, min=self.minimum))
        values = deviation / (scale * (1.0 / self.affine))
        if mask is None:
            return Rows(values + self.shift, loc, scale)
        if self.keeps_missing:
            return Rows(values + ((x - x * mask) * self.affine + self.shift), loc, scale)
        return Rows(values + (self.shifted_token - mask * self.scaled_token), loc, scale)

    def _by_mean(self, x: Tensor, mask: Tensor | None, batch: int) -> Rows:
        size = self.mean((x if mask is None else x * mask).abs())
        if mask is not None:
            share = self.mean(mask)
            own = size / torch.clamp(share, min=self.least)
            if batch > 1:  # a channel without observations takes the mean over the batch
                sizes, shares = size.reshape(batch, -1).sum(0), share.reshape(batch, -1).sum(0)
                common = (sizes / torch.clamp(shares, min=self.least)).repeat(batch)[:, None]
                seen = torch.clamp(share * (1.0 / self.least), max=1.0)
                own = seen * own + (common - seen * common)
            size = own
        scale = torch.clamp(size, min=self.minimum)
        return Rows(self.filled(x, mask) / scale, None, scale)


class Waves(NamedTuple):
    """Normalised spectrum [series, 2, half], its divisors [series, 2, 1], and the dropped frequency [series, 1]."""

    values: Tensor
    divisors: Tensor
    dropped: Tensor | None


class FusedFourier(nn.Module):
    """Series to normalised spectrum and back as products with constant tables.

    One step of Cooley and Tukey's halves the tables, which are most of a small model's bytes: even frequencies depend
    on the sum of a series' two halves only, odd ones on their difference. Parts [real | imaginary] alternate between
    the two kinds, so the two products interleave; a context not divisible by four takes the whole table.
    """

    def __init__(self, config: TSPulseConfig, *, inverse: bool, affine: float, shift: float) -> None:
        super().__init__()
        length, removed = config.context_length, str(config.fft_remove_component)
        self.bins, self.epsilon = length // 2, config.minimum_scale
        self.halved = length % 4 == 0
        self.sum_first = removed == "last"  # the kept frequencies start at 0, an even one
        size = self.bins if self.halved else length
        groups = (0, 1) if self.halved else (0,)
        step = len(groups)
        table = torch.from_numpy(analysis_basis(length, removed))
        self.analysis = nn.ModuleList(linear(table[:size, group:length:step].T) for group in groups)
        self.dropped = linear(table[:, -1:].T) if inverse else None
        self.synthesis = nn.ModuleList()
        if inverse:
            back = torch.from_numpy(synthesis_basis(length, removed)) / affine
            base = 0 if self.sum_first or not self.halved else 1  # the dropped frequency is even, or there is one group
            for group in groups:
                rows = back[group:length:step, :size]
                if group != base:
                    self.synthesis.append(linear(rows.T))
                    continue
                rows = torch.cat([rows, back[-1:, :size]])
                self.synthesis.append(linear(rows.T, torch.full((size,), -shift / affine)))
            self.base = base

    def forward(self, rows: Tensor) -> Waves:
        parts = self._analysed(rows)
        divisors = row_max(parts, 2) + self.epsilon
        values = parts.reshape(-1, 2, self.bins) / divisors
        return Waves(values, divisors, None if self.dropped is None else self.dropped(rows))

    def _analysed(self, rows: Tensor) -> Tensor:
        """[series, time] to [series, real | imaginary]."""
        if not self.halved:
            whole: Tensor = self.analysis[0](rows)
            return whole
        front, back = rows[:, : self.bins], rows[:, self.bins :]
        halves = (front + back, front - back) if self.sum_first else (front - back, front + back)
        pair = torch.cat([product(half) for product, half in zip(self.analysis, halves, strict=True)], 1)
        return pair.reshape(-1, 2, self.bins).transpose(1, 2).reshape(-1, 2 * self.bins)

    def inverse(self, predicted: Tensor, waves: Waves) -> Tensor:
        """A predicted normalised spectrum [series, time] to its series, the scaler's affine map undone."""
        assert waves.dropped is not None
        parts = (predicted.reshape(-1, 2, self.bins) * waves.divisors).reshape(-1, 2 * self.bins)
        if not self.halved:
            series: Tensor = self.synthesis[0](torch.cat([parts, waves.dropped], 1))
            return series
        pair = parts.reshape(-1, self.bins, 2).transpose(1, 2).reshape(-1, 2 * self.bins)
        halves = [pair[:, : self.bins], pair[:, self.bins :]]
        halves[self.base] = torch.cat([halves[self.base], waves.dropped], 1)
        products = [product(half) for product, half in zip(self.synthesis, halves, strict=True)]
        even, odd = products[self.base], products[1 - self.base]
        return torch.cat([even + odd, even - odd], 1)


class FusedInput(nn.Module):
    """Raw windows [batch, time, channels] to normalised tokens [series * tokens, width]."""

    def __init__(self, backbone: Backbone, style: Style, batch: int, channels: int, *, inverse: bool) -> None:
        super().__init__()
        config = backbone.config
        self.config, self.batch, self.channels = config, batch, channels
        self.scaler = FusedScaler(config, backbone.scaler, backbone.time_masker, style)
        self.plain = FusedScaler(config, backbone.plain_scaler, None, style)
        self.time_patcher = linear(backbone.time_encoding.patcher.weight, backbone.time_encoding.patcher.bias)
        self.fourier: FusedFourier | None = None
        if config.fuse_fft and backbone.fft_encoding is not None:
            scaled = config.fft_applied_on == "scaled_ts"
            affine, shift = (self.scaler.affine, self.scaler.shift) if scaled else (1.0, 0.0)
            self.fourier = FusedFourier(config, inverse=inverse, affine=affine, shift=shift)
            self.fft_patcher = linear(backbone.fft_encoding.patcher.weight, backbone.fft_encoding.patcher.bias)
        self.registers = constant(backbone.add_tokens.patch_tokens.expand(batch * channels, -1, -1))
        self.norm = FusedNorm([backbone.base_norm], style)

    def forward(self, past_values: Tensor, mask: Tensor | None) -> tuple[Tensor, Rows, Waves | None]:
        x = self.as_rows(past_values)
        m = None if mask is None else self.as_rows(mask)
        rows = self.scaler(x, m, self.batch)
        shape = (x.shape[0], -1, self.config.d_model)
        tokens = [self.time_patcher(rows.values.reshape(-1, self.config.patch_length)).reshape(shape)]
        waves = None
        if self.fourier is not None:
            waves = self.fourier(self._spectrum_source(x, m, rows))
            tokens.append(self.fft_patcher(waves.values.reshape(-1, self.config.patch_length)).reshape(shape))
        state = self.norm.applied(torch.cat([*tokens, self.registers], 1).reshape(x.shape[0], -1))
        return state.reshape(-1, self.config.d_model), rows, waves

    def _spectrum_source(self, x: Tensor, mask: Tensor | None, rows: Rows) -> Tensor:
        scaled = self.config.fft_applied_on == "scaled_ts"
        if self.config.fft_time_consistent_masking:
            return rows.values if scaled else self.scaler.filled(x, mask)
        values: Tensor = self.plain(x, None, self.batch).values
        return values if scaled else x

    def as_rows(self, x: Tensor) -> Tensor:
        """[batch, time, channels] to [series, time]."""
        return (x if self.channels == 1 else x.transpose(1, 2)).reshape(self.batch * self.channels, -1)

    def as_windows(self, rows: Tensor) -> Tensor:
        """[series, points] to [batch, points, channels]."""
        if self.channels == 1:
            return rows.reshape(self.batch, -1, 1)
        return rows.reshape(self.batch, self.channels, -1).transpose(1, 2)
