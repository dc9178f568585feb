"""The kernels by ctypes: numpy arrays in, numpy arrays out. For packing weights, for tests and for benchmarks.

Shapes as in ``edge_kernels.h``: float32 activations, packed matrices as bytes (uint8, one axis), float16 caches.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, byref, c_char_p, c_float, c_int, c_size_t, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from edge.errors import BundleError, UsageError

#: What this package's callers are written for: EDGE_KERNELS_ABI.
ABI = 1
GROUP = 32


class _Shape(Structure):
    _fields_ = [(name, c_size_t) for name in ("heads", "nope", "rope", "value", "latent")]


@dataclass(frozen=True)
class MLAShape:
    heads: int
    nope: int
    rope: int
    value: int
    latent: int

    @property
    def row(self) -> int:
        return self.latent + self.rope


class Pool:
    """Threads of the library's own; to be closed, or used as a context."""

    def __init__(self, library: ctypes.CDLL, threads: int) -> None:
        self._library = library
        self.handle = c_void_p(library.edge_pool_create(threads))

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._library.edge_pool_destroy(self.handle)
        self.handle = c_void_p()


class Kernels:
    """The library at ``path``, loaded; BundleError if its ABI is another than this package's."""

    def __init__(self, path: Path) -> None:
        self.library = library = ctypes.CDLL(str(path))
        library.edge_kernels_version.restype = c_char_p
        library.edge_kernels_isa.restype = c_char_p
        for name, arguments in _SIGNATURES.items():
            getattr(library, name).argtypes = arguments
        for name in ("edge_tiled_bytes", "edge_neurons_bytes", "edge_coarse_bytes", "edge_fine_bytes"):
            getattr(library, name).restype = c_size_t
        library.edge_pool_create.restype = c_void_p
        library.edge_read.restype = c_uint64
        if library.edge_kernels_abi_version() != ABI:
            raise BundleError(
                f"{path} has the kernels' ABI {library.edge_kernels_abi_version()}, not {ABI}: build it again."
            )

    @property
    def version(self) -> str:
        return bytes(self.library.edge_kernels_version()).decode()

    @property
    def isa(self) -> str:
        return bytes(self.library.edge_kernels_isa()).decode()

    def use(self, isa: str | None) -> None:
        """Switch the whole process to an instruction set, None: the best; UsageError if this CPU lacks it."""
        if self.library.edge_kernels_use(isa.encode() if isa else None):
            raise UsageError(f"this CPU cannot run kernels for {isa}: leave the choice to the library.")

    def pool(self, threads: int) -> Pool:
        return Pool(self.library, threads)

    def quantize(self, bits: int, weights: np.ndarray, pool: Pool | None = None) -> tuple[np.ndarray, np.ndarray]:
        """``weights`` [rows, columns] to int8 values of the same shape and scales [rows, groups] float16."""
        weights = _floats(weights)
        rows, columns = weights.shape
        q, scales = np.empty((rows, columns), np.int8), np.empty((rows, -(-columns // GROUP)), np.float16)
        self._check(self.library.edge_quantize(_handle(pool), bits, rows, columns, _at(weights), _at(q), _at(scales)))
        return q, scales

    def pack_tiled(self, bits: int, q: np.ndarray, scales: np.ndarray) -> np.ndarray:
        return self._pack("tiled", bits, q, scales)

    def pack_neurons(self, bits: int, q: np.ndarray, scales: np.ndarray) -> np.ndarray:
        return self._pack("neurons", bits, q, scales)

    def unpack_tiled(self, bits: int, rows: int, columns: int, packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._unpack("tiled", bits, rows, columns, packed)

    def unpack_neurons(self, bits: int, hidden: int, width: int, packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._unpack("neurons", bits, hidden, width, packed)

    def matmul(
        self, bits: int, rows: int, packed: np.ndarray, x: np.ndarray, pool: Pool | None = None, blocks: int = 1
    ) -> np.ndarray:
        """x [tokens, columns] to [tokens, rows]; with ``blocks``, x [tokens, blocks, columns] to [tokens, blocks, rows]."""
        x = _floats(x)
        y = np.empty((*x.shape[:-1], rows), np.float32)
        self._bytes("tiled", bits, rows, x.shape[-1], packed, blocks)
        self._check(
            self.library.edge_matmul_blocks(
                _handle(pool), blocks, bits, rows, x.shape[-1], _at(packed), x.shape[0], _at(x), _at(y)
            )
        )
        return y

    def head(
        self, rows: int, coarse: np.ndarray, fine: np.ndarray, x: np.ndarray, pool: Pool | None = None
    ) -> np.ndarray:
        """x [tokens, columns] to logits [tokens, rows]: two tiled matrices of 4 bits, the second of them where it matters."""
        x = _floats(x)
        tokens, columns = x.shape
        y = np.empty((tokens, rows), np.float32)
        for packed in (coarse, fine):
            self._bytes("tiled", 4, rows, columns, packed)
        self._check(
            self.library.edge_head(_handle(pool), rows, columns, _at(coarse), _at(fine), tokens, _at(x), _at(y))
        )
        return y

    def embed(self, bits: int, rows: int, columns: int, packed: np.ndarray, ids: np.ndarray) -> np.ndarray:
        ids = np.ascontiguousarray(ids, np.int64)
        out = np.empty((len(ids), columns), np.float32)
        self._bytes("tiled", bits, rows, columns, packed)
        self._check(self.library.edge_embed(bits, rows, columns, _at(packed), len(ids), _at(ids), _at(out)))
        return out

    def rms_norm(self, x: np.ndarray, eps: float, gain: np.ndarray | None = None) -> np.ndarray:
        x = _floats(x)
        out = np.empty_like(x)
        self._check(
            self.library.edge_rms_norm(
                *x.shape, _at(x), eps, _at(_floats(gain)) if gain is not None else None, _at(out)
            )
        )
        return out

    def relu2_mlp(
        self, bits: int, hidden: int, up: np.ndarray, down: np.ndarray, x: np.ndarray, pool: Pool | None = None
    ) -> tuple[np.ndarray, int]:
        """x [tokens, width] to the same shape, and how many neurons were live, in all."""
        x = _floats(x)
        y, live = np.empty_like(x), c_uint64()
        tokens, width = x.shape
        self._bytes("tiled", bits, hidden, width, up)
        self._bytes("neurons", bits, hidden, width, down)
        self._check(
            self.library.edge_relu2_mlp(
                _handle(pool), bits, width, hidden, _at(up), _at(down), tokens, _at(x), _at(y), byref(live)
            )
        )
        return y, live.value

    def relu2_mlp_skip(
        self, hidden: int, coarse: np.ndarray, fine: np.ndarray, down: np.ndarray, x: np.ndarray, pool: Pool | None = None
    ) -> tuple[np.ndarray, int, int]:
        """As ``relu2_mlp`` with bits 4 and an up half in planes; also of how many neurons the fine plane was read."""
        x = _floats(x)
        y, live, read = np.empty_like(x), c_uint64(), c_uint64()
        tokens, width = x.shape
        self._planes(hidden, width, coarse, fine)
        self._bytes("neurons", 4, hidden, width, down)
        self._check(
            self.library.edge_relu2_mlp_skip(
                _handle(pool), 4, width, hidden, _at(coarse), _at(fine), _at(down), tokens, _at(x), _at(y), byref(live),
                byref(read),
            )
        )  # fmt: skip
        return y, live.value, read.value

    def pack_planes(self, q: np.ndarray, scales: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The plain form of 4 bits, and each row's reach, as a coarse and a fine plane."""
        rows, columns = q.shape
        coarse = np.empty(self.library.edge_coarse_bytes(rows, columns), np.uint8)
        fine = np.empty(self.library.edge_fine_bytes(rows, columns), np.uint8)
        self._check(
            self.library.edge_pack_planes(
                rows, columns, _at(np.ascontiguousarray(q, np.int8)), _at(_halves(scales)), _at(_floats(reach)), _at(coarse),
                _at(fine),
            )
        )  # fmt: skip
        return coarse, fine

    def unpack_planes(
        self, rows: int, columns: int, coarse: np.ndarray, fine: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self._planes(rows, columns, coarse, fine)
        q, scales = np.empty((rows, columns), np.int8), np.empty((rows, -(-columns // GROUP)), np.float16)
        reach = np.empty(rows, np.float32)
        self._check(
            self.library.edge_unpack_planes(rows, columns, _at(coarse), _at(fine), _at(q), _at(scales), _at(reach))
        )
        return q, scales, reach

    def sparse_down(
        self, bits: int, width: int, down: np.ndarray, activations: np.ndarray, pool: Pool | None = None
    ) -> tuple[np.ndarray, int]:
        """Activations [tokens, hidden] to [tokens, width]."""
        activations = _floats(activations)
        tokens, hidden = activations.shape
        y, live = np.empty((tokens, width), np.float32), c_uint64()
        self._bytes("neurons", bits, hidden, width, down)
        self._check(
            self.library.edge_sparse_down(
                _handle(pool), bits, width, hidden, _at(down), tokens, _at(activations), _at(y), byref(live)
            )
        )
        return y, live.value

    def mla(
        self,
        latent: int,
        position: int,
        cache: np.ndarray,
        own: np.ndarray,
        query: np.ndarray,
        pool: Pool | None = None,
    ) -> np.ndarray:
        """cache [context, row] and own [tokens, row] float16, query [tokens, heads, row] to [tokens, heads, latent]."""
        query = _floats(query)
        tokens, heads, row = query.shape
        out = np.empty((tokens, heads, latent), np.float32)
        self._check(
            self.library.edge_mla(
                _handle(pool),
                heads,
                latent,
                row - latent,
                position,
                _at(_halves(cache)),
                tokens,
                _at(_halves(own)),
                _at(query),
                _at(out),
            )
        )
        return out

    def mla_layer(
        self,
        shape: MLAShape,
        bits: int,
        to_key: np.ndarray,
        to_value: np.ndarray,
        projected: np.ndarray,
        angles: tuple[np.ndarray, np.ndarray],
        eps: float,
        position: int,
        cache: np.ndarray,
        pool: Pool | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """``angles`` are cosines and sines [tokens, rope / 2]; to out [tokens, heads * value] and own rows [tokens, row]."""
        projected = _floats(projected)
        tokens = len(projected)
        out = np.empty((tokens, shape.heads * shape.value), np.float32)
        own = np.empty((tokens, shape.row), np.float16)
        sizes = _Shape(shape.heads, shape.nope, shape.rope, shape.value, shape.latent)
        self._bytes("tiled", bits, shape.latent, shape.nope, to_key, shape.heads)
        self._bytes("tiled", bits, shape.value, shape.latent, to_value, shape.heads)
        self._check(
            self.library.edge_mla_layer(
                _handle(pool), byref(sizes), bits, _at(to_key), _at(to_value), tokens, _at(projected),
                _at(_floats(angles[0])), _at(_floats(angles[1])), eps, position, _at(_halves(cache)), _at(own), _at(out),
            )
        )  # fmt: skip
        return out, own

    def read(self, data: np.ndarray, pool: Pool | None = None) -> int:
        """The exclusive or of all whole cache lines of ``data``: to time reading them."""
        return int(self.library.edge_read(_handle(pool), _at(data), data.nbytes))

    def _pack(self, form: str, bits: int, q: np.ndarray, scales: np.ndarray) -> np.ndarray:
        rows, columns = q.shape
        size = getattr(self.library, f"edge_{form}_bytes")(bits, rows, columns)
        packed = np.empty(size, np.uint8)
        pack = getattr(self.library, f"edge_pack_{form}")
        self._check(pack(bits, rows, columns, _at(np.ascontiguousarray(q, np.int8)), _at(_halves(scales)), _at(packed)))
        return packed

    def _unpack(
        self, form: str, bits: int, rows: int, columns: int, packed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        self._bytes(form, bits, rows, columns, packed)
        q, scales = np.empty((rows, columns), np.int8), np.empty((rows, -(-columns // GROUP)), np.float16)
        self._check(getattr(self.library, f"edge_unpack_{form}")(bits, rows, columns, _at(packed), _at(q), _at(scales)))
        return q, scales

    def _bytes(self, form: str, bits: int, rows: int, columns: int, packed: np.ndarray, blocks: int = 1) -> None:
        needed = blocks * getattr(self.library, f"edge_{form}_bytes")(bits, rows, columns)
        if packed.dtype != np.uint8 or packed.size != needed:
            raise UsageError(
                f"{packed.size} bytes are no packed {rows} x {columns} matrix of {bits} bits, which takes {needed}."
            )

    def _planes(self, rows: int, columns: int, coarse: np.ndarray, fine: np.ndarray) -> None:
        needed = self.library.edge_coarse_bytes(rows, columns), self.library.edge_fine_bytes(rows, columns)
        if (coarse.size, fine.size) != needed or {coarse.dtype, fine.dtype} != {np.dtype(np.uint8)}:
            raise UsageError(
                f"{coarse.size} and {fine.size} bytes are no planes of a {rows} x {columns} matrix, which takes {needed[0]} "
                f"and {needed[1]}."
            )

    def _check(self, status: int) -> None:
        if status:
            raise UsageError(
                {1: "the kernels refuse these sizes, bits or ids.", 2: "there is no memory left for the kernels."}[
                    status
                ]
            )


_P, _N = c_void_p, c_size_t
_SIGNATURES: dict[str, list[object]] = {
    "edge_kernels_use": [c_char_p],
    "edge_pool_create": [_N],
    "edge_pool_destroy": [_P],
    "edge_tiled_bytes": [c_int, _N, _N],
    "edge_neurons_bytes": [c_int, _N, _N],
    "edge_quantize": [_P, c_int, _N, _N, _P, _P, _P],
    "edge_pack_tiled": [c_int, _N, _N, _P, _P, _P],
    "edge_unpack_tiled": [c_int, _N, _N, _P, _P, _P],
    "edge_pack_neurons": [c_int, _N, _N, _P, _P, _P],
    "edge_unpack_neurons": [c_int, _N, _N, _P, _P, _P],
    "edge_matmul_blocks": [_P, _N, c_int, _N, _N, _P, _N, _P, _P],
    "edge_head": [_P, _N, _N, _P, _P, _N, _P, _P],
    "edge_embed": [c_int, _N, _N, _P, _N, _P, _P],
    "edge_rms_norm": [_N, _N, _P, c_float, _P, _P],
    "edge_relu2_mlp": [_P, c_int, _N, _N, _P, _P, _N, _P, _P, POINTER(c_uint64)],
    "edge_sparse_down": [_P, c_int, _N, _N, _P, _N, _P, _P, POINTER(c_uint64)],
    "edge_relu2_mlp_skip": [_P, c_int, _N, _N, _P, _P, _P, _N, _P, _P, POINTER(c_uint64), POINTER(c_uint64)],
    "edge_coarse_bytes": [_N, _N],
    "edge_fine_bytes": [_N, _N],
    "edge_pack_planes": [_N, _N, _P, _P, _P, _P, _P],
    "edge_unpack_planes": [_N, _N, _P, _P, _P, _P, _P],
    "edge_read": [_P, _P, _N],
    "edge_mla": [_P, _N, _N, _N, _N, _P, _N, _P, _P, _P],
    "edge_mla_layer": [_P, POINTER(_Shape), c_int, _P, _P, _N, _P, _P, _P, c_float, _N, _P, _P, _P],
}


def _handle(pool: Pool | None) -> c_void_p | None:
    return pool.handle if pool else None


def _at(array: np.ndarray) -> int:
    return array.ctypes.data


def _floats(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)


def _halves(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float16)
