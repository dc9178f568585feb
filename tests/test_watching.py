"""A board's sensors from the desk: the script on a real shell (and a real sshd), the guard around a native runner."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
import sshd
from hypothesis import given
from hypothesis import strategies as st
from measurements import entry, measurement
from trees import LAPTOP, PHONE, PI5, THERMAL, THERMALSERVICE, plant

from edge.conditions import NOT_READABLE, IdleBand
from edge.devices import guard, watching
from edge.devices.base import Device, LostError, find_device
from edge.devices.messages import Profiled, ProfileRequest
from edge.devices.watching import Snapshot, parse, snapshot, watched
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


def profiled() -> Profiled:
    made = measurement(entry("forward", [10.0] * 5))
    return Profiled(facts=made.device, phases=made.phases, memory=made.memory, entries=made.entries, warnings=())


def test_the_script_reads_what_sensors_read(tmp_path: Path) -> None:
    for name, tree in (("pi", PI5), ("laptop", LAPTOP), ("phone", PHONE), ("bare", {})):
        root = plant(tmp_path / name, tree)
        found = snapshot(Here(tmp_path), str(root)).files
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


def test_a_board_that_leaves_after_its_measurement_costs_no_run(tmp_path: Path) -> None:
    class Leaving(Here):
        here = True

        def command(self, argv: Sequence[str]) -> tuple[str, ...]:
            return super().command(argv) if self.here else ("false",)

        def lost(self, status: int, printed: str) -> str | None:
            return None if self.here else "was unplugged: plug it in"

    device = Leaving(tmp_path)

    def measure() -> Profiled:
        device.here = False
        return profiled()

    with pytest.raises(LostError, match="was unplugged") as caught:
        watched(device, msgspec.structs.replace(REQUEST, cool_seconds=0.0), measure, Progress(), str(tmp_path))
    assert caught.value.partial == profiled()


def test_the_guard_waits_and_throttling_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "STEP", 0.01)
    root = plant(tmp_path / "pi", PI5)
    programs = tmp_path / "bin"
    device = Here(shim(programs, {"vcgencmd": "throttled=0x0\n"}))
    guard.remember_band(IdleBand(low_c=50.0, high_c=55.0), "here")
    plant(root, {f"{THERMAL}/thermal_zone0/temp": "51000"})
    calls = []

    def measure() -> Profiled:
        calls.append(1)
        shim(programs, {"vcgencmd": "throttled=0x40000\n"})  # throttled at some time during the first
        return profiled()

    found = watched(device, REQUEST, measure, Progress(), str(root))
    assert len(calls) == 2
    conditions = found.conditions
    assert (conditions.repeated, conditions.stayed_hot) == (1, False)
    assert [one.temperature_c for one in conditions.readings] == [51.0, 51.0]
    assert conditions.sources["energy"].startswith(NOT_READABLE) and found.facts.temperature_c == 51.0
    assert conditions.readings[-1].at_us >= max(phase.start_us for phase in found.phases)


def test_a_board_that_stays_throttled_is_marked(tmp_path: Path) -> None:
    root = plant(tmp_path / "pi", {**PI5, f"{THERMAL}/thermal_zone0/temp": "51000"})
    guard.remember_band(IdleBand(low_c=50.0, high_c=55.0), "here")
    device = Here(shim(tmp_path / "bin", {"vcgencmd": "throttled=0xe0008\n"}))
    found = watched(device, REQUEST, profiled, Progress(), str(root))
    assert found.conditions.stayed_hot and found.conditions.repeated == watching.REPEATS
    assert "soft temperature limit" in found.warnings[-1]
    once = msgspec.structs.replace(REQUEST, cool_seconds=0.0)
    assert watched(device, once, profiled, Progress(), str(root)).conditions.repeated == 0


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
