"""Calibration data from the user: an .npz that becomes samples of each entry point.

Arrays are named ``INPUT`` or ``ENTRY/INPUT``. Each holds one sample (the input's shape) or many along a new first axis
([N, *shape]) or along the batch axis ([N * batch, ...]). Raises InputError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edge.errors import InputError
from edge.families.base import Arrays, EntryPoint
from edge.spec import TensorSpec


def calibration_for(entry: EntryPoint, arrays: Mapping[str, np.ndarray], path: Path) -> Sequence[Arrays] | None:
    """The samples that ``arrays`` hold for ``entry``; None if they hold nothing for it."""
    columns: dict[str, list[np.ndarray]] = {}
    for spec in entry.inputs:
        array = arrays.get(f"{entry.name}/{spec.name}", arrays.get(spec.name))
        if array is not None:
            columns[spec.name] = _split(spec, array, path)
    if not columns:
        return None
    missing = [spec.name for spec in entry.inputs if spec.name not in columns and spec.fill is None]
    if missing:
        raise InputError(f"{path} has no array '{missing[0]}', which entry point '{entry.name}' needs: add it.")
    counts = {name: len(values) for name, values in columns.items()}
    if len(set(counts.values())) != 1:
        listed = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise InputError(f"{path} holds different numbers of samples ({listed}): give the same number of each.")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _split(spec: TensorSpec, array: np.ndarray, path: Path) -> list[np.ndarray]:
    shape = spec.shape
    kind = np.dtype(spec.dtype)
    if array.dtype != kind and not np.can_cast(array.dtype, kind, casting="same_kind"):
        raise InputError(f"'{spec.name}' in {path} is {array.dtype} but must be {spec.dtype}: cast it.")
    array = array.astype(kind, copy=False)
    if not np.all(np.isfinite(array)):
        raise InputError(f"'{spec.name}' in {path} has NaN or infinite values: remove those samples.")
    if _fits(shape, array.shape):
        return [array]
    if array.ndim == len(shape) + 1 and array.shape[0] > 0 and _fits(shape, array.shape[1:]):
        return list(array)
    batch = shape[0] if shape else None
    if isinstance(batch, int) and array.ndim == len(shape) and array.shape[0] and array.shape[0] % batch == 0 and _fits(shape[1:], array.shape[1:]):
        return np.split(array, array.shape[0] // batch)
    raise InputError(
        f"'{spec.name}' in {path} has shape {list(array.shape)} but must be {list(shape)} or [N, {str(list(shape))[1:]}."
    )


def _fits(shape: tuple[int | str, ...], actual: tuple[int, ...]) -> bool:
    return len(shape) == len(actual) and all(isinstance(a, str) or a == b for a, b in zip(shape, actual, strict=True))
