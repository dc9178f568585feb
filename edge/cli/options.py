"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that `edge export` wrote.")]
DeviceOption = Annotated[str, typer.Option("--device", metavar="D", help="Where it runs (see `edge devices`).")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", min=1, help="Threads to run with; default: what `edge tune` found, or as many as the target uses."),
]
