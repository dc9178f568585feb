"""How many threads: what is chosen of measured times, for real on a small bundle, and who takes what was found."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import SHAPES

import edge
from edge import api, cli, results, results_index, threads
from edge.bundle import open_bundle
from edge.devices.base import find_device
from edge.errors import UsageError
from edge.measurement import Settings
from edge.runtimes.base import usable_cores
from edge.threads import Threads
from edge.tune import fewest, numbers

LOCAL = find_device("local")


@pytest.fixture(autouse=True)
def _own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))


# --- what is chosen


def test_the_fastest_is_chosen_where_it_is_faster_for_certain() -> None:
    assert fewest({1: (10.0, 10.1, 10.2), 2: (5.0, 5.1, 5.2)}) == 2
    assert fewest({1: (5.0, 5.1, 5.2), 2: (10.0, 10.1, 10.2)}) == 1
    # 5 % with no overlap is seen by three processes on each side.
    assert fewest({1: (10.5, 10.6, 10.7), 2: (10.0, 10.1, 10.2)}) == 2


def test_fewer_threads_are_taken_where_nobody_would_see_a_difference() -> None:
    assert fewest({1: (10.1, 10.1, 10.1), 2: (10.0, 10.0, 10.0), 4: (9.99, 9.99, 9.99)}) == 1  # 1 %
    assert fewest({1: (10.0, 10.5, 11.0), 2: (9.5, 10.0, 10.6)}) == 1  # 5 %, and they overlap
    assert fewest({1: (10.0, 13.0, 13.5), 2: (9.5, 10.0, 10.6)}) == 2  # noise, but 30 % is no noise
    assert fewest({1: (10.5,), 2: (10.0,)}) == 2  # one process says nothing of noise: the medians stand


@given(st.dictionaries(st.integers(1, 16), st.tuples(*[st.floats(1.0, 1e6)] * 3), min_size=1))
def test_nothing_more_than_a_tenth_slower_is_ever_chosen(times: dict[int, tuple[float, ...]]) -> None:
    medians = {count: float(np.median(found)) for count, found in times.items()}
    assert medians[fewest(times)] <= 1.1 * min(medians.values())


def test_every_core_is_tried_but_not_every_number_of_many() -> None:
    assert [numbers(cores) for cores in (1, 2, 4)] == [(1,), (1, 2), (1, 2, 3, 4)]
    assert numbers(10) == (1, 2, 3, 4, 6, 8, 10)
    assert numbers(64) == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


# --- for real


def test_a_bundle_is_tuned_and_what_was_found_is_taken(tiny_bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Two entries on each number of threads; costs as many processes as there are cores."""
    assert cli.invoke(["tune", str(tiny_bundle), "--rounds", "1", "--runs", "5", "--seconds", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["entry"] for row in found["rows"]] == list(SHAPES)
    for row in found["rows"]:
        assert {int(count) for count in row["times_us"]} == set(numbers(usable_cores()))
        assert row["chosen"] == row["alone"] == fewest({int(count): times for count, times in row["times_us"].items()})
    chosen = {row["entry"]: row["chosen"] for row in found["rows"]}
    session = edge.load(tiny_bundle)
    assert {name: session.threads_of(name) for name in SHAPES} == chosen

    given = tmp_path / "in.npz"
    np.savez(given, x=np.ones(SHAPES["small"], np.float32))
    run = ["run", str(tiny_bundle), "--npz", str(given), "--entry", "small"]
    assert cli.invoke(run) == 0
    assert "as `edge tune` found" in capsys.readouterr().err
    assert cli.invoke([*run, "--threads", "1"]) == 0
    assert "tune" not in capsys.readouterr().err


def test_a_profile_takes_what_is_remembered_and_says_so(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads.remember(open_bundle(tiny_bundle), LOCAL, {"small": 1, "wide": 3})
    measured = edge.profile(tiny_bundle, runs=3, seconds=0.0, roofline=False)
    assert measured.settings == Settings(threads=3, apart={"small": 1}, tuned=True, runs=3, seconds=0.0)
    assert measured.settings.threads_text == "3 threads, 1 for small"
    assert cli.invoke(["profile", str(tiny_bundle), "--entry", "small", "--runs", "3", "--seconds", "0", "--no-keep"]) == 0
    assert "1 thread, as tuned" in capsys.readouterr().out
    assert {row.entry: row.threads for row in results_index.rows("x", measured)} == {"small": 1, "wide": 3}
    assert {one.entry: one.threads for one in results.samples(measured, "x")} == {"small": 1, "wide": 3}
    asked = edge.profile(tiny_bundle, threads=2, entries=["small"], runs=3, seconds=0.0, roofline=False, operators=False)
    assert asked.settings == Settings(threads=2, runs=3, seconds=0.0)


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_sessions_have_as_many_threads_as_were_found(tiny_bundle: Path) -> None:
    """ONNX Runtime's pool has one thread fewer than it computes with: the caller is the other."""
    api.load(tiny_bundle)  # whatever starts with the runtime is there
    opened = open_bundle(tiny_bundle)
    started = {}
    for name, count in {"small": 1, "wide": 4}.items():
        threads.remember(opened, LOCAL, {**dict.fromkeys(SHAPES, 1), name: count})
        before = len(list(Path("/proc/self/task").iterdir()))
        session = api.load(tiny_bundle)
        started[name] = len(list(Path("/proc/self/task").iterdir())) - before
        del session
    assert started == {"small": 0, "wide": 3}


# --- what is remembered


def test_another_machine_and_another_bundle_know_nothing(tiny_bundle: Path, digits_bundle: Path) -> None:
    opened = open_bundle(tiny_bundle)
    assert threads.remembered(opened, LOCAL) is None
    threads.remember(opened, LOCAL, {"small": 1, "wide": 7})
    assert threads.remembered(opened, LOCAL) == Threads(most=7, apart={"small": 1}, tuned=True)
    assert threads.remembered(open_bundle(digits_bundle), LOCAL) is None
    threads.remember(opened, LOCAL, {"small": 2, "wide": 2})  # the newest counts
    assert threads.remembered(opened, LOCAL) == Threads(most=2, tuned=True)
    (kept,) = (Path(os.environ["EDGE_CACHE"]) / "threads").iterdir()
    (record,) = json.loads(kept.read_bytes())
    for field, value in {"cores": 1024, "model": "another CPU", "runtime": "0.1"}.items():
        kept.write_text(json.dumps([{**record, "machine": {**record["machine"], field: value}}]))
        assert threads.remembered(opened, LOCAL) is None
        assert api.load(tiny_bundle).threads == min(2, usable_cores())


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'[{"machine": {}}]', b"[]"])
def test_a_spoiled_memory_is_none(tiny_bundle: Path, content: bytes) -> None:
    opened = open_bundle(tiny_bundle)
    threads.remember(opened, LOCAL, {"small": 1, "wide": 7})
    (kept,) = (Path(os.environ["EDGE_CACHE"]) / "threads").iterdir()
    kept.write_bytes(content)
    assert threads.remembered(opened, LOCAL) is None
    # One that names other entry points, or no threads at all.
    for wrong in ({"small": 1}, {"small": 0, "wide": 1}):
        threads.remember(opened, LOCAL, wrong)
        assert threads.remembered(opened, LOCAL) is None


def test_choices_for_some_entry_points_need_no_more_threads_than_those() -> None:
    found = Threads.each({"prefill": 4, "decode": 2, "read": 4})
    assert found == Threads(most=4, apart={"decode": 2}, tuned=True)
    assert found.only(["decode"]) == Threads(most=2, tuned=True)
    assert found.only([]) == found
    assert Threads(most=4).only(["decode"]) == Threads(most=4)


def test_asked_for_threads_come_first(tiny_bundle: Path) -> None:
    opened = open_bundle(tiny_bundle)
    threads.remember(opened, LOCAL, {"small": 1, "wide": 7})
    assert threads.choose(opened, 3, LOCAL) == Threads(most=3)
    assert threads.choose(opened, None, LOCAL).tuned
    with pytest.raises(UsageError, match="0 threads"):
        threads.choose(opened, 0, LOCAL)


def test_old_measurements_have_the_same_threads_for_all() -> None:
    old = b'{"threads": 2, "runs": 5, "seconds": 0.1}'
    assert msgspec.json.decode(old, type=Settings) == Settings(threads=2, runs=5, seconds=0.1)
