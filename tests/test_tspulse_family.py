"""TSPulse as a family: what is loaded from where, the entry points with their samples, and the demo's metric."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from eager_session import EagerSession
from safetensors.numpy import save_file

from edge import checkpoints
from edge.errors import CheckpointError, ConfigError, UsageError
from edge.families.base import Model, Source, find

GOLDEN = Path(__file__).parent / "golden" / "tspulse"
sys.path.insert(0, str(GOLDEN))
import recipe  # noqa: E402

DEMO = checkpoints.demo_folder("tspulse")


def load(**source: object) -> Model:
    family, variant = find("tspulse")
    return family.load("tspulse", variant, Source(**source))


def authors_checkpoint(folder: Path, config: dict[str, object], states: str) -> Path:
    """A checkpoint as IBM publishes them, with the goldens' weights."""
    names = json.loads((GOLDEN / f"{states}_state_dict.json").read_text())
    save_file({name: recipe.weight(name, tuple(shape)) for name, shape, _ in names}, folder / "model.safetensors")
    published = config | {"model_type": "tspulse", "transformers_version": "4.56.0", "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(published))
    return folder


@pytest.fixture(scope="module")
def demo() -> Model:
    return load()


def test_the_demo_has_every_head(demo: Model) -> None:
    assert [entry.name for entry in demo.entries] == ["reconstruct", "impute", "embed"]
    reconstruct = demo.entries[0]
    assert reconstruct.outputs == (
        "reconstruction_outputs",
        "reconstructed_ts_from_fft",
        "fft_reconstruction_outputs",
        "forecast_output",
        "fft_softmax_preds",
    )
    assert [(spec.name, spec.shape, spec.fill) for spec in reconstruct.inputs] == [
        ("past_values", (1, 512, 1), None),
        ("past_observed_mask", (1, 512, 1), 1.0),
    ]
    assert len(str(demo.checkpoint_sha256)) == 64 and demo.random_seed is None
    shape = {key: demo.config[key] for key in ("d_model", "num_layers", "patch_length", "context_length")}
    assert shape == {"d_model": 24, "num_layers": 8, "patch_length": 8, "context_length": 512}


def test_the_demos_are_small_and_have_their_cards() -> None:
    folder = DEMO.parent
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 25_000_000
    names = sorted(demo.name for demo in folder.iterdir() if demo.is_dir())
    assert {"relu2-mlp", "tspulse"} <= set(names)
    for name in names:
        card = (folder / name / "CARD.md").read_text()
        assert "examples/train/" in card and "--seed" in card and "Licence" in card, name


def test_the_demo_has_learned_to_fill(demo: Model) -> None:
    """Better than straight lines, on points and gaps together, and far better than the window's mean."""
    (metric,) = demo.metrics
    error = metric.evaluate(EagerSession(demo).run)
    with np.load(DEMO / "samples.npz") as data:
        windows, seen = data["windows"], data["observed"].astype(bool)
    time = np.arange(512)
    lines = np.stack([np.interp(time, time[known], row[known]) for row, known in zip(windows, seen, strict=True)])
    means = np.stack([np.full(512, row[known].mean()) for row, known in zip(windows, seen, strict=True)])
    assert not metric.higher_is_better
    assert error < 0.8 * float(np.mean((lines - windows)[~seen] ** 2))
    assert error < 0.4 * float(np.mean((means - windows)[~seen] ** 2))


def test_the_demos_card_says_what_is_measured(demo: Model) -> None:
    """Points and gaps are hidden in turn; the metric over both is their mean, weighted by how many each hides."""
    rows = [line for line in (DEMO / "CARD.md").read_text().splitlines() if line.startswith("| this model")]
    points, gaps = (float(cell) for cell in rows[0].strip("| ").split("|")[1:])
    with np.load(DEMO / "samples.npz") as data:
        hidden = data["observed"] == 0
    counts = [hidden[0::2].sum(), hidden[1::2].sum()]
    error = demo.metrics[0].evaluate(EagerSession(demo).run)
    assert error == pytest.approx(np.average([points, gaps], weights=counts), abs=2e-4)


def test_samples_and_calibration_are_different_series(demo: Model) -> None:
    for entry in demo.entries:
        samples = {sample["past_values"].tobytes() for sample in entry.samples}
        assert len(samples) == 6 and len(entry.calibration) == 32
        assert not samples & {sample["past_values"].tobytes() for sample in entry.calibration}
        masks = [float(sample["past_observed_mask"].mean()) for sample in entry.samples]
        assert masks[0] == 1.0 and min(masks) < 0.95
        for sample in (*entry.samples, *entry.calibration):
            for spec in entry.inputs:
                assert spec.check(sample[spec.name]) is sample[spec.name]


def test_held_out_windows_are_no_training_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The held-out real windows come from stretches of time that training never draws from."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples" / "train"))
    import series

    co2 = series._co2()
    held = series.real_held_out(512)
    with np.load(DEMO / "samples.npz") as data:
        np.testing.assert_allclose(data["windows"][:4], held, atol=1e-6)
    np.testing.assert_allclose(held[1], series.standardised(co2[-512:]), atol=1e-6)
    assert len(series._training_series()[0]) == len(co2) - series.HELD_OUT_WEEKS
    assert all(len(training) < 2284 for training in series._training_series())


