"""Kept results: every sample is there, the index finds them, and what goes wrong with either is survived."""

from __future__ import annotations

import gzip
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from measurements import entry, measurement
from tiny import SHAPES, make_bundle

import edge
from edge import cli, compare, results, results_index
from edge.conditions import Conditions, Reading
from edge.errors import StorageError, UsageError
from edge.measurement import Measurement
from edge.results import Sample


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "results"
    monkeypatch.setenv("EDGE_RESULTS", str(folder))
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Measurement:
    bundle = make_bundle(tmp_path_factory.mktemp("results") / "tiny.edge").path
    return edge.profile(bundle, threads=1, runs=20, seconds=0.0, operators=False, roofline=False)


def other(found: Measurement, **changes: str) -> Measurement:
    """The same measurement of another bundle, at another time."""
    created = changes.pop("created", found.created)
    return msgspec.structs.replace(found, created=created, bundle=msgspec.structs.replace(found.bundle, **changes))


def test_a_real_profile_is_kept_run_by_run(store: Path, real: Measurement) -> None:
    name = results.keep(real)
    assert results.is_identity(name) and results.identities() == [name]
    assert results.load(name) == real == results.load(name[:12])
    with gzip.open(store / name / results.SAMPLES, "rt", encoding="utf-8") as lines:
        kept = [msgspec.json.decode(line, type=Sample) for line in lines]
    runs = [(one.entry, run.start_us, run.duration_us) for one in real.entries for run in one.runs]
    assert [(one.entry, one.start_us, one.duration_us) for one in kept] == runs
    for one in kept:
        assert one.bundle_sha256 == real.bundle.manifest_sha256 and one.cpu == real.device.cpu
        assert one.versions["onnxruntime"] == real.device.versions["onnxruntime"]
        assert one.governor == real.device.governor and one.threads == 1


def test_keeping_twice_keeps_once(store: Path, real: Measurement) -> None:
    assert results.keep(real) == results.keep(real)
    assert len(results.identities()) == 1
    assert sorted(path.name for path in store.iterdir()) == [results.identities()[0], "index.sqlite"]
    assert [row.entry for row in results_index.find(store, {})] == list(SHAPES)


def test_samples_have_the_reading_before_them(store: Path) -> None:
    found = msgspec.structs.replace(
        measurement(entry("forward", [10.0, 10.0, 10.0], start=1000.0)),
        conditions=Conditions(readings=(
            Reading(at_us=0.0, frequencies_mhz=(1500.0,), temperature_c=40.0),
            Reading(at_us=1015.0, frequencies_mhz=(2400.0,), temperature_c=60.0),
        )),
    )
    assert [one.temperature_c for one in results.samples(found, "x")] == [40.0, 40.0, 60.0]
    assert [one.frequencies_mhz for one in results.samples(found, "x")][-1] == (2400.0,)


def test_rows_are_filtered_and_newest_first(store: Path, real: Measurement) -> None:
    early = results.keep(other(real, created="2026-01-01T00:00:00+00:00", model="one", scheme="int8"))
    late = results.keep(other(real, created="2026-03-01T00:00:00+00:00", model="two"))
    assert [row.id for row in results_index.find(store, {"entry": "wide"})] == [late, early]
    assert [row.id for row in results_index.find(store, {"model": "one", "entry": "small"})] == [early]
    assert {row.id for row in results_index.find(store, {}, since="2026-02")} == {late}
    assert results_index.find(store, {"scheme": "int8' OR '1'='1"}) == []
    row = results_index.find(store, {"model": "two"})[0]
    assert row.p50_us == real.entry(row.entry).latency.p50_us and row.stayed_hot is False


def test_the_index_can_go_and_come_back(store: Path, real: Measurement) -> None:
    names = [results.keep(other(real, created=f"2026-01-0{day}T00:00:00+00:00")) for day in (1, 2, 3)]
    index = store / results_index.NAME
    whole = results_index.find(store, {})
    index.unlink()
    assert results_index.find(store, {}) == whole
    index.write_bytes(b"this is no database, whatever its name says" * 100)
    assert results_index.find(store, {}) == whole
    with sqlite3.connect(index) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert results_index.find(store, {}) == whole
    for path in (store / names[1]).iterdir():
        path.unlink()
    (store / names[1]).rmdir()
    (store / names[2] / results.PROFILE).write_bytes(b"cut off")
    assert {row.id for row in results_index.find(store, {})} == {names[0], names[2]}
    with pytest.raises(UsageError, match="cannot be read"):
        results.load(names[2])


