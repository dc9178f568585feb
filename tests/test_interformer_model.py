"""InterFormer's modules against the authors' outputs, the deployed forms against the modules, and checkpoints."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from edge import checkpoints
from edge.errors import CheckpointError, ConfigError, UsageError
from edge.families.base import Source, find
from edge.families.interformer.backbone import relative_position_index, resized_index
from edge.families.interformer.click_entry import Click, banded, shifted_resize
from edge.families.interformer.clicks import shares
from edge.families.interformer.config import VARIANTS, InterFormerConfig
from edge.families.interformer.encode_entry import Encode
from edge.families.interformer.loading import build
from edge.families.interformer.modules import InterFormer
from edge.families.interformer.parts import MaxPool, Style

GOLDEN = Path(__file__).parent / "golden" / "interformer"
#: Every kind of part: refining blocks, pools that do not divide, two heads.
SMALL = InterFormerConfig(
    image_size=64, embed_dims=16, num_layers=2, num_heads=2, fpn_dims=(4, 8, 8, 16), neck_heads=(1, 2, 2, 2),
    depths=(2, 1, 2, 2), refine_start=(1, 1, 2, 1), neck_mlp_ratios=(2, 2, 2, 2),
    pool_ratios=((3, 5), (2, 3), (1, 2), (1, 2)), head_channels=8, pool_scales=(1, 2), auxiliary_head=False,
)  # fmt: skip


@cache
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("interformer_recipe", GOLDEN / "recipe.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "interformer_light.npz") as stored:
        return {name: stored[name] for name in stored.files}


def light(size: tuple[int, int]) -> InterFormer:
    """The light model with the recipe's weights, under the names of the authors' checkpoint."""
    model = InterFormer(msgspec.structs.replace(VARIANTS["light"], input_size=size))
    listed = json.loads((GOLDEN / "light_state_dict.json").read_text())
    names = {name: shape for name, shape, _ in listed if not name.endswith("relative_position_index")}
    model.load_state_dict({name: torch.from_numpy(np.asarray(recipe().fill(name, shape))) for name, shape in names.items()})
    return model.eval()


def check_map(prefix: str, found: torch.Tensor, most: int) -> None:
    """A feature map against its stored slice and channel means."""
    array = found.numpy()
    step = max(1, array.shape[2] // most)
    np.testing.assert_allclose(array[0, :8, ::step, ::step], golden()[f"{prefix}.slice"], atol=5e-5)
    np.testing.assert_allclose(array.mean((0, 2, 3)), golden()[f"{prefix}.chan_mean"], atol=5e-5)


def check_click(key: str, logits: torch.Tensor, size: tuple[int, int]) -> None:
    """Logits and the mask against what is stored; pixels whose logits are all but equal may differ."""
    low = logits[0].numpy()
    if f"{key}.low_logits" in golden():
        np.testing.assert_allclose(low, golden()[f"{key}.low_logits"], atol=2e-5)
    else:
        np.testing.assert_allclose(low[:, ::2, ::2], golden()[f"{key}.low_logits_s2"], atol=2e-5)
    full = F.interpolate(logits, size, mode="bilinear")[0].numpy()
    expected = np.unpackbits(golden()[f"{key}.mask_bits"])[: size[0] * size[1]].reshape(size)
    assert not ((full.argmax(0) != expected) & (np.abs(full[1] - full[0]) > 4e-5)).any()


def deployed(model: InterFormer, style: Style, image: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
    finest, *attended = Encode(model, style).eval()(image)
    logits: torch.Tensor = Click(model, style).eval()(finest, torch.from_numpy(shares(labels)), *attended)
    return logits


@torch.no_grad()
def test_the_light_model_at_a_size_of_its_own() -> None:
    """352x480: position tables are resized; both the modules and the form that deploys."""
    size = (352, 480)
    model, image = light(size), torch.from_numpy(recipe().normalize(recipe().image(*size)))
    maps = model.backbone(image)
    for level, found in enumerate(maps):
        assert list(found.shape) == golden()[f"s352x480.feat{level}.shape"].tolist()
        check_map(f"s352x480.feat{level}", found, 16)
    labels = golden()["s352x480.click1.ref_label"]
    neck = model.neck(maps, torch.from_numpy(labels)[None, None])
    for level, found in enumerate(neck):
        check_map(f"s352x480.click1.neck{level}", found, 8)
    check_click("s352x480.click1", model.decode_head(neck), size)
    check_click("s352x480.click1", deployed(model, Style.ONNX, image, labels), size)


@pytest.mark.slow
@torch.no_grad()
def test_the_light_model_at_its_own_size() -> None:
    """512x512: three clicks, and the zoom, which leaves a model without refining blocks as it is."""
    size = (512, 512)
    model, image = light(size), torch.from_numpy(recipe().normalize(recipe().image(*size)))
    maps = model.backbone(image)
    for level, found in enumerate(maps):
        check_map(f"s512.feat{level}", found, 16)
    for click in (1, 2, 3):
        labels = golden()[f"s512.click{click}.ref_label"]
        neck = model.neck(maps, torch.from_numpy(labels)[None, None])
        for level, found in enumerate(neck):
            check_map(f"s512.click{click}.neck{level}", found, 8)
        check_click(f"s512.click{click}", model.decode_head(neck), size)
    for index in range(2):
        key = f"s512.click3.roi{index}"
        box = tuple(int(side) for side in golden()[key])
        zoomed = model.click(maps, torch.from_numpy(labels)[None, None], box)
        np.testing.assert_allclose(zoomed[0, :, ::2, ::2].numpy(), golden()[f"{key}.low_logits_s2"], atol=2e-5)
    for style in Style:
        check_click("s512.click3", deployed(model, style, image, labels), size)


@pytest.mark.parametrize("size", [(64, 64), (96, 64)])
@pytest.mark.parametrize("style", list(Style))
@torch.no_grad()
def test_the_deployed_form_of_any_config(style: Style, size: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(SMALL, input_size=size)))
    _, model, digest = build("interformer", None, Source(config=tmp_path / "config.json", random_seed=3))
    assert digest is None
    random = np.random.default_rng(0)
    image = torch.from_numpy(random.standard_normal((1, 3, *size), np.float32))
    labels = random.integers(0, 5, size).astype(np.uint8)
    expected = model(image, torch.from_numpy(labels)[None, None])
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(deployed(model, style, image, labels), expected, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_zooming_refines_inside_the_box_only() -> None:
    model = checkpoints.seeded(1, lambda: InterFormer(SMALL)).eval()
    maps = model.backbone(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    labels = torch.full((1, 1, 64, 64), 2)
    whole, zoomed = model.neck(maps, labels), model.neck(maps, labels, (32, 0, 64, 32))
    unrefined = model.neck.stages[1](model.neck.stages[0](model.neck.embed(maps[0], labels), maps[0])[1], maps[1])[0]
    torch.testing.assert_close(zoomed[1], model.neck.norm1(unrefined))  # a stage without refining blocks
    assert not torch.allclose(zoomed[0], whole[0], atol=1e-3)
    refine = model.neck.refine_stages[0]
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    y = refine(x, (8, 0, 16, 8))
    assert torch.equal(y[..., 8:, :], x[..., 8:, :]) and torch.equal(y[..., :8], x[..., :8])
    torch.testing.assert_close(y[..., :8, 8:], refine(x[..., :8, 8:].contiguous(), None))
    torch.testing.assert_close(refine(x, (0, 0, 16, 16)), refine(x, None))


@pytest.mark.parametrize("style", list(Style))
@pytest.mark.parametrize(("size", "side"), [((11, 15), (4, 5)), ((12, 16), (4, 8)), ((7, 7), (1, 6)), ((5, 9), (5, 2))])
def test_pools_are_torchs_to_the_bit(size: tuple[int, int], side: tuple[int, int], style: Style) -> None:
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    pool, expected = MaxPool(size, side, style), F.adaptive_max_pool2d(x, side)
    assert torch.equal(pool(x), expected)
    if pool.channels_last:
        assert torch.equal(pool.last(x[0].permute(1, 2, 0)).permute(2, 0, 1)[None], expected)


@pytest.mark.parametrize(("own", "size", "band", "columns"), [(32, 128, 32, 30), (16, 128, 32, 18), (22, 88, 8, 12), (2, 8, 8, 6)])
def test_bands_of_a_resize_are_its_table(own: int, size: int, band: int, columns: int) -> None:
    table = shifted_resize(own, size)
    bands, places = banded(table, band)
    assert bands.shape == (size // band, band, columns)
    x = torch.randn(3 * own, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close((bands @ x[places]).reshape(size, 4), table @ x)


def test_pool_sides_are_the_papers() -> None:
    sides = [VARIANTS["light"].pool_sides(stage, side, side) for stage, side in enumerate((128, 64, 32, 16))]
    assert [[high for high, _ in stage] for stage in sides] == [[11, 8, 6, 5], [11, 8, 6, 5], [11, 8, 6, 5], [16, 8, 5, 4]]


def test_the_position_index() -> None:
    """By hand on a 2x2 grid: nine offsets, then token to class, class to token, class to class."""
    index = relative_position_index(2)
    assert index.shape == (5, 5)
    assert index[0].tolist() == [11, 9, 9, 9, 9] and index[:, 0].tolist() == [11, 10, 10, 10, 10]
    assert index[1, 1:].tolist() == [4, 3, 1, 0] and index[4, 1:].tolist() == [8, 7, 5, 4]
    grown = resized_index(2, 4, 2)  # every row of the grid twice
    assert grown[1, 1:].tolist() == [4, 3, 4, 3, 1, 0, 1, 0]


@torch.no_grad()
def test_an_index_resized_is_the_biases_resized() -> None:
    table = torch.randn(27 + 25, 3, generator=torch.Generator().manual_seed(0))
    bias = table[relative_position_index(4).reshape(-1)].reshape(17, 17, 3).permute(2, 0, 1)
    inner = bias[:, 1:, 1:].reshape(3, 16, 4, 4)
    keys = F.interpolate(inner, (3, 6), mode="nearest").reshape(3, 4, 4, 18).permute(0, 3, 1, 2)
    both = F.interpolate(keys, (3, 6), mode="nearest").reshape(3, 18, 18).transpose(1, 2)
    found = table[resized_index(4, 3, 6).reshape(-1)].reshape(19, 19, 3).permute(2, 0, 1)
    assert torch.equal(found[:, 1:, 1:], both)


def authors(config: InterFormerConfig) -> dict[str, torch.Tensor]:
    """A state_dict as theirs: with an index table in every layer."""
    state = checkpoints.seeded(5, lambda: InterFormer(config)).state_dict()
    index = relative_position_index(config.grid)
    return {**state, **{f"backbone.layers.{layer}.attn.relative_position_index": index.clone() for layer in range(config.num_layers)}}


@torch.no_grad()
def test_the_authors_checkpoints(tmp_path: Path) -> None:
    """A .pth of mmseg's (nested, with its meta and index tables), a wrapped one, and .safetensors are one model."""
    config = msgspec.structs.replace(SMALL, auxiliary_head=True)
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(config))
    state = authors(config)
    torch.save({"meta": {"epoch": 3}, "state_dict": state}, tmp_path / "theirs.pth")
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "wrapped.pth")
    save_file(state, tmp_path / "same.safetensors")
    labels = torch.full((1, 1, 64, 64), 2)
    outputs = []
    for name in ("theirs.pth", "wrapped.pth", "same.safetensors"):
        _, model, digest = build("interformer", None, Source(checkpoint=tmp_path / name))
        assert digest is not None and len(digest) == 64
        outputs.append(model(torch.ones(1, 3, 64, 64), labels))
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_wrong_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(SMALL))
    state = authors(SMALL)

    def refused(tensors: dict[str, torch.Tensor], reason: str) -> None:
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=reason):
            build("interformer", None, Source(checkpoint=tmp_path / "model.safetensors"))

    refused({name: tensor for name, tensor in state.items() if name != "neck.norm2.bias"}, r"lacks the tensor 'neck\.norm2\.bias'")
    refused({**state, "neck.norm9.bias": torch.ones(3)}, r"has the tensor 'neck\.norm9\.bias' that the config does not know")
    refused({**state, "neck.patch_embed": torch.ones(5, 5)}, r"'neck\.patch_embed' .* \[5, 5\] .* \[5, 4\]")
    index = "backbone.layers.0.attn.relative_position_index"
    refused({**state, index: state[index] + 1}, "not the index of a 4x4 grid")
    (tmp_path / "config.json").unlink()
    refused(state, "name the model")


