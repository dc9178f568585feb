"""What every test shares: a cache of its own, and few threads."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sshd
from hypothesis import settings

# The same examples every time: a test that fails here fails everywhere. No deadline: the machine may have other work.
settings.register_profile("edge", derandomize=True, deadline=None)
settings.load_profile("edge")

# Before anything imports torch or numpy. The suite shares the machine, and its workers (pytest -n) with each other: on
# a busy one, OpenMP threads that spin while they wait for a core made an export three times as long. The runtimes have
# pools of their own, whose sizes the tests choose.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell's background jobs ignore Ctrl-C, and so would the programs that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """EDGE_CACHE and EDGE_RESULTS point at temporary folders, so that no test reads or fills the user's."""
    folder = tmp_path_factory.mktemp("edge-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_CACHE", str(folder))
        patch.setenv("EDGE_RESULTS", str(tmp_path_factory.mktemp("edge-results")))
        yield folder


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the person who runs the tests change nothing."""
    for variable in ("EDGE_DEBUG", "EDGE_TARGETS", "FORCE_COLOR", "NO_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("EDGE_SSH", "EDGE_DEVICE_DIR", "EDGE_DEVICE_PYTHON"):
        monkeypatch.delenv(variable, raising=False)
    # No phone that is plugged in here, and no adb server left behind.
    monkeypatch.setenv("EDGE_ADB", "/nonexistent/adb")


@pytest.fixture(scope="session")
def digits_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo relu2-mlp for this machine, ONNX Runtime in float32, exported once. Do not change it."""
    from edge import cli

    path = tmp_path_factory.mktemp("digits") / "digits.edge"
    arguments = ["export", "relu2-mlp", "--target", "cpu", "--runtime", "onnx", "--quantize", "fp32", "-o", str(path)]
    assert cli.invoke(arguments) == 0
    return path


@pytest.fixture(scope="session")
def series_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo TSPulse for this machine, ONNX Runtime in float32, exported once. Do not change it."""
    from edge import cli

    path = tmp_path_factory.mktemp("series") / "series.edge"
    arguments = ["export", "tspulse", "--target", "cpu", "--runtime", "onnx", "--quantize", "fp32", "-o", str(path)]
    assert cli.invoke(arguments) == 0
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small entry points for ONNX Runtime (see ``tiny``). Do not change it."""
    from tiny import make_bundle

    return make_bundle(tmp_path_factory.mktemp("tiny") / "tiny.edge").path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    """A real sshd on loopback: this machine as a board."""
    with sshd.serve(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def board(server: sshd.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for edge of the board behind ``server``: one a test, so that nothing is there yet."""
    folder = tmp_path / "board"
    monkeypatch.setenv("EDGE_SSH", server.client)
    monkeypatch.setenv("EDGE_DEVICE_DIR", str(folder))
    monkeypatch.setenv("EDGE_DEVICE_PYTHON", sys.executable)
    return folder