def test_a_profile_with_wrong_bytes_in_its_middle_is_not_listed_and_said(store: Path, real: Measurement) -> None:
    name = results.keep(real)
    path = store / name / results.PROFILE
    whole = bytearray(path.read_bytes())
    whole[40:80] = b"\xff" * 40
    path.write_bytes(whole)
    (store / results_index.NAME).unlink()
    assert results_index.find(store, {}) == []
    with pytest.raises(UsageError, match="cannot be read"):
        results.load(name)


def test_a_result_that_is_kept_while_another_process_lists_stays_in_the_index(
    store: Path, real: Measurement, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, listed = results.keep(real), results.identities

    def meanwhile(folder: Path | None = None) -> list[str]:
        found = listed(folder)
        monkeypatch.setattr(results, "identities", listed)
        results.keep(other(real, created="2026-01-02T00:00:00+00:00"))
        return found

    with results_index._opened(store) as connection:
        monkeypatch.setattr(results, "identities", meanwhile)
        results_index._catch_up(connection, store)
        kept = {name for (name,) in connection.execute("SELECT DISTINCT id FROM results")}
    assert first in kept and len(kept) == 2


def test_what_is_not_there_or_not_clear_is_refused(store: Path, real: Measurement) -> None:
    assert results.identities() == [] and results_index.find(store, {}) == []
    for day in (1, 2):
        results.keep(other(real, created=f"2026-01-0{day}T00:00:00+00:00"))
    with pytest.raises(UsageError, match="2 results begin with"):
        results.load("2026")
    for odd in ("", "2027", "../../etc", "/"):
        with pytest.raises(UsageError, match="there is no result"):
            results.load(odd)


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path, real: Measurement, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGE_RESULTS", str(tmp_path / "file" / "results"))
    with pytest.raises(StorageError):
        results.keep(real)


KEEP = """
import sys, msgspec
from edge import results
from edge.measurement import Measurement
found = msgspec.json.decode(sys.stdin.buffer.read(), type=Measurement)
results.keep(msgspec.structs.replace(found, created=f"2026-01-01T00:00:0{sys.argv[1]}+00:00"))
results.keep(found)
"""


def test_processes_may_keep_at_once(store: Path, real: Measurement) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-P", "-c", KEEP, str(number)], stdin=subprocess.PIPE) for number in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(real))
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0] * 4
    assert len(results.identities()) == 5
    assert len(results_index.find(store, {})) == 10
    assert not [path for path in store.iterdir() if path.name.startswith(".new-")]


# --- the commands


def test_a_profile_on_the_command_line_is_kept_and_listed(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path / "tiny.edge").path
    profile = ["profile", str(bundle), "--entry", "small", "--runs", "3", "--seconds", "0", "--threads", "1"]
    assert cli.invoke([*profile, "--no-keep"]) == 0
    assert results.identities() == []
    assert cli.invoke(profile) == 0
    (name,) = results.identities()
    assert f"kept as {name}" in capsys.readouterr().out
    assert cli.invoke(["results"]) == 0
    listed = capsys.readouterr().out
    assert name in listed and "tiny.edge" in listed and "small" in listed
    assert cli.invoke(["results", "--json", "--model", "tiny"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["id"] == name and row["runs"] == results.load(name).entry("small").latency.runs
    assert cli.invoke(["results", name[:15], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bundle"]["name"] == "tiny.edge"
    assert cli.invoke(["results", name]) == 0
    assert "p50" in capsys.readouterr().out
    assert cli.invoke(["results", "--model", "none"]) == 0
    assert "no results like that" in capsys.readouterr().out
    assert cli.invoke(["results", "nonsense"]) == 2
    assert "there is no result 'nonsense'" in capsys.readouterr().err


def test_a_full_disk_costs_a_warning_not_the_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "tiny.edge").path
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGE_RESULTS", str(tmp_path / "file"))
    assert cli.invoke(["profile", str(bundle), "--entry", "small", "--runs", "3", "--seconds", "0"]) == 0
    said = capsys.readouterr()
    assert "p50" in said.out and "warning: the result is not kept" in said.err


def test_results_take_part_in_a_comparison(store: Path, real: Measurement, tmp_path: Path) -> None:
    name = results.keep(real)
    twice = tmp_path / "twice.json"
    from edge.report import jsonfile

    jsonfile.save_all([real, real], twice)
    found = compare.compare([name, twice])
    assert [side.saved for side in found.sides] == [True, True]
    cells = found.rows[0].cells
    assert cells[0] is not None and cells[1] is not None and cells[1].runs == 2 * cells[0].runs
    with pytest.raises(UsageError, match="IDs of `edge results`"):
        compare.compare([name, "20990101T000000-00000000"])
