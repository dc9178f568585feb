"""One side of kernels.py: `kernels_worker.py SIDE SHARE THREADS FOLDER`, a stack of squared-ReLU MLPs, batch 1.

The weights of a wanted share of zeros: the input's first value is 1, and each neuron's weight of it is as far below zero as
that share of a normal distribution lies above its mean. All sides have the same ones, in int4 groups of 32.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import numpy as np
from sides import serve

from edge.runtimes.kernels.binding import Kernels, Pool

WIDTH, HIDDEN = 2048, 8192
#: Together beyond any cache here: a layer alone would be read from it.
LAYERS = 4


def weights(share: float, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """up [hidden, width] and down [width, hidden], float32."""
    random = np.random.default_rng(layer)
    up = random.standard_normal((HIDDEN, WIDTH), np.float32) / np.float32(WIDTH**0.5)
    if share > 0:
        up[:, 0] = -statistics.NormalDist().inv_cdf(min(share, 0.999999))
    else:
        up[:, 0] = 40.0
    return up, random.standard_normal((WIDTH, HIDDEN), np.float32) / np.float32(HIDDEN**0.5)


def sample() -> np.ndarray:
    x = np.random.default_rng(99).standard_normal((1, WIDTH)).astype(np.float32)
    x[0, 0] = 1.0
    return x


def packed(share: float, library: Kernels, pool: Pool, dense: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """up and down of each layer; down as neurons, or tiled if it is to be read whole."""
    layers = []
    for layer in range(LAYERS):
        up, down = weights(share, layer)
        tiled = library.pack_tiled(4, *library.quantize(4, up, pool))
        if dense:
            layers.append((tiled, library.pack_tiled(4, *library.quantize(4, down, pool))))
        else:
            layers.append((tiled, library.pack_neurons(4, *library.quantize(4, np.ascontiguousarray(down.T), pool))))
    return layers


def ours(share: float, threads: int, dense: bool) -> None:
    from edge.runtimes import kernels

    library = kernels.load()
    pool = library.pool(threads)
    x, layers = sample(), packed(share, library, pool, dense)
    live = sum(library.relu2_mlp(4, HIDDEN, up, down, x, pool)[1] for up, down in layers) if not dense else 0
    sizes = sum(up.nbytes for up, _ in layers), sum(down.nbytes for _, down in layers)
    found = live / (LAYERS * HIDDEN)
    read = sizes[0] + sizes[1] * (1.0 if dense else found)

    def run() -> None:
        for up, down in layers:
            if dense:
                middle = np.maximum(library.matmul(4, HIDDEN, up, x[:, None], pool)[:, 0], 0) ** 2
                library.matmul(4, WIDTH, down, middle[:, None], pool)
            else:
                library.relu2_mlp(4, HIDDEN, up, down, x, pool)

    serve(run, bytes=read, zeros=1 - found if not dense else None, isa=library.isa)


def memory(threads: int) -> None:
    """What reading as many bytes takes."""
    from edge.runtimes import kernels

    library = kernels.load()
    pool = library.pool(threads)
    data = np.random.default_rng(0).integers(0, 255, LAYERS * HIDDEN * WIDTH * 9 // 8, np.uint8)
    serve(lambda: library.read(data, pool), bytes=data.nbytes)


def product(threads: int) -> None:
    """The matrix-vector product alone, of as many bytes."""
    from edge.runtimes import kernels

    library = kernels.load()
    pool = library.pool(threads)
    rows = LAYERS * HIDDEN * 2
    packed = np.random.default_rng(0).integers(0, 255, library.library.edge_tiled_bytes(4, rows, WIDTH), np.uint8)
    packed.reshape(-1, 288)[:, 256:] = np.full((packed.size // 288, 16), 0.01, np.float16).view(np.uint8)
    x = sample()[:, None]
    serve(lambda: library.matmul(4, rows, packed, x, pool), bytes=packed.nbytes)


def attention(tokens: int, threads: int) -> None:
    """One decode step of PLM-1.8B's attention core in 32 layers, after ``tokens``."""
    from edge.runtimes import kernels

    library = kernels.load()
    pool = library.pool(threads)
    random = np.random.default_rng(0)
    cache = random.standard_normal((32, tokens, 576)).astype(np.float16)
    own = random.standard_normal((1, 576)).astype(np.float16)
    query = random.standard_normal((1, 16, 576)).astype(np.float32) / 24

    def run() -> None:
        for layer in range(32):
            library.mla(512, tokens, cache[layer], own, query, pool)

    serve(run, 3, bytes=cache.nbytes)


