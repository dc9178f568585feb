"""What stands after the backbone: decoder, reconstruction heads, register mappings, classification head.

States are [batch, channels, tokens, width]; tokens are time patches, frequency patches, registers, in this order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from edge.families.tspulse.config import TSPulseConfig
from edge.families.tspulse.mixer import Gate, MixerShape, MixerStack, Mlp, Norm
from edge.families.tspulse.scaling import Fourier, Spectrum


def backbone_shape(config: TSPulseConfig) -> MixerShape:
    """The encoder's mixers."""
    return MixerShape(
        layers=config.num_layers,
        tokens=config.tokens,
        width=config.d_model,
        channels=config.num_input_channels * config.expand,
        expansion=config.expansion_factor,
        channel_expansion=config.channel_expansion,
        mix_channels=config.mode == "mix_channel",
        gated=config.gated_attn,
        gate=str(config.gated_attention_activation),
        norm=config.norm_mlp,
        eps=config.norm_eps,
        dropout=config.dropout,
    )


def decoder_shape(config: TSPulseConfig, *, registers_only: bool = False) -> MixerShape:
    """The decoder's mixers; with `registers_only` those of a register mapping, over the real channels."""
    layers = config.register_mixer_layers if registers_only else config.decoder_num_layers
    return MixerShape(
        layers=layers or 0,
        tokens=config.registers if registers_only else config.tokens,
        width=config.decoder_d_model,
        channels=config.num_input_channels * (1 if registers_only else config.expand),
        expansion=config.expansion_factor,
        channel_expansion=config.channel_expansion,
        mix_channels=config.decoder_mode == "mix_channel",
        gated=config.gated_attn,
        gate=config.head_gated_attention_activation,
        norm=config.norm_mlp,
        eps=config.norm_eps,
        dropout=config.head_dropout,
    )


