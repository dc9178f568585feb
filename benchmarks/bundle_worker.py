"""A worker for ``sides``: one entry point of a bundle, on the arrays of an .npz."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sides import serve

import edge
from edge.runtimes.base import check_inputs


def main(bundle: str, entry: str, inputs: str, threads: str, outputs: str) -> None:
    session = edge.load(bundle, threads=int(threads))
    record = session.manifest.entry(entry)
    with np.load(inputs) as stored:
        arrays = {name: stored[name] for name in stored.files}
    run = session.bind(record, check_inputs(record, arrays))
    np.savez(Path(outputs), **session.run(entry, arrays))
    serve(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
