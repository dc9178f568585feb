"""The C++ runner on this machine: the same messages and numbers as the Python worker, and the same refusals."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import sshd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runners import built, talk

import edge
from edge import cli
from edge.bundle import open_bundle, sha256_file
from edge.devices import timing
from edge.devices.conversation import converse
from edge.devices.harness import with_operators
from edge.devices.messages import (
    Began,
    Failed,
    Go,
    Message,
    Profiled,
    ProfileRequest,
    Repeated,
    Sampled,
    Waiting,
)
from edge.devices.partial import SAMPLED, joined
from edge.devices.verifying import Verified, VerifyRequest, check_samples
from edge.errors import DeviceError
from edge.progress import Progress

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="the native runner is for Linux on x86-64 and arm64",
)
HOST = f"{platform.machine()}-linux-gnu"
RUNTIMES = ("executorch", "tvm")


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def runner(runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory, runtime, HOST)


@pytest.fixture(scope="module")
def bundle(runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo relu2-mlp, float32, for this machine."""
    path = tmp_path_factory.mktemp(runtime) / "digits.edge"
    arguments = ["export", "relu2-mlp", "--target", "cpu", "--runtime", runtime, "--quantize", "fp32", "-o", str(path)]
    assert cli.invoke(arguments) == 0
    return path


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy.edge"))


def profile_request(bundle: Path, **changes: object) -> bytes:
    request = ProfileRequest(device="here", bundle=str(bundle), threads=1, runs=7, seconds=0.01, operators=True)
    return msgspec.json.encode(msgspec.structs.replace(request, **changes))


def verify_request(bundle: Path, threads: int = 1) -> bytes:
    return msgspec.json.encode(VerifyRequest(device="here", bundle=str(bundle), threads=threads))


def refused(answer: tuple[int, list[Message]]) -> Failed:
    """The refusal, which must be all that was said: nothing was loaded before."""
    status, messages = answer
    assert status == 2
    (failed,) = messages
    assert isinstance(failed, Failed)
    assert failed.sentence.endswith(".") and "\n" not in failed.sentence
    return failed


