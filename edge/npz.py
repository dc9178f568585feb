"""An .npz that a user made, read: plain arrays or a sentence; and one of ours, written."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edge.errors import InputError


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz, without pickle; InputError if it is missing or not one."""
    if not path.is_file():
        raise InputError(f"there is no file {path}: check the path.")
    try:
        # An open file rather than a path: numpy leaves its own handle open when what it reads is no zip.
        with path.open("rb") as stream:
            stored = np.load(stream, allow_pickle=False)
            if isinstance(stored, np.ndarray):
                raise InputError(f"{path} holds one bare array, not an .npz: save it with numpy.savez and input names.")
            return {name: stored[name] for name in stored.files}
    except (ValueError, OSError, zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, KeyError, NotImplementedError) as error:
        raise InputError(f"{path} is not a readable .npz of plain arrays ({error}): save it with numpy.savez.") from error


def encode_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """``arrays`` as the bytes of an .npz, whatever their names are (numpy.savez takes some for its own options)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(f"{name}.npy", member.getvalue())
    return buffer.getvalue()
