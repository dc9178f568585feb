"""TSPulse in plain torch, faithful to granite-tsfm 0.3.2: the models to train, to load checkpoints into, and to check
deployed forms against.

In: `past_values` [batch, context, channels] float32 and, optionally, `past_observed_mask` of the same shape, 1 or True
where a point is known. Unlike granite-tsfm nothing is ever masked at random here: whoever trains passes the mask.
Parameter names are theirs, so that `load_state_dict(strict=True)` takes their checkpoints. Ekambaram et al., "TSPulse:
Dual Space Tiny Pre-Trained Models for Rapid Time-Series Analysis", arXiv 2505.13033.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from edge.errors import ConfigError
from edge.families.tspulse.config import TSPulseConfig
from edge.families.tspulse.heads import ClassificationDecoder, ReconstructionDecoder, backbone_shape
from edge.families.tspulse.mixer import MixerStack
from edge.families.tspulse.scaling import Fourier, MaskToken, Spectrum, StdScaler, make_scaler


class Encoded(NamedTuple):
    """The backbone's state [batch, channels, tokens, width] and what undoes its scalings."""

    state: Tensor
    loc: Tensor
    scale: Tensor
    spectrum: Spectrum | None


class _Patcher(nn.Module):
    def __init__(self, config: TSPulseConfig) -> None:
        super().__init__()
        self.patcher = nn.Linear(config.patch_length, config.d_model)

    def forward(self, series: Tensor) -> Tensor:
        """[batch, time, channels] to [batch, channels, patches, width]."""
        batch, _, channels = series.shape
        patches: Tensor = self.patcher(series.transpose(1, 2).reshape(batch, channels, -1, self.patcher.in_features))
        return patches


class _Registers(nn.Module):
    def __init__(self, config: TSPulseConfig) -> None:
        super().__init__()
        self.patch_tokens = nn.Parameter(torch.randn(config.registers, config.d_model))


class Backbone(nn.Module):
    """Masking, scaling, both patchers, registers, one norm over all tokens, and the encoder's mixers."""

    def __init__(self, config: TSPulseConfig) -> None:
        super().__init__()
        self.config = config
        self.time_masker = MaskToken(config) if config.has_mask_token else None
        self.scaler = make_scaler(config)
        self.time_encoding = _Patcher(config)
        self.fft_encoding = _Patcher(config) if config.fuse_fft else None
        self.fourier = Fourier(config) if config.fuse_fft else None
        self.plain_scaler = StdScaler(config.minimum_scale)
        self.add_tokens = _Registers(config)
        self.base_norm = nn.LayerNorm(config.tokens * config.d_model, eps=config.norm_eps)
        self.encoder_block = MixerStack(backbone_shape(config))

    def forward(self, past_values: Tensor, past_observed_mask: Tensor | None = None) -> Encoded:
        original = past_values
        observed = torch.ones_like(past_values) if past_observed_mask is None else past_observed_mask
        if self.time_masker is not None and past_observed_mask is not None:
            past_values = self.time_masker(past_values, observed)
        scaled, loc, scale = self.scaler(past_values, observed)
        tokens = [self.time_encoding(self._expanded(scaled))]
        spectrum = None
        if self.fourier is not None and self.fft_encoding is not None:
            if self.config.fft_time_consistent_masking:
                source = scaled if self.config.fft_applied_on == "scaled_ts" else past_values
            else:
                source = self.spectrum_source(original)
            spectrum = self.fourier(source)
            tokens.append(self.fft_encoding(self._expanded(spectrum.values)))
        registers = self.add_tokens.patch_tokens.expand(*tokens[0].shape[:2], -1, -1)
        x = torch.cat([*tokens, registers], 2)
        x = self.base_norm(x.flatten(2)).reshape(x.shape)
        return Encoded(self.encoder_block(x), loc, scale, spectrum)

    def spectrum_source(self, past_values: Tensor) -> Tensor:
        """The unmasked series whose spectrum is the target of the frequency heads."""
        if self.config.fft_applied_on != "scaled_ts":
            return past_values
        values: Tensor = self.plain_scaler(past_values, torch.ones_like(past_values)).values
        return values

    def _expanded(self, series: Tensor) -> Tensor:
        return series if self.config.expand == 1 else series.repeat(1, 1, self.config.expand)


