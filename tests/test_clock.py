"""A wall clock that jumps while a model is measured (a Pi without a battery finds the time by network) disturbs nothing."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runners import built, exported, talk

import edge
from edge.devices.messages import Profiled
from edge.measurement import EntryMeasurement

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="clocks are replaced by LD_PRELOAD")

#: Every look at the wall clock is a day before or after the one before; clocks that cannot be set are left alone.
JUMPING = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
static long jump(void) { static long n; return ++n % 2 ? 86400 : -86400; }
int clock_gettime(clockid_t clock, struct timespec *at) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  const int status = real(clock, at);
  if (!status && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += jump();
  return status;
}
int gettimeofday(struct timeval *at, void *zone) {
  struct timespec now;
  const int status = clock_gettime(CLOCK_REALTIME, &now);
  if (at) at->tv_sec = now.tv_sec, at->tv_usec = now.tv_nsec / 1000;
  return status;
}
time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
"""


@pytest.fixture(scope="module")
def jumping(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("jumping")
    (folder / "jumping.c").write_text(JUMPING)
    library = folder / "jumping.so"
    command = [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O1", str(folder / "jumping.c"), "-ldl", "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True)
    script = "import time; print([round(time.time() - (then := time.time())) for _ in range(2)])"
    shown = subprocess.run(
        [sys.executable, "-c", script], env={"LD_PRELOAD": str(library)}, check=True, capture_output=True, text=True
    )
    assert all(abs(jump) > 80_000 for jump in json.loads(shown.stdout)), "the clock does not jump"
    return str(library)


def undisturbed(entry: EntryMeasurement, took: float) -> None:
    """Runs follow each other, none is longer than all of it took, in seconds by a clock that cannot be set."""
    assert all(run.duration_us > 0 for run in entry.runs)
    ends = [run.start_us + run.duration_us for run in entry.runs]
    assert all(end <= run.start_us + 0.01 for end, run in zip(ends, entry.runs[1:], strict=False))
    assert ends[-1] - entry.runs[0].start_us < 1e6 * took
    assert 0 < entry.bind_us < 1e6 * took and 0 < entry.first_us < 1e6 * took


def test_no_time_is_the_wall_clocks(tiny_bundle: Path, jumping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", jumping)
    begun = time.monotonic()
    measured = edge.profile(tiny_bundle, runs=20, seconds=0.05, roofline=False)
    took = time.monotonic() - begun
    for entry in measured.entries:
        undisturbed(entry, took)
        # ONNX Runtime's own profiler does look at it: better no table than a wrong one.
        assert entry.operators == ()
        assert any(f"no per-operator table for {entry.entry}: the system's clock was set" in one for one in measured.warnings)
    starts = [phase.start_us for phase in measured.phases]
    assert starts == sorted(starts) and sum(phase.duration_us for phase in measured.phases) < 1e6 * took


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="the native runner is for x86-64 and arm64")
def test_no_time_of_the_runner_is_the_wall_clocks(
    tmp_path_factory: pytest.TempPathFactory, jumping: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = built(tmp_path_factory, "executorch", f"{platform.machine()}-linux-gnu")
    bundle = exported(tmp_path_factory, "relu2-mlp", "rpi5", "executorch", "fp32")
    request = {"type": "profile", "device": "here", "bundle": str(bundle), "threads": 1, "runs": 50, "seconds": 0.05, "operators": True}
    monkeypatch.setenv("LD_PRELOAD", jumping)
    begun = time.monotonic()
    status, messages = talk([program], json.dumps(request).encode())
    took = time.monotonic() - begun
    assert status == 0 and isinstance(messages[-1], Profiled)
    undisturbed(messages[-1].entries[0], took)
    for run in messages[-1].traces[0].runs:
        assert all(event.start <= event.end < event.start + 1e9 * took for event in run)
