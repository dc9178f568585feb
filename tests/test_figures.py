"""What a profile says in the terms of the model's own task, against the task itself."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from measurements import entry

import edge
from edge import cli
from edge.bundle import read_manifest
from edge.conditions import Energy, Figure
from edge.families.base import get_family

#: A PLM that takes seconds to export, with room for the demo's tokenizer.
SMALL = {
    "model_type": "plm", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "kv_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 8, "v_head_dim": 32, "vocab_size": 2100,
    "max_position_embeddings": 96, "tie_word_embeddings": True,
}


def by_name(figures: tuple[Figure, ...]) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures}


@pytest.mark.slow
def test_tokens_per_second_are_what_generating_reaches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, bundle = tmp_path / "config.json", tmp_path / "plm.edge"
    config.write_text(json.dumps(SMALL))
    arguments = ["export", "plm", "--config", str(config), "--random-weights", "0", "--target", "cpu", "--quantize", "fp32"]
    assert cli.invoke([*arguments, "-o", str(bundle)]) == 0
    measured = edge.profile(bundle, threads=1, runs=20, seconds=0.3, operators=False, roofline=False)
    figures = by_name(measured.figures)
    assert set(figures) == {"prefill", "decode", "time to first token, prompt of 32"}
    times = {entry.entry: entry.latency.p50_us for entry in measured.entries}
    assert figures["prefill"].value == pytest.approx(32e6 / times["prefill"])
    assert figures["decode"].value == pytest.approx(1e6 / times["decode"])
    assert figures["time to first token, prompt of 32"].value == pytest.approx(times["prefill"] / 1e3)

    capsys.readouterr()
    said = ["run", str(bundle), "--prompt", "The list", "--max-new-tokens", "64", "--stats", "--threads", "1", "--json"]
    assert cli.invoke(said) == 0
    stats = json.loads(capsys.readouterr().out)
    # Generating also chooses tokens and writes the cache; on a machine that others use either may be disturbed.
    assert 0.08 < stats["decode_tokens_per_second"] / figures["decode"].value < 1.6

    metered = [
        msgspec.structs.replace(
            entry,
            energy=Energy(method="RAPL", joules=0.25, net_joules=None, watts=5.0, idle_watts=None, runs=9, seconds=1.0),
        )
        for entry in measured.entries
    ]
    manifest = read_manifest(bundle)
    again = by_name(get_family("plm").figures(manifest, {entry.entry: entry for entry in metered}))
    assert again["energy of a token"].value == 0.25 and "RAPL" in again["energy of a token"].method


def test_a_click_and_a_picture_have_their_times(digits_bundle: Path) -> None:
    manifest = read_manifest(digits_bundle)  # of which interformer's figures need nothing
    measured = {"encode": entry("encode", [2000.0] * 3), "click": entry("click", [500.0, 700.0, 600.0])}
    family = get_family("interformer")
    figures = {name: figure.value for name, figure in by_name(family.figures(manifest, measured)).items()}
    assert figures == {"time of a picture": 2.0, "time of a click": 0.6}
    alone = by_name(family.figures(manifest, {"click": measured["click"]}))
    assert list(alone) == ["time of a click"]


def test_other_models_have_none(digits_bundle: Path) -> None:
    measured = edge.profile(digits_bundle, threads=1, runs=5, seconds=0.0, operators=False, roofline=False)
    assert measured.figures == ()