@pytest.mark.parametrize("runtime", ["onnx", "executorch", "tvm"])
def test_every_runtimes_form_computes_the_same(demo: Model, runtime: str) -> None:
    other = load(runtime=runtime)
    for ours, theirs in zip(demo.entries, other.entries, strict=True):
        inputs = [torch.from_numpy(ours.samples[1][spec.name]) for spec in ours.inputs]
        with torch.inference_mode():
            for name, one, two in zip(ours.outputs, ours.module(*inputs), theirs.module(*inputs), strict=True):
                torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3, msg=f"{runtime} {ours.name} {name}")


def test_norms_and_tables_stay_float(demo: Model) -> None:
    from fnmatch import fnmatchcase

    entry = demo.entries[0]
    linears = [name for name, part in entry.module.named_modules() if isinstance(part, torch.nn.Linear)]
    kept = {name for name in linears if any(fnmatchcase(name, pattern) for pattern in entry.keep_float)}
    tables = {name for name in linears if ".fourier." in name}
    assert tables and tables <= kept
    assert not any("mlp" in name for name in kept)
    assert len(kept) < 0.1 * len(linears)


def test_a_published_reconstruction_checkpoint(tmp_path: Path) -> None:
    model = load(checkpoint=authors_checkpoint(tmp_path, recipe.DUALHEAD | {"num_input_channels": 2}, "dualhead"))
    assert [entry.name for entry in model.entries] == ["reconstruct", "impute", "embed"]
    assert model.entries[0].outputs == ("reconstruction_outputs", "fft_softmax_preds")
    with np.load(GOLDEN / "imputation.npz") as stored:
        inputs = {"past_values": stored["past_values"], "past_observed_mask": stored["past_observed_mask"]}
        expected = stored["reconstruction_outputs"]
    found = EagerSession(model).run("impute", {key: np.float32(value) for key, value in inputs.items()})
    np.testing.assert_allclose(found["reconstruction_outputs"], expected, atol=1e-4)
    embedded = EagerSession(model).run("embed", {"past_values": inputs["past_values"]})
    assert embedded["register_embedding"].shape == (1, 2, 240)


def test_a_published_classification_checkpoint(tmp_path: Path) -> None:
    model = load(checkpoint=authors_checkpoint(tmp_path, recipe.CLS, "cls"))
    (entry,) = model.entries
    assert entry.name == "classify" and entry.outputs == ("prediction_outputs",) and model.metrics == ()
    assert [spec.name for spec in entry.inputs] == ["past_values"]
    assert entry.samples[0]["past_values"].shape == (1, 512, 3)
    assert len(np.unique(entry.samples[0]["past_values"][0, 100])) == 3
    assert model.config["architectures"] == ["TSPulseForClassification"]


def test_random_weights_of_a_config(tmp_path: Path) -> None:
    shipped = json.loads((DEMO / "config.json").read_text())
    small = shipped | {"context_length": 96, "num_layers": 1, "decoder_num_layers": 1, "num_input_channels": 3}
    (tmp_path / "small.json").write_text(json.dumps(small))
    first, again, other = (load(config=tmp_path / "small.json", random_seed=seed) for seed in (3, 3, 4))
    assert first.random_seed == 3 and first.checkpoint_sha256 is None and first.metrics == ()
    past = {"past_values": first.entries[0].samples[0]["past_values"]}
    assert past["past_values"].shape == (1, 96, 3)
    results = [
        EagerSession(model).run("reconstruct", past)["reconstruction_outputs"] for model in (first, again, other)
    ]
    assert np.array_equal(results[0], results[1]) and not np.allclose(results[0], results[2])
    small |= {"architectures": ["TSPulseForClassification"], "num_targets": 4}
    (tmp_path / "small.json").write_text(json.dumps(small))
    model = load(config=tmp_path / "small.json", random_seed=3)
    assert EagerSession(model).run("classify", past)["prediction_outputs"].shape == (1, 4)
    assert load(random_seed=0).config["d_model"] == 24


def test_what_is_refused(tmp_path: Path) -> None:
    weights = DEMO / "model.safetensors"
    with pytest.raises(UsageError, match="exclude each other"):
        load(checkpoint=DEMO, random_seed=0)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "model.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises(CheckpointError, match=r"no config.json beside it: pass one with --config"):
        load(checkpoint=tmp_path / "alone" / "model.safetensors")
    shipped = json.loads((DEMO / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(shipped | {"experts": 4}))
    with pytest.raises(ConfigError, match="experts"):
        load(checkpoint=DEMO, config=tmp_path / "config.json")
    (tmp_path / "config.json").write_text(json.dumps(shipped | {"num_layers": 9}))
    with pytest.raises(CheckpointError, match=r"lacks .*encoder_block.mixers\.8.*pass the config.json"):
        load(checkpoint=DEMO, config=tmp_path / "config.json")
    (tmp_path / "config.json").write_text(json.dumps(shipped | {"prediction_length": 8}))
    with pytest.raises(CheckpointError, match="has shape"):
        load(checkpoint=DEMO, config=tmp_path / "config.json")
    with pytest.raises(UsageError, match="there is no model 'tspulse-huge'"):
        find("tspulse-huge")


def test_tasks_need_no_torch() -> None:
    """A device that only runs bundles has neither torch nor a checkpoint reader."""
    code = (
        "import sys; sys.modules.update(torch=None, safetensors=None, matplotlib=None)\n"
        "from edge.families.base import get_family\n"
        "print(sorted(get_family('tspulse').tasks()), sorted(get_family('relu2-mlp').tasks()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['anomaly', 'classify', 'impute', 'search'] ['classify']"
