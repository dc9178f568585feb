"""Train the demo PLM: a small language model of Python's own documentation, with a price on activity in the MLPs.

    python examples/train/train_plm.py -o edge/demo/plm --seed 0

The text is `text.py`'s: what ships with CPython. Writes model.safetensors (float16), config.json, tokenizer.json,
samples.npz and CARD.md; takes about 25 minutes on one core and needs edge[export]. The same seed gives the same weights
on the same machine, torch and Python.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors.torch import save_file
from text import Document, documents
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F

from edge.families.plm.config import PLMConfig
from edge.families.plm.gguf_tokenizer import PIECES
from edge.families.plm.modules import PLM, Relu2

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCABULARY = 2048
CONFIG = PLMConfig(
    vocab_size=VOCABULARY,
    hidden_size=192,
    intermediate_size=768,
    num_hidden_layers=5,
    num_attention_heads=4,
    num_key_value_heads=4,
    kv_lora_rank=64,
    qk_nope_head_dim=32,
    qk_rope_head_dim=16,
    v_head_dim=48,
    max_position_embeddings=512,
    eos_token_id=[0, 2],
)
LENGTH = 512  # tokens of a training row
CHAT_SHARE = 0.3  # of the documents that describe one thing: told as an answer in ChatML

CARD = """# PLM demo
Goes on with text in the manner of Python's documentation, and answers "What is json.dumps?" (`--chat`) in its words, if
not always with its facts: {parameters:,} parameters, a byte-level BPE of {vocabulary} tokens, {context} tokens of context.

- Data: what ships with CPython {python}: the documentation strings of the standard library (without tests and idlelib)
  and the language reference in `pydoc_data.topics` (PSF licence), and the licences in /usr/share/common-licenses of
  Debian's base-files (verbatim copies permitted). {train:,} characters for training, {held:,} held out: one
  document in twenty, chosen by its hash.
- Training: `python examples/train/train_plm.py -o edge/demo/plm --seed {seed}` ({steps} steps of {rows} x {length} tokens,
  {minutes:.0f} minutes of CPU time on {threads} thread{plural}). The loss adds {penalty} times the mean of relu(up) in each layer, a small price on
  neurons that are active.
- Held-out perplexity: {perplexity:.2f} per token of {chars:.2f} characters on average ({bits:.3f} bits a character), weights in
  float16.
- Zeros after the squared ReLUs, on held-out text, through training:

| step | {header} |
|---|{rule}|
{table}

- Files: `tokenizer.json`; `samples.npz` holds held-out token ids (`test`, [rows, tokens]) and training ones
  (`calibration`).
- Licence of the weights: Apache-2.0, as the repository.
"""


def train_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """A byte-level BPE in Qwen2's form, so that llama.cpp knows it too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def told(document: Document, generator: np.random.Generator) -> str:
    """The document as it is, or as an answer; ended by the token that ends a text."""
    if document.subject is not None and generator.random() < CHAT_SHARE:
        question = f"<|im_start|>user\nWhat is {document.subject}?<|im_end|>\n"
        return f"{question}<|im_start|>assistant\n{document.text}<|im_end|>\n<|endoftext|>"
    return f"{document.text}<|endoftext|>"


def stream(found: Sequence[Document], tokenizer: Tokenizer, generator: np.random.Generator) -> Tensor:
    """All documents, shuffled, as one row of token ids."""
    order = generator.permutation(len(found))
    encoded = tokenizer.encode_batch([told(found[index], generator) for index in order])
    return torch.tensor([token for each in encoded for token in each.ids])


