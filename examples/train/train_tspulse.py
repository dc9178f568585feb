"""Pre-train the demo TSPulse: reconstruct the hidden points of a series, its spectrum, and its next four points.

    python examples/train/train_tspulse.py -o edge/demo/tspulse

The shape is that of the published hybrid-allhead-512-p8 model, the losses are the authors' (Ekambaram et al., arXiv
2505.13033), the data are `series.py`'s. Writes model.safetensors, config.json, samples.npz and CARD.md;
takes about 25 minutes on one core and needs edge[export,train]. The same seed gives the same weights on the same
machine.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors.torch import save_file
from series import real_held_out, real_train, synthetic
from torch import Tensor, nn

from edge.families.tspulse.config import TSPulseConfig
from edge.families.tspulse.mixer import Gate, Mlp
from edge.families.tspulse.modules import TSPulseForReconstruction

CONFIG = TSPulseConfig(
    context_length=512,
    patch_length=8,
    patch_stride=8,
    mask_block_length=8,
    num_input_channels=1,
    d_model=24,
    decoder_d_model=24,
    num_layers=8,
    decoder_num_layers=2,
    expansion_factor=2,
    patch_register_tokens=10,
    register_mixer_layers=3,
    fuse_fft=True,
    scaling="revin",
    revin_affine=True,
    minimum_scale=1e-3,
    mask_type="user",
    mask_ratio=0.4,
    fft_prob_mode="log",
    enable_fft_prob_loss=True,
    fft_applied_on="scaled_ts",
    fft_time_add_forecasting_pt_loss=True,
    prediction_length=4,
    dropout=0.0,
    head_dropout=0.0,
)
FUTURE = 4  # points that the forecast head predicts
HELD_OUT_SEED = 2**31 - 1
REAL_SHARE = 0.125

CARD = """# TSPulse demo
A TSPulse (Ekambaram et al., arXiv 2505.13033) in the shape of the published hybrid-allhead-512-p8 checkpoint,
{parameters:,} parameters, context 512, all heads. It was trained here, briefly, to show what the tool does; the
authors' checkpoints are far better models, and `edge export tspulse --checkpoint DIR` takes them.

- Data: series from `examples/train/series.py` (seasonal, waves, trends, autoregressions, walks, shots, regime
  changes), and {real_share:.1%} windows of real ones from statsmodels: CO2 at Mauna Loa, sunspots, US macroeconomic
  data, all public domain.
- Training: masked reconstruction with points, patches and gaps hidden (up to 40 %), AdamW, batches of {batch}:
  `python examples/train/train_tspulse.py -o edge/demo/tspulse --seed {seed} --steps {steps} --threads {threads}`
- Metric: mean squared error of the hidden points (10 % of {windows} held-out windows of 512 points, as single points
  or as gaps of 4 to 32; values standardised per window). {made} windows are synthetic, of another seed; {real} are
  real: the last years of the CO2 record, and El Nino sea surface temperatures, which training never sees.

| | hidden points | hidden gaps |
|---|---|---|
| this model | {points:.4f} | {gaps:.4f} |
| linear interpolation | {points_linear:.4f} | {gaps_linear:.4f} |
| the window's mean | {points_mean:.4f} | {gaps_mean:.4f} |

- Files: `samples.npz` holds the held-out windows with their masks, and {calibration} training windows for calibration.
- Licence of the weights: Apache-2.0, as the repository.
"""


class EvenGate(nn.Module):
    """A softmax gate times its size: a gate that knows nothing yet passes its input on rather than 1 / size of it.

    The plain gate leaves the mixers almost without effect and without gradient at first. The size is folded into the
    layer before the gate when training is done, so the trained model is of the published form.
    """

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.attn_layer = gate.attn_layer

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.softmax(self.attn_layer(x), dim=-1) * x.shape[-1]


def loosen(model: nn.Module) -> None:
    """Put even gates where the mixers have softmax gates."""
    for module in model.modules():
        if isinstance(getattr(module, "mlp", None), Mlp) and isinstance(module.gating_block, Gate):
            module.gating_block = EvenGate(module.gating_block)


@torch.no_grad()
def fold(model: nn.Module) -> None:
    """Undo `loosen`: plain gates that compute the same, the layer before them scaled up and their logits' down."""
    for module in model.modules():
        if isinstance(getattr(module, "gating_block", None), EvenGate):
            linear = module.gating_block.attn_layer
            size = linear.in_features
            for parameter in module.mlp.fc2.parameters():
                parameter.mul_(size)
            linear.weight.div_(size)
            plain = Gate(size, "softmax")
            plain.attn_layer = linear
            module.gating_block = plain