def resign(bundle: Path) -> None:
    """Make the manifest say of every file what is there now."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    for record in manifest["files"]:
        record["sha256"], record["size"] = sha256_file(bundle / record["path"]), (bundle / record["path"]).stat().st_size
    path.write_text(json.dumps(manifest))


# --- what it measures


def test_a_profile_has_every_run_phase_and_operator(runner: Path, bundle: Path) -> None:
    status, messages = talk([runner], profile_request(bundle))
    assert status == 0
    *began, profiled = messages
    assert [message.phase for message in began if isinstance(message, Began)] == [
        "load", "bind classify", "first run classify", "warm-up classify", "runs classify", "operators classify",
    ]  # fmt: skip
    assert isinstance(profiled, Profiled)
    (entry,) = profiled.entries
    durations = [run.duration_us for run in entry.runs]
    assert len(durations) >= 7
    assert min(durations) > 0
    latency = entry.latency
    assert (latency.runs, latency.min_us, latency.max_us) == (len(durations), min(durations), max(durations))
    for percent, found in ((50, latency.p50_us), (90, latency.p90_us), (99, latency.p99_us)):
        assert found == pytest.approx(float(np.percentile(durations, percent)), abs=1e-6)
    assert entry.inputs == {"features": (1, 64)}
    phases = {phase.name: phase for phase in profiled.phases}
    assert phases["runs"].calls == len(durations)
    assert phases["runs"].start_us >= phases["warm-up"].start_us + phases["warm-up"].duration_us
    assert 0 < profiled.memory.baseline < profiled.memory.loaded <= profiled.memory.peak
    opened = open_bundle(bundle)
    whole = with_operators(profiled, bundle, opened.manifest).entries[0]
    assert sum(row.share for row in whole.operators) == pytest.approx(1.0)
    assert len({row.name for row in whole.operators}) == len(whole.operators)
    assert all(0 <= row.start_us < 1e6 and row.mean_us > 0 for row in whole.operators)
    (trace,) = profiled.traces
    assert len(trace.runs) >= 3
    for run in trace.runs:
        assert len(run) > 5
        assert all(event.start <= event.end for event in run)


def test_a_runner_that_is_killed_leaves_the_runs_that_it_told_of(runner: Path, bundle: Path) -> None:
    class Killing(Progress):
        def stage(self, name: str) -> None:
            if name == "runs classify":
                # The first message comes after two seconds, the second after four and a bit.
                self.timer = threading.Timer(3.5, kill_children, (runner,))
                self.timer.start()

    request = msgspec.json.decode(profile_request(bundle, runs=10**7), type=ProfileRequest)
    with pytest.raises(DeviceError, match=r"was killed \(SIGKILL.* during 'runs classify'") as caught:
        converse([str(runner)], os.environ, request, 60.0, Killing())
    partial = caught.value.partial
    assert partial is not None
    (entry,) = partial.entries
    assert entry.latency.runs == len(entry.runs) >= 100
    assert 1.9e6 < entry.runs[-1].start_us - entry.runs[0].start_us < 3.5e6
    assert entry.inputs == {"features": (1, 64)}
    assert [phase.name for phase in partial.phases] == ["load", "bind", "first run", "warm-up"]
    assert partial.memory.peak >= partial.memory.loaded > 0 and partial.facts.device == "here"


def test_a_runner_that_the_kernel_kills_for_memory_is_told(runner: Path, bundle: Path) -> None:
    """A group of processes with less memory than the model takes, where the system lets us make one."""
    request = msgspec.json.decode(profile_request(bundle), type=ProfileRequest)
    with small_memory(200_000) as group:
        entering = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "enter", str(runner)]
        with pytest.raises(DeviceError, match=r"was killed \(SIGKILL; out of memory is the usual cause\)"):
            converse(entering, os.environ, request, 60.0, Progress())


@contextlib.contextmanager
def small_memory(size: int) -> Iterator[Path]:
    """A control group with ``size`` bytes of memory; skips where none can be made (no root, or a closed container)."""
    root = Path("/sys/fs/cgroup")
    top, limit = (root / "memory", "memory.limit_in_bytes") if (root / "memory").is_dir() else (root, "memory.max")
    group = top / f"edge-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here ({error.strerror})")
    try:
        try:
            (group / limit).write_text(str(size))
        except OSError as error:
            pytest.skip(f"memory cannot be limited here ({error.strerror})")
        yield group
    finally:
        with contextlib.suppress(OSError):
            group.rmdir()


def test_what_the_runner_tells_of_is_what_it_answers(runner: Path, bundle: Path) -> None:
    request = profile_request(bundle, runs=400_000, operators=False)
    done = subprocess.run([runner], input=request + b"\n", capture_output=True, timeout=60, check=True)
    *lines, last = done.stdout.splitlines()
    told = [line for line in lines if line.startswith(SAMPLED)]
    profiled, whole = msgspec.json.decode(last, type=Profiled), joined(told)
    assert whole is not None
    assert len(told) >= 1 + (sum(run.duration_us for run in profiled.entries[0].runs) > 2.1e6)
    assert [entry.runs for entry in whole.entries] == [entry.runs for entry in profiled.entries]
    assert whole.entries[0].latency.p50_us == pytest.approx(profiled.entries[0].latency.p50_us)
    assert len(profiled.entries[0].runs) == 400_000


def test_a_paced_runner_runs_the_blocks_that_it_is_told_to(runner: Path, bundle: Path) -> None:
    request = msgspec.json.decode(profile_request(bundle, paced=True, operators=False), type=ProfileRequest)
    heard: list[Sampled | Repeated] = []
    waited: list[Waiting] = []

    def pace(waiting: Waiting, ask: Callable[[Go], Sampled | Repeated], keep: Callable[[Sampled], None]) -> None:
        waited.append(waiting)
        if waiting.phase == "energy":
            heard.append(ask(Go(runs=3, seconds=0.05, ramp=0.0)))
            return
        for runs, seconds in ((9, 0.0), (1, 0.1)):
            heard.append(ask(Go(runs=runs, seconds=seconds, ramp=0.02)))

    profiled = converse([str(runner)], os.environ, request, 60.0, Progress(), pace=pace)
    assert isinstance(profiled, Profiled)
    assert [(one.phase, one.entry) for one in waited] == [("runs", "classify"), ("energy", "classify")]
    first, second, repeated = heard
    assert isinstance(first, Sampled) and isinstance(second, Sampled) and isinstance(repeated, Repeated)
    assert len(first.entry.runs) == 9 and first.whole and second.whole
    start, end = second.entry.runs[0], second.entry.runs[-1]
    assert 0.99e5 < end.start_us + end.duration_us - start.start_us < 2e6
    assert first.entry.runs[0].start_us >= waited[0].at_us + 0.02e6, "the ramp counts"
    assert start.start_us >= first.entry.runs[-1].start_us + 0.02e6
    assert profiled.entries[0].runs == second.entry.runs
    calls = {phase.name: phase.calls for phase in profiled.phases}
    assert calls["runs"] == 9 + len(second.entry.runs) and calls["energy"] == repeated.runs >= 3
    assert repeated.seconds >= 0.05


def test_a_paced_runner_that_is_told_wrongly_says_so(runner: Path, bundle: Path) -> None:
    request = profile_request(bundle, paced=True, operators=False)
    for line, sentence in (
        (b'{"type":"enough"}', "told to stop before it ran 'classify'"),
        (b'{"type":"go","runs":0,"seconds":0,"ramp":0}', "a block is out of range"),
        (b'{"type":"stop"}', "it does not know 'stop'"),
        (b"", "sent a request that it cannot read"),
    ):
        status, messages = talk([runner], request + b"\n" + line)
        assert status == 2 and isinstance(messages[-1], Failed) and sentence in messages[-1].sentence
        assert isinstance(messages[-2], Waiting)


@pytest.mark.skipif(bool(sshd.lacking()), reason=sshd.lacking())
@pytest.mark.usefixtures("board")
def test_a_board_by_ssh_without_python_is_measured_block_by_block(
    runner: Path, bundle: Path, server: sshd.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_DEVICE_PYTHON", "/nonexistent/python3")
    monkeypatch.setenv("EDGE_CACHE", str(runner.parents[2]))
    monkeypatch.setattr(timing, "BLOCK", 0.1)
    measured = edge.profile(bundle, device=server.address, threads=1, runs=10, seconds=0.3, operators=False, cool_seconds=0)
    (entry,) = measured.entries
    assert len(entry.blocks) == 3 and all(block.kept and block.runs >= 4 for block in entry.blocks)
    assert len(entry.runs) == sum(block.runs for block in entry.blocks)
    assert [block.start_us for block in entry.blocks] == sorted(block.start_us for block in entry.blocks)
    assert len(measured.conditions.readings) == 6 and measured.device.python == "none: edge-runner"
    assert any("measured in Python" in warning for warning in measured.warnings)


def test_an_entry_point_can_have_fewer_threads_than_the_rest(runtime: str, runner: Path, bundle: Path) -> None:
    def threads(apart: dict[str, int]) -> int:
        """Threads of the runner when it is about to run the entry point."""
        request = profile_request(bundle, threads=3, apart=apart, paced=True, energy=False)
        found = []

        def pace(waiting: Waiting, ask: Callable[[Go], Sampled | Repeated], keep: Callable[[Sampled], None]) -> None:
            (child,) = children(runner)
            found.append(len(list((child / "task").iterdir())))
            ask(Go(runs=3, seconds=0.0, ramp=0.0))

        profiled = converse([str(runner)], os.environ, msgspec.json.decode(request, type=ProfileRequest), 60.0, Progress(), pace=pace)
        assert isinstance(profiled, Profiled) and len(profiled.traces) == 1
        return found[0]

    # TVM keeps the threads that it started, and uses fewer.
    assert threads({}) - threads({"classify": 1}) == (2 if runtime == "executorch" else 0)
    for wrong in (0, 4):
        assert "'apart' is out of range" in refused(talk([runner], profile_request(bundle, threads=3, apart={"classify": wrong}))).sentence


def children(program: Path) -> Iterator[Path]:
    """Where /proc has the processes of this one that run ``program``."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == os.getpid() and (entry / "exe").readlink() == program.resolve():
                yield entry


