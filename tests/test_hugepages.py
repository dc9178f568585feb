"""Large files come into the system's cache in huge pages where it can, and are what they were wherever it cannot."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from pathlib import Path

import pytest

from edge.hugepages import HUGE, cache_in_huge_pages

SIZE = 10 * HUGE + 12345


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "a file of weights"
    path.write_bytes(os.urandom(SIZE))
    return path


def huge_bytes_of_another_mapping(path: Path) -> int:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        hashlib.sha256(mapped)
        lines = iter(Path("/proc/self/smaps").read_text().splitlines())
        for line in lines:
            if line.endswith(str(path)):
                return next(int(rest.split()[1]) * 1024 for rest in lines if rest.startswith("FilePmdMapped:"))
    raise AssertionError("the mapping is not listed")


def test_a_file_keeps_its_bytes_and_whoever_maps_it_finds_what_was_promised(weights: Path) -> None:
    before = hashlib.sha256(weights.read_bytes()).digest()
    # Written to the disk, so that the cache may drop it.
    with weights.open("rb") as file:
        os.fsync(file.fileno())
    promised = cache_in_huge_pages(weights, least=SIZE)
    assert hashlib.sha256(weights.read_bytes()).digest() == before
    assert promised is cache_in_huge_pages(weights, least=SIZE)
    if promised:
        assert huge_bytes_of_another_mapping(weights) >= 9 * HUGE


def test_small_files_are_left_alone(weights: Path) -> None:
    assert not cache_in_huge_pages(weights)
    empty = weights.with_name("empty")
    empty.touch()
    assert not cache_in_huge_pages(empty, least=0)


def test_a_system_that_refuses_is_no_error(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> mmap.mmap:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr("edge.hugepages.mmap.mmap", lambda *_, **__: refuse())
    assert not cache_in_huge_pages(weights, least=SIZE)
