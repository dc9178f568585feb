"""Static programs of the models, and for arm64: under emulation with pages of 4 and of 16 KB."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from programs import program, request, said
from runners import exported, talk

import edge
from edge.bundle import Bundle, open_bundle
from edge.devices.verifying import Verified, VerifyRequest

pytestmark = pytest.mark.slow

EMULATOR = shutil.which("qemu-aarch64")
#: -R has QEMU look for free addresses itself. Else it asks this machine's kernel, which knows only pages of its own 4 KB:
#: QEMU 7.2 drops what is not aligned to the larger ones and at last takes the lowest address of all, once in 50 starts. The
#: allocator of zig's C library then suggests one below 0, which Linux ignores and QEMU refuses: any program that zig
#: links aborts so, one that fills a vector 19 times in 1000. With -R none did.
RESERVED = ("-R", "0x10000000000")


@pytest.fixture(scope="module")
def android(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(exported(tmp_path_factory, "relu2-mlp", "android", "static", "fp32"))


@pytest.mark.parametrize(("model", "more"), [("interformer", ("--part", "click")), ("plm", ())])
def test_models_run_as_programs(model: str, more: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> None:
    """The export compares them with eager on real samples; here what an app does with the program."""
    bundle = open_bundle(exported(tmp_path_factory, model, "cpu", "static", "fp32", *more))
    assert (bundle.path / "model").stat().st_size < 1_000_000
    started = program(bundle, tmp_path_factory.mktemp(model))
    given, expected = b"", []
    for record in bundle.manifest.entries:
        inputs, outputs = bundle.samples(record.name)[0]
        given += request({"id": len(expected), "entry": record.name, "threads": 2}, *(inputs[spec.name] for spec in record.inputs))
        expected += [outputs[spec.name] for spec in record.outputs]
    status, _, tensors = said([started, "--serve"], given)
    assert status == 0 and len(tensors) == len(expected)
    for found, wanted in zip(tensors, expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-3 * float(np.sqrt(np.mean(wanted**2))), rtol=1e-3)


def test_plms_entry_points_share_a_cache_that_stays(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A step sends its token and the rows of the step before; the program keeps the cache."""
    bundle = open_bundle(exported(tmp_path_factory, "plm", "cpu", "static", "fp32"))
    started = program(bundle, tmp_path_factory.mktemp("plm-cache"))
    inputs, outputs = bundle.samples("decode")[0]
    caches = [name for name in inputs if name.startswith("cache")]
    pieces = [{"name": name} for name in ("tokens", "position", *caches)]
    first = request({"id": 1, "entry": "prefill", "inputs": [{"name": name} for name in caches], "outputs": []}, *(inputs[name] for name in caches))
    then = request({"id": 2, "entry": "decode", "inputs": pieces[:2], "outputs": ["logits"]}, inputs["tokens"], inputs["position"])
    status, _, tensors = said([started, "--serve"], first + then)
    assert status == 0
    np.testing.assert_allclose(tensors[0], outputs["logits"], rtol=1e-3, atol=1e-3)


def test_an_android_bundle_holds_the_hosts_program_too(android: Bundle, tmp_path: Path) -> None:
    (check,) = edge.verify(android.path)
    assert check.passed
    measured = edge.profile(android.path, runs=5, seconds=0.0, roofline=False, energy=False, cool_seconds=0)
    assert measured.device.arch == platform.machine() and not measured.device.in_python and len(measured.entries[0].operators) > 3
    # The app's logic is tested on this machine with it.
    host = program(android, tmp_path, "host/model")
    inputs, outputs = android.samples("classify")[0]
    status, _, tensors = said([host, "--serve"], request({"id": 1, "entry": "classify"}, inputs["features"]))
    assert status == 0
    np.testing.assert_allclose(tensors[0], outputs["logits"], rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(EMULATOR is None, reason="qemu-aarch64 is not installed")
@pytest.mark.parametrize("page", [4096, 16384])
def test_arm64_with_pages_of_both_sizes(android: Bundle, page: int, tmp_path: Path) -> None:
    started = program(android, tmp_path)
    command = [str(EMULATOR), "-cpu", "cortex-a72", "-p", str(page), *RESERVED, started]
    inputs, outputs = android.samples("classify")[0]
    asked = request({"id": 1, "entry": "classify", "threads": 2}, inputs["features"])
    status, lines, tensors = said([*command, "--serve", "--weights", tmp_path / "weights.bin"], asked)
    assert status == 0 and lines[0]["model"] == "relu2-mlp"
    np.testing.assert_allclose(tensors[0], outputs["logits"], rtol=1e-3, atol=1e-3)
    whole = VerifyRequest(device="qemu", bundle=str(android.path), threads=1)
    status, messages = talk(command, msgspec.json.encode(whole))
    assert status == 0 and isinstance(messages[-1], Verified) and all(check.passed for check in messages[-1].checks)


@pytest.mark.skipif(EMULATOR is None, reason="qemu-aarch64 is not installed")
def test_a_raspberry_pis_program_needs_no_arm64_system(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some 10 s, for the export."""
    bundle = exported(tmp_path_factory, "relu2-mlp", "rpi", "static", "fp32")
    monkeypatch.setenv("EDGE_ARM64_ROOT", str(tmp_path / "none"))
    (check,) = edge.verify(bundle, device="qemu:rpi5")
    assert check.passed and check.where == "static on qemu:rpi5 (aarch64, edge-runner)"
