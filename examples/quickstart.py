"""Export the demo digit reader for this machine, load the bundle, and read a digit.

python examples/quickstart.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

from sklearn.datasets import load_digits

import edge


def main(folder: Path) -> None:
    exported = edge.export("relu2-mlp", target="cpu", runtime="onnx", quantize="int8", output=folder)
    for warning in exported.warnings:
        print(f"note: {warning}")
    for check in edge.verify(exported.bundle.path):
        print(f"{check.entry}: {'as PyTorch computes it' if check.passed else 'OFF'}, {check.samples} samples")

    session = edge.load(exported.bundle.path, threads=1)
    images, labels = load_digits(return_X_y=True)
    outputs = session.run("classify", {"features": images[:1].astype("float32")})
    print(f"this is a {outputs['logits'].argmax()}, and it was written as a {labels[0]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