class Decoder(nn.Module):
    """The mixers between backbone and heads."""

    def __init__(self, config: TSPulseConfig) -> None:
        super().__init__()
        self.decoder_block = MixerStack(decoder_shape(config), in_width=config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.decoder_block(x)
        return y


class PatchHead(nn.Module):
    """Tokens of one branch to its points: token by token, or all tokens to all points ("full")."""

    def __init__(self, config: TSPulseConfig) -> None:
        super().__init__()
        self.full = config.reconstruction_type == "full"
        self.dropout = nn.Dropout(config.head_dropout)
        width = config.decoder_d_model * (config.num_patches if self.full else 1)
        self.base_reconstruction_block = nn.Linear(width, config.context_length if self.full else config.patch_length)

    def forward(self, tokens: Tensor) -> Tensor:
        """[batch, channels, patches, width] to [batch, time, channels]."""
        x = tokens.flatten(2) if self.full else tokens
        points: Tensor = self.base_reconstruction_block(self.dropout(x))
        return points.flatten(2).transpose(1, 2)


def register_mapping(config: TSPulseConfig, out: int) -> nn.Sequential:
    """Registers [batch, channels, R, width] to [batch, channels, out]: own mixers and a linear, or an MLP."""
    size = config.registers * config.d_model
    norm = nn.LayerNorm(size, eps=config.norm_eps)
    if config.register_mixer_layers is None:
        mlp = Mlp(size, size * config.expansion_factor, config.dropout, out=out)
        return nn.Sequential(nn.Flatten(start_dim=2), norm, mlp)
    mixers = MixerStack(decoder_shape(config, registers_only=True))
    return nn.Sequential(mixers, nn.Flatten(start_dim=2), norm, nn.Linear(size, out))


class Decoded(NamedTuple):
    """Scaled outputs [batch, time, channels] of the heads that exist, and the decoder's state of the real channels."""

    time: Tensor
    spectrum: Tensor | None
    series_from_spectrum: Tensor | None
    forecast: Tensor | None
    fft_softmax: Tensor | None
    state: Tensor


class ReconstructionDecoder(nn.Module):
    """Decoder with the heads of reconstruction that the config has."""

    def __init__(self, config: TSPulseConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = Decoder(config)
        self.time_head = PatchHead(config)
        self.fft_head = PatchHead(config) if config.has_fft_head else None
        forecast = config.prediction_length or 0
        self.forecast_mapping = register_mapping(config, forecast) if config.has_forecast else None
        bins = config.fft_prob_length or config.context_length // 2
        self.fft_softmax_mapping = register_mapping(config, bins) if config.has_fft_softmax else None

    def forward(self, x: Tensor, fourier: Fourier | None, spectrum: Spectrum | None) -> Decoded:
        n = self.config.num_patches
        state = self.decoder(x)
        if self.config.expand > 1:
            state = state[:, : state.shape[1] // self.config.expand]
        registers = state[:, :, -self.config.registers :]
        forecast = None if self.forecast_mapping is None else self.forecast_mapping(registers).transpose(1, 2)
        softmax = None
        if self.fft_softmax_mapping is not None:
            softmax = torch.softmax(self.fft_softmax_mapping(registers), dim=-1).transpose(1, 2)
        predicted = None if self.fft_head is None else self.fft_head(state[:, :, n : 2 * n])
        series = None
        if self.config.has_fft_signal and predicted is not None and fourier is not None and spectrum is not None:
            series = fourier.inverse(spectrum._replace(values=predicted))
        return Decoded(self.time_head(state[:, :, :n]), predicted, series, forecast, softmax, state)


class LinearHead(nn.Module):
    """Tokens, location and scale to one output a class: optional reductions, flatten, norm, GELU, linear."""

    def __init__(self, config: TSPulseConfig, tokens: int) -> None:
        super().__init__()
        self.config = config
        channels, width = config.num_input_channels, config.decoder_d_model
        out_channels = config.head_reduce_channels or channels
        out_width = config.head_reduce_d_model or width
        self.reduce_channel_proj = nn.Linear(channels, out_channels) if config.head_reduce_channels else None
        self.reduce_proj = nn.Linear(width, out_width) if config.head_reduce_d_model else None
        size = out_width
        if config.head_aggregation is None or config.head_aggregation_dim == "patch":
            size *= out_channels
        if config.head_aggregation is None or config.head_aggregation_dim == "channel":
            size *= tokens
        size += 2 * channels
        self.loc_scale_norm = nn.Linear(2 * channels, 2 * channels)
        self.head_norm = Norm(size, config.norm_mlp, config.norm_eps)
        self.dropout = nn.Dropout(config.head_dropout)
        self.head_global_attention = Gate(size, "sigmoid") if config.head_attention else None
        self.projection = nn.Linear(size, config.num_targets)

    def forward(self, tokens: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """[batch, channels, tokens, width] and two [batch, 1, channels] to logits [batch, classes]."""
        x = tokens
        if self.reduce_channel_proj is not None:
            x = self.reduce_channel_proj(x.transpose(1, 3)).transpose(1, 3)
        if self.reduce_proj is not None:
            x = self.reduce_proj(x)
        x = self._aggregate(x).flatten(1)
        known = self.loc_scale_norm(torch.cat([loc, scale], 1).flatten(1))
        x = self.dropout(self.head_norm(torch.cat([x, known], -1)))
        x = nn.functional.gelu(x)
        if self.head_global_attention is not None:
            x = self.head_global_attention(x)
        logits: Tensor = self.projection(x)
        if self.config.output_range is not None:
            low, high = self.config.output_range
            logits = torch.sigmoid(logits) * (high - low) + low
        return logits

    def _aggregate(self, x: Tensor) -> Tensor:
        """Over tokens [batch, channels, width], or over channels [batch, width, tokens]; or nothing."""
        how = self.config.head_aggregation
        if how is None:
            return x
        x = x.transpose(2, 3) if self.config.head_aggregation_dim == "patch" else x.transpose(1, 3)
        if how == "use_last":
            return x[..., -1]
        return x.amax(-1) if how == "max_pool" else x.mean(-1)


class ClassificationDecoder(nn.Module):
    """Decoder, a choice of its tokens, and the linear head."""

    def __init__(self, config: TSPulseConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = Decoder(config)
        self.spans = token_spans(config)
        self.head = LinearHead(config, sum(stop - start for start, stop in self.spans))

    def forward(self, x: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [batch, classes] and the state that the head saw."""
        state = self.decoder(x)[:, : self.config.num_input_channels]
        if len(self.spans) > 1:
            state = torch.cat([state[:, :, start:stop] for start, stop in self.spans], 2)
        else:
            state = state[:, :, self.spans[0][0] : self.spans[0][1]]
        return self.head(state, loc, scale), state


def token_spans(config: TSPulseConfig) -> list[tuple[int, int]]:
    """The ranges of tokens that `classification_mode` hands to the head."""
    total = config.tokens
    patches = total - config.registers
    branch = patches // 2  # without a frequency branch granite-tsfm halves the time patches all the same
    spans = {
        "long_embedding": [(0, patches)],
        "short_embedding": [(patches, total)],
        "time_embedding": [(0, branch)],
        "fft_embedding": [(branch, 2 * branch)],
        "time_with_short_fft_embedding": [(0, branch), (patches, total)],
    }
    return spans.get(str(config.classification_mode), [(0, total)])
