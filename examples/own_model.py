"""Export a module of your own: any nn.Module that says its example inputs.

    python examples/own_model.py [FOLDER]

From the command line, in this folder: edge export own_model:Smooth --target cpu --runtime onnx --quantize fp32
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import edge


class Smooth(nn.Module):
    """A moving average over a series of 64 points, [1, 1, 64]."""

    input_names = ("series",)
    output_names = ("smooth",)

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.average = nn.Conv1d(1, 1, width, padding=width // 2, bias=False)
        nn.init.constant_(self.average.weight, 1 / width)

    def example_inputs(self) -> list[tuple[torch.Tensor]]:
        """Several samples: edge checks every stage on each of them. Real data serves better than noise."""
        time = torch.linspace(0, 6.28, 64)
        return [(torch.sin(time * pace).reshape(1, 1, -1),) for pace in (1, 2, 3)]

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        return self.average(series)


def main(folder: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parent))  # so that the name below is found from anywhere
    exported = edge.export("own_model:Smooth", target="cpu", runtime="onnx", quantize="fp32", output=folder)
    session = edge.load(exported.bundle.path)
    spike = np.zeros((1, 1, 64), np.float32)
    spike[0, 0, 32] = 1
    smooth = session.run("forward", {"series": spike})["smooth"]
    print("a spike of 1 becomes", np.round(smooth[0, 0, 29:36], 2))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
