"""TSPulse: the faithful model and the fused entry points against outputs of IBM's own code."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edge.errors import ConfigError
from edge.families.tspulse.config import CHOICES, LAYERWISE, POSITIVE, REFUSED, TSPulseConfig
from edge.families.tspulse.modules import TSPulseForClassification, TSPulseForReconstruction

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


CASES = {
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
