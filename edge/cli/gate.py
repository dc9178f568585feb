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
    above what is allowed. Bad input has exit status 2. Instruction counts are compared as they are: they
    repeat exactly, on any machine. With --device qemu:TARGET, or a baseline of counts, a bundle is counted.

    \b
    Examples:
      edge gate tspulse.edge --baseline perf.json --update
      edge gate tspulse.edge --baseline perf.json --max-regression 5%
      edge gate new.json --baseline old.json --json
      edge gate tspulse-rpi.edge --baseline counts.json --device qemu:rpi5 --update
      edge gate tspulse-rpi.edge --baseline counts.json --max-regression 1%
    """
    from edge import gate as gating
    from edge import gate_counts
    from edge.cli.output import print_json, show
    from edge.cli.terminal import terminal_progress
    from edge.report import gatetable, jsonfile

    allowed = gating.parse_share(max_regression)
    if device.startswith("qemu:") or (not update and gate_counts.read(baseline) is not None):
        _counts(source, baseline, allowed, device, tuple(entry or ()), update=update, json=json)
        return
    before = [] if update else gating.saved(baseline, "write the baseline with --update first, or give the ID of a result")
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


def _counts(
    source: Path, baseline: Path, allowed: float, device: str, entries: tuple[str, ...], *, update: bool, json: bool
) -> None:
    """The gate on instruction counts: no rounds, since they repeat."""
    from edge import gate_counts
    from edge.cli.output import print_json, show
    from edge.cli.terminal import terminal_progress
    from edge.errors import InputError
    from edge.files import write_atomically
    from edge.report import gatetable

    before = None if update else gate_counts.read(baseline)
    if before is None and not update:
        raise InputError(f"{baseline} holds no instruction counts: write it with --device qemu:TARGET --update.")
    target = device.removeprefix("qemu:") if before is None or device.startswith("qemu:") else before.target
    with terminal_progress() as progress:
        raw = gate_counts.counted(source, target, entries, progress)
    if before is None:
        write_atomically(baseline, raw)
        print(f"wrote {baseline}: instruction counts")
        return
    now = gate_counts.decode(raw)
    report = gate_counts.judge(before, now, allowed)
    if json:
        print_json(report)
    else:
        show(gatetable.render_counts(report))
    if report.regressed:
        raise typer.Exit(1)