def onnx(share: float, threads: int) -> None:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], []

    def product_of(weight: np.ndarray, source: str, to: str) -> None:
        rows, columns = weight.shape
        groups = weight.reshape(rows, -1, 32)
        scales = np.abs(groups).max(2) / np.float32(7)
        q = np.clip(np.rint(groups / scales[..., None]), -8, 7).astype(np.int16) + 8
        packed = (q[..., 0::2] | q[..., 1::2] << 4).astype(np.uint8)
        constants.extend((numpy_helper.from_array(packed, f"{to}_w"), numpy_helper.from_array(scales.astype(np.float32), f"{to}_s")))
        nodes.append(
            helper.make_node(
                "MatMulNBits", [source, f"{to}_w", f"{to}_s"], [to], domain="com.microsoft", K=columns, N=rows, bits=4, block_size=32,
                accuracy_level=4,
            )
        )  # fmt: skip

    for layer in range(LAYERS):
        up, down = weights(share, layer)
        product_of(up, "x", f"up{layer}")
        nodes.append(helper.make_node("Relu", [f"up{layer}"], [f"relu{layer}"]))
        nodes.append(helper.make_node("Mul", [f"relu{layer}", f"relu{layer}"], [f"square{layer}"]))
        product_of(down, f"square{layer}", f"down{layer}")
    outputs = [helper.make_tensor_value_info(f"down{layer}", TensorProto.FLOAT, [1, WIDTH]) for layer in range(LAYERS)]
    graph = helper.make_graph(nodes, "mlp", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, WIDTH])], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"x": sample()}
    serve(lambda: session.run(None, feed))


def hosted(share: float, threads: int) -> None:
    """Ours by ONNX Runtime, as nodes of its graph and in its own threads."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    from edge.runtimes import kernels
    from edge.runtimes.kernels.onnx import DOMAIN, register

    library = kernels.load()
    nodes, constants = [], []
    for layer, (up, down) in enumerate(packed(share, library, library.pool(threads), dense=False)):
        constants += [numpy_helper.from_array(up, f"up{layer}"), numpy_helper.from_array(down, f"neurons{layer}")]
        names = ["x", f"up{layer}", f"neurons{layer}"]
        nodes.append(helper.make_node("relu2_mlp", names, [f"down{layer}"], domain=DOMAIN, hidden=HIDDEN, bits=4))
    outputs = [helper.make_tensor_value_info(f"down{layer}", TensorProto.FLOAT, [1, WIDTH]) for layer in range(LAYERS)]
    graph = helper.make_graph(nodes, "mlp", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, WIDTH])], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    register(options)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"x": sample()}
    serve(lambda: session.run(None, feed))


def executorch(share: float, threads: int, folder: Path) -> None:
    """XNNPACK's int4 weights with int8 activations, by this project's own export."""
    import json

    import torch
    from safetensors.torch import save_file

    from edge import api
    from edge.export.pipeline import export

    bundle = folder / "xnnpack.edge"
    if not bundle.exists():
        tensors = {}
        for layer in range(LAYERS):
            up, down = weights(share, layer)
            tensors |= {f"blocks.{layer}.up.weight": torch.from_numpy(up), f"blocks.{layer}.down.weight": torch.from_numpy(down)}
        save_file(tensors, folder / "model.safetensors")
        config = {"in_features": WIDTH, "out_features": WIDTH, "width": WIDTH, "hidden": [HIDDEN] * LAYERS}
        config |= {"norm": "none", "embed": False, "head": False}
        (folder / "config.json").write_text(json.dumps(config))
        export(
            "relu2-mlp", target="cpu", runtime="executorch", quantize="int4", sparse="off", checkpoint=folder / "model.safetensors",
            config=folder / "config.json", allow_mismatch=True, output=bundle,
        )  # fmt: skip
        del tensors
    session = api.load(bundle, threads=threads)
    entry = session.manifest.entry("classify")
    serve(session.bind(entry, [sample()]))


if __name__ == "__main__":
    side, argument, count, place = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    match side:
        case "sparse" | "dense":
            ours(argument, count, side == "dense")
        case "memory":
            memory(count)
        case "product":
            product(count)
        case "attention":
            attention(int(argument), count)
        case "hosted":
            hosted(argument, count)
        case "onnx":
            onnx(argument, count)
        case "executorch":
            executorch(argument, count, place)
