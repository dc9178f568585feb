"""The part of edge that a device needs to answer requests, as one zip that its Python imports from.

It goes there with every bundle, so that both ends are of one version and edge need not be installed on the device. The
same files give the same bytes, hence the same name.
"""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import edge
import edge.devices
import edge.runtimes
import edge.runtimes.kernels
import edge.runtimes.kernels.onnx
from edge.cache import cache_dir
from edge.files import write_atomically

#: Folders of Python files, by their package: none of the exporter, the model families or the command line.
_PARTS = {
    "edge": edge, "edge/devices": edge.devices, "edge/runtimes": edge.runtimes,
    "edge/runtimes/kernels": edge.runtimes.kernels, "edge/runtimes/kernels/onnx": edge.runtimes.kernels.onnx,
}  # fmt: skip
_EPOCH = (1980, 1, 1, 0, 0, 0)


@functools.cache
def worker_zip() -> Path:
    """The zip, in edge's cache on this machine; its name says what is in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(_files()):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), path.read_bytes(), zipfile.ZIP_DEFLATED)
    data = buffer.getvalue()
    path = cache_dir() / "worker" / f"edge-{hashlib.sha256(data).hexdigest()[:16]}.zip"
    if not path.is_file() or path.read_bytes() != data:
        write_atomically(path, data)
    return path


def _files() -> Iterator[tuple[str, Path]]:
    for name, package in _PARTS.items():
        for folder in package.__path__:
            for path in Path(folder).glob("*.py"):
                yield f"{name}/{path.name}", path