def kill_children(program: Path) -> None:
    for entry in children(program):
        with contextlib.suppress(OSError):
            os.kill(int(entry.name), signal.SIGKILL)


def test_facts_are_those_that_python_finds(runner: Path, bundle: Path) -> None:
    from edge.devices.facts import device_facts

    _, messages = talk([runner], profile_request(bundle, operators=False))
    assert isinstance(messages[-1], Profiled)
    found, expected = messages[-1].facts, device_facts("here", {})
    for name in ("device", "system", "arch", "cpu", "cores", "governor", "max_frequency_mhz", "caches", "ram_bytes"):
        assert getattr(found, name) == getattr(expected, name), name
    assert messages[-1].traces == ()


def test_verification_gives_the_errors_that_python_gives(runner: Path, bundle: Path) -> None:
    status, messages = talk([runner], verify_request(bundle, threads=2))
    assert status == 0
    *began, verified = messages
    assert Began(phase="verify classify") in began
    assert isinstance(verified, Verified)
    opened = open_bundle(bundle)
    (expected,) = check_samples(opened, edge.load(bundle, threads=2), "here")
    (check,) = verified.checks
    assert (check.entry, check.samples, check.tolerance) == (expected.entry, expected.samples, expected.tolerance)
    assert check.passed
    for found, other in zip(check.outputs, expected.outputs, strict=True):
        assert found.output == other.output
        # The same program on the same samples; the sums are in another order.
        assert found.max_abs == pytest.approx(other.max_abs, rel=1e-6)
        assert found.relative == pytest.approx(other.relative, rel=1e-6)
        assert found.cosine == pytest.approx(other.cosine, abs=1e-9)


