"""Encoding and clicking: the demo, the features file between two bundles, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from eager_session import EagerSession
from PIL import Image

from edge import checkpoints
from edge.cli import invoke
from edge.errors import InputError, UsageError
from edge.families.base import Model, Source, find
from edge.families.interformer import features, samples
from edge.families.interformer.interact import Interaction, encode
from edge.families.interformer.simulate import iou, next_click
from edge.families.interformer.tasks import encode_elsewhere
from edge.imagefile import read_image
from edge.progress import Progress
from edge.tasks import ImageRequest, TaskRequest, TaskResult

HELD_OUT, CALIBRATION = samples.read(checkpoints.demo_folder("interformer") / "samples.npz")


def load(part: str | None = None, seed: int | None = None) -> Model:
    return find("interformer")[0].load("interformer", None, Source(part=part, random_seed=seed))


@pytest.fixture(scope="module")
def both() -> EagerSession:
    return EagerSession(load())


@pytest.fixture(scope="module")
def clicker() -> EagerSession:
    return EagerSession(load("click"))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(HELD_OUT.pictures[0]).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


def perform(session: EagerSession, task: str, output: Path | None, **image: object) -> TaskResult:
    request = TaskRequest(output=output, image=ImageRequest(**image))  # type: ignore[arg-type]
    return find("interformer")[0].tasks()[task].run(session, request, Progress())


def middle(index: int = 0) -> str:
    """A click in the middle of a scene's object."""
    click = next_click(np.zeros_like(HELD_OUT.masks[index]), HELD_OUT.masks[index])
    assert click is not None
    return f"{click.x},{click.y},+"


def test_the_demo_meets_its_card(both: EagerSession) -> None:
    model = load()
    (metric,) = model.metrics
    assert metric.evaluate(both.run) > 0.5
    card = (checkpoints.demo_folder("interformer") / "CARD.md").read_text()
    assert "Mean IoU on the held-out scenes after 1, 3 and 5 clicks: 0." in card
    assert f"{int(model.report['parameters/encode'] + model.report['parameters/click']):,} parameters" in card


def test_samples_and_calibration_are_of_different_scenes() -> None:
    model = load()
    for entry in model.entries:
        first = next(iter(entry.inputs)).name
        used = {sample[first].tobytes() for sample in entry.samples}
        assert len(entry.samples) >= 2 and len(entry.calibration) >= 8
        assert not used & {sample[first].tobytes() for sample in entry.calibration}


def test_encode_then_click(tmp_path: Path, both: EagerSession, clicker: EagerSession, picture: Path) -> None:
    """The way from one machine to the other: the mask is that of a bundle which does both."""
    stored = tmp_path / "scene.features"
    result = perform(both, "encode", stored, image=picture)
    assert result.written == (stored,) and result.values["width"] == 128
    clicks = (middle(), "1,1,-")
    result = perform(
        clicker, "click", tmp_path / "mask.png", features=stored, clicks=clicks, overlay=tmp_path / "overlay.png"
    )
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    assert mask.shape == (128, 128) and set(np.unique(mask)) <= {0, 255}
    assert result.values["pixels"] == np.count_nonzero(mask) and result.values["clicks"] == 2
    assert iou(mask > 0, HELD_OUT.masks[0]) > 0.2
    overlay = np.asarray(Image.open(tmp_path / "overlay.png"))
    assert np.array_equal(overlay[mask == 0], HELD_OUT.pictures[0][mask == 0])
    perform(both, "click", tmp_path / "same.png", image=picture, clicks=clicks)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "same.png")), mask)


def test_a_larger_picture_is_scaled_and_its_mask_scaled_back(tmp_path: Path, both: EagerSession, picture: Path) -> None:
    Image.open(picture).resize((512, 512), Image.Resampling.BICUBIC).crop((0, 0, 512, 400)).save(tmp_path / "large.png")
    x, y, _ = middle().split(",")
    result = perform(
        both, "click", tmp_path / "mask.png", image=tmp_path / "large.png",
        clicks=(f"{4 * int(x)},{4 * int(y)},+",), overlay=tmp_path / "overlay.png",
    )  # fmt: skip
    assert "512x400 pixels (seen at 128x100)" in result.lines[0]
    assert read_image(tmp_path / "mask.png").shape == read_image(tmp_path / "overlay.png").shape == (400, 512, 3)


def test_a_small_picture_is_padded(both: EagerSession) -> None:
    encoded = encode(both.run, HELD_OUT.pictures[0][:50, :70], (128, 128))
    assert encoded.picture.shape == (50, 70, 3) and encoded.padded == (128, 128)
    interaction = Interaction(both.run, encoded, 3)
    assert interaction.mask.shape == (50, 70)


def test_undo_takes_back_one_click(both: EagerSession) -> None:
    encoded = encode(both.run, HELD_OUT.pictures[1], (128, 128))
    interaction = Interaction(both.run, encoded, 3)
    masks = [interaction.mask]
    for _ in range(3):
        click = next_click(interaction.mask, HELD_OUT.masks[1])
        assert click is not None
        masks.append(interaction.click(click))
    interaction.undo()
    assert np.array_equal(interaction.mask, masks[2]) and len(interaction.clicks) == 2
    assert np.array_equal(interaction.click(click), masks[3])
    interaction.reset()
    assert np.array_equal(interaction.mask, masks[0]) and not interaction.clicks
    interaction.undo()


