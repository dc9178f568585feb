"""The Android app without a phone: its logic in this machine's Java against edge's own numbers, and its APK taken apart."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from android_numbers import write_numbers

APP = Path(__file__).parents[1] / "examples" / "android"
#: A program of each Debian package that the builds need.
TOOLS = ("javac", "aapt", "apksigner", "zipalign", "dexdump")


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


@pytest.mark.slow
def test_the_logic_computes_what_edge_computes(built: Path, tmp_path: Path) -> None:
    numbers = write_numbers(tmp_path / "numbers")
    said = make("test", f"BUILD={built}", f"FIXTURES={numbers}")
    assert "OK (" in said


@pytest.mark.slow
def test_the_apk_is_what_android_installs(built: Path, tmp_path: Path) -> None:
    apk = built / "edge-demo.apk"
    said = make("apk", "check", f"BUILD={built}", f"PYTHON={sys.executable}", "BUNDLES=")
    assert "CN=edge demo debug key" in said  # apksigner verified it, or make had failed
    for fact in ("package: name='edge.demo'", "sdkVersion:'26'", "targetSdkVersion:'36'", "launchable-activity: name='edge.demo.MainActivity'"):
        assert fact in said
    assert "uses-permission" not in said
    manifest = run("aapt", "dump", "xmltree", str(apk), "AndroidManifest.xml")
    assert re.search(r"extractNativeLibs\(\w+\)=\(type 0x12\)0xffffffff", manifest)
    classes = run("dexdump", str(apk))
    declared = re.findall(r'android:name\(\w+\)="\.(\w+)"', manifest)
    assert len(declared) > 5
    for name in declared:
        assert f"Class descriptor  : 'Ledge/demo/{name};'" in classes
    with zipfile.ZipFile(apk) as archive:
        # What Android 11 asks for: the table of resources is mapped, so it is not compressed.
        assert archive.getinfo("resources.arsc").compress_type == zipfile.ZIP_STORED


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
