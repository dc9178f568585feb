"""The label map and the zoom box against the authors' outputs, the simulated person, and pictures in and out."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from edge.errors import InputError
from edge.families.interformer.clicks import (
    FOREGROUND,
    UNKNOWN,
    Click,
    parse_clicks,
    shares,
    unknown,
    with_click,
    with_prediction,
    zoom_box,
)
from edge.families.interformer.images import enlarged, fitted, mask_png, normalise, overlaid, padded
from edge.families.interformer.simulate import iou, next_click

GOLDEN = Path(__file__).parent / "golden" / "interformer" / "interformer_light.npz"


def disk(height: int, width: int, row: int, column: int, radius: int) -> np.ndarray:
    rows, columns = np.ogrid[:height, :width]
    return np.asarray((rows - row) ** 2 + (columns - column) ** 2 <= radius**2)


@pytest.mark.parametrize(
    ("name", "size", "clicks"),
    [
        ("s512", (512, 512), [Click(170, 256, True), Click(350, 96, False), Click(130, 300, True)]),
        ("s352x480", (352, 480), [Click(160, 176, True)]),
    ],
)
def test_label_maps_are_the_authors(name: str, size: tuple[int, int], clicks: list[Click]) -> None:
    """Before every click and after the last prediction, with their own masks in between."""
    with np.load(GOLDEN) as golden:
        labels = unknown(*size)
        for number, click in enumerate(clicks, 1):
            labels = with_click(labels, click, 5)
            np.testing.assert_array_equal(labels, golden[f"{name}.click{number}.ref_label"])
            mask = np.unpackbits(golden[f"{name}.click{number}.mask_bits"])[: size[0] * size[1]].reshape(size)
            labels = with_prediction(labels, mask)
        np.testing.assert_array_equal(labels, golden[f"{name}.final_ref_label"])


@pytest.mark.parametrize("case", range(4))
def test_zoom_boxes_are_the_authors(case: int) -> None:
    with np.load(GOLDEN) as golden:
        height, width, row, column, radius, y, x, *box = golden[f"get_roi.case{case}"].tolist()
    mask = disk(height, width, row, column, radius) if radius else np.zeros((height, width), bool)
    assert zoom_box(mask, with_click(unknown(height, width), Click(x, y, True), 5)) == tuple(box)


def test_nothing_to_zoom_to_is_the_whole_picture() -> None:
    assert zoom_box(np.zeros((64, 96), bool), unknown(64, 96)) == (0, 0, 96, 64)


def test_a_click_is_81_pixels_and_a_flip_takes_two_predictions() -> None:
    labels = with_click(unknown(32, 32), Click(16, 16, True), 5)
    assert np.count_nonzero(labels == FOREGROUND) == 81
    one, other = np.ones((32, 32)), np.zeros((32, 32))
    once = with_prediction(labels, one)
    assert once[0, 0] == 3 and with_prediction(once, one)[0, 0] == 3
    assert with_prediction(once, other)[0, 0] == UNKNOWN and with_prediction(with_prediction(once, other), other)[0, 0] == 1
    assert np.all(with_prediction(labels, other)[labels == FOREGROUND] == FOREGROUND)


def test_shares_are_a_bilinear_quarter_of_the_one_hot_map() -> None:
    labels = np.random.default_rng(0).integers(0, 5, (32, 48)).astype(np.uint8)
    one_hot = F.one_hot(torch.from_numpy(labels).long(), 5).permute(2, 0, 1)[None].float()
    expected = F.interpolate(one_hot, (8, 12), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(shares(labels), expected.numpy(), atol=1e-6)


def test_clicks_as_typed() -> None:
    assert parse_clicks(["3,4,+", " 0 , 0 , - "], 5, 4) == (Click(3, 4, True), Click(0, 0, False))
    for text in ("3,4", "3,4,*", "a,b,+", "3.5,4,+", "", "3,4,+,+"):
        with pytest.raises(InputError, match=r"is no click: write X,Y,\+"):
            parse_clicks([text], 5, 4)
    for text in ("4,0,+", "0,5,-", "-1,0,+"):
        with pytest.raises(InputError, match="outside the image of 4x5 pixels: x goes from 0 to 3 and y from 0 to 4"):
            parse_clicks([text], 5, 4)


def test_the_simulated_person() -> None:
    truth = disk(64, 64, 20, 40, 12)
    click = next_click(np.zeros_like(truth), truth)
    assert click is not None and click.positive and abs(click.y - 20) <= 1 and abs(click.x - 40) <= 1
    # The larger of two errors is clicked, on the side that it is wrong on.
    wrong = truth | disk(64, 64, 50, 12, 9)
    wrong[18:22, 38:42] = False
    click = next_click(wrong, truth)
    assert click is not None and not click.positive and abs(click.y - 50) <= 1 and abs(click.x - 12) <= 1
    assert next_click(truth, truth) is None
    assert iou(truth, truth) == 1 and iou(np.zeros_like(truth), truth) == 0 and iou(truth[:0], truth[:0]) == 1


def test_masks_grow_as_torch_grows_them() -> None:
    x = np.random.default_rng(0).standard_normal((2, 7, 9)).astype(np.float32)
    for size in ((28, 36), (20, 31), (5, 3)):
        expected = F.interpolate(torch.from_numpy(x)[None], size, mode="bilinear", align_corners=False)[0]
        np.testing.assert_allclose(enlarged(x, *size), expected.numpy(), atol=1e-5)


def test_pictures_are_scaled_down_only_and_padded_with_zeros_after_normalising() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 100, 3), dtype=np.uint8)
    assert fitted(picture, 64, 128) is picture
    assert fitted(picture, 64, 64).shape == (26, 64, 3) and fitted(picture, 20, 128).shape == (20, 50, 3)
    image = padded(normalise(picture), 64, 128)
    assert image.shape == (1, 3, 64, 128) and image.dtype == np.float32
    assert not image[..., 40:, :].any() and not image[..., 100:].any()
    np.testing.assert_allclose(image[0, :, 5, 7], (picture[5, 7] - np.array([123.675, 116.28, 103.53])) / [58.395, 57.12, 57.375], rtol=1e-5)


def test_masks_and_overlays() -> None:
    mask = disk(20, 30, 10, 10, 5)
    stored = np.asarray(Image.open(io.BytesIO(mask_png(mask))))
    assert stored.shape == (20, 30) and np.array_equal(stored, mask * 255)
    shown = overlaid(np.full((20, 30, 3), 100, np.uint8), mask)
    assert (shown[0, 0] == 100).all() and tuple(shown[10, 10]) == (65, 122, 178) and (shown[10, 5] == 255).all()
