"""What a profile says in the terms of the model's own task, against the task itself."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

import edge
from edge import cli
from edge.bundle import read_manifest
from edge.conditions import Energy, Figure
from edge.families.base import get_family


def export(model: str, path: Path) -> Path:
    arguments = ["export", model, "--target", "cpu", "--runtime", "onnx", "--quantize", "fp32", "-o", str(path)]
    assert cli.invoke(arguments) == 0
    return path


def by_name(figures: tuple[Figure, ...]) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures}


@pytest.mark.slow
def test_tokens_per_second_are_what_generating_reaches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = export("plm", tmp_path / "plm.edge")
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


@pytest.mark.slow
def test_a_click_and_a_picture_have_their_times(tmp_path: Path) -> None:
    bundle = export("interformer", tmp_path / "interformer.edge")
    measured = edge.profile(bundle, threads=1, runs=5, seconds=0.0, operators=False, roofline=False)
    times = {entry.entry: entry.latency.p50_us / 1e3 for entry in measured.entries}
    figures = {name: figure.value for name, figure in by_name(measured.figures).items()}
    assert figures == {"time of a picture": times["encode"], "time of a click": times["click"]}


def test_other_models_have_none(digits_bundle: Path) -> None:
    measured = edge.profile(digits_bundle, threads=1, runs=5, seconds=0.0, operators=False, roofline=False)
    assert measured.figures == ()