def initialise(model: PLM, seed: int) -> None:
    """Normal weights of 0.02; what ends a branch is smaller by the square root of the number of branches."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            ends = name.endswith(("o_proj.weight", "down_proj.weight"))
            scale = 0.02 / math.sqrt(2 * CONFIG.num_hidden_layers) if ends else 0.02
            nn.init.normal_(parameter, 0.0, scale, generator=generator)


@dataclass
class Watch:
    """Sees the squared ReLUs' inputs: the penalty of a step, and each layer's share of zeros."""

    model: PLM

    def __post_init__(self) -> None:
        self.active: list[Tensor] = []
        self.zeros: list[float] = []
        for part in self.model.modules():
            if isinstance(part, Relu2):
                part.register_forward_hook(self.see)

    def see(self, _part: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if self.model.training:
            self.active.append(torch.relu(inputs[0]).mean())
        else:
            self.zeros.append(float((output == 0).double().mean()))

    def held_out(self, rows: Tensor) -> tuple[float, list[float]]:
        """Mean loss in nats a token over ``rows`` [n, tokens], and the share of zeros of each layer."""
        self.model.eval()
        self.zeros.clear()
        losses = []
        with torch.no_grad():
            for row in rows.split(4):
                logits = self.model(row[:, :-1])
                losses.append(float(F.cross_entropy(logits.flatten(0, 1), row[:, 1:].flatten())) * len(row))
        layers = CONFIG.num_hidden_layers
        shares = np.array(self.zeros).reshape(-1, layers).mean(0)
        self.model.train()
        self.active.clear()
        return sum(losses) / len(rows), [float(share) for share in shares]


def train(
    model: PLM, watch: Watch, tokens: Tensor, held: Tensor, options: argparse.Namespace
) -> list[tuple[int, float, list[float]]]:
    """Train in place; (step, held-out loss, zeros by layer) at several steps."""
    generator = torch.Generator().manual_seed(options.seed)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=options.rate,
        betas=(0.9, 0.95),
    )
    warmup = max(1, options.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.05 + 0.475 * (1 + math.cos(math.pi * step / options.steps))),
    )
    looks = {round(options.steps * share) for share in (0, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 1)}
    found = []
    began = time.perf_counter()
    for step in range(options.steps + 1):
        if step in looks:
            loss, zeros = watch.held_out(held[:16])
            found.append((step, loss, zeros))
            shares = " ".join(f"{share:.3f}" for share in zeros)
            print(f"step {step} {time.perf_counter() - began:.0f} s held-out {math.exp(loss):.2f} zeros {shares}", flush=True)
        if step == options.steps:
            break
        starts = torch.randint(0, len(tokens) - LENGTH, (options.rows,), generator=generator)
        batch = torch.stack([tokens[start : start + LENGTH + 1] for start in starts])
        watch.active.clear()
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        (loss + options.penalty * torch.stack(watch.active).sum()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--penalty", type=float, default=0.02)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    began = time.process_time()

    everything = documents()
    learnt = [document for document in everything if not document.held_out]
    unseen = [document for document in everything if document.held_out]
    tokenizer = train_tokenizer([document.text for document in learnt])
    generator = np.random.default_rng(options.seed)
    # Twice, so that most of what can be told as an answer is told both ways.
    tokens = torch.cat([stream(learnt, tokenizer, generator) for _ in range(2)])
    rest = stream(unseen, tokenizer, generator)
    held = rest[: len(rest) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)
    print(f"{len(tokens)} tokens to learn, {held.numel()} held out", flush=True)

    model = PLM(CONFIG)
    initialise(model, options.seed)
    watch = Watch(model)
    history = train(model, watch, tokens, held, options)
    for parameter in model.parameters():  # as stored
        parameter.data = parameter.data.half().float()
    loss, zeros = watch.held_out(held)
    history[-1] = (options.steps, loss, zeros)
    write(options, model, tokenizer, held, tokens, history, everything, time.process_time() - began)


def write(
    options: argparse.Namespace,
    model: PLM,
    tokenizer: Tokenizer,
    held: Tensor,
    tokens: Tensor,
    history: Sequence[tuple[int, float, list[float]]],
    everything: Sequence[Document],
    seconds: float,
) -> None:
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half() for name, value in model.state_dict().items()}, output / "model.safetensors")
    (output / "model.safetensors").chmod(0o644)  # safetensors makes it readable by its owner alone
    (output / "config.json").write_bytes(msgspec.json.format(msgspec.json.encode(CONFIG), indent=2) + b"\n")
    tokenizer.save(str(output / "tokenizer.json"))
    np.savez_compressed(
        output / "samples.npz",
        test=held[:8, :257].numpy().astype(np.uint16),
        calibration=tokens[: 64 * 128].reshape(64, 128).numpy().astype(np.uint16),
    )
    loss = history[-1][1]
    characters = len(tokenizer.decode(held.flatten().tolist(), skip_special_tokens=False)) / held.numel()
    layers = CONFIG.num_hidden_layers
    card = CARD.format(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        vocabulary=VOCABULARY,
        context=CONFIG.max_position_embeddings,
        python=platform.python_version(),
        train=sum(len(document.text) for document in everything if not document.held_out),
        held=sum(len(document.text) for document in everything if document.held_out),
        seed=options.seed,
        steps=options.steps,
        rows=options.rows,
        length=LENGTH,
        minutes=seconds / 60,
        threads=options.threads,
        plural="" if options.threads == 1 else "s",
        penalty=options.penalty,
        perplexity=math.exp(loss),
        chars=characters,
        bits=loss / math.log(2) / characters,
        header=" | ".join([*(f"layer {layer}" for layer in range(layers)), "perplexity"]),
        rule="|".join(["---"] * (layers + 1)),
        table="\n".join(
            f"| {step} | {' | '.join(f'{share:.1%}' for share in zeros)} | {math.exp(at):.1f} |"
            for step, at, zeros in history
        ),
    )
    (output / "CARD.md").write_text(card)
    print(card)


if __name__ == "__main__":
    main()