def masks(rng: np.random.Generator, count: int, length: int, patch: int) -> np.ndarray:
    """1 where a point is seen, [count, length]: up to 40 % hidden as points, whole patches and gaps anywhere."""
    observed = np.ones((count, length), np.float32)
    for row in observed:
        share = rng.uniform(0.01, 0.4)
        parts = rng.dirichlet([0.7, 0.7, 0.7]) * share * length
        row[rng.choice(length, int(parts[0]), replace=False)] = 0
        for index in rng.choice(length // patch, int(parts[1]) // patch, replace=False):
            row[index * patch : (index + 1) * patch] = 0
        hide_gaps(rng, row, int(parts[2]))
        if row.all():
            index = rng.integers(length // patch)
            row[index * patch : (index + 1) * patch] = 0
    return observed


def hide_gaps(rng: np.random.Generator, observed: np.ndarray, points: int) -> None:
    """Set about `points` points of `observed` to 0, in gaps of 4 to 32."""
    while points > 0:
        gap = int(rng.integers(4, 33))
        start = int(rng.integers(len(observed) - gap + 1))
        observed[start : start + gap] = 0
        points -= gap


def losses(model: TSPulseForReconstruction, past: Tensor, future: Tensor, observed: Tensor) -> Tensor:
    """The authors' sum: hidden points by both paths, spectrum, softmax of power, forecast. Shapes [batch, time, 1]."""
    out = model(past, observed)
    assert out.reconstructed_ts_from_fft is not None and out.forecast_output is not None
    assert out.fft_reconstruction_outputs is not None and out.fft_softmax_preds is not None
    hidden = observed == 0
    with torch.no_grad():
        spectrum, power = model.frequency_targets(past)
    mse = nn.functional.mse_loss
    entropy = -(power * out.fft_softmax_preds.clamp_min(1e-9).log()).sum(1).mean()
    return (
        mse(out.reconstruction_outputs[hidden], past[hidden])
        + mse(out.reconstructed_ts_from_fft[hidden], past[hidden])
        + mse(out.fft_reconstruction_outputs, spectrum)
        + entropy
        + mse(out.forecast_output, future)
    )


def batch(rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Past [size, 512, 1], future [size, 4, 1], observed [size, 512, 1]."""
    length = CONFIG.context_length + FUTURE
    real = int(rng.binomial(size, REAL_SHARE))
    series = synthetic(rng, size - real, length)
    if real:
        series = np.concatenate([series, real_train(rng, real, length)])
    past, future = np.split(series[..., None], [CONFIG.context_length], axis=1)
    observed = masks(rng, size, CONFIG.context_length, CONFIG.patch_length)[..., None]
    return torch.from_numpy(past), torch.from_numpy(future), torch.from_numpy(observed)


def train(steps: int, size: int, seed: int, peak: float) -> TSPulseForReconstruction:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = TSPulseForReconstruction(CONFIG)
    loosen(model)
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peak, total_steps=steps, pct_start=0.1)
    started = time.monotonic()
    running = 0.0
    for step in range(steps):
        loss = losses(model, *batch(rng, size))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            decay = min(0.995, (step + 1) / (step + 10))
            for mean, value in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
        if step % 50 == 49:
            print(f"step {step + 1}/{steps} loss {running:.4f} {time.monotonic() - started:.0f} s", flush=True)
    fold(average)
    return average.eval()


def held_out() -> tuple[np.ndarray, np.ndarray, int]:
    """Windows [n, 512], their masks [n, 512] uint8 (even rows: points hidden, odd rows: gaps), and how many are real."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    length = CONFIG.context_length
    real = real_held_out(length)
    windows = np.concatenate([real, synthetic(rng, 20, length)])
    observed = np.ones(windows.shape, np.uint8)
    for index, row in enumerate(observed):
        if index % 2:
            hide_gaps(rng, row, length // 10)
        else:
            row[rng.choice(length, length // 10, replace=False)] = 0
    return windows, observed, len(real)


def errors(model: TSPulseForReconstruction, windows: np.ndarray, observed: np.ndarray) -> dict[str, float]:
    """MSE of hidden points and of hidden gaps: the model's, linear interpolation's, the mean's."""
    seen = observed.astype(bool)
    past = np.where(seen, windows, 0)[..., None].astype(np.float32)
    with torch.no_grad():
        filled = model(torch.from_numpy(past), torch.from_numpy(observed[..., None].astype(np.float32)))
    time_axis = np.arange(windows.shape[1])
    lines = zip(windows, seen, strict=True)
    linear = np.stack([np.interp(time_axis, time_axis[known], row[known]) for row, known in lines])
    means = np.stack([np.full(len(row), row[known].mean()) for row, known in zip(windows, seen, strict=True)])
    found = {}
    for kind, rows in (("points", slice(0, None, 2)), ("gaps", slice(1, None, 2))):
        hidden = ~seen[rows]
        for name, guess in (
            ("", filled.reconstruction_outputs.numpy()[..., 0]),
            ("_linear", linear),
            ("_mean", means),
        ):
            found[kind + name] = float(np.mean((guess[rows] - windows[rows])[hidden] ** 2))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--peak", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=2, help="part of what makes a run repeat exactly")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    model = train(options.steps, options.batch, options.seed, options.peak)
    windows, observed, real = held_out()
    found = errors(model, windows, observed)

    options.output.mkdir(parents=True, exist_ok=True)
    weights = options.output / "model.safetensors"
    save_file(model.state_dict(), weights)
    weights.chmod(0o644)  # safetensors makes it readable by its owner alone
    config = {"model_type": "tspulse", "architectures": ["TSPulseForReconstruction"], **msgspec.structs.asdict(CONFIG)}
    (options.output / "config.json").write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n")
    rng = np.random.default_rng(options.seed + 1)
    calibration = np.concatenate([real_train(rng, 8, 512), synthetic(rng, 24, 512)])
    np.savez_compressed(
        options.output / "samples.npz", windows=windows, observed=observed, calibration=calibration[rng.permutation(32)]
    )
    card = CARD.format(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        real_share=REAL_SHARE,
        seed=options.seed,
        steps=options.steps,
        threads=options.threads,
        batch=options.batch,
        windows=len(windows),
        made=len(windows) - real,
        real=real,
        calibration=len(calibration),
        **found,
    )
    (options.output / "CARD.md").write_text(card)
    print(card)


if __name__ == "__main__":
    main()
