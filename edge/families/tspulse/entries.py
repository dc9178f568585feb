"""TSPulse's entry points for deployment: eval mode, fixed shapes, tensors in, a tuple of tensors out.

Each takes a faithful model and folds its weights into the fused form; the model itself is left alone. Inputs are
`past_values` [batch, context, channels] float32 and, where masking is meant, `past_observed_mask` of the same shape and
dtype: 1.0 where a point is known, 0.0 where it is missing (its value is then ignored but must be finite). A float mask
is used because every runtime multiplies by it and some cannot select by it. `outputs` names what comes out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge.errors import ConfigError
from edge.families.tspulse.config import TSPulseConfig
from edge.families.tspulse.frontend import FusedInput, Rows, Waves
from edge.families.tspulse.fused import FusedGate, FusedNorm, Style, linear, repeated
from edge.families.tspulse.heads import LinearHead, PatchHead
from edge.families.tspulse.layers import FusedMixers
from edge.families.tspulse.mixer import MixerStack, Mlp
from edge.families.tspulse.modules import TSPulseForClassification, TSPulseForReconstruction


class FusedPatchHead(nn.Module):
    """Tokens of one branch [series, patches, width] to points [series, time], an affine map of the outputs undone."""

    def __init__(self, head: PatchHead, affine: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        block = head.base_reconstruction_block
        self.full = head.full
        self.points = linear(block.weight.double() / affine, (block.bias.double() - shift) / affine)

    def forward(self, tokens: Tensor) -> Tensor:
        series, _, width = tokens.shape
        rows = tokens.reshape(series, -1) if self.full else tokens.reshape(-1, width)
        points: Tensor = self.points(rows)
        return points.reshape(series, -1)


class FusedMappings(nn.Module):
    """Registers [series * R, width] to one [series, out] for each mapping; equal mixers run side by side.

    `undo` is, for each mapping, the affine map of its outputs to be undone.
    """

    def __init__(
        self,
        mappings: Sequence[nn.Sequential],
        undo: Sequence[tuple[float, float]],
        style: Style,
        series: int,
        channels: int,
    ) -> None:
        super().__init__()
        self.series, self.style = series, style
        stacks = [mapping[0] for mapping in mappings if isinstance(mapping[0], MixerStack)]
        together = len(stacks) > 1 and not stacks[0].shape.mix_channels
        groups = [stacks] if together else [[stack] for stack in stacks]
        self.count = len(stacks) if together else 1
        self.mixers = nn.ModuleList(FusedMixers(group, style, series, channels) for group in groups)
        self.tails = nn.ModuleList(
            MappingTail(mapping, style, affine, shift) for mapping, (affine, shift) in zip(mappings, undo, strict=True)
        )

    def forward(self, registers: Tensor) -> list[Tensor]:
        states = [registers] * len(self.tails)
        if self.count > 1:
            width = registers.shape[1]
            mixed = self.mixers[0](repeated(registers, self.count, self.style).reshape(-1, width))
            mixed = mixed.reshape(-1, self.count * width)
            states = [mixed[:, i * width : (i + 1) * width] for i in range(self.count)]
        elif len(self.mixers):
            states = [mixer(registers) for mixer in self.mixers]
        return [tail(state.reshape(self.series, -1)) for tail, state in zip(self.tails, states, strict=True)]


class MappingTail(nn.Module):
    """The end of a register mapping: norm, then a linear map or an MLP, on [series, R * width]."""

    def __init__(self, mapping: nn.Sequential, style: Style, affine: float, shift: float) -> None:
        super().__init__()
        norm, last = mapping[-2], mapping[-1]
        assert isinstance(norm, nn.LayerNorm)
        self.norm = FusedNorm([norm], style)
        self.hidden: nn.Linear | None = None
        if isinstance(last, Mlp):
            self.hidden = linear(*self.norm.fold(last.fc1.weight, last.fc1.bias))
            weight, bias = last.fc2.weight.double(), last.fc2.bias.double()
        else:
            assert isinstance(last, nn.Linear)
            weight, bias = self.norm.fold(last.weight, last.bias)
        self.out = linear(weight / affine, (bias - shift) / affine)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        if self.hidden is not None:
            x = F.gelu(self.hidden(x))
        y: Tensor = self.out(x)
        return y


class FusedTrunk(nn.Module):
    """Input, encoder and decoder: windows to decoded tokens [series, tokens, width] of the real channels."""

    def __init__(
        self,
        model: TSPulseForReconstruction | TSPulseForClassification,
        style: Style,
        batch: int,
        channels: int,
        *,
        inverse: bool = False,
    ) -> None:
        super().__init__()
        config = model.config
        mixes = (config.mode == "mix_channel", config.decoder_mode == "mix_channel")
        if channels != config.num_input_channels and (any(mixes) or isinstance(model, TSPulseForClassification)):
            raise ConfigError(
                f"This TSPulse model has weights for {config.num_input_channels} channels and cannot take {channels}."
            )
        self.batch, self.channels, self.tokens, self.style = batch, channels, config.tokens, style
        self.input = FusedInput(model.backbone, style, batch, channels, inverse=inverse)
        # Repeated channels differ only once channels are mixed: until then one copy is computed.
        self.expand_early = config.expand if mixes[0] else 1
        self.expand_late = config.expand if mixes[1] and not mixes[0] else 1
        early = channels * self.expand_early
        self.encoder = FusedMixers([model.backbone.encoder_block], style, batch * early, early)
        late = early * self.expand_late
        self.decoder = FusedMixers([model.decoder_with_head.decoder.decoder_block], style, batch * late, late)
        self.eval()

    def forward(self, past_values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Rows, Waves | None]:
        x, rows, waves = self.input(past_values, mask)
        encoded = self.encoder(self._repeated(x, self.expand_early))
        decoded = self.decoder(self._repeated(encoded, self.expand_late))
        return self._real(encoded), self._real(decoded), rows, waves

    def _repeated(self, x: Tensor, times: int) -> Tensor:
        if times == 1:
            return x
        return repeated(x.reshape(self.batch, -1), times, self.style).reshape(-1, x.shape[1])

    def _real(self, x: Tensor) -> Tensor:
        """[all series * tokens, width] to [series, tokens, width]."""
        x = x.reshape(self.batch, -1, self.tokens, x.shape[1])
        if x.shape[1] != self.channels:
            x = x[:, : self.channels]
        return x.reshape(-1, self.tokens, x.shape[3])


class _Entry(nn.Module):
    """What the entry points share. `batch` and `channels` are fixed, since every runtime plans memory ahead."""

    #: The names of the tensors returned, in order.
    outputs: tuple[str, ...]

    def __init__(
        self,
        model: TSPulseForReconstruction | TSPulseForClassification,
        *,
        batch: int,
        channels: int | None,
        style: Style,
        inverse: bool = False,
    ) -> None:
        super().__init__()
        self.config: TSPulseConfig = model.config
        self.batch, self.style = batch, style
        self.channels = model.config.num_input_channels if channels is None else channels
        self.series = batch * self.channels
        self.trunk = FusedTrunk(model, style, batch, self.channels, inverse=inverse)
        self.affine, self.shift = self.trunk.input.scaler.affine, self.trunk.input.scaler.shift

    def windows(self, points: Tensor, rows: Rows | None = None) -> Tensor:
        """[series, points] to [batch, points, channels], with the scaling of `rows` undone."""
        if rows is not None and rows.scale is not None:
            points = points * rows.scale
        if rows is not None and rows.loc is not None:
            points = points + rows.loc
        return self.trunk.input.as_windows(points)


class Impute(_Entry):
    """(past_values, past_observed_mask) to the reconstruction [batch, context, channels]; no other head is computed."""

    outputs = ("reconstruction_outputs",)

    def __init__(
        self,
        model: TSPulseForReconstruction,
        *,
        batch: int = 1,
        channels: int | None = None,
        style: Style = Style.ONNX,
    ) -> None:
        super().__init__(model, batch=batch, channels=channels, style=style)
        self.time_head = FusedPatchHead(model.decoder_with_head.time_head, self.affine, self.shift)

    def forward(self, past_values: Tensor, past_observed_mask: Tensor) -> tuple[Tensor]:
        _, tokens, rows, _ = self.trunk(past_values, past_observed_mask)
        return (self.windows(self.time_head(tokens[:, : self.config.num_patches]), rows),)


class Embed(_Entry):
    """(past_values, past_observed_mask) to one vector a channel, for search, and the backbone's state.

    `register_embedding` [batch, channels, R * width] is the decoder's state of the registers;
    `backbone_hidden_state` [batch, channels, tokens * width] the encoder's of all tokens.
    """

    outputs = ("register_embedding", "backbone_hidden_state")

    def __init__(
        self,
        model: TSPulseForReconstruction,
        *,
        batch: int = 1,
        channels: int | None = None,
        style: Style = Style.ONNX,
    ) -> None:
        super().__init__(model, batch=batch, channels=channels, style=style)

    def forward(self, past_values: Tensor, past_observed_mask: Tensor) -> tuple[Tensor, Tensor]:
        encoded, tokens, _, _ = self.trunk(past_values, past_observed_mask)
        shape = (self.batch, self.channels, -1)
        return tokens[:, -self.config.registers :].reshape(shape), encoded.reshape(shape)


class Reconstruct(_Entry):
    """(past_values, past_observed_mask) to the outputs of every head that the config has, named in `outputs`.

    `reconstruction_outputs`, `reconstructed_ts_from_fft` and `fft_reconstruction_outputs` are [batch, context,
    channels], `forecast_output` [batch, prediction, channels], `fft_softmax_preds` [batch, bins, channels].
    """

    def __init__(
        self,
        model: TSPulseForReconstruction,
        *,
        batch: int = 1,
        channels: int | None = None,
        style: Style = Style.ONNX,
    ) -> None:
        config, heads = model.config, model.decoder_with_head
        super().__init__(model, batch=batch, channels=channels, style=style, inverse=config.has_fft_signal)
        present = {
            "reconstruction_outputs": True,
            "reconstructed_ts_from_fft": config.has_fft_signal,
            "fft_reconstruction_outputs": config.has_fft_head,
            "forecast_output": config.has_forecast,
            "fft_softmax_preds": config.has_fft_softmax,
        }
        self.outputs = tuple(name for name, there in present.items() if there)
        self.scaled_spectrum = config.fft_applied_on == "scaled_ts"
        self.time_head = FusedPatchHead(heads.time_head, self.affine, self.shift)
        self.fft_head = None if heads.fft_head is None else FusedPatchHead(heads.fft_head)
        undone = ((heads.forecast_mapping, (self.affine, self.shift)), (heads.fft_softmax_mapping, (1.0, 0.0)))
        there = [(mapping, undo) for mapping, undo in undone if mapping is not None]
        mappings, undo = [mapping for mapping, _ in there], [undo for _, undo in there]
        self.mappings = FusedMappings(mappings, undo, style, self.series, self.channels)

    def forward(self, past_values: Tensor, past_observed_mask: Tensor) -> tuple[Tensor, ...]:
        _, tokens, rows, waves = self.trunk(past_values, past_observed_mask)
        n = self.config.num_patches
        out = [self.windows(self.time_head(tokens[:, :n]), rows)]
        if self.fft_head is not None:
            spectrum = self.fft_head(tokens[:, n : 2 * n])
            if self.config.has_fft_signal:
                assert self.trunk.input.fourier is not None
                series = self.trunk.input.fourier.inverse(spectrum, waves)
                out.append(self.windows(series, rows if self.scaled_spectrum else None))
            out.append(self.windows(spectrum))
        registers = tokens[:, -self.config.registers :].reshape(-1, tokens.shape[2])
        mapped = self.mappings(registers)
        if self.config.has_forecast:
            out.append(self.windows(mapped[0], rows))
        if self.config.has_fft_softmax:
            out.append(self.windows(torch.softmax(mapped[-1], 1)))
        return tuple(out)


class FusedLinearHead(nn.Module):
    """`LinearHead` on tokens [batch * channels, tokens, width] with location and scale [batch * channels, 1]."""

    def __init__(self, head: LinearHead, style: Style, batch: int) -> None:
        super().__init__()
        self.config, self.batch = head.config, batch
        self.reduce_channels = _copied(head.reduce_channel_proj)
        self.reduce_width = _copied(head.reduce_proj)
        self.known = linear(head.loc_scale_norm.weight, head.loc_scale_norm.bias)
        self.norm = FusedNorm([head.head_norm], style)
        self.gate = None if head.head_global_attention is None else FusedGate([head.head_global_attention])
        self.projection = linear(head.projection.weight, head.projection.bias)

    def forward(self, tokens: Tensor, rows: Rows) -> Tensor:
        series, count, width = tokens.shape
        x = tokens.reshape(self.batch, -1, count, width)
        if self.reduce_channels is not None:
            by_channel = x.reshape(self.batch, series // self.batch, -1).transpose(1, 2)
            reduced = self.reduce_channels(by_channel.reshape(-1, series // self.batch))
            x = reduced.reshape(self.batch, count * width, -1).transpose(1, 2).reshape(self.batch, -1, count, width)
        if self.reduce_width is not None:
            x = self.reduce_width(x.reshape(-1, width)).reshape(self.batch, -1, count, self.reduce_width.out_features)
        x = self._aggregated(x).reshape(self.batch, -1)
        y = self.norm.applied(torch.cat([x, self.known(self._scaling(rows))], 1))
        y = F.gelu(y)
        if self.gate is not None:
            y = self.gate(y)
        logits: Tensor = self.projection(y)
        if self.config.output_range is not None:
            low, high = self.config.output_range
            logits = torch.sigmoid(logits) * (high - low) + low
        return logits

    def _scaling(self, rows: Rows) -> Tensor:
        """[batch, 2 * channels]: every location, then every scale."""
        like = rows.values[:, :1]
        loc = torch.zeros_like(like) if rows.loc is None else rows.loc
        scale = torch.ones_like(like) if rows.scale is None else rows.scale
        return torch.cat([loc.reshape(self.batch, -1), scale.reshape(self.batch, -1)], 1)

    def _aggregated(self, x: Tensor) -> Tensor:
        how, axis = self.config.head_aggregation, 2 if self.config.head_aggregation_dim == "patch" else 1
        if how is None:
            return x
        if how == "use_last":
            return x[:, :, -1]
        x = x.amax(axis) if how == "max_pool" else x.mean(axis)
        return x if axis == 2 else x.transpose(1, 2)  # what is left of channels counts as [width, tokens]


class Classify(_Entry):
    """(past_values) to logits [batch, classes]; every point counts as observed."""

    outputs = ("prediction_outputs",)

    def __init__(
        self,
        model: TSPulseForClassification,
        *,
        batch: int = 1,
        channels: int | None = None,
        style: Style = Style.ONNX,
    ) -> None:
        super().__init__(model, batch=batch, channels=channels, style=style)
        self.spans = model.decoder_with_head.spans
        self.head = FusedLinearHead(model.decoder_with_head.head, style, batch)

    def forward(self, past_values: Tensor) -> tuple[Tensor]:
        _, tokens, rows, _ = self.trunk(past_values, None)
        if self.spans != [(0, tokens.shape[1])]:
            parts = [tokens[:, start:stop] for start, stop in self.spans]
            tokens = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return (self.head(tokens, rows),)


def _copied(layer: nn.Linear | None) -> nn.Linear | None:
    return None if layer is None else linear(layer.weight, layer.bias)