def test_outputs_that_are_off_are_said_to_be(runner: Path, copy: Path) -> None:
    """Against stored outputs that the program does not compute."""
    with np.load(copy / "samples.npz") as stored:
        arrays = {name: stored[name] + (0.5 if "/out/" in name else 0) for name in stored.files}
    np.savez(copy / "samples.npz", **{name: value.astype(np.float32) for name, value in arrays.items()})
    resign(copy)
    status, messages = talk([runner], verify_request(copy))
    assert status == 0
    assert isinstance(messages[-1], Verified)
    (check,) = messages[-1].checks
    assert not check.passed
    assert check.outputs[0].max_abs == pytest.approx(0.5, abs=1e-4)


def test_edges_own_kernels_are_beside_the_runner(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    path = tmp_path / "sparse.edge"
    arguments = ["export", "relu2-mlp", "--target", "cpu", "--runtime", "executorch", "--quantize", "int8-dynamic"]
    assert cli.invoke([*arguments, "--sparse", "on", "-o", str(path)]) == 0
    runner = built(tmp_path_factory, "executorch", HOST)
    status, messages = talk([runner], profile_request(path))
    assert status == 0
    assert isinstance(messages[-1], Profiled)
    rows = with_operators(messages[-1], path, open_bundle(path).manifest).entries[0].operators
    assert [row.kind for row in rows].count("edge::relu2_mlp") == 2

    manifest = json.loads((path / "manifest.json").read_text())
    manifest["kernels"]["abi"] += 1
    (path / "manifest.json").write_text(json.dumps(manifest))
    failed = refused_after_load(talk([runner], profile_request(path)))
    assert "calls edge's kernels of ABI" in failed.sentence


# --- what it refuses, before anything is loaded


def test_a_damaged_artifact(runner: Path, copy: Path) -> None:
    artifact = copy / open_bundle(copy).manifest.entries[0].artifact
    data = bytearray(artifact.read_bytes())
    data[len(data) // 2] ^= 1
    artifact.write_bytes(data)
    failed = refused(talk([runner], profile_request(copy)))
    assert failed.kind == "BundleError"
    assert f"'{artifact.name}' in copy.edge is not what was exported" in failed.sentence


@pytest.mark.parametrize("length", [0, 10, -30, -1000])
def test_samples_that_are_cut_short(runner: Path, copy: Path, length: int) -> None:
    samples = copy / "samples.npz"
    samples.write_bytes(samples.read_bytes()[:length])
    resign(copy)
    failed = refused(talk([runner], profile_request(copy)))
    assert failed.kind == "BundleError"
    assert "samples.npz in copy.edge cannot be read" in failed.sentence


def test_an_entry_that_is_not_there(runner: Path, bundle: Path) -> None:
    failed = refused(talk([runner], profile_request(bundle, entries=("decode",))))
    assert failed == Failed(kind="UsageError", sentence="the bundle has no entry point 'decode': it has classify.")


def test_a_link_out_of_the_bundle(runner: Path, copy: Path, tmp_path: Path) -> None:
    (copy / "samples.npz").rename(tmp_path / "samples.npz")
    (copy / "samples.npz").symlink_to(tmp_path / "samples.npz")
    assert "lacks 'samples.npz'" in refused(talk([runner], profile_request(copy))).sentence


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "./x", "a//b", "a\\b"])
def test_a_path_that_leads_outside(runner: Path, copy: Path, name: str) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][0]["path"] = name
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert "leads outside the bundle" in refused(talk([runner], profile_request(copy))).sentence


