"""``edge gate``: fail a build whose bundle became slower."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge.cli.options import DeviceOption, JsonFlag, ThreadsOption


def gate(
    source: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="A bundle to measure, or what was measured: a file or a result's ID.")
    ],
    baseline: Annotated[Path, typer.Option("--baseline", metavar="FILE", help="What to compare with.")],
    max_regression: Annotated[
        str, typer.Option("--max-regression", metavar="SHARE", help="How much slower is allowed: 5% or 0.05.")
    ] = "5%",
    update: Annotated[bool, typer.Option("--update", help="Write FILE instead of comparing with it.")] = False,
    any_machine: Annotated[
        bool, typer.Option("--any-machine", help="Compare although the baseline is from another CPU.")
    ] = False,
    device: DeviceOption = "local",
    threads: ThreadsOption = None,
    entry: Annotated[
        list[str] | None, typer.Option("--entry", metavar="NAME", help="Only this entry point; may be repeated.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="Processes to measure in.")] = 7,
    runs: Annotated[int, typer.Option("--runs", metavar="N", min=1, help="At least so many runs in each.")] = 20,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="T", min=0.0, help="And at least so many seconds in each.")
    ] = 0.5,
    json: JsonFlag = False,
) -> None:
    """Compare a bundle with a baseline: exit status 1 if it became slower by more than is allowed, 0 if not.

    It is a test on the distributions over several processes: slower means that the lower 95 % bound of the slowdown is
    above what is allowed. Bad input has exit status 2. Two files of instruction counts are compared as they are: counts
    repeat exactly, on any machine.

    \b
    Examples:
      edge gate tspulse.edge --baseline perf.json --update
      edge gate tspulse.edge --baseline perf.json --max-regression 5%
      edge gate new.json --baseline old.json --json
      edge gate counts.json --baseline counts-before.json --max-regression 1%
    """
    from edge import gate as gating
    from edge import gate_counts
    from edge.cli.output import print_json, show
    from edge.cli.terminal import terminal_progress
    from edge.errors import InputError
    from edge.report import gatetable, jsonfile

    allowed = gating.parse_share(max_regression)
    counted = None if update else gate_counts.read(baseline)
    if counted is not None:
        found = gate_counts.read(source)
        if found is None:
            raise InputError(f"the baseline {baseline} holds instruction counts and {source} does not: count it too.")
        verdict = gate_counts.judge(counted, found, allowed)
        if json:
            print_json(verdict)
        else:
            show(gatetable.render_counts(verdict))
        if verdict.regressed:
            raise typer.Exit(1)
        return
    before = [] if update else gating.saved(baseline)
    if source.is_dir():
        with terminal_progress() as progress:
            now = gating.measure(
                source, rounds=rounds, runs=runs, seconds=seconds, threads=threads, entries=tuple(entry or ()),
                device=device, progress=progress,
            )
    else:
        now = gating.saved(source)
    if update:
        jsonfile.save_all(now, baseline)
        print(f"wrote {baseline}: {len(now)} measurements")
        return
    report = gating.judge(before, now, allowed, any_machine=any_machine)
    if json:
        print_json(report)
    else:
        show(gatetable.render(report))
    if report.regressed:
        raise typer.Exit(1)
