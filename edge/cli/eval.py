"""``edge eval``: how well a language model's bundle predicts the user's own text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge.cli.options import BundleArgument, JsonFlag, ThreadsOption


def evaluate(
    bundle: BundleArgument,
    text: Annotated[Path, typer.Option("--text", metavar="FILE", help="The text, UTF-8.")],
    threads: ThreadsOption = None,
    json: JsonFlag = False,
) -> None:
    """Perplexity of a language model on a text, through the bundle's own runtime.

    The text is cut into passages as long as the context, each predicted from its first token on; lower is better.

    \b
    Examples:
      edge eval plm-rpi.edge --text held-out.txt
      edge eval plm-rpi.edge --text held-out.txt --json
    """
    from edge import api
    from edge.bundle import open_bundle
    from edge.cli.output import print_json
    from edge.cli.terminal import terminal_progress
    from edge.cli.tune import say_tuned
    from edge.errors import InputError
    from edge.families.base import get_family

    family = get_family(open_bundle(bundle).manifest.family)
    try:
        content = text.read_bytes().decode()
    except OSError as error:
        raise InputError(f"the text {text} cannot be read ({error.strerror}): check the path.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the text {text} is not UTF-8 (byte {error.start}): convert it first.") from error
    say_tuned(bundle, threads)
    session = api.load(bundle, threads=threads)
    with terminal_progress() as progress:
        found = family.perplexity(session, content, progress)
    if json:
        print_json(found)
        return
    print(f"perplexity {found.perplexity:.4f} per token ({found.bits_per_byte:.4f} bits a byte)")
    print(f"{found.tokens} tokens predicted in {found.passages} passages, {found.tokens_per_second:.1f} tokens/s")
