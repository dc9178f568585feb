"""Side by side: the bootstrap on numbers whose answer is known, saved profiles, and bundles measured in turns."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console
from tiny import SHAPES, make_bundle

import edge
from edge import compare as comparing
from edge.compare import Comparison, compare, ratio_of_medians
from edge.errors import InputError, UsageError
from edge.measurement import Latency, Measurement, Run
from edge.progress import Progress
from edge.report import jsonfile, sidebyside


@pytest.fixture(autouse=True)
def _fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "RESAMPLES", 300)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("compare")
    return make_bundle(folder / "a.edge").path, make_bundle(folder / "b.edge", threads=1).path


@pytest.fixture(scope="module")
def profiled(bundles: tuple[Path, Path]) -> Measurement:
    return edge.profile(bundles[0], threads=1, runs=20, seconds=0.0, operators=False, roofline=False)


def faster(measured: Measurement, factor: float) -> Measurement:
    """The same measurement with every run ``factor`` times as fast."""
    entries = []
    for entry in measured.entries:
        runs = tuple(Run(run.start_us, run.duration_us / factor) for run in entry.runs)
        latency = Latency.of([run.duration_us for run in runs])
        entries.append(msgspec.structs.replace(entry, runs=runs, latency=latency))
    return msgspec.structs.replace(measured, entries=tuple(entries))


def noisy(median: float, rounds: int, seed: int, spread: float = 0.05) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [median * generator.lognormal(0.0, spread, 40) for _ in range(rounds)]


# --- the bootstrap


def test_twice_as_fast_is_found() -> None:
    found = ratio_of_medians(noisy(100.0, 5, 0), noisy(50.0, 5, 1), paired=True)
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(2.0, rel=0.05)
    assert found.certain and 1.9 < found.low < found.high < 2.1


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Equal sides: 1 lies within the 95 % interval in nearly all of 24 repetitions."""
    held = 0
    for seed in range(24):
        found = ratio_of_medians(noisy(100.0, 5, 2 * seed), noisy(100.0, 5, 2 * seed + 1), paired=True, seed=seed)
        held += not found.certain
    assert held >= 20


def test_drift_that_both_sides_share_cancels_in_pairs() -> None:
    """The machine slows down by half from round to round; the other side is 10 % faster throughout."""
    drift = [1.0, 1.5, 2.25, 3.4]
    first = [slow * one for slow, one in zip(drift, noisy(100.0, 4, 3, 0.01), strict=True)]
    other = [slow * one for slow, one in zip(drift, noisy(100.0 / 1.1, 4, 4, 0.01), strict=True)]
    paired = ratio_of_medians(first, other, paired=True)
    apart = ratio_of_medians(first, other, paired=False)
    assert paired.certain and paired.value == pytest.approx(1.1, rel=0.03)
    assert apart.high - apart.low > 3 * (paired.high - paired.low)


def test_the_same_numbers_give_the_same_interval() -> None:
    sides = noisy(100.0, 2, 0), noisy(90.0, 2, 1)
    assert ratio_of_medians(*sides, paired=True) == ratio_of_medians(*sides, paired=True)


def test_very_many_runs_are_thinned_for_the_bootstrap_only() -> None:
    many = [np.linspace(1.0, 3.0, 50_001)]
    found = ratio_of_medians(many, [many[0] / 2], paired=False)
    assert found.value == pytest.approx(2.0)
    assert found.low == pytest.approx(2.0, rel=0.1)


# --- saved profiles


def test_saved_profiles_side_by_side(profiled: Measurement, tmp_path: Path) -> None:
    jsonfile.save(profiled, tmp_path / "slow.json")
    jsonfile.save(faster(profiled, 4.0), tmp_path / "fast.json")
    found = compare([tmp_path / "slow.json", tmp_path / "fast.json"])
    assert [side.name for side in found.sides] == ["slow.json", "fast.json"]
    assert all(side.saved for side in found.sides)
    for row, entry in zip(found.rows, profiled.entries, strict=True):
        first, other = row.cells
        assert first is not None and other is not None and other.ratio is not None
        assert first.ratio is None
        assert first.p50_us == entry.latency.p50_us and first.p90_us == entry.latency.p90_us
        assert other.ratio.value == pytest.approx(4.0) and other.ratio.certain
        assert first.relative == 1e-6
    assert any("not measured in turns" in sentence for sentence in found.warnings)
    text = shown(found)
    assert "4.00x" in text and "slow.json" in text and "0.975" in text


def test_sides_that_differ_otherwise_are_said(profiled: Measurement) -> None:
    other = msgspec.structs.replace(
        profiled,
        device=msgspec.structs.replace(profiled.device, cpu="Another CPU"),
        settings=msgspec.structs.replace(profiled.settings, threads=4),
        bundle=msgspec.structs.replace(profiled.bundle, model="another"),
        entries=tuple(msgspec.structs.replace(entry, entry=f"{entry.entry}-2") for entry in profiled.entries),
    )
    found = comparing.build(["a", "b"], [True, True], [[profiled], [other]])
    said = " ".join(found.warnings)
    for wanted in ("different machines", "different numbers of threads", "not the same model", "no entry point"):
        assert wanted in said
    assert [row.cells[0] is None for row in found.rows] == [False, False, True, True]
    assert "-" in shown(found)


# --- bundles


def test_bundles_take_turns(bundles: tuple[Path, Path], profiled: Measurement, tmp_path: Path) -> None:
    class Bar(Progress):
        total = 0

        def bar(self, description: str, total: int):  # type: ignore[no-untyped-def]
            self.total = total
            return super().bar(description, total)

    saved = tmp_path / "old.json"
    jsonfile.save(profiled, saved)
    progress = Bar()
    found = compare([*bundles, saved], rounds=2, runs=5, seconds=0.0, entries=["small"], progress=progress)
    assert progress.total == 4
    assert found.rounds == 2
    assert [side.saved for side in found.sides] == [False, False, True]
    assert [side.threads for side in found.sides] == [1, 1, 1]  # the fewest that a bundle's target has
    assert [row.entry for row in found.rows] == list(SHAPES)  # the saved one has more
    first, second, old = found.rows[0].cells
    assert first is not None and second is not None and old is not None
    assert first.runs == second.runs == 10 and old.runs == 20
    assert second.ratio is not None and second.ratio.low <= second.ratio.value <= second.ratio.high
    assert found.sides[0].peak_bytes > found.sides[0].model_bytes > 0
    assert msgspec.json.decode(comparing.encode(found), type=Comparison) == found


# --- refusals


def test_what_cannot_be_compared(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two or more"):
        compare([bundles[0]])
    with pytest.raises(UsageError, match="there is nothing at"):
        compare([bundles[0], tmp_path / "nothing"])
    with pytest.raises(UsageError, match="at least 1 round"):
        compare(bundles, rounds=0)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InputError, match="is not what"):
        compare([bundles[0], tmp_path / "other.json"])


def test_equal_names_are_told_apart(bundles: tuple[Path, Path]) -> None:
    assert comparing._names([Path("x/a.edge"), Path("y/a.edge")]) == ["x/a.edge", "y/a.edge"]
    assert comparing._names(list(bundles)) == ["a.edge", "b.edge"]


def shown(comparison: Comparison) -> str:
    console = Console(file=io.StringIO(), width=160, color_system=None)
    console.print(sidebyside.render(comparison))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
