"""TSPulse: the faithful model and the fused entry points against outputs of IBM's own code."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from edge.errors import ConfigError
from edge.families.tspulse.config import CHOICES, LAYERWISE, POSITIVE, REFUSED, TSPulseConfig
from edge.families.tspulse.entries import Classify, Embed, Impute, Reconstruct
from edge.families.tspulse.fused import Style
from edge.families.tspulse.modules import TSPulseForClassification, TSPulseForReconstruction
from edge.families.tspulse.scaling import analysis_basis, synthesis_basis

GOLDEN = Path(__file__).parent / "golden" / "tspulse"


def _load_recipe() -> Any:
    spec = importlib.util.spec_from_file_location("tspulse_recipe", GOLDEN / "recipe.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe = _load_recipe()

Model = TSPulseForReconstruction | TSPulseForClassification


def fill(model: nn.Module) -> None:
    """Every tensor from its name and shape, as the goldens' weights were made."""
    state = model.state_dict()
    for name, tensor in state.items():
        if tensor.dtype == torch.float32:
            tensor.copy_(torch.from_numpy(np.asarray(recipe.weight(name, tuple(tensor.shape)))))
        if name.endswith("running_var"):
            tensor.abs_().add_(0.5)
    model.eval()


def make(kind: type[Model], raw: dict[str, Any], **changes: Any) -> Any:
    torch.manual_seed(0)
    model = kind(TSPulseConfig.from_dict({**raw, **changes}))
    fill(model)
    return model


CASES: dict[str, tuple[type[Model], dict[str, Any], dict[str, Any], str]] = {
    "allhead": (TSPulseForReconstruction, recipe.ALLHEAD, {}, "reconstruction_c1"),
    "dualhead": (TSPulseForReconstruction, recipe.DUALHEAD, {"num_input_channels": 2}, "imputation"),
    "cls": (TSPulseForClassification, recipe.CLS, {}, "classification"),
}


def case(name: str) -> tuple[Any, Any]:
    kind, raw, changes, file = CASES[name]
    return make(kind, raw, **changes), np.load(GOLDEN / f"{file}.npz")


