"""Train the demo FMViT: handwritten digits as pictures, ink and paper of any colour.

    python examples/train/train_fmvit.py -o edge/demo/fmvit --seed 0

Writes model.safetensors (the training form, in float16), config.json, samples.npz (held-out and calibration digits) and
CARD.md. Takes some four minutes of one core and needs edge[export,train]. The same seed gives the same weights on the
same machine and torch.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from edge import checkpoints
from edge.families.fmvit.config import FMViTConfig
from edge.families.fmvit.family import CALIBRATION
from edge.families.fmvit.fused import fuse
from edge.families.fmvit.modules import FMViT
from edge.families.fmvit.pictures import BRIGHTNESS, CONTRAST, DEEPEST, Digits, normalise

CONFIG = FMViTConfig(
    channels=(16, 48, 64, 128),
    depths=(1, 2, 2, 2),
    stem=(16, 16),
    group=16,
    reductions=(4, 2, 2, 1),
    num_classes=10,
    image_size=64,
    crop=1.0,
    labels=tuple(map(str, range(10))),
)
BATCH = 48

CARD = """# FMViT demo
Reads pictures of one handwritten digit, ink and paper of any colour, into ten classes. The architecture is edge's
reconstruction of FMViT (arXiv 2311.05707), whose authors published no code; nothing here is theirs, and no accuracy of
theirs is claimed.

- Data: scikit-learn's `load_digits`, the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C.
  Kaynak; UCI Machine Learning Repository, CC BY 4.0). {train} images for training, {test} held out, split by class,
  seed {seed}. The 8x8 images are scaled to 64x64, in two colours each.
- Training: `python examples/train/train_fmvit.py -o edge/demo/fmvit --seed {seed}` ({epochs} epochs, {minutes} minutes
  of one core). Digits are turned, scaled, shifted and sharpened at random.
- {training:,} parameters while training, {deployed:,} once its branches are fused, which `edge export` does.
- Held-out accuracy, fused, weights rounded to float16: {accuracy:.2%}.
- Files: `samples.npz` holds the held-out digits and labels, and {calibration} training digits for calibration.
- Licence of the weights: Apache-2.0, as the repository.
"""


class Painter:
    """Random pictures of digits: [n, 8, 8] in 0..16 to normalised [n, 3, size, size]."""

    def __init__(self, config: FMViTConfig, seed: int) -> None:
        self.size = config.image_size
        self.mean = torch.tensor(config.mean)[None, :, None, None]
        self.std = torch.tensor(config.std)[None, :, None, None]
        self.generator = torch.Generator().manual_seed(seed)

    def paint(self, digits: Tensor) -> Tensor:
        count = len(digits)
        turn = self.between(-0.25, 0.25, count)  # radians
        scale = self.between(0.85, 1.45, count)  # of the digit's own pixels a picture's
        stretch = self.between(0.85, 1.18, count)
        slant = self.between(-0.2, 0.2, count)
        cosine, sine = torch.cos(turn) * scale, torch.sin(turn) * scale
        shift = self.between(-0.2, 0.2, 2 * count).view(2, count)
        matrix = torch.stack([cosine * stretch, -sine + slant, shift[0], sine, cosine / stretch, shift[1]], 1).view(
            count, 2, 3
        )
        grid = nn.functional.affine_grid(matrix, [count, 1, self.size, self.size], align_corners=False)
        cover = nn.functional.grid_sample(digits[:, None] / DEEPEST, grid, align_corners=False)
        # From the soft edges of a scaled 8x8 image to those of a pen.
        sharp = torch.exp(self.between(0.0, 2.0, count))[:, None, None, None]
        edge = self.between(0.3, 0.55, count)[:, None, None, None]
        cover = torch.where(sharp > 1.3, ((cover - edge) * sharp + 0.5).clamp(0, 1), cover)
        ink, paper = self.colours(count)
        picture = cover * ink + (1 - cover) * paper
        picture = picture + self.between(0.0, 0.05, count)[:, None, None, None] * torch.randn(
            picture.shape, generator=self.generator
        )
        return (picture.clamp(0, 1) - self.mean) / self.std

    def colours(self, count: int) -> tuple[Tensor, Tensor]:
        """Ink and paper [n, 3, 1, 1] that differ in brightness."""
        share = torch.from_numpy(BRIGHTNESS).float()
        pairs = torch.rand(2, 20 * count, 3, generator=self.generator)
        clear = ((pairs[0] - pairs[1]) @ share).abs() >= CONTRAST / 255
        pairs = pairs[:, clear][:, :count, :, None, None]
        return pairs[0], pairs[1]

    def between(self, low: float, high: float, count: int) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=self.generator)


def train(images: Tensor, labels: Tensor, epochs: int, seed: int) -> FMViT:
    model = checkpoints.seeded(seed, lambda: FMViT(CONFIG)).train()
    painter = Painter(CONFIG, seed)
    decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    plain = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": plain, "weight_decay": 0.0}], lr=3e-3, weight_decay=0.05
    )
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps, pct_start=0.1)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=painter.generator)
        total = 0.0
        for start in range(0, len(images) - BATCH + 1, BATCH):
            batch = order[start : start + BATCH]
            logits = model(painter.paint(images[batch]))
            loss = nn.functional.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / (len(images) // BATCH):.3f}", flush=True)
    return model.eval()


def accuracy(model: nn.Module, digits: Digits) -> float:
    right = 0
    with torch.no_grad():
        for index, label in enumerate(digits.labels):
            picture = normalise(digits.picture(digits.test, index, CONFIG.image_size), CONFIG)
            right += int(model(torch.from_numpy(picture)).argmax()) == int(label)
    return right / len(digits.labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=45)
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()

    digits = load_digits()
    images, test_images, labels, test_labels = train_test_split(
        digits.images.astype(np.uint8), digits.target, test_size=360, stratify=digits.target, random_state=options.seed
    )
    model = train(torch.from_numpy(images).float(), torch.from_numpy(labels), options.epochs, options.seed)
    half = {name: value.half() for name, value in model.state_dict().items()}
    model.load_state_dict({name: value.float() for name, value in half.items()})

    options.output.mkdir(parents=True, exist_ok=True)
    save_file(half, options.output / "model.safetensors")
    (options.output / "model.safetensors").chmod(0o644)  # safetensors makes it readable by its owner alone
    config = msgspec.json.format(msgspec.json.encode(CONFIG), indent=2)
    (options.output / "config.json").write_bytes(config + b"\n")
    np.savez_compressed(
        options.output / "samples.npz",
        test_images=test_images,
        test_labels=test_labels.astype(np.uint8),
        calibration_images=images[: 2 * CALIBRATION],
    )
    fused = fuse(model)
    card = CARD.format(
        train=len(images),
        test=len(test_images),
        seed=options.seed,
        epochs=options.epochs,
        minutes=round((time.process_time() - began) / 60),
        training=sum(parameter.numel() for parameter in model.parameters()),
        deployed=sum(parameter.numel() for parameter in fused.parameters()),
        accuracy=accuracy(fused, Digits(options.output / "samples.npz")),
        calibration=2 * CALIBRATION,
    )
    (options.output / "CARD.md").write_text(card)
    print(card)


if __name__ == "__main__":
    main()