def test_a_bundle_of_another_runtime(runner: Path, digits_bundle: Path) -> None:
    failed = refused_after_load(talk([runner], profile_request(digits_bundle)))
    assert failed.kind == "BundleError"
    assert "this bundle is for onnx" in failed.sentence


def refused_after_load(answer: tuple[int, list[Message]]) -> Failed:
    status, messages = answer
    assert status == 2
    *began, failed = messages
    assert began == [Began(phase="load")]
    assert isinstance(failed, Failed)
    return failed


def test_no_bundle_at_all(runner: Path, tmp_path: Path) -> None:
    assert refused(talk([runner], profile_request(tmp_path / "none.edge"))).kind == "UsageError"
    assert refused(talk([runner], profile_request(tmp_path))).kind == "BundleError"


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_samples_with_wrong_bytes_never_end_it(runner: Path, bundle: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Whatever the zip, its DEFLATE streams and its arrays say: an answer or a sentence, never a crash."""
    copy = tmp_path / "wrong.edge"
    shutil.copytree(bundle, copy, dirs_exist_ok=True)
    damaged = bytearray((bundle / "samples.npz").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.one_of(st.integers(0, len(damaged) - 1), st.integers(len(damaged) - 1200, len(damaged) - 1)))
        damaged[place] = data.draw(st.integers(0, 255))
    (copy / "samples.npz").write_bytes(damaged)
    resign(copy)
    status, messages = talk([runner], verify_request(copy))
    assert isinstance(messages[-1], Verified if status == 0 else Failed)
    assert status in (0, 2)


@pytest.mark.parametrize("compression", [(zipfile.ZIP_STORED, None), *((zipfile.ZIP_DEFLATED, level) for level in (0, 1, 9))])
def test_samples_packed_in_another_way(runner: Path, copy: Path, compression: tuple[int, int | None]) -> None:
    """Stored members, and DEFLATE's stored, fixed and dynamic blocks."""
    with zipfile.ZipFile(copy / "samples.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(copy / "samples.npz", "w", compression[0], compresslevel=compression[1]) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    resign(copy)
    status, messages = talk([runner], verify_request(copy))
    assert status == 0
    assert isinstance(messages[-1], Verified) and messages[-1].checks[0].passed


# --- requests


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"type": "roof", "threads": 1}', '{"type": "profile"}', '{"type": "profile", "type": "verify"}', "[" * 100]
)
def test_what_is_no_request(runner: Path, text: str) -> None:
    assert refused(talk([runner], text.encode())).kind == "UsageError"


def test_every_field_of_a_request_is_known_and_no_other(runner: Path, bundle: Path) -> None:
    request = msgspec.json.decode(profile_request(bundle, entries=("classify",), operators=False))
    assert talk([runner], msgspec.json.encode(request))[0] == 0
    failed = refused(talk([runner], msgspec.json.encode(request | {"cores": 3})))
    assert "it does not know 'cores'" in failed.sentence