class Reconstruction(NamedTuple):
    """What a reconstruction model computes; None for a head that the config does not have.

    Series are [batch, context, channels] in the input's units, `forecast_output` [batch, prediction, channels] too; the
    spectrum is normalised; `fft_softmax_preds` [batch, bins, channels] sums to 1 over its bins. States are [batch,
    channels, tokens, width]; `loc` and `scale` [batch, 1, channels].
    """

    reconstruction_outputs: Tensor
    reconstructed_ts_from_fft: Tensor | None
    fft_reconstruction_outputs: Tensor | None
    forecast_output: Tensor | None
    fft_softmax_preds: Tensor | None
    backbone_state: Tensor
    decoder_state: Tensor
    loc: Tensor
    scale: Tensor


class TSPulseForReconstruction(nn.Module):
    """The pretraining model: imputation, anomaly scores, forecasts of a few points, and embeddings for search."""

    def __init__(self, config: TSPulseConfig) -> None:
        super().__init__()
        if config.decoder_d_model != config.d_model:
            raise ConfigError(
                f"TSPulse config: reconstruction needs decoder_d_model ({config.decoder_d_model}) to equal d_model "
                f"({config.d_model})."
            )
        self.config = config
        self.backbone = Backbone(config)
        self.decoder_with_head = ReconstructionDecoder(config)

    def forward(self, past_values: Tensor, past_observed_mask: Tensor | None = None) -> Reconstruction:
        state, loc, scale, spectrum = self.backbone(past_values, past_observed_mask)
        out = self.decoder_with_head(state, self.backbone.fourier, spectrum)
        undo = self.backbone.scaler.inverse
        series = out.series_from_spectrum
        if series is not None and self.config.fft_applied_on == "scaled_ts":
            series = undo(series, loc, scale)
        return Reconstruction(
            reconstruction_outputs=undo(out.time, loc, scale),
            reconstructed_ts_from_fft=series,
            fft_reconstruction_outputs=out.spectrum,
            forecast_output=None if out.forecast is None else undo(out.forecast, loc, scale),
            fft_softmax_preds=out.fft_softmax,
            backbone_state=state,
            decoder_state=out.state,
            loc=loc,
            scale=scale,
        )

    def frequency_targets(self, past_values: Tensor) -> tuple[Tensor, Tensor]:
        """What the frequency heads learn to predict from the unmasked series: normalised spectrum, softmax of power."""
        fourier = self.backbone.fourier
        if fourier is None:
            raise ConfigError("TSPulse config: a model without fuse_fft has no frequency targets.")
        source = self.backbone.spectrum_source(past_values)
        softmax = fourier.power_softmax(source, self.config.fft_prob_mode, self.config.fft_prob_length)
        return fourier(source).values, softmax


class Classification(NamedTuple):
    """Logits [batch, classes] and the states behind them, [batch, channels, tokens, width]."""

    prediction_outputs: Tensor
    backbone_state: Tensor
    decoder_state: Tensor
    loc: Tensor
    scale: Tensor


class TSPulseForClassification(nn.Module):
    """The classification model; its decoder usually mixes channels, so their number is part of the weights."""

    def __init__(self, config: TSPulseConfig) -> None:
        super().__init__()
        if config.norm_mlp == "BatchNorm":
            raise ConfigError("TSPulse config: classification needs norm_mlp 'LayerNorm', in granite-tsfm too.")
        if not config.disable_mask_in_classification_eval and config.mask_type != "user" and config.has_mask_token:
            raise ConfigError(
                "TSPulse config: disable_mask_in_classification_eval must be true, because without it every "
                "prediction would hide points at random."
            )
        self.config = config
        self.backbone = Backbone(config)
        self.decoder_with_head = ClassificationDecoder(config)

    def forward(self, past_values: Tensor, past_observed_mask: Tensor | None = None) -> Classification:
        state, loc, scale, _ = self.backbone(past_values, past_observed_mask)
        logits, decoded = self.decoder_with_head(state, loc, scale)
        return Classification(logits, state, decoded, loc, scale)
