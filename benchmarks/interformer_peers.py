"""Workers for ``sides``: the paper's module, as straightforward as it can be exported, on the same weights.

    interformer_peers.py prepare|eager|onnxruntime|openvino|executorch CHECKPOINT SCRATCH THREADS

``prepare`` writes inputs.npz (the encoder's maps of a picture, and a label map after two clicks), encoded.npz (the same for our
bundles) and plain.onnx; the others serve. ``openvino`` runs in an environment of its own and reads those files only.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sides import serve

SIZE = 512
#: Inputs of the plain graph, in order.
MAPS = ("f0", "f1", "f2", "f3")


def plain(checkpoint: Path):
    """The faithful neck and head as one module, and the model they come from."""
    import torch
    from torch.nn import functional as F

    from edge.families.base import Source
    from edge.families.interformer import neck
    from edge.families.interformer.loading import build
    from edge.families.interformer.parts import windows

    class Plain(torch.nn.Module):
        def __init__(self, model) -> None:
            super().__init__()
            self.neck, self.decode_head = model.neck, model.decode_head

        def forward(self, f0, f1, f2, f3, labels):
            return self.decode_head(self.neck((f0, f1, f2, f3), labels))

    def pooled(x, side):
        """adaptive_max_pool2d by gathering equal windows: the same to the bit, and exporters take it."""
        for axis, count in enumerate(side, 2):
            places = windows(x.shape[axis], count)
            x = x.index_select(axis, torch.tensor([place for window in places for place in window]))
            shape = list(x.shape)
            shape[axis : axis + 1] = [count, len(places[0])]
            x = x.reshape(shape).amax(axis + 1)
        return x

    class Functions:
        adaptive_max_pool2d = staticmethod(pooled)

        def __getattr__(self, name):
            return getattr(F, name)

    _, model, _ = build("interformer-light", "light", Source(checkpoint=checkpoint))
    return Plain(model).eval(), model, neck, Functions()


def prepare(checkpoint: Path, scratch: Path) -> None:
    import torch

    from edge import checkpoints
    from edge.families.interformer import samples
    from edge.families.interformer.clicks import Click, unknown, with_click, with_prediction
    from edge.families.interformer.encode_entry import Encode
    from edge.families.interformer.family import features_of
    from edge.families.interformer.images import enlarged, normalise
    from edge.families.interformer.loading import DEMO
    from edge.families.interformer.parts import Style

    module, model, neck, functions = plain(checkpoint)
    scenes, _ = samples.read(checkpoints.demo_folder(DEMO) / "samples.npz")
    image = torch.from_numpy(normalise(scenes.scaled(0, (SIZE, SIZE))[0]))
    maps = model.backbone(image)
    labels = with_click(unknown(SIZE, SIZE), Click(170, 256, True), 5)
    logits = module(*maps, torch.from_numpy(labels)[None, None].long())[0].numpy()
    labels = with_prediction(labels, enlarged(logits[1:] - logits[:1], SIZE, SIZE)[0] > 0)
    labels = with_click(labels, Click(350, 96, False), 5)
    np.savez(scratch / "inputs.npz", labels=labels, **{name: value.numpy() for name, value in zip(MAPS, maps, strict=True)})
    encoded = Encode(model, Style.ONNX).eval()(image)
    names = [spec.name for spec in features_of(model.config)]
    np.savez(scratch / "encoded.npz", **{name: value.numpy() for name, value in zip(names, encoded, strict=True)})
    neck.F = functions
    example = (*maps, torch.from_numpy(labels)[None, None].long())
    torch.onnx.export(
        module, example, str(scratch / "plain.onnx"), dynamo=True, input_names=[*MAPS, "labels"], output_names=["logits"]
    )


def torch_side(side: str, checkpoint: Path, feed: dict[str, np.ndarray], scratch: Path):
    import torch

    module, _, neck, functions = plain(checkpoint)
    example = tuple(torch.from_numpy(value) for value in feed.values())
    if side == "eager":
        return lambda: module(*example).numpy()
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.extension.pybindings import _C

    path = scratch / "plain.pte"
    if not path.exists():
        neck.F = functions
        program = to_edge_transform_and_lower(torch.export.export(module, example), partitioner=[XnnpackPartitioner()])
        path.write_bytes(program.to_executorch().buffer)
    _C._unsafe_reset_threadpool(torch.get_num_threads())
    loaded = _C._load_program(str(path))
    method = loaded.load_method("forward")
    return lambda: method(example)[0].numpy()


def onnxruntime_side(path: Path, feed: dict[str, np.ndarray], threads: int):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feed)[0]


def openvino_side(path: Path, feed: dict[str, np.ndarray], threads: int):
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    request.infer(feed)

    def run():
        request.infer()  # the inputs stay bound
        return request.get_output_tensor(0).data

    return run


def main(side: str, checkpoint: str, scratch: str, threads: str) -> None:
    folder = Path(scratch)
    if side != "openvino":
        import torch

        torch.set_num_threads(int(threads))
        torch.set_grad_enabled(False)
    if side == "prepare":
        prepare(Path(checkpoint), folder)
        return
    with np.load(folder / "inputs.npz") as stored:
        feed = {name: stored[name] for name in MAPS} | {"labels": stored["labels"].astype(np.int64).reshape(1, 1, SIZE, SIZE)}  # [None, None] has strides of 0
    if side == "onnxruntime":
        run = onnxruntime_side(folder / "plain.onnx", feed, int(threads))
    elif side == "openvino":
        run = openvino_side(folder / "plain.onnx", feed, int(threads))
    else:
        run = torch_side(side, Path(checkpoint), feed, folder)
    np.save(folder / f"out-{side}.npy", run())
    serve(run, runs_before=5)


if __name__ == "__main__":
    main(*sys.argv[1:])
