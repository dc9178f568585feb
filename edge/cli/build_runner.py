"""``edge build-runner``: the program that runs bundles on a device without Python."""

from __future__ import annotations

from typing import Annotated

import typer

from edge.cli.options import JsonFlag


def build_runner(
    target: Annotated[str, typer.Option("--target", metavar="T", help="What it is for (see `edge targets`).")] = "cpu",
    runtime: Annotated[
        list[str] | None,
        typer.Option("--runtime", metavar="NAME", help="executorch or tvm; may be repeated. Default: what is installed."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Build edge's native runner for a target, into the cache; whoever needs it builds it by itself.

    The compiler is PyPI's ziglang. For another architecture the runtime's wheel is downloaded from PyPI.

    \b
    Examples:
      edge build-runner
      edge build-runner --target rpi5
      edge build-runner --target rpi5 --runtime executorch --json
    """
    from edge.cli.output import print_json, print_table
    from edge.cli.terminal import terminal_progress
    from edge.devices.targets import load_target
    from edge.errors import MissingDependencyError
    from edge.report.units import size
    from edge.runtimes.native.build import PROGRAM, runner_files
    from edge.runtimes.native.sdk import SDKS, installed

    triple = load_target(target).triple
    names = runtime or [name for name in SDKS if installed(name)]
    if not names:
        raise MissingDependencyError("executorch", "executorch", "building the runner")
    found = {}
    with terminal_progress() as progress:
        for name in names:
            progress.stage(f"build the {name} runner for {triple}")
            found[name] = runner_files(name, triple)
    if json:
        print_json([{"runtime": name, "triple": triple, "files": files} for name, files in found.items()])
        return
    print_table(
        ("runtime", "for", "program", "files", "size"),
        [
            (
                name, triple, str(files[PROGRAM]), str(len(files)),
                size(sum(path.stat().st_size for path in files.values())),
            )
            for name, files in found.items()
        ],
        right=("files", "size"),
    )  # fmt: skip
