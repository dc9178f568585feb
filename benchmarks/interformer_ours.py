"""A worker for ``sides``: a click bundle, from the label map on, with what the encoder gave already there."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sides import serve

import edge
from edge.families.interformer.clicks import shares
from edge.runtimes.base import check_inputs


def main(bundle: str, scratch: str, threads: str, name: str) -> None:
    session = edge.load(bundle, threads=int(threads))
    with np.load(Path(scratch) / "encoded.npz") as stored:
        features = {key: stored[key] for key in stored.files}
    labels = np.load(Path(scratch) / "inputs.npz")["labels"]
    inputs = {**features, "shares": shares(labels)}
    np.save(Path(scratch) / f"out-{name}.npy", session.run("click", inputs)["logits"])
    record = session.manifest.entry("click")
    model = session.bind(record, check_inputs(record, inputs))

    def run() -> None:
        shares(labels)  # at every click anew, so it counts; what is bound stays the same
        model()

    serve(run, runs_before=5)


if __name__ == "__main__":
    main(*sys.argv[1:])
