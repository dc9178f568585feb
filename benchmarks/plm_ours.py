"""A worker for ``sides``: one job of a PLM bundle: a token at a place of the context, or a prompt.

    python benchmarks/plm_ours.py BUNDLE JOB COUNT THREADS

JOB is ``decode`` (one token after COUNT others) or ``prefill`` (a prompt of COUNT tokens, from an empty context).
"""

from __future__ import annotations

import sys

import numpy as np
from sides import peak_rss_mb, serve

import edge
from edge.families.plm.decoder import session_decoder


def main(bundle: str, job: str, count: str, threads: str) -> None:
    session = edge.load(bundle, threads=int(threads))
    decoder = session_decoder(session)
    tokens = np.random.default_rng(0).integers(0, 2000, max(int(count), 1)).tolist()

    def decode() -> None:
        decoder.position = len(tokens)
        decoder.last([7])

    def prefill() -> None:
        decoder.reset()
        decoder.last(tokens)

    decoder.last(tokens)
    run = decode if job == "decode" else prefill
    run()
    serve(run, runs_before=1, rss_mb=peak_rss_mb())


if __name__ == "__main__":
    main(*sys.argv[1:])
