"""A phone by adb: the real adb and the real adbd, as arm64 code under emulation in a network of its own.

Debian's adbd is Android's daemon over a Debian: the transport is the phone's, the system behind it is not. What only a
phone has is a labelled shim (``virtual.GETPROP``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import virtual
from runners import built, exported
from tiny import make_bundle

import edge
from edge import cli
from edge.devices import guard
from edge.devices.adb import attached
from edge.devices.base import LostError, find_device
from edge.errors import DeviceError, UsageError
from edge.progress import Progress
from edge.report import jsonfile

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def ground() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        virtual.keep_outside_of_the_tests_cache(patch)
        yield


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The demo relu2-mlp for ExecuTorch; the runner for it is built for arm64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_CACHE", str(built(tmp_path_factory, "executorch", "aarch64-linux-gnu").parents[2]))
        yield exported(tmp_path_factory, "relu2-mlp", "rpi5", "executorch", "fp32")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo relu2-mlp as one program; shared with the other tests of static bundles."""
    return exported(tmp_path_factory, "relu2-mlp", "android", "static", "fp32")


@pytest.fixture
def phone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[virtual.Phone]:
    with virtual.phone(tmp_path_factory.mktemp("phone")) as running:
        monkeypatch.setenv("EDGE_ADB", running.client)
        yield running


class Unplug(Progress):
    """Pulls the cable when ``stage`` begins."""

    def __init__(self, phone: virtual.Phone, stage: str) -> None:
        self._phone, self._stage = phone, stage

    def stage(self, name: str) -> None:
        if name == self._stage:
            self._phone.unplug()


