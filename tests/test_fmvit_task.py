"""The demo FMViT at work: what its card says, pictures on the command line, and every runtime."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from eager_session import EagerSession
from PIL import Image
from test_cli_flow import run_edge
from test_fmvit_model import SMALL

from edge import api, checkpoints
from edge.bundle import open_bundle
from edge.errors import InputError
from edge.families.base import Source, find
from edge.families.fmvit.config import FMViTConfig
from edge.families.fmvit.pictures import BRIGHTNESS, CONTRAST, Digits, fit, normalise, render
from edge.progress import Progress
from edge.tasks import ImageRequest, Task, TaskRequest

DEMO = checkpoints.demo_folder("fmvit")


@pytest.fixture(scope="module")
def session() -> EagerSession:
    family, variant = find("fmvit")
    return EagerSession(family.load("fmvit", variant, Source()))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fmvit") / "fmvit.edge"
    return api_export("onnx", "int8", path)


def api_export(runtime: str, scheme: str, path: Path) -> Path:
    from edge.export.pipeline import export

    return export("fmvit", target="cpu", runtime=runtime, quantize=scheme, output=path).bundle.path


def classify() -> Task:
    (task,) = find("fmvit")[0].tasks().values()
    return task


def drawn(path: Path, index: int = 0, size: int = 90) -> int:
    """Held-out digit ``index`` as a PNG; its label."""
    digits = Digits(DEMO / "samples.npz")
    Image.fromarray(digits.picture(digits.test, index, 64)).resize((size, size)).save(path)
    return int(digits.labels[index])


def test_the_demo_meets_its_card() -> None:
    family, variant = find("fmvit")
    model = family.load("fmvit", variant, Source())
    (metric,) = model.metrics
    accuracy = metric.evaluate(EagerSession(model).run)
    card = (DEMO / "CARD.md").read_text()
    found = re.search(r"accuracy, fused, weights rounded to float16: ([\d.]+)%", card)
    assert accuracy >= 0.98
    assert found is not None and abs(float(found[1]) - 100 * accuracy) < 0.6  # two pictures of 360
    assert f"{model.report['parameters/training']:,.0f} parameters while training" in card
    assert f"{model.report['parameters']:,.0f} once" in card
    assert sum(path.stat().st_size for path in DEMO.iterdir()) < 3e6


def test_samples_and_calibration_are_different_pictures(session: EagerSession) -> None:
    family, variant = find("fmvit")
    (entry,) = family.load("fmvit", variant, Source()).entries
    samples = {sample["image"].tobytes() for sample in entry.samples}
    calibration = {sample["image"].tobytes() for sample in entry.calibration}
    assert len(samples) == 6 and len(calibration) == 48 and not samples & calibration
    assert {sample["image"].shape for sample in (*entry.samples, *entry.calibration)} == {(1, 3, 64, 64)}


def test_what_becomes_of_a_picture() -> None:
    config = msgspec.structs.replace(SMALL, mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 2.0), crop=0.5)
    picture = np.zeros((100, 300, 3), np.uint8)
    picture[25:75, 125:175] = (255, 0, 51)  # the centre, half as high as the picture: all that is left of it
    square = fit(picture, config)
    assert square.shape == (64, 64, 3) and (square[2:-2, 2:-2] == (255, 0, 51)).all()
    whole = fit(picture, msgspec.structs.replace(config, crop=1.0))
    assert (whole[:14] == 0).all() and (whole[20:44, 20:44] == (255, 0, 51)).all()
    values = normalise(square, config)
    assert values.shape == (1, 3, 64, 64) and values.dtype == np.float32
    np.testing.assert_allclose(values[0, :, 32, 32], [1.0, -0.5, 0.1], rtol=1e-6)


def test_rendered_digits_have_contrast_and_stay_the_same() -> None:
    digits = Digits(DEMO / "samples.npz")
    for index in range(8):
        picture = render(digits.test[index], 64, index)
        assert np.array_equal(picture, render(digits.test[index], 64, index))
        brightness = picture @ BRIGHTNESS
        assert np.ptp(brightness) > 0.7 * CONTRAST
    assert Digits.picture(digits.test, 1, 224).shape == (224, 224, 3)
    assert not np.array_equal(Digits.picture(digits.test, 1, 224), Digits.picture(digits.test, 2, 224))


def test_classify_names_the_likeliest(session: EagerSession, tmp_path: Path) -> None:
    label = drawn(tmp_path / "a.png", 3)
    request = TaskRequest(image=ImageRequest(image=tmp_path / "a.png"), top=3)
    result = classify().run(session, request, Progress())
    classes = result.values["classes"]
    assert isinstance(classes, list) and len(classes) == 3
    assert classes[0]["label"] == str(label) and classes[0]["class"] == label
    chances = [found["probability"] for found in classes]
    assert chances == sorted(chances, reverse=True) and 0.5 < chances[0] <= 1
    assert result.lines[0] == f"{label}: {chances[0]:.1%}" and len(result.lines) == 3


def test_grey_transparent_and_inverted_pictures(session: EagerSession, tmp_path: Path) -> None:
    digits = Digits(DEMO / "samples.npz")
    ink = np.kron(digits.test[5], np.ones((12, 12))) / 16.0 * 255
    blank = np.zeros_like(ink)
    pictures = {
        "grey.png": Image.fromarray((255 - ink).astype(np.uint8)),
        "inverted.png": Image.fromarray(ink.astype(np.uint8)),
        "transparent.png": Image.fromarray(np.stack([blank, blank, blank, ink], -1).astype(np.uint8)),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
        request = TaskRequest(image=ImageRequest(image=tmp_path / name), top=1)
        (found,) = classify().run(session, request, Progress()).values["classes"]  # type: ignore[misc]
        assert found["class"] == digits.labels[5], name
    with pytest.raises(InputError, match="--image"):
        classify().run(session, TaskRequest(), Progress())


def test_a_model_without_labels_gives_numbers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(SMALL))
    family, variant = find("fmvit")
    model = family.load("fmvit", variant, Source(config=tmp_path / "config.json", random_seed=0))
    drawn(tmp_path / "a.png")
    request = TaskRequest(image=ImageRequest(image=tmp_path / "a.png"), top=99)
    result = classify().run(EagerSession(model), request, Progress())
    assert len(result.lines) == 5 and re.fullmatch(r"class \d: \d+\.\d%", result.lines[0])
    assert sum(found["probability"] for found in result.values["classes"]) == pytest.approx(1, abs=1e-5)  # type: ignore[attr-defined]


def test_on_the_command_line(bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    label = drawn(tmp_path / "a.png", 1)
    out, _ = run_edge(capsys, "run", bundle, "--image", tmp_path / "a.png", "--top", 2)
    assert out.splitlines()[0].startswith(f"{label}: ") and len(out.splitlines()) == 2
    out, _ = run_edge(capsys, "run", bundle, "--image", tmp_path / "a.png", "--json")
    found = json.loads(out)
    assert found["task"] == "classify" and found["classes"][0]["label"] == str(label) and len(found["classes"]) == 5
    _, err = run_edge(capsys, "run", bundle, "--image", tmp_path / "none.png", status=2)
    assert "there is no picture at" in err
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    _, err = run_edge(capsys, "run", bundle, "--image", tmp_path / "cut.png", status=2)
    assert "cut.png is damaged" in err
    _, err = run_edge(capsys, "run", bundle, status=2)
    assert "--image" in err


def test_the_manifest_says_what_it_is(bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    assert manifest.config["implementation"] == "reconstruction"
    assert msgspec.convert(dict(manifest.config), FMViTConfig).labels[7] == "7"
    (metric,) = manifest.metrics
    assert metric.name == "accuracy" and metric.eager >= 0.98 and metric.bundle >= metric.eager - 0.02


def test_int8_runs_in_integers(bundle: Path) -> None:
    session = api.load(bundle, threads=1)
    entry = session.manifest.entry("classify")
    inputs = [open_bundle(bundle).samples("classify")[0][0]["image"]]
    kinds = [row.kind for row in session.operators(entry, inputs, runs=2)]
    assert "QLinearConv" in kinds and "Conv" not in kinds and kinds.count("QLinearAdd") >= 8
    assert "DequantizeLinear" not in kinds[:5]  # not between the stem's convolutions


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "scheme"), [("onnx", "fp32"), ("executorch", "fp32"), ("executorch", "int8"), ("tvm", "fp32"), ("tvm", "int8")]
)
def test_every_runtime(runtime: str, scheme: str, tmp_path: Path) -> None:
    path = api_export(runtime, scheme, tmp_path / "fmvit.edge")
    manifest = open_bundle(path).manifest
    assert manifest.metrics[0].bundle >= 0.97
    if runtime == "executorch":
        (record,) = manifest.notes.delegation
        assert record.delegates == 1 and not record.portable
    session = api.load(path, threads=1)
    label = drawn(tmp_path / "a.png", 2)
    request = TaskRequest(image=ImageRequest(image=tmp_path / "a.png"), top=1)
    (found,) = classify().run(session, request, Progress()).values["classes"]  # type: ignore[misc]
    assert found["class"] == label