def test_other_kinds_of_pictures(tmp_path: Path, both: EagerSession, picture: Path) -> None:
    """Grey, transparent and 16-bit pictures are encoded; a broken one is refused."""
    opened = Image.open(picture)
    opened.convert("L").save(tmp_path / "grey.png")
    opened.convert("RGBA").save(tmp_path / "transparent.png")
    for name in ("grey.png", "transparent.png"):
        perform(both, "encode", tmp_path / "f.features", image=tmp_path / name)
    (tmp_path / "broken.png").write_bytes(picture.read_bytes()[:500])
    with pytest.raises(InputError, match=r"broken\.png is damaged"):
        perform(both, "encode", tmp_path / "f.features", image=tmp_path / "broken.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=r"text\.png is not a picture"):
        perform(both, "encode", tmp_path / "f.features", image=tmp_path / "text.png")


def test_what_the_tasks_refuse(tmp_path: Path, both: EagerSession, clicker: EagerSession, picture: Path) -> None:
    with pytest.raises(InputError, match="give one with --encode"):
        perform(both, "encode", tmp_path / "x", image=None)
    with pytest.raises(InputError, match="say where with -o"):
        perform(both, "encode", None, image=picture)
    with pytest.raises(InputError, match="features file with --features"):
        perform(clicker, "click", None, clicks=("1,1,+",))
    with pytest.raises(InputError, match="this bundle clicks but does not encode"):
        perform(clicker, "click", None, image=picture, clicks=("1,1,+",))
    with pytest.raises(InputError, match="nothing is clicked on"):
        perform(both, "click", None, image=picture)
    with pytest.raises(InputError, match="outside the image of 128x128"):
        perform(both, "click", None, image=picture, clicks=("128,0,+",))


def test_features_that_do_not_fit(tmp_path: Path, both: EagerSession, picture: Path) -> None:
    stored = tmp_path / "scene.features"
    other = EagerSession(load(seed=4))
    perform(other, "encode", stored, image=picture)
    with pytest.raises(InputError, match="encoded by another model"):
        perform(both, "click", None, features=stored, clicks=("1,1,+",))
    with pytest.raises(UsageError, match="the encoder is another model"):
        encode_elsewhere(other, both.manifest, HELD_OUT.pictures[0])
    with pytest.raises(UsageError, match="no entry point 'encode'"):
        encode_elsewhere(EagerSession(load("click")), both.manifest, HELD_OUT.pictures[0])
    perform(both, "encode", stored, image=picture)
    whole = stored.read_bytes()
    with np.load(stored) as arrays:
        kept = dict(arrays)
    for broken in (
        {name: value for name, value in kept.items() if name != "key2"},
        {**kept, "finest": kept["finest"] * np.nan},
        {**kept, "extra": kept["finest"]},
        {**kept, "picture": kept["picture"][:, :, :1]},
    ):
        np.savez(tmp_path / "broken.npz", **broken)
        with pytest.raises(InputError, match="is a damaged features file"):
            features.read(tmp_path / "broken.npz", both.manifest)
    np.savez(tmp_path / "broken.npz", **{**kept, "key0": kept["key0"][:, :1]})
    with pytest.raises(InputError, match="input 'key0' has shape"):
        features.read(tmp_path / "broken.npz", both.manifest)
    np.savez(tmp_path / "broken.npz", finest=kept["finest"])
    with pytest.raises(InputError, match="is no features file"):
        features.read(tmp_path / "broken.npz", both.manifest)
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"not a readable \.npz"):
        features.read(tmp_path / "cut", both.manifest)


@pytest.mark.slow
def test_on_the_command_line(tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two bundles of two runtimes, the picture encoded by one and clicked on with the other."""
    device, strong = tmp_path / "click.edge", tmp_path / "encode.edge"
    assert invoke(["export", "interformer", "--target", "cpu", "--runtime", "executorch", "--quantize", "fp32", "--part", "click", "-o", str(device)]) == 0
    assert invoke(["export", "interformer", "--target", "cpu", "--runtime", "onnx", "--quantize", "fp32", "--part", "encode", "-o", str(strong)]) == 0
    stored, mask = tmp_path / "image.features", tmp_path / "mask.png"
    assert invoke(["run", str(strong), "--encode", str(picture), "-o", str(stored)]) == 0
    capsys.readouterr()
    assert invoke(["run", str(device), "--features", str(stored), "--click", middle(), "-o", str(mask), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["task"] == "click" and found["pixels"] == np.count_nonzero(np.asarray(Image.open(mask)))
    assert invoke(["run", str(device), "--features", str(stored), "--click", "500,1,+"]) == 2
    assert "outside the image of 128x128 pixels" in capsys.readouterr().err
    assert invoke(["run", str(device), "--encode", str(picture), "-o", str(stored)]) == 2
    assert "lacks the entry point 'encode'" in capsys.readouterr().err
    assert invoke(["export", "interformer", "--target", "cpu", "--part", "neck"]) == 2
    assert "has no part 'neck': it has encode, click" in capsys.readouterr().err