def test_a_phone_from_the_cable_to_the_figures(
    phone: virtual.Phone, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ("127.0.0.1:5555", "device") in attached()
    assert cli.invoke(["devices", "--json"]) == 0
    assert {"adb:127.0.0.1:5555": "ready"}.items() <= {row["name"]: row["state"] for row in json.loads(capsys.readouterr().out)}.items()

    device = find_device(phone.address)
    facts = device.facts()
    assert (facts.arch, facts.model, facts.folder) == ("aarch64", "Nobody a shim of the tests", "/data/local/tmp/edge")
    assert facts.python is None and facts.lacks == ()

    (check,) = edge.verify(bundle, device=phone.address, threads=1)
    assert check.passed and check.samples > 0
    measured = edge.profile(bundle, device=phone.address, threads=1, runs=5, seconds=0.0, cool_seconds=0)
    assert measured.roof is None and any("measured in Python" in sentence for sentence in measured.warnings)
    assert measured.device.device == phone.address and len(measured.entries[0].runs) >= 5
    # Its thermal service is asked before and after; the shim is as cool as the phone that it was copied from.
    conditions = measured.conditions
    assert [(one.temperature_c, one.throttled) for one in conditions.readings] == [(25.6, ()), (25.6, ())]
    assert conditions.sources["throttling"] == "dumpsys thermalservice" and not conditions.stayed_hot

    # Every byte arrives as it was, both ways, whatever its name.
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 2000)
    names = ("a b; touch pwned", "$(touch pwned)", "it's", "-rf")
    device.push(dict.fromkeys(names, source), "/data/local/tmp/x")
    for name in names:
        device.pull(f"/data/local/tmp/x/{name}", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert device.run(("ls", "/data/local/tmp/x")).output.count(b"\n") == len(names)

    assert cli.invoke(["device", "clean", phone.address]) == 0
    assert device.run(("test", "-e", facts.folder)).status == 1


def test_a_program_from_the_cable_to_the_figures(
    phone: virtual.Phone, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A static bundle needs nothing of the phone's: some 15 s, most of it for the shells between the blocks."""
    (check,) = edge.verify(program, device=phone.address, threads=2)
    assert check.passed and check.samples > 0 and check.where.startswith(f"static on {phone.address}")
    device = find_device(phone.address)
    folder = "/data/local/tmp/edge/bundles"
    (name,) = device.run(("ls", folder)).output.decode().split()
    # The program of the machine that exported it stays here.
    assert device.run(("ls", f"{folder}/{name}")).output.decode().split() == ["cpu.json", "manifest.json", "model", "samples.npz", "weights.bin"]

    monkeypatch.setattr(guard, "SETTLE", 2.0)
    measured = edge.profile(program, device=phone.address, threads=2, runs=20, seconds=0.2, cool_seconds=60)
    (entry,) = measured.entries
    assert len(entry.runs) >= 20 and len(entry.operators) > 3 and entry.blocks
    assert not measured.device.in_python and measured.device.cpu == "Nobody a shim of the tests (cortex-a76)"
    conditions = measured.conditions
    assert conditions.idle is not None and conditions.idle.low_c == 25.6 and conditions.waited_s >= 2.0
    assert {one.temperature_c for one in conditions.readings} == {25.6} and not conditions.stayed_hot


def test_the_app_on_a_phone_measures(
    phone: virtual.Phone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shim in the app's place hands out what this machine measured; everything between is real."""
    bundle = make_bundle(tmp_path / "tiny.edge").path
    here = edge.profile(bundle, threads=1, runs=5, seconds=0.0, operators=False, roofline=False, cool_seconds=0, energy=False)
    command = ["profile", str(bundle), "--device", phone.address, "--app", "--runs", "7", "--threads", "2", "--no-keep"]
    assert cli.invoke(command) == 2
    assert "did not start the app (Error: Activity class" in capsys.readouterr().err

    device = find_device(phone.address)
    assert device.run(("touch", "/data/local/tmp/app-is-installed")).status == 0
    assert cli.invoke(command) == 2
    assert "did not measure: the app has no bundle 'tiny.edge'" in capsys.readouterr().err

    jsonfile.save(here, tmp_path / "result")
    device.push({"tiny.edge.json": tmp_path / "result"}, "/data/local/tmp")
    assert cli.invoke([*command, "--json", str(tmp_path / "app.json")]) == 0
    found = jsonfile.load(tmp_path / "app.json")
    assert found.device.device == phone.address and found.entries == here.entries
    assert device.run(("cat", "/data/local/tmp/asked")).output == b"tiny.edge 7 2\n"
    # Nothing is left behind.
    assert device.run(("ls", "-A", "/sdcard/Android/data/edge.demo/files/profiles")).output == b""

    other = make_bundle(tmp_path / "other" / "tiny.edge", offset=1.0).path
    with pytest.raises(DeviceError, match=r"has another bundle called tiny\.edge than the one here"):
        edge.api.profile_in_app(other, device=phone.address)


def test_the_app_is_on_a_phone(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny.edge").path
    with pytest.raises(UsageError, match=r"give --device adb:SERIAL"):
        edge.api.profile_in_app(bundle, device="local")


def test_a_phone_without_python_runs_no_onnx(phone: virtual.Phone, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="has no python3"):
        edge.verify(make_bundle(tmp_path / "tiny.edge").path, device=phone.address)


def test_a_cable_that_is_pulled_while_measuring_is_told(phone: virtual.Phone, bundle: Path) -> None:
    with pytest.raises(LostError, match=r"ended during 'runs classify'; it .*(attached|answer|adb devices)"):
        edge.profile(bundle, device=phone.address, threads=1, seconds=6.0, progress=Unplug(phone, "runs classify"))
    with pytest.raises(LostError, match="adb devices"):
        find_device(phone.address).facts()


def test_a_phone_that_is_not_there_is_told(phone: virtual.Phone) -> None:
    with pytest.raises(LostError, match="is not attached: look at `adb devices`"):
        find_device("adb:R58M123ABC").facts()


def test_without_adb_there_are_no_phones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_ADB", "/nonexistent/adb")
    assert attached() == []
    with pytest.raises(DeviceError, match=r"/nonexistent/adb, which reaches adb:X, is not installed"):
        find_device("adb:X").facts()
