"""The gate: exact where theory says what must come out, its rate of false alarms held, real profiles, exit statuses."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measurements import entry, measurement
from tiny import make_bundle

import edge
from edge import cli, gate, ranks, results
from edge.errors import InputError, UsageError
from edge.gate import judge, parse_share
from edge.measurement import Measurement
from edge.report import jsonfile

# --- the test itself


@pytest.mark.parametrize(("first", "second"), [(1, 1), (2, 3), (3, 3), (4, 5)])
def test_arrangements_are_those_that_can_be_counted(first: int, second: int) -> None:
    counted = [0] * (first * second + 1)
    for places in itertools.combinations(range(first + second), first):
        counted[sum(places) - first * (first - 1) // 2] += 1
    assert ranks._arrangements(first, second) == counted


def test_bounds_are_those_of_the_published_table() -> None:
    """Critical values of U, one-sided 5 %: Mann and Whitney's tables give 1 for 4 and 4, 4 for 5 and 5, 11 for 7 and 7."""
    for size, critical in ((4, 1), (5, 4), (7, 11)):
        assert ranks._rank(size, size, 0.05) == critical + 1
    assert ranks._rank(3, 3, 0.05) == 1  # P(U = 0) is 1 in 20 and just enough
    assert not ranks.decidable(1, 7, 0.95) and not ranks.decidable(2, 2, 0.95)


@given(
    st.lists(st.floats(1.0, 1e6), min_size=1, max_size=8), st.lists(st.floats(1.0, 1e6), min_size=1, max_size=8),
    st.floats(0.1, 10),
)
def test_a_shift_is_a_ratio_and_turns_round(before: list[float], now: list[float], factor: float) -> None:
    found, turned = ranks.slowdown(before, now, 0.95), ranks.slowdown(now, before, 0.95)
    assert found.ratio * turned.ratio == pytest.approx(1.0)
    scaled = ranks.slowdown(before, [factor * value for value in now], 0.95)
    assert scaled.ratio == pytest.approx(factor * found.ratio)
    if found.low is not None and found.high is not None and scaled.low is not None:
        assert scaled.low == pytest.approx(factor * found.low)
        assert found.low <= found.ratio * (1 + 1e-9) and found.ratio <= found.high * (1 + 1e-9)


def process(generator: np.random.Generator, median: float, runs: int = 40) -> Measurement:
    """A made-up process: its own level (2 % between processes), skewed runs with rare outliers, as timings have."""
    level = median * np.exp(generator.normal(0, 0.02))
    times = level * (1 + 0.03 * generator.standard_exponential(runs))
    times[generator.random(runs) < 0.02] *= 8
    return measurement(entry("forward", [float(value) for value in times]))


def test_equal_bundles_are_called_slower_one_time_in_twenty_at_most() -> None:
    generator = np.random.default_rng(0)
    tries = 400
    alarms = sum(
        judge([process(generator, 100.0) for _ in range(7)], [process(generator, 100.0) for _ in range(7)], 0.0).regressed
        for _ in range(tries)
    )
    # Four standard deviations above 5 % of 400.
    assert alarms <= 20 + 4 * np.sqrt(tries * 0.05 * 0.95)
    assert alarms > 0  # a gate that never closes would hold any rate


def test_with_the_margin_equal_bundles_pass_and_slower_ones_do_not() -> None:
    generator = np.random.default_rng(1)
    verdicts = {}
    for factor in (1.0, 1.04, 1.15):
        verdicts[factor] = sum(
            judge(
                [process(generator, 100.0) for _ in range(7)], [process(generator, 100.0 * factor) for _ in range(7)], 0.05
            ).regressed
            for _ in range(60)
        )
    assert verdicts[1.0] == 0
    assert verdicts[1.04] <= 5  # slower, but by less than is allowed
    assert verdicts[1.15] >= 58


def test_means_would_have_been_fooled_and_medians_are_not() -> None:
    """One process in the new set was interrupted for a second: the mean is 2.4 times as long, the bundle is not."""
    generator = np.random.default_rng(2)
    before, now = ([process(generator, 100.0) for _ in range(7)] for _ in range(2))
    hurt = [run.duration_us for run in now[0].entries[0].runs]
    now[0] = measurement(entry("forward", [*hurt, 1e6]))
    means = [np.mean([run.duration_us for one in side for run in one.entries[0].runs]) for side in (before, now)]
    assert means[1] / means[0] > 2
    assert not judge(before, now, 0.05).regressed


