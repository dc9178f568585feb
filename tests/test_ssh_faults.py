"""What goes wrong between a desk and a board, each for real on a real sshd: cut lines, full disks, killed processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cutting
import pytest
import sshd

import edge
from edge import cli, results
from edge.cli.terminal import PlainProgress
from edge.devices import lock, remote, transfer
from edge.devices.base import LostError, find_device
from edge.errors import DeviceError, StorageError, UsageError
from edge.progress import Progress

pytestmark = [pytest.mark.skipif(bool(sshd.lacking()), reason=sshd.lacking()), pytest.mark.usefixtures("board")]


class Reaction(Progress):
    """Does something, once, when a stage begins."""

    def __init__(self, stage: str, action: object) -> None:
        self._stage, self._action = stage, action
        self.warnings: list[str] = []

    def stage(self, name: str) -> None:
        if name == self._stage:
            assert callable(self._action)
            self._action()

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)


@pytest.fixture(autouse=True)
def _short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAUSE", 0.5)


def workers(board: Path) -> list[int]:
    """Processes on the board that run edge's worker for this test."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            environment = (entry / "environ").read_bytes()
            if f"PYTHONPATH={board}/worker/".encode() in environment and b"edge.devices.worker" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def gone(board: Path) -> bool:
    """Whether every worker ends within some seconds, long before it is done by itself."""
    for _ in range(70):
        if not workers(board):
            return True
        time.sleep(0.1)
    return False


# --- the connection


def test_a_push_that_is_cut_goes_on_where_it_stopped(server: sshd.Server, board: Path, tmp_path: Path) -> None:
    big = tmp_path / "big.bin"
    big.write_bytes(os.urandom(6_000_000))
    with cutting.relay(server.port) as cable:
        device = find_device(server.through(cable.port))
        device.facts()
        cable.cut_after = 3_000_000
        progress = Reaction("", None)
        device.push({"big.bin": big}, f"{board}/x", progress)
        sent = list(cable.sent)
    assert (board / "x" / "big.bin").read_bytes() == big.read_bytes()
    assert not (board / "x" / "big.bin.part").exists()
    assert len(progress.warnings) == 1 and "going on" in progress.warnings[0]
    assert len(sent) >= 2 and sum(sent) < 8_000_000, f"it was sent again from the start: {sent}"


def test_a_push_that_stays_cut_ends_in_one_sentence_and_a_later_one_goes_on(
    server: sshd.Server, board: Path, tmp_path: Path
) -> None:
    big = tmp_path / "big.bin"
    big.write_bytes(os.urandom(6_000_000))
    with cutting.relay(server.port) as cable:
        device = find_device(server.through(cable.port))
        device.facts()
        cable.cut_after, cable.for_good = 3_000_000, True
        with pytest.raises(LostError, match="cannot be reached, or the connection to it was lost"):
            device.push({"big.bin": big}, f"{board}/x")
    part = board / "x" / "big.bin.part"
    assert not (board / "x" / "big.bin").exists()
    before = part.stat().st_size
    assert 0 < before < 6_000_000
    find_device(server.address).push({"big.bin": big}, f"{board}/x")
    assert (board / "x" / "big.bin").read_bytes() == big.read_bytes() and not part.exists()


def test_a_damaged_part_is_not_built_upon(server: sshd.Server, board: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(100_000))
    (board / "x").mkdir(parents=True)
    for damage in (b"?" * 50_000, b"?" * 100_000, b"?" * 200_000):
        (board / "x" / "file.part").write_bytes(damage)
        (board / "x" / "file").unlink(missing_ok=True)
        find_device(server.address).push({"file": file}, f"{board}/x")
        assert (board / "x" / "file").read_bytes() == file.read_bytes()


def test_a_line_that_is_cut_while_measuring_says_where_and_leaves_the_board_free(
    server: sshd.Server, tiny_bundle: Path, board: Path
) -> None:
    with cutting.relay(server.port) as cable:
        address = server.through(cable.port)
        with pytest.raises(LostError, match=rf"the connection to {address} ended during 'runs small'.*run it again") as caught:
            edge.profile(tiny_bundle, device=address, seconds=8.0, progress=Reaction("runs small", cable.cut))
    assert caught.value.partial is caught.value.measurement is None and "no timed run was finished" in str(caught.value)
    assert gone(board), "the worker goes on measuring for nobody"
    assert edge.profile(tiny_bundle, device=server.address, runs=3, seconds=0.0, operators=False, roofline=False).entries