def test_what_the_family_refuses(tmp_path: Path) -> None:
    family, variant = find("interformer-tiny")
    with pytest.raises(UsageError, match="the demo is no interformer-tiny: pass --checkpoint"):
        family.load("interformer-tiny", variant, Source())
    with pytest.raises(UsageError, match="exclude each other"):
        family.load("interformer", None, Source(checkpoint=tmp_path, random_seed=1))
    with pytest.raises(ConfigError, match="multiple of 32"):
        msgspec.structs.replace(SMALL, input_size=(100, 64))
    with pytest.raises(ConfigError, match="does not divide by its 3 heads"):
        msgspec.structs.replace(SMALL, neck_heads=(1, 3, 2, 2))
    with pytest.raises(ConfigError, match="below refine_start"):
        msgspec.structs.replace(SMALL, depths=(1, 1, 1, 1))


def test_the_two_models_of_the_paper_have_their_size() -> None:
    """Parameters of encoder and neck, in millions, as published (the head's are those of the light model in both)."""
    for name, encoder, neck in (("light", 94.9, 1.737), ("tiny", 319.5, 4.312)):
        with torch.device("meta"):
            model = InterFormer(VARIANTS[name])
        counts = [sum(value.numel() for value in part.parameters()) / 1e6 for part in (model.backbone, model.neck, model.decode_head)]
        assert counts == pytest.approx([encoder, neck, 0.634], abs=0.06 if name == "tiny" else 0.05)
