"""The thermal guard on a board that heats and cools by Newton's law: it learns, waits, repeats, gives up."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_bundle
from trees import PI5, PI5_PROGRAMS, THERMAL, answering, plant

from edge.conditions import Block, IdleBand, Reading
from edge.devices import guard, harness, timing
from edge.devices.guard import MARGIN, SETTLE, Guard
from edge.devices.messages import ProfileRequest
from edge.devices.sensors import Sensors
from edge.measurement import Run


@dataclass
class Board:
    """``idle`` is where it settles, ``tau`` its time constant in seconds; time passes only while somebody sleeps."""

    idle: float
    now_c: float
    tau: float = 60.0
    now: float = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.now_c = self.idle + (self.now_c - self.idle) * math.exp(-seconds / self.tau)

    def guard(self, budget: float = 600.0, band: IdleBand | None = None, busy: bool = False) -> Guard:
        return Guard(
            lambda: round(self.now_c * 2) / 2, budget, band, busy=lambda: busy, clock=lambda: self.now, sleep=self.sleep
        )


def test_it_learns_where_the_board_settles_and_waits_for_it() -> None:
    board = Board(idle=45.0, now_c=70.0)
    watch = board.guard()
    took = watch.wait()
    assert took == pytest.approx(board.now) and took > SETTLE
    assert watch.band is not None and not watch.gave_up
    assert 45.0 <= watch.band.low_c <= 49.0
    board.now_c = 70.0
    again = watch.wait()
    # From 70 to the band's top by the law of cooling.
    expected = 60.0 * math.log(25.0 / (watch.band.high_c - 45.0))
    assert again == pytest.approx(expected, abs=12.0)
    assert watch.wait() == 0.0
    assert watch.waited == pytest.approx(took + again)


@given(st.floats(20, 70), st.floats(0, 40), st.floats(5, 150))
def test_whatever_the_board_it_ends_near_its_idle(idle: float, above: float, tau: float) -> None:
    board = Board(idle=idle, now_c=idle + above, tau=tau)
    watch = board.guard(budget=3600.0)
    watch.wait()
    assert watch.band is not None
    assert board.now_c <= idle + 1.0 + 0.5 / (1 - math.exp(-0.75 * SETTLE / tau)) + 0.5


def test_a_cool_board_with_a_known_band_costs_no_time() -> None:
    board = Board(idle=45.0, now_c=46.0)
    assert board.guard(band=IdleBand(low_c=45.0, high_c=47.0)).wait() == 0.0
    assert board.now == 0.0


def test_the_band_follows_the_room() -> None:
    warmer = Board(idle=55.0, now_c=60.0)
    watch = warmer.guard(band=IdleBand(low_c=40.0, high_c=42.0))
    watch.wait()
    assert watch.band is not None and watch.band.low_c >= 54.5 and not watch.gave_up
    colder = Board(idle=25.0, now_c=25.0)
    watch = colder.guard(band=IdleBand(low_c=40.0, high_c=42.0))
    assert watch.wait() == 0.0
    assert watch.band == IdleBand(low_c=25.0, high_c=25.0 + MARGIN)


def test_a_busy_board_teaches_nothing_and_the_budget_ends() -> None:
    board = Board(idle=80.0, now_c=80.0)
    watch = board.guard(budget=30.0, band=IdleBand(low_c=45.0, high_c=47.0), busy=True)
    assert watch.wait() == pytest.approx(30.0, abs=1.0)
    assert watch.gave_up and watch.band == IdleBand(low_c=45.0, high_c=47.0)
    assert watch.wait() < 1.0  # nothing is left of the budget
    assert board.guard(budget=0.0).wait() == 0.0


def test_without_a_sensor_nothing_waits() -> None:
    watch = Guard(lambda: None, 100.0)
    assert not watch.active and watch.wait() == 0.0 and not watch.gave_up


def test_the_band_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path))
    assert guard.remembered_band() is None
    guard.remember_band(IdleBand(low_c=40.0, high_c=42.5))
    assert guard.remembered_band() == IdleBand(low_c=40.0, high_c=42.5)
    (written,) = (tmp_path / "thermal").iterdir()
    written.write_text("{}")
    assert guard.remembered_band() is None


# --- blocks


def run_blocks(root: Path, answers: dict[str, str], call, seconds: float = 0.0):  # type: ignore[no-untyped-def]
    sensors = Sensors(root, answering(answers))
    watch = Guard(sensors.temperature, 5.0, IdleBand(low_c=50.0, high_c=55.0))
    readings: list[Reading] = []
    told: list[tuple[list[Run], list[Block]]] = []
    found = timing.in_blocks(
        timing.Here(call, lambda ns: ns / 1e3, lambda: None), 6, seconds, sensors.throttling, watch,
        lambda: readings.append(sensors.read(0.0)), lambda runs, blocks: told.append((list(runs), list(blocks))),
    )
    assert [run for runs, _ in told for run in runs] == found.runs
    assert [block for _, blocks in told for block in blocks] == found.blocks
    return found, readings


def test_a_spoiled_block_is_run_again_and_its_runs_left_out(tmp_path: Path) -> None:
    root, answers, calls = plant(tmp_path, PI5), dict(PI5_PROGRAMS), []

    def call() -> None:
        calls.append(1)
        # The firmware throttles once, in the middle of the first block.
        answers["vcgencmd get_throttled"] = "throttled=0x40000" if len(calls) >= 3 else "throttled=0x0"

    found, readings = run_blocks(root, answers, call)
    assert [block.kept for block in found.blocks] == [False, True]
    assert found.blocks[0].spoiled == ("throttled",) and found.blocks[1].spoiled == ()
    assert len(calls) == 12 and len(found.runs) == 6
    assert (found.repeated, found.stayed_hot) == (1, False)
    assert len(readings) == 4  # before and after each


def test_a_board_that_stays_hot_is_marked(tmp_path: Path) -> None:
    answers = {**PI5_PROGRAMS, "vcgencmd get_throttled": "throttled=0xe0008"}
    found, _ = run_blocks(plant(tmp_path, PI5), answers, lambda: None)
    assert [block.kept for block in found.blocks] == [False] * timing.REPEATS + [True]
    assert found.blocks[-1].spoiled == ("soft temperature limit",)
    assert found.stayed_hot and len(found.runs) == 6


def test_long_measurements_are_cut_into_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "BLOCK", 0.02)
    found, _ = run_blocks(plant(tmp_path, PI5), dict(PI5_PROGRAMS), lambda: time.sleep(0.001), seconds=0.1)
    assert len(found.blocks) == 5 and all(block.kept for block in found.blocks)
    assert sum(block.runs for block in found.blocks) == len(found.runs) >= 10
    assert sum(block.duration_us for block in found.blocks) >= 0.09e6
    found, _ = run_blocks(tmp_path / "bare", {}, lambda: time.sleep(0.001), seconds=0.1)
    assert len(found.blocks) == 5, "what is finished is told of where nothing is known of the temperature too"


def test_a_slow_model_has_one_limit_for_all_its_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "BLOCK", 0.02)
    monkeypatch.setattr(timing, "MOST_SECONDS", 0.05)
    found, _ = run_blocks(tmp_path / "bare", {}, lambda: time.sleep(0.03), seconds=0.04)
    assert len(found.runs) == 3 and len(found.blocks) == 1 and not found.whole


# --- all of it, in a profile of a real runtime on a board whose files cool down meanwhile


def test_a_profile_waits_for_its_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SETTLE", 2.0)  # the thread that plays the board may have to wait for a core
    monkeypatch.setattr(guard, "STEP", 0.05)
    monkeypatch.setattr("edge.devices.energy.PMIC_SECONDS", 0.3)
    bundle = make_bundle(tmp_path / "tiny.edge").path
    root = plant(tmp_path / "pi", PI5)
    zone = root / THERMAL / "thermal_zone0" / "temp"
    done = threading.Event()

    def cool() -> None:
        begun = time.monotonic()
        while not done.wait(0.02):
            staging = zone.with_suffix(".new")
            staging.write_text(f"{(50 + 20 * math.exp(-(time.monotonic() - begun) / 0.3)) * 1e3:.0f}\n")
            staging.replace(zone)  # a kernel's file is never half written

    thread = threading.Thread(target=cool)
    thread.start()
    try:
        request = ProfileRequest(
            device="local", bundle=str(bundle), threads=1, entries=("small",), runs=5, seconds=0.0, operators=False,
            cool_seconds=30.0,
        )
        heard: list[str] = []
        found = harness.profile(request, heard.append, root, answering(PI5_PROGRAMS))
    finally:
        done.set()
        thread.join()
    assert heard.index("runs small") < heard.index("wait for the device to cool") < heard.index("energy small")
    conditions = found.conditions
    assert conditions.waited_s > 0.3 and not conditions.stayed_hot
    assert conditions.idle is not None and 50.0 <= conditions.idle.low_c < 52.0
    (entry,) = found.entries
    assert entry.blocks[0].waited_s == conditions.waited_s
    assert conditions.sources["throttling"] == "vcgencmd get_throttled"
    measured = [one for one in conditions.readings if one.at_us >= entry.runs[0].start_us - 1e5]
    assert all(one.temperature_c is not None and one.temperature_c < 54 for one in measured)
    assert all(one.frequencies_mhz == (2400.0,) for one in conditions.readings)
    assert [one.at_us for one in conditions.readings] == sorted(one.at_us for one in conditions.readings)
    # The board's rails as published draw 5.92 W: so much a second, whatever runs.
    energy = entry.energy
    assert energy is not None and energy.watts == pytest.approx(5.92, rel=0.05)
    assert energy.joules == pytest.approx(energy.watts * energy.seconds / energy.runs, rel=0.01)
    assert energy.idle_watts == pytest.approx(5.92, rel=0.05)
