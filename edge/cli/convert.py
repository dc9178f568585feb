"""``edge convert``: a checkpoint as GGUF, for llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A language model (see `edge models`).")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.gguf", help="Where it goes.")],
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", metavar="PATH", help="Weights; default: the demo's.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The config.json to use.")] = None,
    random_weights: Annotated[
        int | None, typer.Option("--random-weights", metavar="SEED", help="Random weights, to measure speed.")
    ] = None,
    kind: Annotated[str, typer.Option("--type", metavar="T", help="Of the matrices: f32, f16 or q8_0.")] = "f16",
) -> None:
    """Write a language model's weights and tokenizer as GGUF, so that llama.cpp runs the very same model.

    \b
    Examples:
      edge convert plm -o plm.gguf
      edge convert plm --checkpoint PLM-1.8B-Instruct --type q8_0 -o plm-1.8b.gguf
    """
    from edge.cli.terminal import terminal_progress
    from edge.errors import UsageError
    from edge.families.base import Source, find

    if output.suffix != ".gguf":
        raise UsageError(f"{output} does not end in .gguf, the one format that edge converts to: rename it.")
    family, variant = find(model)
    source = Source(checkpoint=checkpoint, config=config, random_seed=random_weights)
    with terminal_progress() as progress:
        progress.stage(f"write {output.name}")
        family.write_gguf(model, variant, source, output, kind)
    print(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")
