"""Train the demo InterFormer on generated scenes: a small ViT, and the part that runs at every click.

    python examples/train/train_interformer.py [--output DIR] [--steps N] [--threads N]

Clicks are simulated as in the literature: the first in the middle of the object, each next one in the middle of the
largest error of the last mask; the loss is that of the last mask. Some 25 minutes on two cores. Writes config.json,
model.safetensors (float16), samples.npz (held-out scenes and pictures for calibration) and CARD.md.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors.torch import save_file
from scenes import photographs, scene
from torch import Tensor, nn
from torch.nn import functional as F

from edge.families.interformer.clicks import unknown, with_click, with_prediction
from edge.families.interformer.config import InterFormerConfig
from edge.families.interformer.images import normalise
from edge.families.interformer.modules import InterFormer
from edge.families.interformer.simulate import iou, next_click

CONFIG = InterFormerConfig(
    image_size=128, embed_dims=128, num_layers=4, num_heads=4, fpn_dims=(16, 32, 64, 128), neck_heads=(1, 2, 4, 8),
    neck_mlp_ratios=(4, 4, 4, 4), pool_ratios=((4, 6, 8, 12), (2, 3, 4, 6), (1, 2, 3, 4), (1, 2)), head_channels=32,
    auxiliary_head=False, click_radius=3,
)  # fmt: skip
BATCH = 16
HELD_OUT = 200
SHIPPED = 16
CALIBRATION = 16

CARD = """# interformer (demo)
Interactive segmentation: {parameters:,} parameters, pictures of {side}x{side} pixels.

- Data: {scenes:,} generated scenes (examples/train/scenes.py): overlapping shapes with textures over a textured background; a
  third of the textures are pieces of scikit-learn's sample photographs china.jpg and flower.jpg (CC BY 2.0), left three
  quarters. Tested on {held_out} other scenes, whose photographs are the right quarter. It knows no real objects.
- Training: {steps} steps of {batch} scenes, {minutes:.0f} minutes of CPU time on {threads} thread(s), AdamW;
  `python examples/train/train_interformer.py -o edge/demo/interformer --seed {seed} --steps {steps} --threads {threads}`
- Mean IoU on the held-out scenes after 1, 3 and 5 clicks: {one:.3f}, {three:.3f}, {five:.3f}
- Stored as float16. `samples.npz`: {shipped} of the held-out scenes with masks, {calibration} training pictures for calibration.
- Licence of the weights: Apache-2.0, as the repository.
"""


class Scenes:
    """An endless stream of batches: pictures [n, 3, side, side] float32 and masks [n, side, side] bool."""

    def __init__(self, seed: int, held_out: bool = False) -> None:
        self.random = np.random.default_rng(seed)
        self.photos = photographs(held_out)

    def take(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        made = [scene(self.random, self.photos, CONFIG.image_size) for _ in range(count)]
        return np.stack([picture for picture, _ in made]), np.stack([mask for _, mask in made])


def tensors(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(np.concatenate([normalise(picture) for picture in pictures]))


def full_size(logits: Tensor) -> Tensor:
    return F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)


def clicked(labels: list[np.ndarray], masks: np.ndarray, truths: np.ndarray) -> list[np.ndarray]:
    """Every label map with the next click of its scene."""
    found = []
    for label, mask, truth in zip(labels, masks, truths, strict=True):
        click = next_click(mask, truth)
        found.append(label if click is None else with_click(label, click, CONFIG.click_radius))
    return found


def predict(model: InterFormer, maps: Sequence[Tensor], labels: list[np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        logits = model.click(maps, torch.from_numpy(np.stack(labels))[:, None])
        masks: np.ndarray = full_size(logits).argmax(1).numpy()
    return masks


def loss_of(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy plus one minus the soft IoU."""
    entropy = F.cross_entropy(logits, truth)
    chance = logits.softmax(1)[:, 1]
    both = (chance * truth).sum((1, 2))
    either = (chance + truth - chance * truth).sum((1, 2))
    return entropy + (1 - both / either.clamp(min=1)).mean()


