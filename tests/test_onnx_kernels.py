"""The kernels as ONNX Runtime's operators: every place of its C API that is used, against the kernels called directly."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_uint32, c_void_p

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as state

from edge.runtimes import kernels
from edge.runtimes.kernels.binding import Kernels, MLAShape
from edge.runtimes.kernels.onnx import DOMAIN, register

RANDOM = np.random.default_rng(0)
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def library() -> Kernels:
    return kernels.load()


def session(op: str, inputs: Arrays, outputs: int = 1, threads: int = 2, **attributes: float) -> onnxruntime.InferenceSession:
    """A graph of one node; packed matrices (uint8) are constants of it, as in a bundle."""
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
        for name, value in inputs.items() if value.dtype != np.uint8
    ]  # fmt: skip
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in inputs.items() if value.dtype == np.uint8]
    kinds = [TensorProto.FLOAT, TensorProto.FLOAT16]
    made = [helper.make_tensor_value_info(f"y{at}", kinds[at], None) for at in range(outputs)]
    node = helper.make_node(op, list(inputs), [value.name for value in made], domain=DOMAIN, **attributes)
    graph = helper.make_graph([node], op, values, made, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23), helper.make_opsetid(DOMAIN, 1)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    register(options)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(op: str, inputs: Arrays, outputs: int = 1, threads: int = 2, **attributes: float) -> list[np.ndarray]:
    made = session(op, inputs, outputs, threads, **attributes)
    return [np.asarray(each) for each in made.run(None, {name: value for name, value in inputs.items() if value.dtype != np.uint8})]


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def tiled(library: Kernels, bits: int, rows: int, columns: int) -> np.ndarray:
    return library.pack_tiled(bits, *library.quantize(bits, normal(rows, columns)))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("tokens", [1, 7])
def test_each_computes_what_the_kernels_do(library: Kernels, bits: int, tokens: int) -> None:
    """On one and two threads: the pool has a say in the order of sums alone."""
    x, packed = normal(tokens, 70), tiled(library, bits, 50, 70)
    up, down = tiled(library, bits, 90, 70), library.pack_neurons(bits, *library.quantize(bits, normal(90, 70)))
    ids = RANDOM.integers(0, 50, tokens)
    for threads in (1, 2):
        (y,) = run("linear", {"x": x, "w": packed}, threads=threads, rows=50, bits=bits)
        np.testing.assert_array_equal(y, library.matmul(bits, 50, packed, x[:, None])[:, 0])
        (y,) = run("embed", {"ids": ids, "w": packed}, threads=threads, rows=50, columns=70, bits=bits)
        np.testing.assert_array_equal(y, library.embed(bits, 50, 70, packed, ids))
        (y,) = run("relu2_mlp", {"x": x, "up": up, "down": down}, threads=threads, hidden=90, bits=bits)
        np.testing.assert_allclose(y, library.relu2_mlp(bits, 90, up, down, x)[0], rtol=1e-4, atol=1e-4)
        (y,) = run("rms_norm", {"x": x.reshape(1, tokens, 70)}, threads=threads, eps=0.25)
        assert y.shape == (1, tokens, 70)
        np.testing.assert_array_equal(y[0], library.rms_norm(x, 0.25))


def test_the_head_and_attention(library: Kernels) -> None:
    x, coarse, fine = normal(1, 70), tiled(library, 4, 640, 70), tiled(library, 4, 640, 70)
    (y,) = run("head", {"x": x, "coarse": coarse, "fine": fine}, rows=640)
    np.testing.assert_array_equal(y, library.head(640, coarse, fine, x))
    shape = MLAShape(heads=3, nope=24, rope=8, value=20, latent=40)
    key = np.concatenate([tiled(library, 4, 40, 24) for _ in range(3)])
    value = np.concatenate([tiled(library, 4, 20, 40) for _ in range(3)])
    projected, cos, sin, cache = normal(5, 3 * 32 + 48), normal(5, 4), normal(5, 4), normal(1, 30, 48).astype(np.float16)
    inputs = {
        "projected": projected, "cache": cache, "position": np.array([30]), "cos": cos, "sin": sin, "key": key, "value": value,
    }  # fmt: skip
    out, own = run("mla", inputs, 2, heads=3, nope=24, rope=8, value=20, latent=40, bits=4, eps=1e-5)
    expected, rows = library.mla_layer(shape, 4, key, value, projected, (cos, sin), 1e-5, 30, cache[0])
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(own, rows)
    made = session("mla", inputs, 2, heads=3, nope=24, rope=8, value=20, latent=40, bits=4, eps=1e-5)
    for position in (-1, 31):
        feeds = {name: array for name, array in inputs.items() if array.dtype != np.uint8} | {"position": np.array([position])}
        with pytest.raises(state.InvalidArgument, match="refuse these sizes, bits or ids"):
            made.run(None, feeds)


def test_what_does_not_fit_is_refused(library: Kernels) -> None:
    packed = tiled(library, 4, 50, 70)
    refused: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (state.InvalidArgument, "refuse these sizes", lambda: run("linear", {"x": normal(1, 70), "w": packed[1:]}, rows=50, bits=4)),
        (state.InvalidArgument, "refuse these sizes", lambda: run("linear", {"x": normal(1, 69), "w": packed}, rows=80, bits=4)),
        (state.InvalidArgument, "refuse these sizes", lambda: run("linear", {"x": normal(1, 0), "w": packed}, rows=50, bits=4)),
        (state.InvalidArgument, "at most 4 axes", lambda: run("rms_norm", {"x": normal(1, 1, 1, 1, 9)}, eps=1.0)),
        (state.InvalidArgument, "refuse these sizes", lambda: run("embed", {"ids": np.array([50]), "w": packed}, rows=50, columns=70, bits=4)),
        (state.RuntimeException, "refuse this size", lambda: run("linear", {"x": normal(1, 70), "w": packed}, rows=-1, bits=4)),
        (state.RuntimeException, "bits", lambda: run("linear", {"x": normal(1, 70), "w": packed}, rows=50)),
    ]
    for kind, message, attempt in refused:
        with pytest.raises(kind, match=message):
            attempt()


class Api(Structure):
    """The beginning of the oldest table: a function that makes a status of a code and a message."""

    _fields_ = [("create_status", CFUNCTYPE(c_void_p, c_int, c_char_p))]


class Base(Structure):
    _fields_ = [("table", CFUNCTYPE(c_void_p, c_uint32)), ("release", CFUNCTYPE(c_void_p))]


@pytest.mark.parametrize(
    ("release", "tables", "message"),
    [
        (b"1.16.3", (1,), b"edge's kernels need ONNX Runtime 1.17 or a later 1.x"),
        (b"2.0.0", (1, 17), b"edge's kernels need ONNX Runtime 1.17 or a later 1.x"),
        (b"2.0.0", (), None),
    ],
)
def test_another_runtime_is_refused_before_any_place_is_used(
    release: bytes, tables: tuple[int, ...], message: bytes | None
) -> None:
    """As releases answer that are too old, or that broke with the table: 1.16.3 does not run on this Python's numpy."""
    said: list[tuple[int, bytes]] = []

    @CFUNCTYPE(c_void_p, c_int, c_char_p)
    def create_status(code: int, text: bytes) -> int:
        said.append((code, text))
        return 0xED6E

    api = Api(create_status)
    table = CFUNCTYPE(c_void_p, c_uint32)(lambda version: ctypes.addressof(api) if version in tables else None)
    text = ctypes.create_string_buffer(release)
    base = Base(table, CFUNCTYPE(c_void_p)(lambda: ctypes.addressof(text)))
    enter = ctypes.CDLL(str(kernels.library())).RegisterCustomOps
    enter.restype, enter.argtypes = c_void_p, [c_void_p, POINTER(Base)]
    assert enter(None, ctypes.byref(base)) == (0xED6E if message else None)
    assert said == ([(1, message)] if message else [])