def assert_golden(golden: Any, name: str, actual: Any) -> None:
    """Ten times the authors' own float32 noise, and never less than 1e-5."""
    tolerance = max(1e-5, 10 * float(golden[f"fp32_noise/{name}"]))
    np.testing.assert_allclose(np.asarray(actual), golden[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_state_dict_is_the_authors(name: str) -> None:
    model, _ = case(name)
    ours = [[key, list(v.shape), str(v.dtype).removeprefix("torch.")] for key, v in model.state_dict().items()]
    assert sorted(ours) == sorted(json.loads((GOLDEN / f"{name}_state_dict.json").read_text()))


@pytest.mark.parametrize("name", CASES)
def test_faithful_model_computes_the_authors_outputs(name: str) -> None:
    model, golden = case(name)
    mask = torch.from_numpy(golden["past_observed_mask"]) if "past_observed_mask" in golden else None
    with torch.no_grad():
        out = model(torch.from_numpy(golden["past_values"]), mask)._asdict()
    compared = [key for key in out if f"fp32_noise/{key}" in golden]
    assert compared
    for key in compared:
        assert_golden(golden, key, out[key])


def test_gradients_reach_every_parameter_in_training() -> None:
    model = make(TSPulseForReconstruction, {**recipe.ALLHEAD, "num_layers": 1})
    model.train()
    series = torch.from_numpy(recipe.series("train", 2, 512, 1))
    mask = torch.rand(series.shape) > 0.3
    out = model(series, mask)
    spectrum, softmax = model.frequency_targets(series)
    loss = (
        (out.reconstruction_outputs - series).square().mean()
        + (out.reconstructed_ts_from_fft - series).square().mean()
        + (out.fft_reconstruction_outputs - spectrum).square().mean()
        - (softmax * out.fft_softmax_preds.log()).sum(1).mean()
        + out.forecast_output.square().mean()
    )
    loss.backward()
    silent = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert silent == []


# Config


def test_config_takes_what_hugging_face_writes_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    extra = {"model_type": "tspulse", "architectures": ["x"], "torch_dtype": "float32", "num_patches": 128}
    path.write_text(json.dumps({**recipe.ALLHEAD, **extra}))
    config = TSPulseConfig.from_json(path)
    assert (config.tokens, config.norm_eps, config.has_forecast) == (138, 1e-5, True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention_sinks": 4}, "unknown field(s) attention_sinks"),
        ({"model_type": "tinytimemixer"}, "not of TSPulse"),
        ({"d_model": "24"}, "wrong type"),
        ({"num_patches": 64}, "num_patches 64"),
        ({"patch_stride": 4}, "patch_stride"),
        ({"context_length": 100}, "multiple of patch_length"),
        ({"context_length": 520, "patch_length": 520, "patch_stride": 520}, "and longer"),
        ({"context_length": 63, "patch_length": 9, "patch_stride": 9}, "even context_length"),
        ({"fuse_fft": False, "reconstruction_type": "full"}, "needs fuse_fft"),
        ({"head_aggregation": "use_last", "head_aggregation_dim": "channel"}, "'use_last'"),
        ({"output_range": [1]}, "output_range"),
        ({"register_mixer_layers": 0}, "register_mixer_layers"),
        ({"prediction_length": None}, "prediction_length"),
        ({"fft_prob_length": 1000}, "fft_prob_length"),
        *[({name: 0}, name) for name in POSITIVE],
        *[({name: "other"}, name) for name in CHOICES],
        *[({name: [1, 0.5]}, name) for name in LAYERWISE],
        *[({name: [7] if name.endswith("list") or name.startswith("hydra") else True}, name) for name, _, _ in REFUSED],
    ],
)
def test_config_refuses_in_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        TSPulseConfig.from_dict({**recipe.ALLHEAD, **changes})
    message = str(refusal.value)
    assert words in message
    assert message.endswith(".") and "\n" not in message


def test_config_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Cannot read"):
        TSPulseConfig.from_json(tmp_path / "none.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ConfigError, match="JSON object"):
        TSPulseConfig.from_json(tmp_path / "list.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        TSPulseConfig.from_json(tmp_path / "broken.json")


def test_models_refuse_what_only_their_task_cannot_do() -> None:
    with pytest.raises(ConfigError, match="decoder_d_model"):
        make(TSPulseForReconstruction, {**recipe.ALLHEAD, "decoder_d_model": 12})
    with pytest.raises(ConfigError, match="LayerNorm"):
        make(TSPulseForClassification, {**recipe.CLS, "norm_mlp": "BatchNorm"})
    with pytest.raises(ConfigError, match="at random"):
        make(TSPulseForClassification, {**recipe.CLS, "disable_mask_in_classification_eval": False})


# Fused entry points

ENTRIES: dict[str, tuple[str, type[Reconstruct] | type[Impute] | type[Classify]]] = {
    "reconstruct": ("allhead", Reconstruct),
    "impute": ("dualhead", Impute),
    "classify": ("cls", Classify),
}


def entry_case(name: str, style: Style) -> tuple[Any, tuple[torch.Tensor, ...], Any]:
    """A fused entry point for the golden of its task, its inputs, and the golden."""
    model, golden = case(ENTRIES[name][0])
    series = torch.from_numpy(golden["past_values"])
    entry = ENTRIES[name][1](model, batch=series.shape[0], style=style)
    if name == "classify":
        return entry, (series,), golden
    mask = torch.from_numpy(golden["past_observed_mask"]).float() if name == "impute" else torch.ones_like(series)
    return entry, (series, mask), golden


@pytest.mark.parametrize("style", Style)
@pytest.mark.parametrize("name", ENTRIES)
def test_fused_entry_matches_the_authors_in_eager(name: str, style: Style) -> None:
    entry, inputs, golden = entry_case(name, style)
    for key, value in zip(entry.outputs, entry(*inputs), strict=True):
        assert_golden(golden, key, value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ENTRIES)
def test_fused_entry_matches_the_authors_in_onnxruntime(name: str, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    entry, inputs, golden = entry_case(name, Style.ONNX)
    program = torch.onnx.export(entry, inputs, dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    program.save(str(tmp_path / "entry.onnx"))
    session = ort.InferenceSession(str(tmp_path / "entry.onnx"), providers=["CPUExecutionProvider"])
    feed = {node.name: value.numpy() for node, value in zip(session.get_inputs(), inputs, strict=True)}
    for key, value in zip(entry.outputs, session.run(None, feed), strict=True):
        assert_golden(golden, key, value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ENTRIES)
def test_fused_entry_is_one_xnnpack_delegate_and_matches_the_authors(name: str) -> None:
    pytest.importorskip("executorch")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    entry, inputs, golden = entry_case(name, Style.XNNPACK)
    lowered = to_edge_transform_and_lower(torch.export.export(entry, inputs), partitioner=[XnnpackPartitioner()])
    nodes = [node for node in lowered.exported_program().graph.nodes if node.op == "call_function"]
    left = [str(node.target) for node in nodes if "getitem" not in str(node.target)]
    assert left == ["executorch_call_delegate"]
    program = Runtime.get().load_program(lowered.to_executorch().buffer)
    for key, value in zip(entry.outputs, program.load_method("forward").execute(inputs), strict=True):
        assert_golden(golden, key, value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ENTRIES)
def test_fused_entry_matches_the_authors_in_tvm(name: str) -> None:
    tvm = pytest.importorskip("tvm")
    from tvm import relax
    from tvm.relax.frontend.torch import from_exported_program

    entry, inputs, golden = entry_case(name, Style.TVM)
    module = from_exported_program(torch.export.export(entry, inputs), run_ep_decomposition=True)
    machine = relax.VirtualMachine(tvm.compile(relax.get_pipeline("zero")(module), target="llvm"), tvm.cpu())
    results = machine["main"](*[tvm.runtime.tensor(value.numpy()) for value in inputs])
    for key, value in zip(entry.outputs, results, strict=True):
        assert_golden(golden, key, value.numpy())


def test_embed_is_the_decoders_registers() -> None:
    model, golden = case("dualhead")
    series, mask = (torch.from_numpy(golden[key]) for key in ("past_values", "past_observed_mask"))
    entry = Embed(model)
    embedding, hidden = entry(series, mask.float())
    with torch.no_grad():
        out = model(series, mask)
    assert embedding.shape == (1, 2, 240)
    torch.testing.assert_close(embedding, out.decoder_state[:, :, -10:].flatten(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(hidden, out.backbone_state.flatten(2), rtol=0, atol=1e-5)


def test_entry_refuses_channels_that_its_weights_do_not_have() -> None:
    model, _ = case("cls")
    with pytest.raises(ConfigError, match="3 channels"):
        Classify(model, channels=4)


SMALL = {
    **recipe.DUALHEAD,
    "context_length": 48,
    "d_model": 8,
    "decoder_d_model": 8,
    "num_layers": 1,
    "decoder_num_layers": 1,
    "patch_register_tokens": 2,
    "register_mixer_layers": 1,
    "fft_original_signal_loss_weight": 1,
    "fft_time_add_forecasting_pt_loss": True,
}
OPTIONS: dict[str, list[Any]] = {
    "mode": ["common_channel", "mix_channel"],
    "decoder_mode": ["common_channel", "mix_channel"],
    "channel_virtual_expand_scale": [1, 2],
    "free_channel_flow": [True, False],
    "gated_attn": [True, False],
    "gated_attention_activation": ["softmax", "sigmoid"],
    "head_gated_attention_activation": ["softmax", "sigmoid"],
    "norm_mlp": ["LayerNorm", "BatchNorm"],
    "register_mixer_layers": [None, 1, 2],
    "scaling": ["revin", "std", "mean", "none"],
    "revin_affine": [True, False],
    "mask_type": ["user", "block"],
    "mask_ratio": [None, 0.4],
    "mask_block_length": [8, 5],
    "use_learnable_mask_token": [True, False],
    "fuse_fft": [True, False],
    "fft_applied_on": ["scaled_ts", "raw_ts"],
    "fft_remove_component": ["last", "dc"],
    "fft_time_consistent_masking": [True, False],
    "fft_prob_length": [None, 9],
    "num_input_channels": [1, 3],
}
HEAD_OPTIONS: dict[str, list[Any]] = {
    "classification_mode": list(CHOICES["classification_mode"]),
    "head_aggregation": list(CHOICES["head_aggregation"]),
    "head_aggregation_dim": ["patch", "channel"],
    "head_reduce_d_model": [None, 2],
    "head_reduce_channels": [None, 2],
    "head_attention": [True, False],
    "output_range": [None, [0.0, 3.0]],
    "decoder_d_model": [8, 6],
}


def choices(options: dict[str, list[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in options.items()})


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Within 3e-5 of the largest value: outputs are in the input's units, whatever these are."""
    assert actual.shape == expected.shape
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=3e-5)


@settings(max_examples=25, deadline=None)
@given(changes=choices(OPTIONS), batch=st.integers(1, 2), style=st.sampled_from(Style), seed=st.integers(0, 2**16))
def test_fused_reconstruction_equals_the_faithful_model(
    changes: dict[str, Any], batch: int, style: Style, seed: int
) -> None:
    model = make(TSPulseForReconstruction, SMALL, **changes)
    channels = model.config.num_input_channels
    rng = np.random.default_rng(seed)
    observed = rng.random((batch, 48, channels)) > rng.choice([0.0, 0.3, 1.0], (batch, 1, channels), p=[0.3, 0.6, 0.1])
    mask = torch.from_numpy(observed)
    series = torch.from_numpy(recipe.series(f"s{seed}", batch, 48, channels)) * mask
    entry = Reconstruct(model, batch=batch, style=style)
    with torch.no_grad():
        expected = model(series, mask)._asdict()
        results = dict(zip(entry.outputs, entry(series, mask.float()), strict=True))
        exact = copy.deepcopy(model).double()(series.double(), mask)._asdict()
    assert set(results) == {name for name in list(expected)[:5] if expected[name] is not None}
    for name, value in results.items():
        # A spectrum with little power besides its largest component is divided by next to nothing: there the faithful
        # model's own rounding is the measure.
        rounding = float((expected[name] - exact[name]).abs().max())
        scale = max(1.0, float(exact[name].abs().max()))
        torch.testing.assert_close(value.double(), exact[name], rtol=0, atol=max(3e-5 * scale, 2 * rounding))


@settings(max_examples=20, deadline=None)
@given(changes=choices({**OPTIONS, **HEAD_OPTIONS, "norm_mlp": ["LayerNorm"]}), style=st.sampled_from(Style))
def test_fused_classification_equals_the_faithful_model(changes: dict[str, Any], style: Style) -> None:
    raw = {**SMALL, "num_targets": 4, "disable_mask_in_classification_eval": True}
    assume(not (changes.get("head_aggregation") == "use_last" and changes.get("head_aggregation_dim") == "channel"))
    model = make(TSPulseForClassification, raw, **changes)
    series = torch.from_numpy(recipe.series("c", 2, 48, model.config.num_input_channels))
    with torch.no_grad():
        (logits,) = Classify(model, batch=2, style=style)(series)
        assert_close(logits, model(series).prediction_outputs)


@pytest.mark.parametrize("removed", ["last", "dc"])
def test_fused_spectrum_of_a_context_not_divisible_by_four(removed: str) -> None:
    changes = {"context_length": 50, "patch_length": 10, "patch_stride": 10, "fft_remove_component": removed}
    model = make(TSPulseForReconstruction, SMALL, **changes)
    series = torch.from_numpy(recipe.series("odd", 1, 50, 1))
    with torch.no_grad():
        expected = model(series)
    entry = Reconstruct(model)
    results = dict(zip(entry.outputs, entry(series, torch.ones_like(series)), strict=True))
    assert_close(results["reconstructed_ts_from_fft"], expected.reconstructed_ts_from_fft)


@settings(max_examples=40, deadline=None)
@given(half=st.integers(1, 40), removed=st.sampled_from(["last", "dc"]), seed=st.integers(0, 2**16))
def test_bases_are_numpys_real_fft(half: int, removed: str, seed: int) -> None:
    length = 2 * half
    series = np.random.default_rng(seed).standard_normal(length)
    spectrum = np.fft.rfft(series)
    kept, dropped = (spectrum[1:], spectrum[0]) if removed == "dc" else (spectrum[:-1], spectrum[-1])
    parts = series @ analysis_basis(length, removed)
    np.testing.assert_allclose(parts, [*kept.real, *kept.imag, dropped.real], rtol=0, atol=1e-12 * length)
    # An inverse real FFT ignores imaginary parts at both ends, so any values may stand there.
    noise = np.random.default_rng(seed + 1).standard_normal(length + 1)
    complex_noise = noise[:half] + 1j * noise[half:-1]
    ends = [noise[-1], *complex_noise] if removed == "dc" else [*complex_noise, noise[-1]]
    np.testing.assert_allclose(noise @ synthesis_basis(length, removed), np.fft.irfft(ends, length), rtol=0, atol=1e-12)
