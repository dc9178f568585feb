"""Files that the user asked for: whole or not at all."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edge.errors import StorageError, UsageError
from edge.files import write_atomically


def test_a_file_and_its_folder_are_made_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / "new" / "result.csv"
    write_atomically(target, b"1,2\n")
    assert target.read_bytes() == b"1,2\n"
    write_atomically(target, b"3\n")
    assert target.read_bytes() == b"3\n"
    assert [path.name for path in target.parent.iterdir()] == ["result.csv"]


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "result.csv", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "result.csv").stat().st_mode) == 0o640


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    link = tmp_path / "result.csv"
    link.symlink_to(tmp_path / "data" / "real.csv")
    write_atomically(link, b"1\n")
    assert link.is_symlink()
    assert (tmp_path / "data" / "real.csv").read_bytes() == b"1\n"


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        write_atomically(tmp_path, b"")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "below.csv", b"")


def test_a_full_device_is_refused() -> None:
    with pytest.raises(StorageError, match="the disk is full while writing /dev/full"):
        write_atomically(Path("/dev/full"), b"1\n")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """A limit on file sizes stands for the disk, in a process of its own."""
    target = tmp_path / "result.csv"
    target.write_bytes(b"old\n")
    code = """if True:
        import sys
        from pathlib import Path
        from edge.files import write_atomically
        write_atomically(Path(sys.argv[1]), bytes(9999))
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        capture_output=True,
        text=True,
    )
    assert "StorageError: the disk is full" in done.stderr
    assert target.read_bytes() == b"old\n"
    assert [path.name for path in tmp_path.iterdir()] == ["result.csv"]
