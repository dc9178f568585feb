"""How honest `edge estimate` is on this machine: each bundle's estimated range beside its profile.

    python benchmarks/estimate.py BUNDLE... [--threads N] [--json FILE]

Rows say the range, the fastest run and the median, and whether the fastest run lies inside.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import edge
from edge import api
from edge.report import units


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = []
    for path in asked.bundles:
        estimated = api.estimate(path, target="cpu", threads=asked.threads)
        profile = edge.profile(path, threads=asked.threads, seconds=0.5, operators=False, roofline=False)
        for entry in estimated.entries:
            latency = profile.entry(entry.entry).latency
            inside = entry.low_us <= latency.min_us <= entry.high_us
            memory = estimated.memory
            rows.append({
                "bundle": path.name, "entry": entry.entry, "runtime": estimated.runtime, "scheme": estimated.scheme,
                "low_us": entry.low_us, "high_us": entry.high_us, "min_us": latency.min_us, "p50_us": latency.p50_us,
                "inside": inside, "peak_bytes": profile.memory.peak, "peak_low": memory.low_bytes,
                "peak_high": memory.high_bytes,
            })
            span = f"{units.duration(entry.low_us)} to {units.duration(entry.high_us)}"
            print(
                f"{path.name:32} {entry.entry:14} estimated {span:26} fastest {units.duration(latency.min_us):>9} "
                f"p50 {units.duration(latency.p50_us):>9} {'inside' if inside else 'OUTSIDE'}; peak "
                f"{units.size(memory.low_bytes)} to {units.size(memory.high_bytes)}, was {units.size(profile.memory.peak)}",
                flush=True,
            )
    if asked.json is not None:
        asked.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
