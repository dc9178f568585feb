"""The two tasks: ``encode`` a picture into a features file, and ``click`` on it, which cuts out a mask."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edge.errors import InputError, UsageError
from edge.families.interformer import features, images
from edge.families.interformer.clicks import parse_clicks
from edge.families.interformer.interact import Encoded, Interaction, encode
from edge.files import write_atomically
from edge.imagefile import read_image
from edge.progress import Progress
from edge.tasks import Task, TaskRequest, TaskResult

if TYPE_CHECKING:
    from edge.manifest import Manifest
    from edge.runtimes.base import Session


class Encode(Task):
    name: ClassVar[str] = "encode"
    summary: ClassVar[str] = "look at a picture once, for all clicks on it"
    needs: ClassVar[tuple[str, ...]] = ("encode",)

    def run(self, session: Session, request: TaskRequest, progress: Progress) -> TaskResult:
        if request.image.image is None:
            raise InputError("encoding needs a picture: give one with --encode FILE.")
        if request.output is None:
            raise InputError("encoding writes a features file: say where with -o FILE.")
        began = time.perf_counter()
        encoded = encode_picture(session, request.image.image)
        seconds = time.perf_counter() - began
        features.write(request.output, encoded, session.manifest)
        height, width = encoded.size
        return TaskResult(
            lines=(f"{request.image.image}: {width}x{height} pixels{_scaled(encoded)}, encoded in {seconds:.2f} s",),
            values={"width": width, "height": height, "seen": encoded.picture.shape[1::-1], "seconds": round(seconds, 4)},
            written=(request.output,),
        )


class CutOut(Task):
    name: ClassVar[str] = "click"
    summary: ClassVar[str] = "cut out what is clicked on"
    needs: ClassVar[tuple[str, ...]] = ("click",)

    def run(self, session: Session, request: TaskRequest, progress: Progress) -> TaskResult:
        asked = request.image
        encoded = find_encoded(session, asked.features, asked.image)
        clicks = parse_clicks(asked.clicks, *encoded.size)
        if not clicks:
            raise InputError("nothing is clicked on: give --click X,Y,+ for a pixel of the object, and more to correct.")
        interaction = Interaction(session.run, encoded, radius(session))
        began = time.perf_counter()
        with progress.bar("clicking", len(clicks)) as bar:
            for click in clicks:
                interaction.click(click)
                bar.advance()
        milliseconds = 1e3 * (time.perf_counter() - began) / len(clicks)
        mask, written = interaction.mask, []
        if request.output is not None:
            write_atomically(request.output, images.mask_png(mask))
            written.append(request.output)
        if asked.overlay is not None:
            write_atomically(asked.overlay, images.png(_overlay(encoded, mask, asked.image)))
            written.append(asked.overlay)
        area, box = int(mask.sum()), _box(mask)
        height, width = mask.shape
        found = f"{area} of {mask.size} pixels ({area / mask.size:.1%})"
        where = f", x {box[0]} to {box[2] - 1}, y {box[1]} to {box[3] - 1}" if box else ""
        return TaskResult(
            lines=(
                f"{len(clicks)} click{'s' if len(clicks) > 1 else ''} on {width}x{height} pixels{_scaled(encoded)}: "
                f"{milliseconds:.1f} ms each",
                f"the object has {found}{where}",
            ),
            values={
                "width": width, "height": height, "pixels": area, "box": box, "clicks": len(clicks),
                "ms_per_click": round(milliseconds, 3),
            },
            written=tuple(written),
        )  # fmt: skip


def encode_picture(session: Session, path: Path) -> Encoded:
    """The picture at ``path`` through a bundle that holds ``encode``."""
    return encode(session.run, read_image(path), _size(session.manifest))


def _size(manifest: Manifest) -> tuple[int, int]:
    """Height and width that the entry point ``encode`` takes."""
    height, width = manifest.entry("encode").inputs[0].shape[2:]
    return int(height), int(width)


def encode_elsewhere(encoder: Session, clicks: Manifest, picture: np.ndarray) -> Encoded:
    """``picture`` (RGB uint8) through another bundle, for the one of ``clicks``; UsageError if they do not belong together."""
    if "encode" not in {entry.name for entry in encoder.manifest.entries}:
        raise UsageError("the bundle given as encoder has no entry point 'encode': pass the one that was exported with --part encode.")
    if features.identity(encoder.manifest) != features.identity(clicks):
        raise UsageError("the encoder is another model, or for another picture size, than the bundle to click with: export both from one checkpoint.")
    return encode(encoder.run, picture, _size(encoder.manifest))


def find_encoded(session: Session, stored: Path | None, picture: Path | None) -> Encoded:
    """The features at hand, or the picture encoded by the bundle itself if it can."""
    if stored is not None:
        return features.read(stored, session.manifest)
    if picture is None:
        raise InputError("clicking needs an encoded picture: give its features file with --features FILE.")
    if "encode" not in {entry.name for entry in session.manifest.entries}:
        raise InputError(
            f"this bundle clicks but does not encode: encode {picture} with the encoder's bundle (`edge run ENCODER.edge "
            f"--encode {picture} -o FILE`) and pass --features FILE."
        )
    return encode_picture(session, picture)


def radius(session: Session) -> int:
    """Of a click's disk, in pixels of the picture that the encoder saw."""
    found = session.manifest.config["click_radius"]
    assert isinstance(found, int)
    return found


def _scaled(encoded: Encoded) -> str:
    height, width = encoded.picture.shape[:2]
    return "" if (height, width) == encoded.size else f" (seen at {width}x{height})"


def _overlay(encoded: Encoded, mask: np.ndarray, path: Path | None) -> np.ndarray:
    """Over the user's own picture if it was given, else over what the encoder saw of it, at that size."""
    picture = encoded.picture if path is None else read_image(path)
    height, width = picture.shape[:2]
    if (height, width) != mask.shape:
        mask = images.enlarged(mask[None].astype(np.float32), height, width)[0] > 0.5
    return images.overlaid(picture, mask)


def _box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """left, up, right, bottom, the last two exclusive."""
    if not mask.any():
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
