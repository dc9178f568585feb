"""A board's sensors from the desk: the script on a real shell (and a real sshd), the guard around a native runner's blocks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
import sshd
from hypothesis import given
from hypothesis import strategies as st
from measurements import entry, measurement
from trees import LAPTOP, PHONE, PI5, PMIC, RAPL, THERMAL, THERMALSERVICE, plant

from edge.conditions import NOT_READABLE, IdleBand
from edge.devices import guard, timing, watching
from edge.devices.base import Device, LostError, find_device
from edge.devices.conversation import Pace
from edge.devices.energy import Rapl, find_meter
from edge.devices.messages import Go, Profiled, ProfileRequest, Repeated, Sampled, Waiting
from edge.devices.partial import joined
from edge.devices.snapshots import METERS, SENSORS, Snapshot, View, parse, snapshot
from edge.devices.watching import watched
from edge.progress import Progress

REQUEST = ProfileRequest(device="here", bundle="", threads=1, runs=1, seconds=0.0, operators=False, cool_seconds=30.0)


class Here(Device):
    """This machine's own shell as the board; ``first`` is put in front of its PATH."""

    def __init__(self, first: Path) -> None:
        super().__init__("here")
        self.first = first

    def command(self, argv: Sequence[str]) -> tuple[str, ...]:
        return ("env", f"PATH={self.first}:{os.environ['PATH']}", *argv)


def shim(folder: Path, programs: Mapping[str, str]) -> Path:
    """Stand-ins for what only a phone or a Pi has: scripts that print what such a device printed."""
    folder.mkdir(exist_ok=True)
    for name, output in programs.items():
        (folder / f"{name}.out").write_text(output)
        (folder / name).write_text(f"#!/bin/sh\ncat '{folder}/{name}.out'\n")
        (folder / name).chmod(0o755)
    return folder


class Runner:
    """Plays a paced native runner: it measures one entry in the blocks that it is told to, a microsecond a run.

    The real one is led in tests/test_native_runner.py, tests/test_arm64.py and tests/test_adb.py.
    """

    def __init__(self, during: Callable[[int], None] = lambda block: None) -> None:
        self.during = during
        self.asked: list[Go] = []
        self.kept: list[bytes] = []
        self.repeated = 0
        self.origin = time.monotonic() - 1.0

    def measure(self, pace: Pace) -> Profiled:
        made = measurement(entry("forward", [10.0] * 5))

        def ask(go: Go) -> Sampled | Repeated:
            if self.repeated:
                time.sleep(go.seconds)
                return Repeated(runs=self.repeated, seconds=go.seconds)
            self.asked.append(go)
            self.during(len(self.asked))
            block = entry("forward", [10.0 * len(self.asked)] * go.runs, start=1e6 * (time.monotonic() - self.origin))
            return Sampled(facts=made.device, phases=made.phases, memory=made.memory, entry=block)

        pace(Waiting(phase="runs", entry="forward", at_us=1e6), ask, lambda one: self.kept.append(msgspec.json.encode(one)))
        self.repeated = 500
        pace(Waiting(phase="energy", entry="forward", at_us=9e6), ask, lambda _: None)
        return Profiled(facts=made.device, phases=made.phases, memory=made.memory, entries=made.entries, warnings=())


def test_the_script_reads_what_sensors_read(tmp_path: Path) -> None:
    for name, tree in (("pi", PI5), ("laptop", LAPTOP), ("phone", PHONE), ("bare", {})):
        root = plant(tmp_path / name, tree)
        found = snapshot(Here(tmp_path), SENSORS, str(root)).files
        wanted = {path: content.strip() for path, content in tree.items() if path.startswith(("sys/class/thermal", "sys/devices"))}
        assert {path: content for path, content in found.items() if path in wanted} == {
            path: content for path, content in wanted.items() if "governor" not in path
        }


def test_a_phone_is_asked_through_its_shell(tmp_path: Path) -> None:
    device = Here(shim(tmp_path / "bin", {"dumpsys": THERMALSERVICE}))
    found = watching.look(device, str(plant(tmp_path / "phone", PHONE)))
    assert found.reading.temperature_c == 25.6 and found.reading.throttled == ()
    assert found.reading.frequencies_mhz == (1804.8, 2208.0)
    assert found.sources["throttling"] == "dumpsys thermalservice"


def test_a_board_that_leaves_after_a_block_costs_no_run_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "BLOCK", 0.5)

    class Leaving(Here):
        here = True

        def command(self, argv: Sequence[str]) -> tuple[str, ...]:
            return super().command(argv) if self.here else ("false",)

        def lost(self, status: int, printed: str) -> str | None:
            return None if self.here else "was unplugged: plug it in"

    device = Leaving(tmp_path)

    def during(block: int) -> None:
        device.here = block < 2

    runner, request = Runner(during), msgspec.structs.replace(REQUEST, cool_seconds=0.0, runs=10, seconds=1.0)
    with pytest.raises(LostError, match="was unplugged"):
        watched(device, request, runner.measure, Progress(), str(tmp_path))
    left = joined(runner.kept)
    assert left is not None and len(left.entries[0].runs) == 5 and len(left.conditions.readings) == 2


