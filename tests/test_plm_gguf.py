"""GGUF: written and read back, every type that the authors publish, and what is refused."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import quantize
from test_plm_model import GOLDEN, TOLERANCE, recipe
from tokenizers import Tokenizer
from typer.testing import CliRunner

from edge import checkpoints
from edge.cli.app import app
from edge.errors import CheckpointError, UsageError
from edge.families.base import Source, find
from edge.families.plm.config import read_config
from edge.families.plm.gguf_file import TYPES, GgufFile, gguf_name, hf_name, write
from edge.families.plm.modules import PLM
from edge.families.plm.weights import from_checkpoint, tensor_shapes

DEMO = checkpoints.demo_folder("plm")


def take(name: str) -> torch.Tensor:
    return torch.from_numpy(recipe().fill(name, tensor_shapes(read_config(GOLDEN / "small_config.json"))[name]))


def test_names_go_both_ways() -> None:
    config = read_config(GOLDEN / "small_config.json")
    names = [*tensor_shapes(config), "lm_head.weight"]
    assert [hf_name(gguf_name(name)) for name in names] == names
    assert gguf_name("model.layers.2.self_attn.kv_a_proj_with_mqa.weight") == "blk.2.attn_kv_a_mqa.weight"
    assert hf_name("rope_freqs.weight") == "rope_freqs.weight"


def test_the_golden_through_a_file(tmp_path: Path) -> None:
    config = read_config(GOLDEN / "small_config.json")
    path = tmp_path / "golden.gguf"
    write(path, config, take, "f32", None)
    file = GgufFile(path)
    assert file.config() == config and file.tokenizer_json() is None
    model = PLM(file.config())
    model.load_state_dict(dict(file.checkpoint().tensors))
    with np.load(GOLDEN / "small.npz") as stored, torch.no_grad():
        found = model(torch.from_numpy(stored["input_ids"]).long()[None])[0].numpy()
        assert np.abs(found - stored["logits"]).max() < TOLERANCE
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("kind", "error"), [("f32", 0.0), ("f16", 5e-4), ("q8_0", 1e-2)])
def test_the_demo_there_and_back(tmp_path: Path, kind: str, error: float) -> None:
    checkpoint = checkpoints.read(DEMO)
    config = read_config(DEMO / "config.json")
    path = tmp_path / "demo.gguf"
    write(path, config, from_checkpoint(checkpoint, config), kind, DEMO / "tokenizer.json")
    file = GgufFile(path)
    found = file.checkpoint().tensors
    assert found.keys() == checkpoint.tensors.keys()
    for name, tensor in checkpoint.tensors.items():
        assert float((found[name] - tensor).abs().max()) <= error * float(tensor.abs().max()), name
    text = file.tokenizer_json()
    assert text is not None
    ours, theirs = Tokenizer.from_file(str(DEMO / "tokenizer.json")), Tokenizer.from_str(text)
    for sample in ("Return 2024's naïve list.\n\n    x = 1\r\n", "<|im_start|>user\nWhat?<|im_end|>"):
        assert ours.encode(sample).ids == theirs.encode(sample).ids
        assert theirs.decode(theirs.encode(sample).ids, skip_special_tokens=False) == sample
    model = find("plm")[0].load("plm", None, Source(checkpoint=path, context=32))
    assert model.assets["tokenizer.json"].read_text() == text and model.config["eos_token_id"] == 2
    assert len(str(model.checkpoint_sha256)) == 64


@pytest.mark.parametrize(
    ("kind", "error"), [("F32", 0.0), ("F16", 5e-4), ("BF16", 4e-3), ("Q8_0", 1e-2), ("Q4_0", 0.16)]
)
def test_types_that_others_write(tmp_path: Path, kind: str, error: float) -> None:
    stored = gguf.GGMLQuantizationType[kind]
    config = read_config(GOLDEN / "small_config.json")
    wide = take("model.layers.0.mlp.up_proj.weight").numpy()
    found = _rewritten(tmp_path, config, quantize(wide, stored), stored)
    assert float(np.abs(found - wide).max()) <= error * np.abs(wide).max()


@pytest.mark.parametrize(("kind", "size"), [("Q4_K", 144), ("Q6_K", 210)])
def test_k_quants_are_widened_as_llama_cpp_lays_them_out(tmp_path: Path, kind: str, size: int) -> None:
    config = read_config(GOLDEN / "small_config.json")
    rows, blocks = config.hidden_size, config.intermediate_size // 256
    raw = np.random.default_rng(0).integers(0, 256, (rows, blocks, size), dtype=np.uint8)
    half = np.array([0.01, 0.002], np.float16).view(np.uint8)
    if kind == "Q4_K":
        raw[:, :, :4] = half  # d, dmin; then 12 bytes of 6-bit scales, 128 of nibbles
    else:
        raw[:, :, -2:] = half[:2]  # 128 low nibbles, 64 of upper bits, 16 scales, d
    name = "model.layers.0.mlp.down_proj.weight"
    found = _rewritten(tmp_path, config, raw.reshape(rows, -1), gguf.GGMLQuantizationType[kind], name)
    block = raw[3, 1].astype(int)
    if kind == "Q4_K":  # element 70 is in the third sub-block: low nibble, scale and minimum from their own bytes
        scale, minimum, nibble = block[4 + 2] & 63, block[8 + 2] & 63, block[16 + 32 + 6] & 15
        d, dmin = (float(value) for value in half.view(np.float16))
        expected = d * scale * nibble - dmin * minimum
    else:  # element 5: low nibble of the sixth byte, its two upper bits, the first scale
        quant = (block[5] & 15) | ((block[128 + 5] & 3) << 4)
        expected = float(half.view(np.float16)[0]) * int(np.int8(raw[3, 1, 192])) * (quant - 32)
    place = 256 + (70 if kind == "Q4_K" else 5)
    assert float(found[3, place]) == pytest.approx(expected, rel=1e-5)


def _rewritten(
    folder: Path, config: object, data: np.ndarray, kind: gguf.GGMLQuantizationType, name: str = "model.layers.0.mlp.up_proj.weight"
) -> np.ndarray:
    """What is read of one tensor that a file stores as ``data`` of type ``kind``."""
    writer = gguf.GGUFWriter(folder / "one.gguf", "plm")
    writer.add_tensor(gguf_name(name), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufFile(folder / "one.gguf").checkpoint().tensors[name].numpy()


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        GgufFile(tmp_path / "gone.gguf")
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF\x03\0\0\0 and then something else")
    with pytest.raises(CheckpointError, match="not a whole GGUF file"):
        GgufFile(tmp_path / "damaged.gguf")
    writer = gguf.GGUFWriter(tmp_path / "llama.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match="architecture 'llama', not plm"):
        GgufFile(tmp_path / "llama.gguf")
    config = read_config(GOLDEN / "small_config.json")
    assert "q9" not in TYPES
    with pytest.raises(UsageError, match="choose one of f32, f16, q8_0"):
        write(tmp_path / "x.gguf", config, take, "q9", None)
    with pytest.raises(UsageError, match="has no GGUF form"):
        find("tspulse")[0].write_gguf("tspulse", None, Source(), tmp_path / "x.gguf", "f16")


def test_convert_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "demo.gguf"
    result = CliRunner().invoke(app, ["convert", "plm", "--type", "q8_0", "-o", str(path)])
    assert result.exit_code == 0 and result.stdout.startswith(f"wrote {path} (")
    assert GgufFile(path).config().hidden_size == 192
    result = CliRunner().invoke(app, ["convert", "plm", "-o", str(tmp_path / "demo.bin")])
    assert isinstance(result.exception, UsageError) and "does not end in .gguf" in str(result.exception)
