"""``edge profile``: how fast a bundle is, and where the time goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge.cli.options import BundleArgument, DeviceOption, ThreadsOption

if TYPE_CHECKING:
    from edge.measurement import Measurement


def profile(
    bundle: BundleArgument,
    device: DeviceOption = "local",
    threads: ThreadsOption = None,
    entry: Annotated[
        list[str] | None, typer.Option("--entry", metavar="NAME", help="Only this entry point; may be repeated.")
    ] = None,
    runs: Annotated[int, typer.Option("--runs", metavar="N", min=1, help="At least so many timed runs of each.")] = 50,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="T", min=0.0, help="And at least so many seconds of each.")
    ] = 1.0,
    cool: Annotated[
        float,
        typer.Option("--cool", metavar="T", min=0.0, help="Wait so many seconds at most for a hot device; 0: not at all."),
    ] = 120.0,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything that was measured; - is stdout.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Write a Chrome trace (ui.perfetto.dev opens it).")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with charts.")] = None,
    keep: Annotated[bool, typer.Option("--keep/--no-keep", help="Keep the result for `edge results`.")] = True,
    count: Annotated[
        bool, typer.Option("--count", help="Count instructions of one inference, with --device qemu:TARGET; no times.")
    ] = False,
    app: Annotated[
        bool, typer.Option("--app", help="By the demo app on the phone, with --device adb:SERIAL (see examples/android).")
    ] = False,
) -> None:
    """Measure a bundle in a fresh process: load time, latency percentiles, memory, per-operator times, roofline.

    Where the device can say so: clock, temperature and throttling around the runs, and the energy of one. A device that
    is hot is waited for, and runs that throttling spoiled are repeated. If the process or the connection dies, the runs
    that were finished are kept, as a result that is marked as cut short.

    \b
    Examples:
      edge profile tspulse-rpi.edge
      edge profile tspulse-rpi.edge --threads 2 --json p.json --trace t.json --html p.html
      edge profile tspulse-rpi.edge --entry reconstruct --runs 200 --seconds 5
      edge profile tspulse-rpi.edge --json - | jq .entries[0].latency
      edge profile fmvit-rpi.edge --device qemu:rpi5 --count --json counts.json
      edge profile fmvit.edge --device adb:R58M123ABC --app --runs 100
    """
    import sys

    from edge import api
    from edge.cli.output import show
    from edge.cli.terminal import terminal_progress
    from edge.errors import DeviceError, UsageError
    from edge.report import html as page
    from edge.report import jsonfile, table
    from edge.report import trace as chrome

    if app and (count or entry):
        raise UsageError("the app measures every entry point, and times them: leave --entry and --count out.")
    if count:
        _count(bundle, device, threads, tuple(entry or ()), json, other=(trace, html))
        return
    try:
        with terminal_progress() as progress:
            if app:
                measurement = api.profile_in_app(bundle, device=device, threads=threads, runs=runs, progress=progress)
            else:
                measurement = api.profile(
                    bundle,
                    threads=threads,
                    entries=tuple(entry or ()),
                    runs=runs,
                    seconds=seconds,
                    device=device,
                    cool_seconds=cool,
                    progress=progress,
                )
    except DeviceError as error:
        if error.measurement is None:
            raise
        raise DeviceError(f"{str(error).rstrip('.')}; {_keep_finished(error.measurement, keep)}.") from error
    on_stdout = json is not None and str(json) == "-"
    if on_stdout:
        sys.stdout.write(jsonfile.encode(measurement).decode())
    else:
        show(table.render(measurement))
    if json is not None and not on_stdout:
        jsonfile.save(measurement, json)
    if trace is not None:
        chrome.save(measurement, trace)
    if html is not None:
        page.save(measurement, html)
    if keep:
        _keep(measurement, quiet=on_stdout)
    for path in (None if on_stdout else json, trace, html):
        if path is not None and not on_stdout:
            print(f"wrote {path}")


def _count(
    bundle: Path,
    device: str,
    threads: int | None,
    entries: tuple[str, ...],
    json: Path | None,
    other: tuple[Path | None, ...],
) -> None:
    """Count in place of measuring: the same numbers on every machine."""
    import sys

    from edge.cli.output import show
    from edge.cli.terminal import terminal_progress
    from edge.errors import UsageError
    from edge.files import write_atomically
    from edge.report import counts as report
    from edge.runtimes.native.counting import count, encode

    transport, _, target = device.partition(":")
    if transport != "qemu" or not target:
        raise UsageError("instructions are counted under emulation: give --device qemu:rpi5, or another target.")
    if threads not in (None, 1):
        raise UsageError("instructions are counted with one thread, so that they repeat: leave --threads out.")
    if any(other):
        raise UsageError("counts have no trace and no page, since they are no times: leave --trace and --html out.")
    with terminal_progress() as progress:
        counts = count(bundle, target, entries=entries, progress=progress)
    if json is not None and str(json) == "-":
        sys.stdout.write(encode(counts).decode())
        return
    show(report.render(counts))
    if json is not None:
        write_atomically(json, encode(counts))
        print(f"wrote {json}")


def _keep_finished(measurement: Measurement, keep: bool) -> str:
    """Store what was finished before the measuring ended; what became of it, as a clause."""
    from edge import results
    from edge.errors import StorageError

    runs = sum(entry.latency.runs for entry in measurement.entries)
    what = f"the {runs:,} runs finished before ({', '.join(entry.entry for entry in measurement.entries)})"
    if not keep:
        return f"{what} are not kept, as --no-keep says"
    try:
        return f"{what} are kept as {results.keep(measurement)} (see `edge results`)"
    except StorageError as error:
        return f"{what} are lost too, since {str(error).rstrip('.')}"


def _keep(measurement: Measurement, quiet: bool) -> None:
    """Store the result. A folder that cannot be written costs the user a line, not the measurement."""
    import sys

    from edge import results
    from edge.errors import StorageError

    try:
        name = results.keep(measurement)
    except StorageError as error:
        print(f"edge: warning: the result is not kept: {error}", file=sys.stderr)
        return
    if not quiet:
        print(f"kept as {name} (see `edge results`)")