def test_a_line_that_is_cut_while_measuring_costs_no_run_that_was_finished(
    server: sshd.Server, tiny_bundle: Path, board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("EDGE_RESULTS", str(tmp_path / "results"))
    with cutting.relay(server.port) as cable:
        address = server.through(cable.port)
        stage = PlainProgress.stage

        def cutting_stage(self: PlainProgress, name: str) -> None:
            stage(self, name)
            if name == "runs wide":
                cable.cut()

        monkeypatch.setattr(PlainProgress, "stage", cutting_stage)
        assert cli.invoke(["profile", str(tiny_bundle), "--device", address, "--seconds", "0.5"]) == 2
    (name,) = results.identities()
    *_, sentence = capfd.readouterr().err.splitlines()
    kept = results.load(name)
    (entry,) = kept.entries
    assert sentence.startswith(f"edge: the connection to {address} ended during 'runs wide'; it ")
    assert sentence.endswith(f"run it again; the {len(entry.runs):,} runs finished before (small) are kept as {name} (see `edge results`).")
    assert kept.cut_short and "ended during 'runs wide'" in kept.warnings[-1]
    assert entry.entry == "small" and entry.blocks
    assert sum(block.runs for block in entry.blocks) == len(entry.runs) == entry.latency.runs >= 50
    assert kept.device.device == address and kept.load_us > 0 and kept.memory.peak >= kept.memory.loaded > 0
    assert gone(board)
    assert cli.invoke(["results"]) == 0
    assert "(cut short)" in capfd.readouterr().out


# --- processes


def test_a_worker_that_is_killed_for_memory_is_told(server: sshd.Server, tiny_bundle: Path, board: Path) -> None:
    def kill() -> None:
        for pid in workers(board):
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(DeviceError, match=r"was killed \(SIGKILL; out of memory is the usual cause\) during 'runs small'"):
        edge.profile(tiny_bundle, device=server.address, seconds=4.0, progress=Reaction("runs small", kill))


def test_a_worker_that_hangs_ends_at_the_timeout_on_the_board_too(server: sshd.Server, tiny_bundle: Path, board: Path) -> None:
    with pytest.raises(DeviceError, match=r"was stopped (at its start|during '.*'), after 6 s: raise the timeout"):
        edge.profile(tiny_bundle, device=server.address, seconds=30.0, timeout=6.0)
    assert gone(board)


def test_a_computer_that_slept_is_told(
    server: sshd.Server, tiny_bundle: Path, board: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No sign of life from here: not the board's memory, which a killed worker else means."""
    monkeypatch.setattr(remote, "SILENCE", 2)
    monkeypatch.setattr(lock, "BEAT", 600.0)
    with pytest.raises(DeviceError, match=r"heard nothing from here for a while and stopped measuring (at its start|during '.*'): keep"):
        edge.profile(tiny_bundle, device=server.address, seconds=30.0)
    assert gone(board)


HOLD = """
import sys, time
from edge.devices.base import find_device
from edge.devices.lock import locked
device = find_device(sys.argv[1])
with locked(device, sys.argv[2]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_profiles_never_share_a_board_and_a_dead_holder_holds_nothing(
    server: sshd.Server, tiny_bundle: Path, board: Path
) -> None:
    command = [sys.executable, "-c", HOLD, server.address, str(board)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            with pytest.raises(DeviceError, match=rf"is in use by .* process {holder.pid}: wait"):
                edge.verify(tiny_bundle, device=server.address)
        finally:
            holder.kill()
    for attempt in range(20):
        try:
            assert edge.verify(tiny_bundle, device=server.address)
            break
        except DeviceError:
            if attempt == 19:
                raise
            time.sleep(0.3)


# --- the disk


def test_a_file_that_does_not_fit_is_not_begun(server: sshd.Server, board: Path, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as stream:
        stream.truncate(1000)
    device = find_device(server.address)
    free = device.facts().free_bytes
    with pytest.raises(StorageError, match=r"MB free in .* are to go there"):
        transfer._check_space(device, free)
    transfer._check_space(device, free - transfer.SPARE)


@pytest.mark.skipif(not sys.platform.startswith("linux") or shutil.which("unshare") is None, reason="needs unshare (util-linux)")
def test_a_disk_that_fills_is_told_and_not_kept_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small"
    small.mkdir()
    namespace = small_disk(small)
    if subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("this kernel does not let us mount a small disk in a namespace of its own")
    with sshd.serve(tmp_path / "keys", command=[*namespace, str(sshd.SSHD)]) as server:
        monkeypatch.setenv("EDGE_SSH", server.client)
        monkeypatch.setenv("EDGE_DEVICE_DIR", f"{small}/edge")
        device = find_device(server.address)
        assert 0 < device.facts().free_bytes <= 8 * 2**20
        # Somebody else takes the space after we looked.
        device.run(("dd", "if=/dev/zero", f"of={small}/other", "bs=1M", "count=7"))
        file = tmp_path / "file"
        file.write_bytes(os.urandom(3_000_000))
        with pytest.raises(StorageError, match=r"the disk of .* is full: free some space there, run `edge device clean"):
            device.push({"file": file}, f"{small}/edge/x")
        assert device.run(("ls", f"{small}/edge/x")).output == b"", "a part that keeps the disk full"
        device.run(("rm", f"{small}/other"))
        device.push({"file": file}, f"{small}/edge/x")
        assert device.run(("wc", "-c", f"{small}/edge/x/file")).output.split()[0] == b"3000000"


def small_disk(folder: Path) -> list[str]:
    """A command that runs another where ``folder`` is a disk of 8 MB."""
    mount = 'mount -t tmpfs -o size=8m small "$0" && '
    if os.getuid() == 0:
        return ["unshare", "--mount", "sh", "-c", mount + 'exec "$@"', str(folder)]
    own = 'exec unshare --user --map-user="$EDGE_UID" --map-group="$EDGE_UID" -- "$@"'
    return ["env", f"EDGE_UID={os.getuid()}", "unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount + own, str(folder)]


# --- keys


@pytest.fixture
def fresh(server: sshd.Server) -> Iterator[str]:
    """The board by a port of its own, so that no connection to it is open yet."""
    with cutting.relay(server.port) as cable:
        yield server.through(cable.port)


@pytest.mark.parametrize("config", ["", "StrictHostKeyChecking no", "StrictHostKeyChecking accept-new"])
def test_an_unknown_host_key_is_refused_whatever_the_config_says(
    server: sshd.Server, fresh: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str,
    capfd: pytest.CaptureFixture[str]
) -> None:
    text = (server.folder / "ssh_config").read_text().replace(f"{server.folder}/known_hosts", f"{tmp_path}/known_hosts")
    (tmp_path / "config").write_text(f"{text}  {config}\n")
    (tmp_path / "known_hosts").write_text("")
    monkeypatch.setenv("EDGE_SSH", f"ssh -F {tmp_path}/config -o StrictHostKeyChecking=no")
    assert cli.invoke(["doctor", "--device", fresh]) == 2
    said = capfd.readouterr().err.splitlines()
    assert "has a host key that is not known here: connect once with `ssh" in said[-1]
    assert (tmp_path / "known_hosts").read_text() == ""


def test_another_host_key_than_before_is_told_apart(
    server: sshd.Server, fresh: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (server.folder / "ssh_config").read_text().replace(f"{server.folder}/known_hosts", f"{tmp_path}/known_hosts")
    (tmp_path / "config").write_text(text)
    kind, key, *_ = (server.folder / "user.pub").read_text().split()
    (tmp_path / "known_hosts").write_text(f"test-board {kind} {key}\n")
    monkeypatch.setenv("EDGE_SSH", f"ssh -F {tmp_path}/config")
    with pytest.raises(LostError, match="shows another host key than it used to"):
        find_device(fresh).facts()


def test_a_user_who_is_not_let_in_is_told_how(
    server: sshd.Server, fresh: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (server.folder / "ssh_config").read_text().replace(f"{server.folder}/user", f"{server.folder}/host")
    (tmp_path / "config").write_text(text)
    monkeypatch.setenv("EDGE_SSH", f"ssh -F {tmp_path}/config")
    with pytest.raises(LostError, match="refuses to let you in: put your key there with `ssh-copy-id`"):
        find_device(fresh).facts()


# --- names that mean mischief

NAMES = ("a b; touch pwned", "$(touch pwned)`touch pwned`", "-rf", "it's", 'say "no"', "back\\slash\nnew line", "ünï/cödé*")


def test_no_file_name_reaches_a_shell(server: sshd.Server, board: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"content")
    device = find_device(server.address)
    folder = f"{board}/x $(touch pwned) 'y'"
    device.push(dict.fromkeys(NAMES, source), folder)
    there = Path(folder)
    for name in NAMES:
        assert (there / name).read_bytes() == b"content"
    assert sum(path.is_file() for path in there.rglob("*")) == len(NAMES)
    device.pull(f"{folder}/{NAMES[0]}", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"content"
    assert not list(board.rglob("pwned")) and not (Path.home() / "pwned").exists()


@pytest.mark.parametrize(
    "host",
    ["-oProxyCommand=touch pwned", "host;touch pwned", "$(touch pwned)", "`touch pwned`", "host touch", "a\nb", "user@-x", "-x@host", "h/../x"],
)
@pytest.mark.parametrize("form", ["ssh://{}", "adb:{}"])
def test_no_device_name_reaches_a_shell(host: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is no address of a"):
        find_device(form.format(host))
    assert list(tmp_path.iterdir()) == []
