"""``edge results``: what was measured before."""

from __future__ import annotations

from typing import Annotated

import typer

from edge.cli.options import JsonFlag


def _filter(name: str, text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(f"--{name}", metavar="NAME", help=text)
    return option


def results(
    identity: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Show this one whole; the beginning of its ID is enough.")
    ] = None,
    bundle: Annotated[str | None, _filter("bundle", "Only of this bundle, by its folder's name.")] = None,
    model: Annotated[str | None, _filter("model", "Only of this model.")] = None,
    entry: Annotated[str | None, _filter("entry", "Only this entry point.")] = None,
    runtime: Annotated[str | None, _filter("runtime", "Only of this runtime.")] = None,
    scheme: Annotated[str | None, _filter("scheme", "Only of this scheme.")] = None,
    target: Annotated[str | None, _filter("target", "Only of bundles for this target.")] = None,
    device: Annotated[str | None, _filter("device", "Only measured on this device.")] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="DATE", help="Only since then: 2026-05-31.")] = None,
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="At most so many rows.")] = 40,
    json: JsonFlag = False,
) -> None:
    """List what `edge profile` measured, newest first; every profile is kept, run by run.

    They lie in ~/.local/share/edge/results, or where EDGE_RESULTS says; each is a folder that may be deleted.

    \b
    Examples:
      edge results
      edge results --model tspulse --runtime onnx --last 5
      edge results 20260531T1204                    one of them, as `edge profile` showed it
      edge results --since 2026-05-01 --json | jq '.[].p50_us'
      edge compare 20260531T1204 20260601T0900      two of them side by side
    """
    import sys

    from edge import results as store
    from edge import results_index
    from edge.cli.output import print_json, print_table, show
    from edge.report import jsonfile, table, units

    if identity is not None:
        measurement = store.load(identity)
        if json:
            sys.stdout.write(jsonfile.encode(measurement).decode())
        else:
            show(table.render(measurement))
        return
    given = {
        "bundle": bundle, "model": model, "entry": entry, "runtime": runtime, "scheme": scheme, "target": target,
        "device": device,
    }
    filters = {name: value for name, value in given.items() if value is not None}
    found = results_index.find(store.results_dir(), filters, since)[:last]
    if json:
        print_json(found)
        return
    if not found:
        print(f"no results{' like that' if filters or since else ''} in {store.results_dir()}")
        return
    print_table(
        ("id", "bundle", "entry point", "runtime", "scheme", "device", "threads", "p50", "p90", "runs", "peak"),
        [
            (
                row.id, row.bundle, row.entry, row.runtime, row.scheme, row.device, str(row.threads),
                units.duration(row.p50_us) + (" (hot)" if row.stayed_hot else ""), units.duration(row.p90_us),
                f"{row.runs:,}{' (cut short)' if row.cut_short else ''}", units.size(row.peak_bytes),
            )
            for row in found
        ],
        right=("threads", "p50", "p90", "runs", "peak"),
        wrap=("bundle", "entry point"),
    )
