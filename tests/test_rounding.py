"""Rounding for the kernels: with what is known of the inputs, products come out nearer to the float ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge.export.pipeline import export
from edge.progress import Progress
from edge.runtimes.kernels.rounding import along_inputs, along_outputs, values
from edge.runtimes.kernels.weights import Weights

INPUTS, OUTPUTS = 100, 70


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    """Correlated, of different sizes, one never seen: [rows, INPUTS]."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 30, generator=generator) @ torch.randn(30, INPUTS, generator=generator)
    x = x + 0.3 * torch.randn(600, INPUTS, generator=generator)
    x *= torch.exp(torch.randn(INPUTS, generator=generator))
    x[:, 41] = 0
    return x


@pytest.fixture(scope="module")
def weight() -> Tensor:
    return torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(1))


def moments_of(x: Tensor) -> Tensor:
    return x.t() @ x / len(x)


def error(weight: Tensor, rounded: np.ndarray, x: Tensor) -> float:
    """Mean squared error of products, on rows that the moments are not made of."""
    return float((x @ (weight - torch.from_numpy(rounded)).t()).square().mean())


@pytest.mark.parametrize("bits", [4, 8])
def test_the_more_is_known_the_nearer_the_products(weight: Tensor, inputs: Tensor, bits: int) -> None:
    seen, unseen = inputs[:400], inputs[400:]
    moments = moments_of(seen)
    plain = error(weight, values(along_inputs(weight, bits)), unseen)
    scaled = error(weight, values(along_inputs(weight, bits, moments.diagonal())), unseen)
    fed_back = error(weight, values(along_inputs(weight, bits, moments)), unseen)
    assert scaled < plain and fed_back < 0.5 * plain


@pytest.mark.parametrize("bits", [4, 8])
def test_neurons_make_up_for_each_other(weight: Tensor, inputs: Tensor, bits: int) -> None:
    plain = error(weight, values(along_outputs(weight, bits)).T, inputs[400:])
    fed_back = error(weight, values(along_outputs(weight, bits, moments_of(inputs[:400]))).T, inputs[400:])
    assert fed_back < 0.5 * plain
    diagonal = along_outputs(weight, bits, moments_of(inputs).diagonal())
    np.testing.assert_array_equal(values(diagonal), values(along_outputs(weight, bits)))


@pytest.mark.parametrize("bits", [4, 8])
def test_integers_stay_in_range_and_uncorrelated_inputs_change_little(weight: Tensor, bits: int) -> None:
    for plain in (along_inputs(weight, bits, torch.eye(INPUTS)), along_outputs(weight, bits, torch.eye(INPUTS))):
        q, scales = plain
        assert q.min() >= (-8 if bits == 4 else -127) and q.max() <= (7 if bits == 4 else 127)
        assert np.isfinite(scales).all()
    own = np.square(values(along_inputs(weight, bits, torch.eye(INPUTS))) - weight.numpy()).mean()
    librarys = np.square(values(along_inputs(weight, bits)) - weight.numpy()).mean()
    assert own < 1.1 * librarys


def test_odd_weights_are_rounded_all_the_same(inputs: Tensor) -> None:
    weight = torch.zeros(3, INPUTS)
    weight[1] = 1e-30
    weight[2, ::7] = 1e4
    for moments in (None, moments_of(inputs), moments_of(inputs).diagonal()):
        found = values(along_inputs(weight, 4, moments))
        assert (found[0] == 0).all() and np.isfinite(found).all()
    weight[0, 0] = torch.nan
    np.testing.assert_array_equal(along_inputs(weight, 4, moments_of(inputs))[0], along_inputs(weight, 4)[0])


def test_a_gain_inside_the_weight_is_taken_out_of_the_moments(weight: Tensor, inputs: Tensor) -> None:
    layer, gain = nn.Linear(INPUTS, OUTPUTS), 2.0 ** (torch.arange(INPUTS) % 5 - 2)  # exact in every product
    inside = Weights(4, {layer: moments_of(inputs)}).tiled(layer, weight * gain, gain=gain)
    outside = Weights(4, {layer: moments_of(inputs / gain)}).tiled(layer, weight * gain)
    assert torch.equal(inside, outside)


def test_sensitive_layers_of_the_digits_get_eight_bits(tmp_path_factory: pytest.TempPathFactory) -> None:
    made = export(
        "relu2-mlp", target="cpu", runtime="executorch", quantize="int4", sparse="on",
        output=tmp_path_factory.mktemp("digits"), progress=Progress(),
    )  # fmt: skip
    (accuracy,) = made.bundle.manifest.metrics
    assert accuracy.bundle >= accuracy.eager - 0.01
    assert not [sentence for sentence in made.warnings if "without calibration" in sentence]
