"""FMViT: the published sizes, training form against fused form, checkpoints, and that it learns."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edge import checkpoints
from edge.errors import CheckpointError, ConfigError, UsageError
from edge.families.base import Model, Source, find
from edge.families.fmvit.config import VARIANTS, FMViTConfig
from edge.families.fmvit.fused import fuse
from edge.families.fmvit.modules import Attention, BatchNorm, FMViT, LocalMix

#: The paper's table: parameters in millions and operations at 224 x 224 in thousand millions (multiply-adds).
TABLE = {"t": (2.0, 0.3), "s": (6.4, 0.8), "m": (12.8, 2.0), "b": (24.3, 4.2), "l": (35.3, 7.1)}
SMALL = FMViTConfig(
    channels=(8, 16, 24, 32), depths=(1, 2, 5, 2), stem=(4, 8), group=4, reductions=(8, 4, 2, 1), num_classes=5, image_size=64
)


def load(name: str = "fmvit", source: Source | None = None) -> Model:
    family, variant = find(name)
    return family.load(name, variant, source or Source())


def trained(config: FMViTConfig, seed: int = 0) -> FMViT:
    """A training form whose every norm has something to fold."""

    def build() -> FMViT:
        model = FMViT(config)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, BatchNorm):
                    module.running_mean.normal_(0, 0.2)
                    module.running_var.uniform_(0.5, 2)
                    module.weight.mul_(torch.rand_like(module.weight) + 0.5)
                    module.bias.normal_(0, 0.2)
        return model

    return checkpoints.seeded(seed, build).eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_published_sizes(variant: str) -> None:
    with torch.device("meta"):
        model = fuse(FMViT(VARIANTS[variant]))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 224, 224))
    parameters, operations = TABLE[variant]
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(parameters, rel=0.01)
    assert counter.get_total_flops() / 2e9 == pytest.approx(operations, rel=0.01)


@pytest.mark.parametrize("config", [SMALL, VARIANTS["t"]], ids=["small", "t"])
def test_training_form_and_fused_form_agree(config: FMViTConfig) -> None:
    model = trained(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fused = fuse(model)
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, config.image_size, config.image_size)))
    with torch.no_grad():
        expected, found = model(image.float()), fused(image.float())
        exact = model.double()(image)
    scale = float(exact.pow(2).mean().sqrt())
    assert scale > 0.05
    assert float((found - expected).abs().max()) < 1e-5 * max(scale, 1.0)
    assert float((found - exact).abs().max()) < 1e-5 * max(scale, 1.0)
    assert all(torch.equal(value, before[name]) for name, value in model.float().state_dict().items())
    kinds = {type(module) for module in fused.modules()}
    assert BatchNorm not in kinds and nn.BatchNorm2d not in kinds
    training = sum(parameter.numel() for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in fused.parameters()) < 0.75 * training


def test_every_part_reaches_the_logits() -> None:
    """A branch that fusing forgot would agree with nothing: change each norm in turn and both forms follow alike."""
    model, image = trained(SMALL), torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = fuse(model)(image)
        for name, module in model.named_modules():
            if not isinstance(module, BatchNorm):
                continue
            kept = module.bias.clone()
            module.bias += 0.5
            changed = fuse(model)(image)
            assert float((changed - plain).abs().max()) > 1e-6, name
            assert float((changed - model(image)).abs().max()) < 1e-5, name
            module.bias.copy_(kept)


def test_attention_and_local_mix_against_their_formulas() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 4, 2).eval()
    x = torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        pooled = nn.functional.avg_pool2d(x, 2)
        rows = [layer(y)[0].flatten(1) for layer, y in ((attention.query, x), (attention.key, pooled), (attention.value, pooled))]
        heads = []
        for head in range(2):
            query, key, value = (row[4 * head : 4 * head + 4] for row in rows)
            heads.append(value @ torch.softmax(query.T @ key / 2, 1).T)
        expected = attention.project(torch.cat(heads).reshape(1, 8, 4, 4))
        torch.testing.assert_close(attention(x), expected, rtol=1e-5, atol=1e-6)
        mix = LocalMix(8, 4).eval()
        inside = mix.wide(x) + mix.point(x) + mix.same(x)
        torch.testing.assert_close(mix(x), mix.project(inside.relu()))


def test_it_learns() -> None:
    torch.manual_seed(0)
    model = FMViT(msgspec.structs.replace(SMALL, image_size=64, depths=(1, 1, 1, 1), num_classes=2)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    # Two textures of the same brightness: stripes along one axis or the other.
    labels = torch.arange(16) % 2
    wave = torch.sign(torch.sin(torch.arange(64) * 0.8))
    stripes = torch.stack([wave.expand(64, 64), wave[:, None].expand(64, 64)])[labels][:, None]
    losses = []
    for _ in range(25):
        images = stripes + 0.5 * torch.randn(16, 3, 64, 64)
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:3]), losses
    with torch.no_grad():
        images = stripes + 0.5 * torch.randn(16, 3, 64, 64)
        fused = fuse(model.eval())
        assert [int(fused(image[None]).argmax()) for image in images] == labels.tolist()


def test_a_variant_needs_a_checkpoint_or_random_weights() -> None:
    for name in ("fmvit-t", "fmvit-l"):
        with pytest.raises(UsageError, match=rf"no checkpoint of {name} was ever published.*--checkpoint.*--random-weights 0"):
            load(name)
    with pytest.raises(UsageError, match="exclude each other"):
        load("fmvit-t", Source(checkpoint=Path("x"), random_seed=0))


def test_random_weights_are_those_of_the_seed_and_keep_their_scale() -> None:
    models = [load("fmvit-t", Source(random_seed=seed)) for seed in (3, 3, 4)]
    sample = torch.from_numpy(models[0].entries[0].samples[0]["image"])
    assert sample.shape == (1, 3, 224, 224)
    with torch.no_grad():
        logits = [model.entries[0].module(sample) for model in models]
    assert torch.equal(logits[0], logits[1]) and not torch.allclose(logits[0], logits[2])
    assert 0.05 < float(logits[0].std()) < 20
    assert models[0].config["implementation"] == "reconstruction"
    assert models[0].report["parameters"] < models[0].report["parameters/training"]


def test_a_checkpoint_of_ones_own(tmp_path: Path) -> None:
    model = trained(SMALL)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="--config"):
        load(source=Source(checkpoint=tmp_path))
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(SMALL))
    loaded = load(source=Source(checkpoint=tmp_path))
    image = torch.from_numpy(loaded.entries[0].samples[0]["image"])
    with torch.no_grad():
        torch.testing.assert_close(loaded.entries[0].module(image), fuse(model)(image), rtol=0, atol=0)
    assert loaded.metrics == () and len(str(loaded.checkpoint_sha256)) == 64
    wider = msgspec.structs.replace(SMALL, num_classes=7)
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(wider))
    with pytest.raises(CheckpointError, match=r"'head\.(weight|bias)' .* shape \[5"):
        load(source=Source(checkpoint=tmp_path))


def test_a_checkpoint_of_something_else(tmp_path: Path) -> None:
    other = checkpoints.demo_folder("relu2-mlp") / "model.safetensors"
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(SMALL))
    (tmp_path / "model.safetensors").write_bytes(other.read_bytes())
    with pytest.raises(CheckpointError, match=r"lacks \d+ tensors \('blocks\.0"):
        load(source=Source(checkpoint=tmp_path))
    tensors = trained(SMALL).state_dict() | {"blocks.0.extra": torch.zeros(1)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"has the tensor 'blocks\.0\.extra' that the config does not know"):
        load(source=Source(checkpoint=tmp_path))
    with pytest.raises(CheckpointError, match=r"lacks \d+ tensors"):
        load("fmvit-t", Source(checkpoint=tmp_path))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"group": 0}, "must be 1 or more"),
        ({"image_size": 100}, "multiple of 32, not 100"),
        ({"group": 16}, "stage 1 is 8 channels wide"),
        ({"reductions": (8, 3, 2, 1)}, "stage 2 is 8 x 8, which a reduction of 3 does not divide"),
        ({"labels": ("a", "b")}, "2 labels for 5 classes"),
        ({"crop": 0.0}, "crop must be above 0"),
        ({"depth": 3}, "unknown field `depth`"),
        ({"implementation": "official"}, "Invalid enum value"),
    ],
)
def test_a_config_that_cannot_be(change: dict[str, object], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(msgspec.to_builtins(SMALL) | change))
    with pytest.raises(ConfigError, match=sentence):
        load(source=Source(config=tmp_path / "config.json", random_seed=0))


def test_the_family_says_that_it_is_a_reconstruction() -> None:
    family, _ = find("fmvit")
    assert "reconstruction" in family.summary
    assert "reconstruction" in (checkpoints.demo_folder("fmvit") / "CARD.md").read_text()
    assert json.loads((checkpoints.demo_folder("fmvit") / "config.json").read_text())["implementation"] == "reconstruction"
