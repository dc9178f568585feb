"""The Android app without a phone: its logic in this machine's Java against edge's own numbers, and its APK taken apart."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import pytest
from android_models import write_models
from android_numbers import write_numbers
from elftools.elf.elffile import ELFFile
from runners import exported

from edge.bundle import MANIFEST, open_bundle, sha256_file
from edge.compare import compare
from edge.measurement import Latency
from edge.report import jsonfile

APP = Path(__file__).parents[1] / "examples" / "android"
#: A program of each Debian package that the builds need.
TOOLS = ("javac", "aapt", "apksigner", "zipalign", "dexdump")

#: As other tests export them too, where they do.
MODELS: dict[str, tuple[str, ...]] = {"plm": (), "tspulse": (), "interformer": ("--part", "click"), "fmvit": ()}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the Makefile builds; skips where Java and Android's tools are not installed."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    return tmp_path_factory.mktemp("android")


def make(*arguments: str) -> str:
    done = subprocess.run(["make", "-C", str(APP), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo models as programs for this machine."""
    return {name: exported(tmp_path_factory, name, "cpu", "static", "fp32", *more) for name, more in MODELS.items()}


@pytest.fixture(scope="session")
def for_a_phone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory, "relu2-mlp", "android", "static", "fp32")


@pytest.mark.slow
def test_the_logic_computes_what_edge_computes(built: Path, bundles: dict[str, Path], tmp_path: Path) -> None:
    numbers = write_numbers(tmp_path / "numbers")
    write_models(numbers, bundles)
    said = make("test", f"BUILD={built}", f"FIXTURES={numbers}")
    assert "OK (" in said
    for name in ("fmvit", "plm"):
        # What the app's profiler wrote is a measurement like any other.
        saved = numbers / f"{name}-profile.json"
        measured = jsonfile.load(saved)
        assert measured.bundle.manifest_sha256 == sha256_file(bundles[name] / MANIFEST)
        assert measured.bundle.artifact_bytes == open_bundle(bundles[name]).artifact_bytes
        for entry in measured.entries:
            again = Latency.of([run.duration_us for run in entry.runs])
            assert again.runs == 40 and msgspec.to_builtins(again) == pytest.approx(msgspec.to_builtins(entry.latency))
        assert measured.memory.peak >= measured.memory.loaded > 0 and measured.load_us > 0
        assert compare([saved, saved]).rows[0].cells[1] is not None


@pytest.mark.slow
def test_the_apk_is_what_android_installs(built: Path, for_a_phone: Path) -> None:
    apk, bundle = built / "edge-demo.apk", for_a_phone
    said = make("apk", "check", f"BUILD={built}", f"PYTHON={sys.executable}", f"BUNDLES={bundle}")
    assert "CN=edge demo debug key" in said  # apksigner verified it, or make had failed
    for fact in ("package: name='edge.demo'", "sdkVersion:'26'", "targetSdkVersion:'36'", "launchable-activity: name='edge.demo.MainActivity'"):
        assert fact in said
    assert "uses-permission" not in said
    declared_in = run("aapt", "dump", "xmltree", str(apk), "AndroidManifest.xml")
    assert re.search(r"extractNativeLibs\(\w+\)=\(type 0x12\)0xffffffff", declared_in)
    classes = run("dexdump", str(apk))
    declared = re.findall(r'android:name\(\w+\)="\.(\w+)"', declared_in)
    assert len(declared) > 5
    for name in declared:
        assert f"Class descriptor  : 'Ledge/demo/{name};'" in classes
    with zipfile.ZipFile(apk) as archive:
        # What Android 11 asks for: the table of resources is mapped, so it is not compressed.
        assert archive.getinfo("resources.arsc").compress_type == zipfile.ZIP_STORED
        manifest = open_bundle(bundle).manifest
        packed = f"assets/bundles/{bundle.name}"
        assert archive.read(f"{packed}/{MANIFEST}") == (bundle / MANIFEST).read_bytes()
        for record in manifest.files:
            if record.path.startswith("host/"):
                continue  # this machine's
            program = record.path == manifest.entries[0].artifact
            content = archive.read(f"lib/arm64-v8a/libedge-{record.sha256}.so" if program else f"{packed}/{record.path}")
            assert hashlib.sha256(content).hexdigest() == record.sha256
            if program:
                elf = ELFFile(io.BytesIO(content))
                assert elf["e_machine"] == "EM_AARCH64" and elf["e_type"] == "ET_DYN"
                loaded = list(elf.iter_segments("PT_LOAD"))
                assert loaded and all(segment["p_align"] % 16384 == 0 for segment in loaded)


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