def test_one_process_is_compared_by_stretches_and_says_so() -> None:
    generator = np.random.default_rng(3)
    alarms = 0
    for _ in range(300):
        # Runs of one process that resemble their neighbours (0.9 from one to the next).
        noise = np.zeros((2, 1000))
        for step in range(1, 1000):
            noise[:, step] = 0.9 * noise[:, step - 1] + generator.normal(0, 0.01, 2)
        sides = [[measurement(entry("forward", [float(value) for value in 100 * np.exp(row)]))] for row in noise]
        report = judge(sides[0], sides[1], 0.0)
        alarms += report.regressed
    assert report.verdicts[0].unit == "stretch of runs" and report.verdicts[0].now_units == gate.STRETCHES
    assert any("too few processes" in sentence for sentence in report.warnings)
    assert alarms <= 15 + 4 * np.sqrt(300 * 0.05 * 0.95)


# --- what may be compared


def test_what_cannot_be_compared_is_refused() -> None:
    one = process(np.random.default_rng(0), 100.0)
    elsewhere = msgspec.structs.replace(one, device=msgspec.structs.replace(one.device, cpu="Another CPU"))
    threads = msgspec.structs.replace(one, settings=msgspec.structs.replace(one.settings, threads=1))
    model = msgspec.structs.replace(one, bundle=msgspec.structs.replace(one.bundle, model="other"))
    shape = msgspec.structs.replace(one, entries=(msgspec.structs.replace(one.entries[0], inputs={"x": (2, 8)}),))
    more = msgspec.structs.replace(one, entries=(*one.entries, entry("decode", [1.0])))
    for other, reason in (
        (elsewhere, "another CPU .*--any-machine"), (threads, "number of threads"), (model, "another model"),
        (shape, "another shape"), (more, "no entry point 'decode'"),
    ):
        with pytest.raises(InputError, match=reason):
            judge([one], [other], 0.05)
    with pytest.raises(InputError, match="no measurement"):
        judge([], [one], 0.05)
    assert any("another CPU" in sentence for sentence in judge([one], [elsewhere], 0.05, any_machine=True).warnings)
    assert any("which was not measured" in sentence for sentence in judge([more], [one], 0.05).warnings)


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.05", 0.05), ("0", 0.0), ("12.5 %", 0.125), ("100%", 1.0)])
def test_shares(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "five", "5", "1", "-5%", "5 percent", "nan", "inf", "1e3", "5000%"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(UsageError, match="is no share"):
        parse_share(text)


# --- real profiles


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> list[Measurement]:
    """Ten processes of one bundle on this machine, whoever else uses it."""
    bundle = make_bundle(tmp_path_factory.mktemp("gate") / "tiny.edge").path
    return [
        edge.profile(bundle, threads=1, entries=["wide"], runs=200, seconds=0.02, operators=False, roofline=False)
        for _ in range(10)
    ]


def slower(found: Measurement, factor: float) -> Measurement:
    (one,) = found.entries
    runs = tuple(msgspec.structs.replace(run, duration_us=factor * run.duration_us) for run in one.runs)
    return msgspec.structs.replace(found, entries=(msgspec.structs.replace(one, runs=runs),))


def test_real_processes_split_at_random_raise_no_more_alarms_than_promised(profiled: list[Measurement]) -> None:
    alarms, splits = 0, 0
    for chosen in itertools.combinations(range(10), 5):
        now = [profiled[index] for index in chosen]
        before = [profiled[index] for index in range(10) if index not in chosen]
        alarms += judge(before, now, 0.0).regressed
        splits += 1
    assert splits == 252 and alarms <= 0.05 * splits
    # Medians of half the time beside the same ones: whatever the machine did meanwhile, that is seen.
    assert judge(profiled, [slower(one, 2.0) for one in profiled], 0.05).regressed


def test_exit_statuses(profiled: list[Measurement], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, same, bad = tmp_path / "old.json", tmp_path / "same.json", tmp_path / "bad.json"
    jsonfile.save_all(profiled, old)
    jsonfile.save_all([slower(one, 3.0) for one in profiled], bad)
    jsonfile.save_all(profiled, same)
    assert cli.invoke(["gate", str(same), "--baseline", str(old), "--max-regression", "5%"]) == 0
    assert "ok" in capsys.readouterr().out
    assert cli.invoke(["gate", str(bad), "--baseline", str(old), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["verdicts"][0]["regressed"] and report["verdicts"][0]["unit"] == "process"
    assert report["verdicts"][0]["slowdown"] == pytest.approx(3.0, rel=0.3)
    for arguments, sentence in (
        ([str(same), "--baseline", str(tmp_path / "none.json")], "write the baseline with --update first"),
        (["nothing", "--baseline", str(old)], "there is nothing at"),
        ([str(same), "--baseline", str(old), "--max-regression", "lots"], "is no share"),
        ([str(same)], "baseline"),
    ):
        assert cli.invoke(["gate", *arguments]) == 2
        said = capsys.readouterr().err
        assert sentence in said and "Traceback" not in said
    (tmp_path / "cut.json").write_bytes(old.read_bytes()[:-200])
    assert cli.invoke(["gate", str(same), "--baseline", str(tmp_path / "cut.json")]) == 2
    assert "line 10" in capsys.readouterr().err
    # A kept result by its ID, against the same runs: no machine's noise is in that.
    name = results.keep(profiled[0])
    jsonfile.save_all([profiled[0]] * 3, same)
    capsys.readouterr()
    assert cli.invoke(["gate", name, "--baseline", str(same), "--max-regression", "0%", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdicts"][0]["slowdown"] == 1.0
    jsonfile.save_all([slower(profiled[0], 3.0)] * 3, bad)
    assert cli.invoke(["gate", str(bad), "--baseline", name, "--max-regression", "0%"]) == 1


def test_a_baseline_is_written_and_held_against_the_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, baseline = make_bundle(tmp_path / "tiny.edge").path, tmp_path / "perf.json"
    common = [
        "gate", str(bundle), "--baseline", str(baseline), "--entry", "small", "--rounds", "3", "--runs", "50", "--seconds",
        "0", "--threads", "1",
    ]
    assert cli.invoke([*common, "--update"]) == 0
    assert len(jsonfile.load_all(baseline)) == 3
    capsys.readouterr()
    # What the machine did meanwhile decides the verdict, and the verdict the status.
    status = cli.invoke([*common, "--max-regression", "0%", "--json"])
    (verdict,) = json.loads(capsys.readouterr().out)["verdicts"]
    assert status == int(verdict["regressed"]) and verdict["entry"] == "small"
    assert (verdict["unit"], verdict["baseline_units"], verdict["now_units"]) == ("process", 3, 3)
    assert verdict["regressed"] == (verdict["low"] > 1.0)


# --- instruction counts


def counts(path: Path, total: int, cpu: str = "cortex-a76", entry: str = "classify", steady: bool = True) -> Path:
    """What counting writes, with ``total`` instructions in all."""
    classes = {"integer": total - 40, "branch": 10, "load_store": 10, "simd_fp": 10, "other": 10}
    row = {"entry": entry, "inference": classes, "steady": steady, "operators": []}
    path.write_text(json.dumps({
        "schema": 1, "edge_version": "0", "bundle": "a.edge", "manifest_sha256": "0", "runtime": "executorch",
        "runtime_version": "1.5.1", "scheme": "int8", "target": "rpi5", "cpu": cpu, "emulator": "QEMU 7.2", "libc": "glibc 2.36", "threads": 1,
        "entries": [row],
    }))
    return path


def test_counts_are_compared_exactly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = counts(tmp_path / "old.json", 1_000_000)
    for total, status in ((1_000_000, 0), (900_000, 0), (1_010_000, 0), (1_010_001, 1)):
        now = counts(tmp_path / "now.json", total)
        assert cli.invoke(["gate", str(now), "--baseline", str(old), "--max-regression", "1%"]) == status, total
    said = capsys.readouterr().out
    assert "1,010,001" in said and "MORE" in said and "no times" in said
    assert cli.invoke(["gate", str(counts(tmp_path / "n.json", 2_000_000, steady=False)), "--baseline", str(old), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["verdicts"][0]["ratio"] == 2.0 and "did not repeat" in report["warnings"][0]
    assert len(report["warnings"]) == 1
    # Counts of another C library or runtime are told apart from those of another bundle.
    now = json.loads(old.read_text()) | {"runtime_version": "1.6.0", "libc": "glibc 2.41"}
    (tmp_path / "later.json").write_text(json.dumps(now))
    assert cli.invoke(["gate", str(tmp_path / "later.json"), "--baseline", str(old), "--json"]) == 0
    version, libc = json.loads(capsys.readouterr().out)["warnings"]
    assert "executorch 1.5.1" in version and "executorch 1.6.0" in version and "glibc 2.41" in libc


def test_counts_that_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = counts(tmp_path / "old.json", 1_000_000)
    for other, reason in (
        (counts(tmp_path / "cpu.json", 10**6, cpu="cortex-a72"), "counted on cortex-a76"),
        (counts(tmp_path / "entry.json", 10**6, entry="embed"), "no entry point 'embed'"),
        (make_bundle(tmp_path / "tiny.edge").path, "count"),  # ONNX Runtime has no runner to count
        (tmp_path / "none.json", "holds no instruction counts"),
    ):
        assert cli.invoke(["gate", str(other), "--baseline", str(old)]) == 2
        assert reason in capsys.readouterr().err
    (tmp_path / "times.json").write_text("{}")
    assert cli.invoke(["gate", str(old), "--baseline", str(tmp_path / "times.json"), "--device", "qemu:rpi5"]) == 2
    assert "--update" in capsys.readouterr().err
