"""The user's calibration file: every shape it may have, and one sentence for those it may not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edge.errors import InputError
from edge.export.calibration import calibration_for
from edge.families.base import EntryPoint
from edge.npz import read_npz
from edge.spec import TensorSpec


def entry(*shape: int) -> EntryPoint:
    return EntryPoint(
        name="forward",
        module=nn.Identity(),
        inputs=(
            TensorSpec(name="x", dtype="float32", shape=shape),
            TensorSpec(name="mask", dtype="float32", shape=shape, fill=1.0),
        ),
        outputs=("y",),
        samples=(),
    )


@given(batch=st.integers(1, 3), width=st.integers(1, 5), count=st.integers(1, 4), stacked=st.booleans(), named=st.booleans())
def test_stacked_or_along_the_batch_gives_the_same_samples(batch: int, width: int, count: int, stacked: bool, named: bool) -> None:
    values = np.arange(count * batch * width, dtype=np.float32).reshape(count, batch, width)
    array = values if stacked else values.reshape(count * batch, width)
    arrays = {"forward/x" if named else "x": array}
    found = calibration_for(entry(batch, width), arrays, Path("c.npz"))
    assert found is not None
    assert np.array_equal(np.stack([sample["x"] for sample in found]), values)


def test_arrays_for_another_entry_are_not_taken() -> None:
    assert calibration_for(entry(1, 2), {"other/x": np.zeros((1, 2), np.float32)}, Path("c.npz")) is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((3, 7), np.float32)}, r"shape \[3, 7\] but must be \[1, 2\]"),
        ({"x": np.array([["a", "b"]])}, "cast it"),
        ({"x": np.array([[np.nan, 1]], np.float32)}, "NaN"),
        ({"mask": np.zeros((1, 2), np.float32)}, "no array 'x'"),
        ({"x": np.zeros((4, 1, 2), np.float32), "mask": np.zeros((3, 1, 2), np.float32)}, "different numbers of samples"),
    ],
)
def test_refusals(arrays: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(InputError, match=words):
        calibration_for(entry(1, 2), arrays, Path("c.npz"))


def test_files_that_are_not_an_npz(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        read_npz(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(InputError, match=r"not a readable \.npz"):
        read_npz(tmp_path / "text.npz")
    np.savez(tmp_path / "pickled.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match=r"not a readable \.npz"):
        read_npz(tmp_path / "pickled.npz")
    np.save(tmp_path / "bare.npy", np.zeros(2))
    with pytest.raises(InputError, match="bare array"):
        read_npz(tmp_path / "bare.npy")
    np.savez(tmp_path / "whole.npz", x=np.zeros(1000))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:600])
    with pytest.raises(InputError, match=r"not a readable \.npz"):
        read_npz(tmp_path / "cut.npz")