def step(model: InterFormer, pictures: np.ndarray, truths: np.ndarray, clicks: int) -> Tensor:
    """The loss after ``clicks`` clicks; only the last one's prediction has a gradient."""
    maps = model.backbone(tensors(pictures))
    detached = [one.detach() for one in maps]
    labels = [unknown(*truth.shape) for truth in truths]
    labels = clicked(labels, np.zeros_like(truths), truths)
    for _ in range(clicks - 1):
        masks = predict(model, detached, labels)
        labels = [with_prediction(label, mask) for label, mask in zip(labels, masks, strict=True)]
        labels = clicked(labels, masks, truths)
    logits = model.click(maps, torch.from_numpy(np.stack(labels))[:, None])
    return loss_of(full_size(logits), torch.from_numpy(truths).long())


def mean_ious(model: InterFormer, pictures: np.ndarray, truths: np.ndarray, clicks: int) -> list[float]:
    """Mean IoU after each of ``clicks`` clicks."""
    model.eval()
    scores = np.zeros((len(pictures), clicks))
    for first in range(0, len(pictures), BATCH):
        rows = slice(first, first + BATCH)
        with torch.no_grad():
            maps = model.backbone(tensors(pictures[rows]))
        labels, masks = [unknown(*truth.shape) for truth in truths[rows]], np.zeros_like(truths[rows])
        for click in range(clicks):
            labels = clicked(labels, masks, truths[rows])
            masks = predict(model, maps, labels)
            scores[rows, click] = [iou(mask, truth) for mask, truth in zip(masks, truths[rows], strict=True)]
            labels = [with_prediction(label, mask) for label, mask in zip(labels, masks, strict=True)]
    return [float(score) for score in scores.mean(0)]


def initialise(model: InterFormer) -> None:
    """Small position tables; layers of the encoder start with a tenth of their effect, as with MAE's fine-tuning."""
    for name, parameter in model.named_parameters():
        if name.endswith(("cls_token", "pos_embed", "relative_position_bias_table")):
            nn.init.trunc_normal_(parameter, std=0.02)
        elif name.endswith(("gamma_1", "gamma_2")):
            nn.init.constant_(parameter, 0.5)


def train(steps: int, seed: int) -> InterFormer:
    """AdamW; the learning rate rises for 100 steps and falls to nothing by the last."""
    torch.manual_seed(seed)
    model = InterFormer(CONFIG)
    initialise(model)
    plain = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}])
    scenes, random = Scenes(seed), np.random.default_rng(seed)
    running = 0.0
    for done in range(1, steps + 1):
        rate = 1e-3 * min(1, done / 100) * (0.5 + 0.5 * math.cos(math.pi * done / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        model.train()
        clicks = 1 + min(int(random.geometric(0.5)) - 1, 4)
        loss = step(model, *scenes.take(BATCH), clicks)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running = loss.item() if done == 1 else 0.98 * running + 0.02 * loss.item()
        if done % 50 == 0:
            print(f"step {done} of {steps}, loss {running:.4f}", flush=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("interformer"))
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    began = time.process_time()
    model = train(options.steps, options.seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())
    pictures, truths = Scenes(options.seed + 1_000_000, held_out=True).take(HELD_OUT)
    scores = mean_ious(model, pictures, truths, 5)

    options.output.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()}
    save_file(weights, options.output / "model.safetensors")
    (options.output / "model.safetensors").chmod(0o644)  # safetensors makes it readable by its owner alone
    config = msgspec.json.format(msgspec.json.encode(CONFIG), indent=2)
    (options.output / "config.json").write_bytes(config + b"\n")
    calibration, objects = Scenes(options.seed + 2_000_000).take(CALIBRATION)
    np.savez_compressed(
        options.output / "samples.npz",
        pictures=pictures[:SHIPPED],
        masks=np.packbits(truths[:SHIPPED], axis=-1),
        calibration_pictures=calibration,
        calibration_masks=np.packbits(objects, axis=-1),
    )
    card = CARD.format(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        side=CONFIG.image_size,
        scenes=options.steps * BATCH,
        held_out=HELD_OUT,
        steps=options.steps,
        batch=BATCH,
        minutes=(time.process_time() - began) / 60,
        threads=options.threads,
        seed=options.seed,
        one=scores[0],
        three=scores[2],
        five=scores[4],
        shipped=SHIPPED,
        calibration=CALIBRATION,
    )
    (options.output / "CARD.md").write_text(card)
    print(card)


if __name__ == "__main__":
    main()
