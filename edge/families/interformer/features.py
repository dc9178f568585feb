"""The features file: what the encoder found in one picture, for clicks on another machine.

An .npz of plain arrays: the outputs of ``encode`` by name, the picture as the encoder saw it, and a header (JSON) that
says which model made it. A file of another model, or of the same one exported for another size, is refused.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from edge.errors import InputError
from edge.families.interformer.interact import Encoded
from edge.files import write_atomically
from edge.manifest import EntryRecord, Manifest
from edge.npz import read_npz

_HEADER, _PICTURE = "header", "picture"


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["edge interformer features"]
    version: Literal[1]
    model: str  # `identity` of the bundle that encoded
    size: tuple[int, int]  # height and width of the user's own picture
    padded: tuple[int, int]


def identity(manifest: Manifest) -> str:
    """The same for all bundles of one model at one size, whatever their runtime, scheme and target."""
    facts = (manifest.family, manifest.config, manifest.checkpoint_sha256, manifest.random_seed)
    return hashlib.sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()


def write(path: Path, encoded: Encoded, manifest: Manifest) -> Path:
    """Write ``encoded`` to ``path``, whole or not at all. Raises StorageError."""
    header = _Header("edge interformer features", 1, identity(manifest), encoded.size, encoded.padded)
    arrays = {
        _HEADER: np.frombuffer(msgspec.json.encode(header), np.uint8),
        _PICTURE: encoded.picture,
        **encoded.features,
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy types the keywords as its own options
    write_atomically(path, buffer.getvalue())
    return path


def read(path: Path, manifest: Manifest) -> Encoded:
    """What ``path`` holds, for the click bundle of ``manifest``; InputError if it is none or another model's."""
    arrays = read_npz(path)
    try:
        header = msgspec.json.decode(arrays.pop(_HEADER).tobytes(), type=_Header)
        picture = arrays.pop(_PICTURE)
    except (KeyError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no features file: make one with `edge run ENCODER.edge --encode PICTURE -o FILE`.") from error
    if header.model != identity(manifest):
        raise InputError(
            f"{path} was encoded by another model, or for another picture size, than this bundle clicks with: encode "
            "the picture again with the bundle that belongs to it."
        )
    entry = manifest.entry("click")
    _check(path, arrays, picture, header, entry)
    return Encoded(picture, header.size, header.padded, arrays)


def _check(
    path: Path, arrays: dict[str, np.ndarray], picture: np.ndarray, header: _Header, entry: EntryRecord
) -> None:
    """What a damaged or doctored file may get wrong."""
    specs = {spec.name: spec for spec in entry.inputs if spec.name != "shares"}
    finest = specs["finest"].shape
    sound = (
        picture.dtype == np.uint8
        and picture.ndim == 3
        and picture.shape[2] == 3
        and 0 < picture.shape[0] <= header.padded[0]
        and 0 < picture.shape[1] <= header.padded[1]
        and header.padded == (4 * int(finest[2]), 4 * int(finest[3]))
        and picture.shape[0] <= header.size[0]
        and picture.shape[1] <= header.size[1]
        and arrays.keys() == specs.keys()
    )
    if sound:
        for name, spec in specs.items():
            spec.check(arrays[name])
            sound = sound and bool(np.isfinite(arrays[name]).all())
    if not sound:
        raise InputError(f"{path} is a damaged features file: encode the picture again.")
