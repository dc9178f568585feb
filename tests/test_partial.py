"""A profile that ends before it is done: what was finished is put together, kept, and never taken for the whole."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measurements import entry, measurement
from tiny import make_bundle

import edge
from edge import cli, compare, gate, results
from edge.cli.terminal import PlainProgress
from edge.devices import harness, timing
from edge.devices.messages import Message, Profiled, ProfileRequest, Sampled
from edge.devices.partial import SAMPLED, joined
from edge.errors import DeviceError
from edge.measurement import EntryMeasurement, Measurement
from edge.progress import Progress


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("partial") / "tiny.edge").path


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_RESULTS", str(tmp_path / "results"))


@pytest.fixture(scope="module")
def told(bundle: Path) -> tuple[list[bytes], Profiled]:
    """A real profile in short blocks: the lines that it would have sent, and its reply."""
    found: list[Sampled] = []
    request = ProfileRequest(
        device="local", bundle=str(bundle), threads=1, runs=10, seconds=0.1, operators=False, energy=False
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "BLOCK", 0.03)
        patch.setattr(timing, "RAMP", 0.001)
        profiled = harness.profile(request, lambda _: None, sampled=found.append)
    return [msgspec.json.encode(one) for one in found], profiled


def kill_workers() -> None:
    """SIGKILL to the measuring processes that this one started."""
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == os.getpid() and b"edge.devices.worker" in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


class Killing(Progress):
    def __init__(self, at: str) -> None:
        self._at = at

    def stage(self, name: str) -> None:
        if name == self._at:
            kill_workers()


# --- what the process tells


def test_the_blocks_together_are_the_whole(told: tuple[list[bytes], Profiled]) -> None:
    lines, profiled = told
    assert len(lines) == 8 and all(line.startswith(SAMPLED) for line in lines)
    whole = joined(lines)
    assert whole is not None
    assert whole.entries == profiled.entries
    assert whole.facts == profiled.facts
    assert whole.phases == profiled.phases[:-1]
    assert whole.memory.baseline == profiled.memory.baseline and whole.memory.loaded == profiled.memory.loaded
    readings = whole.conditions.readings
    assert readings == profiled.conditions.readings[: len(readings)] and len(readings) >= 16
    assert whole.conditions.sources.items() <= profiled.conditions.sources.items()


def test_a_message_survives_json(told: tuple[list[bytes], Profiled]) -> None:
    for line in told[0]:
        message = msgspec.json.decode(line, type=Message)
        assert isinstance(message, Sampled) and msgspec.json.encode(message) == line


@given(data=st.data())
def test_whatever_is_cut_off_the_finished_blocks_stay(told: tuple[list[bytes], Profiled], data: st.DataObject) -> None:
    lines, profiled = told
    stream = b"".join(line + b"\n" for line in lines)
    cut = stream[: data.draw(st.integers(0, len(stream)))]
    whole = [line for line in cut.splitlines() if line in lines]
    found = joined(cut.splitlines())
    if not whole:
        assert found is None
        return
    assert found is not None
    runs = [run for one in found.entries for run in one.runs]
    assert runs == [run for one in profiled.entries for run in one.runs][: len(runs)]
    assert sum(len(one.blocks) for one in found.entries) == len(whole)
    assert all(one.latency.runs == len(one.runs) == sum(block.runs for block in one.blocks) for one in found.entries)


# --- what becomes of it


def test_a_worker_killed_in_the_middle_leaves_what_it_had_finished(bundle: Path) -> None:
    with pytest.raises(DeviceError, match=r"was killed \(SIGKILL.* during 'runs wide'") as caught:
        edge.profile(bundle, runs=7, seconds=0.05, progress=Killing("runs wide"))
    found = caught.value.measurement
    assert found is not None and found.cut_short and [one.entry for one in found.entries] == ["small"]
    assert found.entries[0].latency.runs >= 7
    assert found.warnings[-1] == f"the measurement was cut short: {caught.value}"


def test_a_worker_killed_before_any_run_leaves_nothing(bundle: Path) -> None:
    with pytest.raises(DeviceError, match=r"during 'load'; no timed run was finished, so nothing is kept\.") as caught:
        edge.profile(bundle, runs=7, seconds=0.05, progress=Killing("load"))
    assert caught.value.measurement is None


def test_a_roofline_that_dies_costs_no_run(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path))  # where no roofline is remembered
    with pytest.raises(DeviceError, match=r"was killed .* during 'roofline'") as caught:
        edge.profile(bundle, runs=7, seconds=0.05, operators=False, progress=Killing("roofline"))
    found = caught.value.measurement
    assert found is not None and [one.entry for one in found.entries] == ["small", "wide"] and found.cut_short


@pytest.mark.parametrize("keep", [True, False])
def test_the_command_says_in_one_sentence_what_is_kept(
    bundle: Path, keep: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stage = PlainProgress.stage

    def killing_stage(self: PlainProgress, name: str) -> None:
        stage(self, name)
        if name == "runs wide":
            kill_workers()

    monkeypatch.setattr(PlainProgress, "stage", killing_stage)
    written = tmp_path / "p.json"
    more = [] if keep else ["--no-keep"]
    assert cli.invoke(["profile", str(bundle), "--seconds", "0.05", "--json", str(written), *more]) == 2
    out, err = capfd.readouterr()
    sentence = err.splitlines()[-1]
    assert out == "" and not written.exists()
    assert sentence.startswith("edge: the measuring process was killed (SIGKILL")
    if not keep:
        assert "runs finished before (small) are not kept, as --no-keep says." in sentence and not results.identities()
        return
    (name,) = results.identities()
    runs = results.load(name).entries[0].latency.runs
    assert sentence.endswith(f"; the {runs:,} runs finished before (small) are kept as {name} (see `edge results`).")


def test_a_comparison_and_a_gate_say_that_a_side_was_cut_short() -> None:
    whole = measurement(entry("forward", [10.0] * 60), entry("decode", [5.0] * 60))
    part = cut(whole, whole.entries[0])
    name = results.keep(part)
    assert compare.compare([name, name]).warnings[-1].endswith("the measurement was cut short: the connection ended.")
    report = gate.judge([whole], gate.saved(Path(name)), 0.05)
    assert any("1 of the measurements were cut short" in sentence for sentence in report.warnings)
    assert not any("cut short" in sentence for sentence in gate.judge([whole], [whole], 0.05).warnings)


def cut(found: Measurement, *entries: EntryMeasurement) -> Measurement:
    return msgspec.structs.replace(
        found, entries=entries, cut_short=True, warnings=("the measurement was cut short: the connection ended.",)
    )
