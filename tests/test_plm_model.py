"""PLM against llama.cpp's logits: as a whole, token by token through the latent cache, and in the form that deploys."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from edge import checkpoints
from edge.errors import CheckpointError, ConfigError, UsageError
from edge.families.base import Model, Source, find
from edge.families.plm.config import PLM_1_8B, PLMConfig, read_config
from edge.families.plm.decoder import run_decoder
from edge.families.plm.deployed import Chunk, Stack, Style
from edge.families.plm.modules import PLM
from edge.families.plm.readings import _eager
from edge.families.plm.weights import HEAD, module_tensors, seeded, tensor_shapes

GOLDEN = Path(__file__).parent / "golden" / "plm"
TOLERANCE = 1e-4


def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plm_recipe", GOLDEN / "recipe.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def golden() -> tuple[Tensor, np.ndarray]:
    with np.load(GOLDEN / "small.npz") as stored:
        return torch.from_numpy(stored["input_ids"]).long(), stored["logits"]


@pytest.fixture(scope="module")
def tensors() -> Mapping[str, Tensor]:
    fill = recipe().fill
    shapes = tensor_shapes(read_config(GOLDEN / "small_config.json"))
    return {name: torch.from_numpy(fill(name, shape)) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def model(tensors: Mapping[str, Tensor]) -> PLM:
    module = PLM(read_config(GOLDEN / "small_config.json")).eval()
    module.load_state_dict(dict(tensors))
    return module


def test_a_whole_sequence(model: PLM, golden: tuple[Tensor, np.ndarray]) -> None:
    ids, logits = golden
    with torch.no_grad():
        found = model(ids[None])[0].numpy()
    assert np.abs(found - logits).max() < TOLERANCE
    with torch.no_grad():
        twice = model(torch.stack([ids, ids.flip(0)]))
    assert np.abs(twice[0].numpy() - logits).max() < TOLERANCE


def test_token_by_token_through_the_latent_cache(model: PLM, golden: tuple[Tensor, np.ndarray]) -> None:
    ids, logits = golden
    caches = model.empty_cache()
    with torch.no_grad():
        for index, token in enumerate(ids):
            found, caches = model.extend(token[None], caches)
            assert np.abs(found[0].numpy() - logits[index]).max() < TOLERANCE
    assert [tuple(cache.shape) for cache in caches] == [(96, 80)] * 3


def test_in_parts_of_any_length(model: PLM, golden: tuple[Tensor, np.ndarray]) -> None:
    ids, logits = golden
    caches, parts = model.empty_cache(), []
    with torch.no_grad():
        for part in ids.split([1, 30, 2, 63]):
            found, caches = model.extend(part, caches)
            parts.append(found)
    assert np.abs(torch.cat(parts).numpy() - logits).max() < TOLERANCE


@pytest.mark.parametrize("style", list(Style))
@pytest.mark.parametrize("chunk", [1, 7, 32])
def test_the_deployed_form(
    tensors: Mapping[str, Tensor], golden: tuple[Tensor, np.ndarray], style: Style, chunk: int
) -> None:
    ids, logits = golden
    config = read_config(GOLDEN / "small_config.json")
    stack = Stack(config, module_tensors(tensors), style)
    modules = {"prefill": Chunk(stack, chunk, 100), "decode": Chunk(stack, 1, 100)}
    from edge.families.plm.family import _inputs

    specs = {name: _inputs(config, module) for name, module in modules.items()}
    decoder = run_decoder(specs, lambda entry, inputs: _eager(modules, specs, entry, inputs))
    decoder.caches[:] = 1e3  # what a sequence before this one may have left
    assert decoder.chunk == chunk and decoder.context == 100
    for _ in range(2):
        decoder.reset()
        found = np.concatenate([part.copy() for part in decoder.feed(ids.tolist())])
        assert np.abs(found - logits).max() < TOLERANCE


def small(**changes: object) -> PLMConfig:
    fields = json.loads((GOLDEN / "small_config.json").read_text()) | {"num_hidden_layers": 2, "vocab_size": 90}
    return PLMConfig(**{key: value for key, value in (fields | changes).items() if key != "architectures"})


def write_checkpoint(folder: Path, config: Mapping[str, object], tensors: Mapping[str, Tensor], shards: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors")
        return folder
    names = sorted(tensors)
    files = {name: f"model-{index % shards + 1:05}-of-{shards:05}.safetensors" for index, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name].contiguous() for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


def fields(config: PLMConfig) -> dict[str, object]:
    import msgspec

    found: dict[str, object] = msgspec.to_builtins(config)
    return found


def load(source: Source) -> Model:
    family, variant = find("plm")
    return family.load("plm", variant, source)


def first_logits(model: Model) -> np.ndarray:
    entry = model.entries[0]
    with torch.no_grad():
        logits, _ = entry.module(*(torch.from_numpy(entry.samples[0][spec.name]) for spec in entry.inputs))
    return logits.numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_checkpoints_sharded_or_not_in_every_precision(tmp_path: Path, dtype: torch.dtype, tied: bool) -> None:
    config = small(tie_word_embeddings=tied)
    take = seeded(config, 3)
    stored = {name: take(name).to(dtype) for name in tensor_shapes(config)}
    assert (HEAD in stored) is not tied
    whole = load(Source(checkpoint=write_checkpoint(tmp_path / "whole", fields(config), stored), context=64))
    sharded = load(Source(checkpoint=write_checkpoint(tmp_path / "shards", fields(config), stored, 3), context=64))
    np.testing.assert_array_equal(first_logits(whole), first_logits(sharded))
    exact = PLM(config)
    exact.load_state_dict({name: value.float() for name, value in stored.items()})
    sample = whole.entries[0].samples[1]  # the first chunk of the text
    with torch.no_grad():
        expected = exact(torch.from_numpy(sample["tokens"])[None])[0].numpy()
        found, _ = whole.entries[0].module(*(torch.from_numpy(sample[spec.name]) for spec in whole.entries[0].inputs))
    assert np.abs(found.numpy() - expected).max() < TOLERANCE
    assert len(str(whole.checkpoint_sha256)) == 64


def test_a_tied_model_may_store_its_head(tmp_path: Path) -> None:
    config = small()
    take = seeded(config, 3)
    stored = {name: take(name) for name in tensor_shapes(config)}
    stored[HEAD] = stored["model.embed_tokens.weight"].clone()
    folder = write_checkpoint(tmp_path, fields(config), stored)
    assert load(Source(checkpoint=folder)).report["parameters"] == sum(int(np.prod(s)) for s in tensor_shapes(config).values())
    stored[HEAD] += 1
    write_checkpoint(tmp_path, fields(config), stored)
    with pytest.raises(CheckpointError, match="set tie_word_embeddings to false"):
        load(Source(checkpoint=folder))


def test_what_is_wrong_with_a_checkpoint_is_named(tmp_path: Path) -> None:
    config = small()
    take = seeded(config, 0)
    stored = {name: take(name) for name in tensor_shapes(config)}
    gone = "model.layers.1.mlp.up_proj.weight"
    folder = write_checkpoint(tmp_path / "a", fields(config), {k: v for k, v in stored.items() if k != gone})
    with pytest.raises(CheckpointError, match=rf"lacks the tensor '{gone}'"):
        load(Source(checkpoint=folder))
    folder = write_checkpoint(tmp_path / "b", fields(config), stored | {"model.layers.0.mlp.gate_proj.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"has the tensor 'model.layers.0.mlp.gate_proj.weight'"):
        load(Source(checkpoint=folder))
    folder = write_checkpoint(tmp_path / "c", fields(config), stored | {"model.norm.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"'model.norm.weight' .* has shape \[2\] but the config asks for \[128\]"):
        load(Source(checkpoint=folder))
    folder = write_checkpoint(tmp_path / "d", fields(config), stored, 3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks 'model-00002-of-00003.safetensors', which its index lists"):
        load(Source(checkpoint=folder))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
        ({"q_lora_rank": 64}, "q_lora_rank"),
        ({"hidden_act": "silu"}, "silu"),
        ({"attention_bias": True}, "attention_bias"),
        ({"n_routed_experts": 8}, "sets 'n_routed_experts'"),
        ({"num_key_value_heads": 2}, "as many as"),
        ({"qk_rope_head_dim": 15}, "even"),
        ({"hidden_size": 0}, "at least 1"),
        ({"model_type": "llama"}, "llama"),
    ],
)
def test_configs_that_are_refused(tmp_path: Path, change: dict[str, object], sentence: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields(small()) | change))
    with pytest.raises(ConfigError, match=sentence):
        read_config(path)


def test_a_config_may_say_what_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields(small()) | {"torch_dtype": "bfloat16", "sliding_window": None, "use_cache": True}))
    assert read_config(path) == small()


def test_the_published_size() -> None:
    assert sum(int(np.prod(shape)) for shape in tensor_shapes(PLM_1_8B).values()) == 1_825_458_176
    family, variant = find("plm-1.8b")
    assert variant == "1.8b"
    with pytest.raises(UsageError, match=r"pass --checkpoint .*PLM-Team/PLM-1.8B-Instruct"):
        family.load("plm-1.8b", variant, Source())


def test_context_and_sources_that_are_refused() -> None:
    for context in (0, 513):
        with pytest.raises(UsageError, match="trained for 1 to 512"):
            load(Source(context=context))
    with pytest.raises(UsageError, match="exclude each other"):
        load(Source(checkpoint=Path(), random_seed=1))


def test_the_demo_meets_its_card() -> None:
    model = load(Source())
    card = (checkpoints.demo_folder("plm") / "CARD.md").read_text()
    assert f"{int(model.report['parameters']):,} parameters" in card
    zeros = [share for name, share in model.report.items() if name.startswith("zeros/")]
    assert len(zeros) == 5 and min(zeros) > 0.6 and np.mean(zeros) > 0.85
    rows = [line.split("|")[2:7] for line in card.splitlines() if line.startswith("| ") and "%" in line]
    through = [np.mean([float(cell.strip(" %")) for cell in row]) for row in rows]
    assert through[0] == pytest.approx(50, abs=2) and through[-1] > 85
    (metric,) = model.metrics
    entries = {entry.name: entry for entry in model.entries}
    from edge.export.capture import eager

    assert metric.evaluate(lambda name, inputs: eager(entries[name], inputs)) < 40
    assert model.report["context"] == 512 and model.report["cache_bytes"] == 5 * 512 * 80 * 4
