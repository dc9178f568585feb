"""The ``edge`` program's commands, in the order that one uses them."""

from __future__ import annotations

from typing import Annotated

import typer

from edge._version import __version__
from edge.cli import (
    annotate,
    build_runner,
    compare,
    convert,
    device,
    devices,
    doctor,
    estimate,
    eval,
    export,
    gate,
    init,
    models,
    profile,
    results,
    run,
    sweep,
    targets,
    tune,
    verify,
)

EPILOG = """\
\b
First steps:
  edge doctor                                  is everything here?
  edge export tspulse --target rpi             make a bundle for a Raspberry Pi
  edge run tspulse-rpi.edge --task anomaly --csv sensor.csv --plot scores.png
  edge profile tspulse-rpi.edge --html report.html
"""

# Plain help: it answers in half the time that rich's takes, and the examples keep their lines.
app = typer.Typer(rich_markup_mode=None, add_completion=False, epilog=EPILOG, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"edge {__version__}")
        raise typer.Exit


@app.callback()
def edge(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take a model from PyTorch to a Raspberry Pi, a phone or a plain CPU: export, verify, run, profile."""


app.command("models", short_help="List what can be exported.")(models.models)
app.command("targets", short_help="List what it can be exported for.")(targets.targets)
app.command("devices", short_help="List where bundles can run from here.")(devices.devices)
app.command("doctor", short_help="Check what is installed, and say what is missing.")(doctor.doctor)
app.command("init", short_help="Write an edge.toml here.")(init.init)
app.command("export", short_help="Make a bundle: capture, quantize, lower, verify, pack.")(export.export)
app.command("verify", short_help="Check that a bundle computes what the model computed.")(verify.verify)
app.command("run", short_help="Do the model's task on your own file.")(run.run)
app.command("eval", short_help="Tell how well a language model predicts your text.")(eval.evaluate)
app.command("annotate", short_help="Click on a picture in the browser: interformer.")(annotate.annotate)
app.command("profile", short_help="Measure speed and memory, down to the operators.")(profile.profile)
app.command("tune", short_help="Find how many threads are best on a device.")(tune.tune)
app.command("compare", short_help="Put bundles or profiles side by side.")(compare.compare)
app.command("estimate", short_help="Estimate a bundle's speed on a target.")(estimate.estimate)
app.command("results", short_help="List what was measured before.")(results.results)
app.command("gate", short_help="Fail a build whose bundle became slower.")(gate.gate)
app.command("sweep", short_help="Try models, schemes, runtimes and devices; a Pareto page.")(sweep.sweep)
app.command("build-runner", short_help="Build the program for devices without Python.")(build_runner.build_runner)
app.command("convert", short_help="Write a language model as GGUF, for llama.cpp.")(convert.convert)
app.add_typer(device.app, name="device", short_help="Clean a device; build an emulated one.")