def test_the_guard_waits_and_a_throttled_block_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "STEP", 0.01)
    monkeypatch.setattr(timing, "BLOCK", 0.5)
    root = plant(tmp_path / "pi", {**PI5, f"{THERMAL}/thermal_zone0/temp": "51000"})
    programs = tmp_path / "bin"
    device = Here(shim(programs, {"vcgencmd": "throttled=0x0\n"}))
    guard.remember_band(IdleBand(low_c=50.0, high_c=55.0), "here")

    def during(block: int) -> None:
        # Throttled at some time during the first of two blocks, which also heats the board.
        shim(programs, {"vcgencmd": "throttled=0x40000\n"})
        plant(root, {f"{THERMAL}/thermal_zone0/temp": "60000"})

    class Cooling(Progress):
        def stage(self, name: str) -> None:
            if name == guard.COOLING:
                threading.Timer(0.2, plant, (root, {f"{THERMAL}/thermal_zone0/temp": "52000"})).start()

    runner, request = Runner(during), msgspec.structs.replace(REQUEST, runs=10, seconds=1.0)
    found = watched(device, request, runner.measure, Cooling(), str(root))
    assert [(go.runs, go.seconds) for go in runner.asked] == [(5, 0.5)] * 3 and all(go.ramp > 0 for go in runner.asked)
    conditions, (measured,) = found.conditions, found.entries
    assert (conditions.repeated, conditions.stayed_hot) == (1, False)
    assert [block.kept for block in measured.blocks] == [False, True, True]
    assert measured.blocks[0].spoiled == ("throttled",) and measured.blocks[0].waited_s == 0.0
    assert all(block.waited_s > 0.1 for block in measured.blocks[1:])
    assert conditions.waited_s == pytest.approx(sum(block.waited_s for block in measured.blocks), abs=0.01)
    assert [run.duration_us for run in measured.runs] == [20.0] * 5 + [30.0] * 5 and measured.latency.p50_us == 25.0
    assert [one.temperature_c for one in conditions.readings] == [51.0, 60.0, 52.0, 60.0, 52.0, 60.0]
    assert conditions.sources["energy"].startswith(NOT_READABLE) and found.facts.temperature_c == 51.0
    times = [one.at_us for one in conditions.readings]
    assert times == sorted(times) and times[0] >= 1e6
    for block, before, after in zip(measured.blocks, times[::2], times[1::2], strict=True):
        assert before <= block.start_us and after >= block.start_us + block.duration_us
    # What is left of it, had it ended here, is the same.
    left = joined(runner.kept)
    assert left is not None and left.entries == found.entries and left.conditions.readings == conditions.readings
    assert left.facts == found.facts and left.conditions.repeated == 1


def test_a_board_that_stays_throttled_is_marked(tmp_path: Path) -> None:
    root = plant(tmp_path / "pi", {**PI5, f"{THERMAL}/thermal_zone0/temp": "51000"})
    guard.remember_band(IdleBand(low_c=50.0, high_c=55.0), "here")
    device = Here(shim(tmp_path / "bin", {"vcgencmd": "throttled=0xe0008\n"}))
    found = watched(device, REQUEST, Runner().measure, Progress(), str(root))
    assert found.conditions.stayed_hot and found.conditions.repeated == timing.REPEATS
    assert "soft temperature limit" in found.warnings[-1]
    once = msgspec.structs.replace(REQUEST, cool_seconds=0.0)
    assert watched(device, once, Runner().measure, Progress(), str(root)).conditions.repeated == 0


def test_a_boards_energy_is_metered_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rails as published draw 5.92 W, whatever runs and however long the way there is."""
    monkeypatch.setattr(watching, "SLOW", 0.1)
    monkeypatch.setattr("edge.devices.energy.PMIC_SECONDS", 0.5)
    device = Here(shim(tmp_path / "bin", {"vcgencmd": PMIC}))
    found = watched(device, msgspec.structs.replace(REQUEST, cool_seconds=0.0), Runner().measure, Progress(), str(tmp_path))
    energy = found.entries[0].energy
    assert energy is not None and energy.runs == 500 and energy.seconds == 1.0
    assert energy.watts == pytest.approx(5.92, rel=0.15) and energy.idle_watts == pytest.approx(5.92, rel=0.05)
    assert energy.joules == pytest.approx(energy.watts / 500, rel=0.01)
    assert found.conditions.sources["energy"] == energy.method and "read every 0.1 s" in energy.method


def test_counters_of_a_board_are_read_before_and_after(tmp_path: Path) -> None:
    root = plant(tmp_path / "board", LAPTOP)
    view = View(Here(tmp_path), METERS, str(root), tmp_path / "seen")
    view.refresh()
    meter = find_meter(view.folder, view.programs, view.try_refresh, slowest=0.5)
    assert isinstance(meter, Rapl) and meter.least_seconds == 5.0
    plant(root, {f"{RAPL}/intel-rapl:0/energy_uj": "1000000", f"{RAPL}/intel-rapl:0:1/energy_uj": "5000000"})
    meter.start()
    plant(root, {f"{RAPL}/intel-rapl:0/energy_uj": "3000000", f"{RAPL}/intel-rapl:0:1/energy_uj": "5500000"})
    assert meter.stop() == 2.5
    meter.start()
    (root / RAPL / "intel-rapl:0" / "energy_uj").unlink()
    assert meter.stop() is None


@given(st.text())
def test_a_board_cannot_choose_where_its_answers_go(text: str) -> None:
    for hostile in ("== /sys/../../etc/passwd\nx\n", "== /etc/passwd\nx\n", "== sys/x\nx\n", "== /sys/a//b\n", "== /sys/..\n"):
        assert parse(text.replace("== ", "") + "\n" + hostile) == Snapshot({}, {})


@pytest.mark.skipif(bool(sshd.lacking()), reason=sshd.lacking())
def test_a_board_behind_ssh_is_asked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = plant(tmp_path / "a board's root", PI5)
    with sshd.serve(tmp_path / "sshd") as server:
        monkeypatch.setenv("EDGE_SSH", server.client)
        found = watching.look(find_device(server.address), str(root))
    assert found.reading.temperature_c == 51.8 and found.reading.frequencies_mhz == (2400.0,)
