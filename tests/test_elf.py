"""What native code asks of a device, read from real programs and libraries, and when a device is told that it cannot load them."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_bundle

from edge.devices import elf
from edge.devices.base import Device, find_device
from edge.devices.examine import examine_device
from edge.devices.probe import BoardFacts, parse, probe
from edge.devices.remote import answer
from edge.devices.transfer import push
from edge.devices.verifying import VerifyRequest
from edge.doctor import Status
from edge.errors import DeviceError, UsageError
from edge.progress import Progress


class Shell(Device):
    """This machine by its shell: a board without a cable."""

    folder = ""

    def command(self, argv: list[str]) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(argv)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setenv("EDGE_DEVICE_DIR", str(tmp_path / "board"))
    monkeypatch.setenv("EDGE_DEVICE_PYTHON", sys.executable)
    return Shell("test:board")


@pytest.fixture
def facts(device: Device) -> BoardFacts:
    return device.facts()


@pytest.fixture(scope="module")
def library() -> Path:
    """A real library that needs the C library: msgspec's own."""
    return Path(next(Path(msgspec.__file__).parent.glob("_core*.so")))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real library for the other architecture, by zig."""
    other = "x86_64" if platform.machine() == "aarch64" else "aarch64"
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "f.c").write_text("int f(void) { return 7; }\n")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", f"{other}-linux-gnu.2.28", "-shared", "-nostdlib", "-o", "f.so", "f.c"]
    environment = {**os.environ, "ZIG_LOCAL_CACHE_DIR": str(folder / "zig")}
    subprocess.run(command, check=True, cwd=folder, env=environment, capture_output=True)
    return folder / "f.so"


def test_a_librarys_needs_are_those_that_the_linker_says(library: Path) -> None:
    needs = elf.read_needs(library)
    assert needs is not None
    assert needs.arch == platform.machine()
    versions = re.findall(rb"GLIBC_(2[0-9.]*)\0", library.read_bytes())
    assert needs.glibc == max(elf.version(version.decode()) for version in versions)
    assert needs.of.startswith("lib") and needs.alignment >= 4096
    assert elf.read_needs(Path(__file__)) is None


def test_a_library_fits_where_it_was_installed(library: Path, facts: BoardFacts) -> None:
    needs = elf.read_needs(library)
    assert needs is not None and elf.problem(needs, facts, "x.so") == ""
    elf.check(library, facts, "x.so")


def test_a_c_library_that_is_too_old_is_named_with_what_asks(library: Path, facts: BoardFacts) -> None:
    old = msgspec.structs.replace(facts, libc="glibc", libc_version="2.2")
    with pytest.raises(DeviceError, match=r"^x\.so needs glibc 2\.[0-9.]+ \(of lib[a-z]+\.so\.[0-9]\) and test:board has 2\.2: upgrade"):
        elf.check(library, old, "x.so")
    for libc in ("musl", "bionic"):
        with pytest.raises(DeviceError, match=f"needs glibc and test:board has {libc}"):
            elf.check(library, msgspec.structs.replace(facts, libc=libc), "x.so")


def test_pages_larger_than_the_alignment_are_told(facts: BoardFacts) -> None:
    needs = elf.Needs(facts.arch, (), "", 4096, ())
    assert elf.problem(needs, msgspec.structs.replace(facts, page_size=4096), "x.so") == ""
    assert "pages of 16384" in elf.problem(needs, msgspec.structs.replace(facts, page_size=16384), "x.so")
    assert elf.problem(needs._replace(alignment=65536), msgspec.structs.replace(facts, page_size=16384), "x.so") == ""


def test_code_for_another_architecture_is_not_sent(foreign: Path, device: Device, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny.edge").path
    (bundle / "small.onnx").write_bytes(foreign.read_bytes())
    request = VerifyRequest(device="test:board", bundle=str(bundle), threads=1)
    with pytest.raises(DeviceError, match=rf"small\.onnx is for (aarch64|x86_64) and test:board is {platform.machine()}: export"):
        answer(device, request, 60.0, Progress())
    assert not (tmp_path / "board").exists()


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_a_damaged_library_is_one_sentence(tail: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.so"
        path.write_bytes(b"\x7fELF\x02\x01\x01" + tail)
        try:
            elf.read_needs(path)
        except DeviceError as error:
            assert "is a damaged program or library" in str(error)


# --- what else a device is asked


def test_the_doctor_has_a_step_for_each_lack(facts: BoardFacts) -> None:
    good = {check.name: check for check in examine_device(facts)}
    for name in ("system", "memory", "free space", "page size", "programs", "Python", "numpy", "msgspec", "onnxruntime"):
        assert good[name].status is Status.OK, good[name]
    bad = msgspec.structs.replace(
        facts, arch="armv7l", ram_mb=100, free_bytes=10**6, libc="glibc", libc_version="2.19", lacks=("flock",), python=None
    )
    found = {check.name: check for check in examine_device(bad)}
    for name in ("system", "memory", "free space", "C library", "programs", "Python"):
        assert found[name].status is not Status.OK and found[name].next_step, name
    assert "lacks flock" in found["programs"].found


def test_what_a_strange_board_says_is_not_believed_blindly() -> None:
    facts = parse("ssh://x", "arch=arm64\nlacks=flock\nfree=/dev/root 1 2 x 3% /\nabout={broken\ncores=many\ncpuinfo\n")
    assert (facts.arch, facts.lacks, facts.free_bytes, facts.python, facts.cores) == ("aarch64", ("flock",), 0, None, 1)
    assert parse("ssh://x", "").arch == ""
    phone = parse("adb:x", "arch=aarch64\nbionic=34\nfree=/dev/block/dm-1 100 40 60 40% /data\ncpuinfo\nprocessor : 0\n")
    assert (phone.libc, phone.libc_version, phone.triple) == ("bionic", "34", "aarch64-linux-android")
    assert phone.free_bytes == 60 * 1024


@settings(deadline=None)
@given(st.text(max_size=300))
def test_any_answer_is_read_without_a_traceback(text: str) -> None:
    parse("ssh://x", text)


def test_a_folder_of_the_device_is_absolute(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_DEVICE_DIR", "relative")
    with pytest.raises(UsageError, match="EDGE_DEVICE_DIR"):
        probe(device)


@settings(max_examples=15, deadline=None)
@given(st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="/\0"), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200 and not name.endswith(".part")))
def test_a_file_of_any_name_arrives(name: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.write_bytes(name.encode())
        shell = Shell("test:board")
        shell._facts = parse("test:board", "")
        push(shell, {name: source}, f"{folder}/x $(exit 7)", Progress())
        there = list(Path(folder, "x $(exit 7)").iterdir())
        assert [path.name for path in there] == [name] and there[0].read_bytes() == name.encode()


def test_a_clock_that_jumps_disturbs_neither_lock_nor_cache(device: Device, tmp_path: Path) -> None:
    """Times on files may lie in any century: what is there is known by its hash, who holds the lock by the kernel."""
    from edge.devices.lock import locked

    source = tmp_path / "source"
    source.write_bytes(os.urandom(50_000))
    folder = tmp_path / "board"
    push(device, {"file": source}, str(folder), Progress())
    (folder / "lock").write_text("somebody who died in 1970")
    for when in (0, 4_102_444_800):
        for path in folder.iterdir():
            os.utime(path, (when, when))
        (folder / "file").unlink()
        (folder / "file.part").write_bytes(source.read_bytes()[:20_000])
        os.utime(folder / "file.part", (when, when))
        with locked(device, str(folder)):
            push(device, {"file": source}, str(folder), Progress())
        assert (folder / "file").read_bytes() == source.read_bytes()


def test_who_falls_silent_holds_a_board_no_longer(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop that is closed, a radio link that is gone: the line is open and nothing comes over it."""
    from edge.devices import lock

    monkeypatch.setattr(lock, "SILENCE", 2)
    folder = str(tmp_path / "board")
    monkeypatch.setattr(lock, "BEAT", 0.5)
    with lock.locked(device, folder):
        time.sleep(3.0)  # signs of life: it is held for longer than the silence that is allowed
        with pytest.raises(DeviceError, match=rf"is in use by .*process {os.getpid()}"), lock.locked(device, folder):
            pass
    monkeypatch.setattr(lock, "BEAT", 600.0)
    with lock.locked(device, folder):
        for _ in range(100):
            with contextlib.suppress(DeviceError), lock.locked(device, folder):
                return
            time.sleep(0.1)
    pytest.fail("a silent holder keeps the board")


def test_the_forms_of_addresses_are_told() -> None:
    with pytest.raises(UsageError, match=r"give local, ssh://user@host\[:port\], adb:SERIAL, qemu:rpi4\|rpi5\|android"):
        find_device("bluetooth:x")
