"""Both entry points through every runtime, in float32 and quantized, at a size that is no square."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import edge
from edge.bundle import Bundle
from edge.families.interformer.config import InterFormerConfig

CONFIG = InterFormerConfig(
    image_size=64, input_size=(64, 96), embed_dims=16, num_layers=1, num_heads=2, fpn_dims=(8, 8, 16, 16),
    neck_heads=(1, 2, 2, 2), depths=(1, 1, 2, 2), refine_start=(1, 1, 2, 1), neck_mlp_ratios=(2, 2, 2, 2),
    pool_ratios=((3, 5), (2, 3), (1, 2), (1, 2)), head_channels=8, pool_scales=(1, 2), auxiliary_head=False,
)  # fmt: skip


def export(tmp_path: Path, runtime: str, scheme: str) -> Bundle:
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(CONFIG))
    exported = edge.export(
        "interformer", target="cpu", runtime=runtime, quantize=scheme, config=tmp_path / "config.json",
        random_weights=1, output=tmp_path / "both.edge",
    )  # fmt: skip
    return exported.bundle


@pytest.mark.parametrize(
    ("runtime", "scheme"),
    [
        ("onnx", "fp32"),
        pytest.param("executorch", "fp32", marks=pytest.mark.slow),
        pytest.param("tvm", "fp32", marks=pytest.mark.slow),
        pytest.param("onnx", "int8", marks=pytest.mark.slow),
        pytest.param("onnx", "int8-dynamic", marks=pytest.mark.slow),
        pytest.param("executorch", "int8", marks=pytest.mark.slow),
        pytest.param("tvm", "int8", marks=pytest.mark.slow),
    ],
)
def test_both_entry_points(tmp_path: Path, runtime: str, scheme: str) -> None:
    bundle = export(tmp_path, runtime, scheme)
    assert [entry.name for entry in bundle.manifest.entries] == ["encode", "click"]
    checks = edge.verify(bundle.path)
    worst = max(output.relative for check in checks for output in check.outputs)
    assert all(output.passed for check in checks for output in check.outputs)
    if scheme == "fp32":
        assert worst < 1e-4
    for record in bundle.manifest.notes.delegation:
        if scheme == "fp32":
            # XNNPACK takes all that computes; what stays is the encoder's table look-up and copies of the click's shapes.
            assert set(record.portable) <= {
                "aten.index_select.default", "aten.expand_copy.default", "aten.unsqueeze_copy.default",
            }, record  # fmt: skip
