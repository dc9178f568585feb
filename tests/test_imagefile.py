"""Pictures from the user: every mode comes out as RGB, and what is none is refused in a sentence."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge.errors import InputError
from edge.imagefile import read_image

COLOURS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def saved(path: Path, image: Image.Image) -> Path:
    image.save(path)
    return path


def test_rgb_comes_as_it_is(tmp_path: Path) -> None:
    found = read_image(saved(tmp_path / "a.png", Image.fromarray(COLOURS)))
    assert found.dtype == np.uint8 and np.array_equal(found, COLOURS)


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = COLOURS[:, :, 0]
    found = read_image(saved(tmp_path / "grey.png", Image.fromarray(grey)))
    assert np.array_equal(found, np.repeat(grey[:, :, None], 3, 2))
    deep = grey.astype(np.uint16) * 257
    assert np.array_equal(read_image(saved(tmp_path / "deep.png", Image.fromarray(deep))), found)
    bits = read_image(saved(tmp_path / "bits.png", Image.fromarray(grey > 127)))
    assert np.array_equal(bits[:, :, 0], np.where(grey > 127, 255, 0))


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    alpha = np.array([0, 255, 128, 0, 255, 0, 255], np.uint8)
    layers = np.concatenate([COLOURS, np.broadcast_to(alpha[:, None], (5, 7, 1))], 2)
    found = read_image(saved(tmp_path / "a.png", Image.fromarray(layers))).astype(float)
    share = alpha[:, None] / 255.0
    assert np.abs(found - (COLOURS * share + 255.0 * (1 - share))).max() <= 1
    grey = Image.fromarray(layers[:, :, 2:])
    assert grey.mode == "LA"
    found = read_image(saved(tmp_path / "la.png", grey))
    assert (found[:, [0, 3, 5]] == 255).all() and np.array_equal(found[:, 1, 0], COLOURS[:, 1, 2])


def test_a_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putdata([0, 1])
    image.save(tmp_path / "p.png", transparency=1)
    assert read_image(tmp_path / "p.png").tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_jpeg_gif_and_cmyk(tmp_path: Path) -> None:
    flat = Image.new("RGB", (8, 8), (200, 40, 90))
    for name, image in (("a.jpg", flat), ("a.gif", flat), ("cmyk.jpg", flat.convert("CMYK"))):
        found = read_image(saved(tmp_path / name, image)).astype(int)
        assert found.shape == (8, 8, 3) and np.abs(found - [200, 40, 90]).max() <= 6, name


def test_the_cameras_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the top of the picture is at the right of what is stored
    Image.fromarray(COLOURS).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png"), np.rot90(COLOURS, -1))


def claiming(path: Path, side: int) -> Path:
    """A sound header that claims side x side pixels, and next to nothing behind it."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"")]
    framed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))
    return path


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--image"):
        read_image(None)
    with pytest.raises(InputError, match="there is no picture at"):
        read_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match="not a picture that Pillow knows"):
        read_image(tmp_path / "text.png")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(InputError, match="not a picture"):
        read_image(tmp_path / "empty.png")
    whole = saved(tmp_path / "whole.png", Image.fromarray(COLOURS)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:-40])
    with pytest.raises(InputError, match=r"cut\.png is damaged"):
        read_image(tmp_path / "cut.png")
    with pytest.raises(InputError, match="claims far more pixels"):
        read_image(claiming(tmp_path / "huge.png", 40_000))
    with pytest.raises(InputError, match="11000 x 11000 pixels, more than 100 million"):
        read_image(claiming(tmp_path / "large.png", 11_000))


@pytest.mark.parametrize("flip", range(0, 120, 3))
def test_a_damaged_file_is_a_sentence_or_a_picture(flip: int, tmp_path: Path) -> None:
    noisy = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    data = bytearray(saved(tmp_path / "a.png", Image.fromarray(noisy)).read_bytes())
    data[flip * len(data) // 120] ^= 0x55
    (tmp_path / "a.png").write_bytes(data)
    try:
        assert read_image(tmp_path / "a.png").shape[2] == 3
    except InputError as error:
        assert "a.png" in str(error)
