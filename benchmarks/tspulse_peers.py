"""A worker for ``sides``, run in the peers' environment: IBM's own TSPulse (granite-tsfm) on the same weights.

Sides: ``eager`` (PyTorch), ``onnxruntime`` and ``openvino`` (both from one plain ``torch.onnx.export`` of IBM's module; its
FFTs, which ONNX exporters do not take, become matrix products with the DFT's basis, nothing else is changed).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from sides import serve
from tsfm_public.models.tspulse import TSPulseConfig, TSPulseForReconstruction, modeling_tspulse

OUTPUTS = ("reconstruction_outputs", "fft_reconstruction_outputs", "reconstructed_ts_from_fft", "forecast_output", "fft_softmax_preds")


class AllHeads(torch.nn.Module):
    """Tensors in, tensors out: what an exporter wants."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, past_values: torch.Tensor, past_observed_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.model(past_values=past_values, past_observed_mask=past_observed_mask, return_loss=False)
        return tuple(found[name] for name in OUTPUTS)


def load(checkpoint: Path, channels: int) -> AllHeads:
    config = TSPulseConfig.from_json_file(checkpoint / "config.json")
    config.num_input_channels = channels
    model = TSPulseForReconstruction(config).eval()
    weights = {name: value.float() for name, value in load_file(checkpoint / "model.safetensors").items()}
    model.load_state_dict(weights, strict=True)
    return AllHeads(model).eval()


def ffts_as_matmuls(context: int) -> None:
    """Stand-ins for rfft, complex and irfft on tensors whose last axis is (real, imaginary)."""
    time = torch.arange(context, dtype=torch.float64)
    bins = torch.arange(context // 2 + 1, dtype=torch.float64)
    angle = 2 * torch.pi * bins[:, None] * time[None, :] / context
    forward = torch.stack((torch.cos(angle), -torch.sin(angle))).float()  # [2, bins, context]
    weight = torch.full((len(bins),), 2.0 / context, dtype=torch.float64)
    weight[0] = weight[-1] = 1.0 / context
    inverse = torch.stack((torch.cos(angle) * weight[:, None], -torch.sin(angle) * weight[:, None])).float()

    def get_fft(inputs, epsilon=1e-5, fft_remove_component="dc", fft_prob_mode="log", fft_prob_length=None):
        real, imaginary = forward[0] @ inputs, forward[1] @ inputs
        probability = torch.softmax(torch.log1p(torch.sqrt(real[:, 1:] ** 2 + imaginary[:, 1:] ** 2)), dim=1)
        last = fft_remove_component != "dc"
        base = torch.stack((real, imaginary), -1)[:, -1:] if last else torch.stack((real, imaginary), -1)[:, :1]
        keep = slice(None, -1) if last else slice(1, None)
        real, imaginary = real[:, keep], imaginary[:, keep]
        real_max = real.abs().amax(1, keepdim=True) + epsilon
        imaginary_max = imaginary.abs().amax(1, keepdim=True) + epsilon
        return torch.cat((real / real_max, imaginary / imaginary_max), 1), base, real_max, imaginary_max, probability

    modeling_tspulse.get_fft = get_fft
    torch.complex = lambda real, imaginary: torch.stack((real, imaginary), -1)
    torch.fft.irfft = lambda spectrum, n, dim: inverse[0].T @ spectrum[..., 0] + inverse[1].T @ spectrum[..., 1]
    torch.equal = lambda a, b: True  # IBM's sanity check of the mask depends on data, which no exporter traces


def export(module: AllHeads, example: tuple[torch.Tensor, ...], path: Path) -> None:
    ffts_as_matmuls(example[0].shape[1])
    with torch.no_grad():
        torch.onnx.export(
            module, example, str(path), dynamo=True, input_names=["past_values", "past_observed_mask"], output_names=list(OUTPUTS)
        )


def main(side: str, checkpoint: str, inputs: str, threads: str, outputs: str, scratch: str) -> None:
    torch.set_num_threads(int(threads))
    torch.set_grad_enabled(False)
    with np.load(inputs) as stored:
        values, mask = stored["past_values"], stored["past_observed_mask"]
    example = (torch.from_numpy(values), torch.from_numpy(mask) > 0.5)
    module = load(Path(checkpoint), values.shape[-1])
    if side == "eager":
        run = lambda: module(*example)  # noqa: E731
        found = [value.numpy() for value in run()]
    else:
        path = Path(scratch) / f"ibm-{values.shape[-1]}.onnx"
        if not path.exists():
            export(module, example, path)
        feed = {"past_values": values, "past_observed_mask": mask > 0.5}
        if side == "onnxruntime":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = int(threads)
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            feed = {entry.name: feed[entry.name] for entry in session.get_inputs()}
            run = lambda: session.run(None, feed)  # noqa: E731
            found = run()
        else:
            import openvino

            core = openvino.Core()
            settings = {"INFERENCE_NUM_THREADS": int(threads), "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
            compiled = core.compile_model(str(path), "CPU", settings)
            request = compiled.create_infer_request()
            feed = {entry.get_any_name(): feed[entry.get_any_name()] for entry in compiled.inputs}
            request.infer(feed)
            run = request.infer  # the inputs stay bound
            found = [request.get_output_tensor(index).data for index in range(len(OUTPUTS))]
    np.savez(outputs, **dict(zip(OUTPUTS, found, strict=True)))
    serve(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
