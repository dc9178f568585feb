"""``edge annotate``: a page in the browser where a person clicks and sees the mask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge.cli.options import BundleArgument, ThreadsOption


def annotate(
    bundle: BundleArgument,
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="The picture: PNG or JPEG.")],
    features: Annotated[
        Path | None, typer.Option("--features", metavar="FILE", help="What `edge run --encode` wrote for this picture.")
    ] = None,
    encoder: Annotated[
        Path | None, typer.Option("--encoder", metavar="BUNDLE", help="The bundle that encodes the picture.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="PNG", help="Where Save puts the mask; default: PICTURE-mask.png.")
    ] = None,
    port: Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help="0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    threads: ThreadsOption = None,
) -> None:
    """Click on a picture in the browser: left for the object, right (or shift) for what is not part of it.

    The page is served to this machine only. Ctrl-C ends it.

    \b
    Examples:
      edge annotate interformer-cpu.edge photo.png
      edge annotate interformer-click-rpi.edge photo.png --features photo.features -o mask.png
      edge annotate interformer-click-rpi.edge photo.png --encoder interformer-encode-cpu.edge
    """
    from edge import api
    from edge.cli.tune import say_tuned
    from edge.errors import UsageError
    from edge.families.interformer.interact import Interaction
    from edge.families.interformer.server import Page, serve
    from edge.families.interformer.tasks import encode_elsewhere, find_encoded, radius
    from edge.imagefile import read_image

    say_tuned(bundle, threads)
    session = api.load(bundle, threads=threads)
    if session.manifest.family != "interformer" or "click" not in {entry.name for entry in session.manifest.entries}:
        raise UsageError(f"{bundle.name} cannot be clicked with: pass an interformer bundle with the entry point 'click'.")
    shown = read_image(picture)
    if features is None and encoder is not None:
        encoded = encode_elsewhere(api.load(encoder, threads=threads), session.manifest, shown)
    else:
        encoded = find_encoded(session, features, picture)
    if encoded.size != shown.shape[:2]:
        raise UsageError(f"{features} belongs to a picture of another size than {picture}: encode the picture again.")
    destination = output or picture.with_name(f"{picture.stem}-mask.png")
    page = Page(Interaction(session.run, encoded, radius(session)), shown, destination)

    def ready(address: str) -> None:
        print(f"annotate {picture} at {address} (Ctrl-C ends)", flush=True)
        if browser:
            import webbrowser

            webbrowser.open(address)

    serve(page, port, ready)
