"""A worker for ``sides``: FMViT's fused module, plainly: PyTorch eager, ONNX Runtime, OpenVINO, ExecuTorch with XNNPACK.

``prepare`` writes what the sides load: the module itself, one plain ``torch.onnx.export`` and one plain
``to_edge_transform_and_lower`` of it. The side ``openvino`` runs in the peers' environment, which has no torch.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
from sides import serve


def prepare(module, picture: np.ndarray, folder: Path) -> None:
    """``module`` takes the float32 ``picture`` [1, 3, size, size]; files go into ``folder``."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    example = (torch.from_numpy(picture),)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, example)
        torch.export.save(program, folder / "plain.pt2")
        torch.onnx.export(
            module, example, str(folder / "plain.onnx"), dynamo=True, input_names=["image"], output_names=["logits"]
        )
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    (folder / "plain.pte").write_bytes(lowered.buffer)


def eager(folder: Path, picture: np.ndarray, threads: int):
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(folder / "plain.pt2").module()
    example = torch.from_numpy(picture)
    return lambda: module(example).numpy()


def onnxruntime(folder: Path, picture: np.ndarray, threads: int):
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(str(folder / "plain.onnx"), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"image": picture})[0]


def openvino(folder: Path, picture: np.ndarray, threads: int):
    import openvino as runtime

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = runtime.Core().compile_model(str(folder / "plain.onnx"), "CPU", settings).create_infer_request()
    request.infer({"image": picture})

    def run() -> np.ndarray:
        request.infer()  # the input stays bound
        return request.get_output_tensor(0).data

    return run


def executorch(folder: Path, picture: np.ndarray, threads: int):
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    portable_lib._unsafe_reset_threadpool(threads)
    method = Runtime.get().load_program(folder / "plain.pte").load_method("forward")
    example = [torch.from_numpy(picture)]
    return lambda: method.execute(example)[0].numpy()


SIDES = {side.__name__: side for side in (eager, onnxruntime, openvino, executorch)}


def main(side: str, inputs: str, threads: str, outputs: str) -> None:
    with np.load(inputs) as stored:
        picture = stored["image"]
    run = SIDES[side](Path(inputs).parent, picture, int(threads))
    np.savez(outputs, logits=run())
    serve(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
