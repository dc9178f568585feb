"""A bundle small enough to measure in a test, made by hand: a linear layer and a squared ReLU in ONNX.

Entry ``small`` is y = relu(x W)^2 for x [2, 8]; ``wide`` is the same for x [4, 256]. Outputs come from numpy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge import bundle
from edge.manifest import Cost, EntryRecord, ErrorStats, Manifest, MetricRecord, RuntimeRecord, StageReport
from edge.spec import Recipe, Scheme, Target, TensorSpec, Tolerance

SHAPES = {"small": (2, 8), "wide": (4, 256)}
TOLERANCE = Tolerance(atol=1e-3, cosine=0.9999)


def make_bundle(destination: Path, *, offset: float = 0.0, threads: int = 2, samples: int = 2) -> bundle.Bundle:
    """Write the bundle; ``offset`` is added to every stored output, so that verification must fail."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(7)
    files, stored, entries = {}, {}, []
    for name, (batch, width) in SHAPES.items():
        weight = generator.standard_normal((width, width)).astype(np.float32) / np.float32(np.sqrt(width))
        artifact = f"{name}.onnx"
        files[artifact] = _write_onnx(destination.parent / f"{destination.name}-{artifact}", batch, weight)
        inputs = [generator.standard_normal((batch, width)).astype(np.float32) for _ in range(samples)]
        stored[name] = [({"x": x}, {"y": np.maximum(x @ weight, 0) ** 2 + np.float32(offset)}) for x in inputs]
        entries.append(_entry(name, artifact, batch, width, samples))
    made = bundle.write(destination, _manifest(tuple(entries), threads), files, stored)
    for path in files.values():
        path.unlink()
    return made


def _write_onnx(path: Path, batch: int, weight: np.ndarray) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    width = weight.shape[0]
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["h"], name="/up/MatMul"),
        helper.make_node("Relu", ["h"], ["r"], name="/act/Relu"),
        helper.make_node("Mul", ["r", "r"], ["y"], name="/act/Mul"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, width])],
        [numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def _entry(name: str, artifact: str, batch: int, width: int, samples: int) -> EntryRecord:
    error = ErrorStats(output="y", max_abs=2e-6, relative=1e-6, cosine=0.9999999, passed=True)
    return EntryRecord(
        name=name,
        inputs=(TensorSpec(name="x", dtype="float32", shape=(batch, width)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(batch, width)),),
        artifact=artifact,
        method="main",
        samples=samples,
        tolerance=TOLERANCE,
        cost=Cost(
            flops=2 * batch * width**2, weight_bytes=4 * width**2, activation_bytes=24 * batch * width, operators=3
        ),
        stages=(StageReport(stage="lowered", where="onnx on this host", outputs=(error,), samples=samples),),
    )


def _manifest(entries: tuple[EntryRecord, ...], threads: int) -> Manifest:
    target = Target(
        name="cpu", description="this machine", triple="x86_64-linux-gnu", cpu="generic", cores=threads,
        threads=threads, ram_mb=1024, runtime="onnx", scheme=Scheme.FP32,
    )
    return Manifest(
        schema=1,
        edge_version="0",
        model="tiny",
        family="tiny",
        config={},
        checkpoint_sha256=None,
        random_seed=7,
        target=target,
        runtime=RuntimeRecord(name="onnx", version="1.32.0", abi="18"),
        recipe=Recipe(runtime="onnx", scheme=Scheme.FP32),
        entries=entries,
        metrics=(MetricRecord(name="accuracy", higher_is_better=True, eager=0.98, bundle=0.975, data="digits"),),
        verified_on="this host",
    )
