"""Train the demo relu2-mlp: handwritten digits, with a price on hidden values that are not zero.

    python examples/train/train_relu2_mlp.py -o edge/demo/relu2-mlp --seed 0

Writes model.safetensors, config.json, samples.npz (held-out and calibration images) and CARD.md. Takes about a minute
on two cores and needs edge[export,train]. The same seed gives the same weights on the same machine and torch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from edge.families.relu2_mlp.config import Relu2MLPConfig
from edge.families.relu2_mlp.family import zero_shares
from edge.families.relu2_mlp.modules import Relu2, Relu2MLP

CONFIG = Relu2MLPConfig(in_features=64, out_features=10, width=64, hidden=(256, 256))
PIXEL_MAX = 16.0  # of the data set: each pixel counts the set bits of a 4x4 block

CARD = """# relu2-mlp demo
Reads 8x8 images of handwritten digits (64 pixels from 0 to 16) into ten classes.

- Data: scikit-learn's `load_digits`, the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C.
  Kaynak; UCI Machine Learning Repository, CC BY 4.0). {train} images for training, {test} held out, split by class,
  seed {seed}.
- Training: `python examples/train/train_relu2_mlp.py -o edge/demo/relu2-mlp --seed {seed}` ({epochs} epochs,
  {parameters:,} parameters). Images are shifted by up to a pixel; the loss adds {penalty} times the mean of relu over
  the hidden layers.
- Held-out accuracy: {accuracy:.2%}.
- Zeros after the squared ReLUs, on the held-out images: {zeros}.
- Files: `samples.npz` holds the held-out images and labels, and {calibration} training images for calibration.
- Licence of the weights: Apache-2.0, as the repository.
"""


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each 8x8 image moved by -1, 0 or 1 pixel along each axis, zeros moving in."""
    padded = nn.functional.pad(images.view(-1, 8, 8), (1, 1, 1, 1))
    offset = torch.randint(0, 3, (2, len(images)), generator=generator)
    rows = offset[0][:, None] + torch.arange(8)
    columns = offset[1][:, None] + torch.arange(8)
    index = torch.arange(len(images))[:, None, None]
    return padded[index, rows[:, :, None], columns[:, None, :]].flatten(1)


def train(images: Tensor, labels: Tensor, epochs: int, penalty: float, seed: int) -> Relu2MLP:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = Relu2MLP(CONFIG)
    hidden: list[Tensor] = []
    hooks = [
        part.register_forward_pre_hook(lambda _part, inputs: hidden.append(torch.relu(inputs[0]).mean()))
        for part in model.modules()
        if isinstance(part, Relu2)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    steps = epochs * (len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(images) - 63, 64):
            batch = order[start : start + 64]
            hidden.clear()
            logits = model(shifted(images[batch], generator) / PIXEL_MAX)
            loss = nn.functional.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            loss = loss + penalty * torch.stack(hidden).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    for hook in hooks:
        hook.remove()
    with torch.no_grad():  # the embedding is linear: fold the scaling of the pixels into it
        model.embed.weight /= PIXEL_MAX
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--penalty", type=float, default=0.1)
    options = parser.parse_args()
    torch.set_num_threads(2)

    digits = load_digits()
    images, test_images, labels, test_labels = train_test_split(
        digits.data.astype(np.uint8), digits.target, test_size=360, stratify=digits.target, random_state=options.seed
    )
    model = train(
        torch.from_numpy(images).float(), torch.from_numpy(labels), options.epochs, options.penalty, options.seed
    )
    with torch.no_grad():
        predicted = model(torch.from_numpy(test_images).float()).argmax(1).numpy()
    accuracy = float(np.mean(predicted == test_labels))
    zeros = zero_shares(model, [{"features": test_images.astype(np.float32)}])

    options.output.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), options.output / "model.safetensors")
    (options.output / "model.safetensors").chmod(0o644)  # safetensors makes it readable by its owner alone
    config = msgspec.json.format(msgspec.json.encode(CONFIG), indent=2)
    (options.output / "config.json").write_bytes(config + b"\n")
    calibration = images[:128]
    np.savez_compressed(
        options.output / "samples.npz",
        test_images=test_images,
        test_labels=test_labels.astype(np.uint8),
        calibration_images=calibration,
    )
    card = CARD.format(
        train=len(images),
        test=len(test_images),
        seed=options.seed,
        epochs=options.epochs,
        penalty=options.penalty,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        accuracy=accuracy,
        zeros=", ".join(f"{share:.1%}" for share in zeros.values()),
        calibration=len(calibration),
    )
    (options.output / "CARD.md").write_text(card)
    print(card)


if __name__ == "__main__":
    main()
