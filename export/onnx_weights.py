"""One file of weights for all entry points of a bundle.

Initializers above ``LIMIT`` bytes move from the entries' .onnx files to ``weights.bin``, each distinct content once, in
the order in which they are met. ONNX Runtime maps the file into memory, so what two entries share is read once.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from edge.runtimes.kernels.onnx.matrices import Index

if TYPE_CHECKING:
    import onnx

WEIGHTS = "weights.bin"
#: Smaller tensors stay in the graph: a reference to them would take about a tenth as much.
LIMIT = 1024
#: Bytes: the widest vector register and a cache line. Whole pages, as ONNX suggests for Windows, would waste two
#: kilobytes a tensor, a tenth of a small model.
ALIGNMENT = 64


class WeightFile:
    """Writes the file at ``path``; a context manager. No file appears if nothing was stored."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[bytes, int] = {}
        self._packed: dict[str, dict[str, tuple[int, int]]] = {}
        self._end = 0

    def __enter__(self) -> WeightFile:
        self._stream = self.path.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        if not self._places:
            self.path.unlink()

    def take(self, model: onnx.ModelProto, entry: str) -> None:
        """Move the large initializers of ``model``, the graph of ``entry``, into the file, in place."""
        import onnx

        for tensor in model.graph.initializer:
            if not tensor.HasField("raw_data"):
                tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
            data = tensor.raw_data
            if len(data) <= LIMIT:
                continue
            offset = self._place(data)
            if tensor.data_type == onnx.TensorProto.UINT8:
                self._packed.setdefault(entry, {})[tensor.name] = (offset, len(data))
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", WEIGHTS), ("offset", str(offset)), ("length", str(len(data)))):
                tensor.external_data.add(key=key, value=value)

    def index(self) -> bytes:
        """Where the bytes (uint8) of each entry lie, for who maps the file for all of them (``kernels.onnx.matrices``)."""
        return msgspec.json.encode(Index(self.path.name, self._packed), order="sorted")

    def _place(self, data: bytes) -> int:
        digest = hashlib.sha256(data).digest()
        if digest not in self._places:
            self._stream.write(b"\0" * (-self._end % ALIGNMENT))
            self._end += -self._end % ALIGNMENT
            self._places[digest] = self._end
            self._stream.write(data)
            self._end += len(data)
        return self._places[digest]
