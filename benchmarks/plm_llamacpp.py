"""A worker for ``sides`` in llama.cpp's environment: the jobs of ``plm_ours``, and two more.

    python benchmarks/plm_llamacpp.py MODEL.gguf decode|prefill COUNT THREADS
    python benchmarks/plm_llamacpp.py IN.gguf quantize TYPE OUT.gguf
    python benchmarks/plm_llamacpp.py MODEL.gguf logits ROWS.npy OUT.npy

``logits`` takes ids [n, tokens] and writes logits [n, tokens, vocabulary]. Flash attention is off: llama.cpp aborts on PLM
with it.
"""

from __future__ import annotations

import sys

import llama_cpp
import numpy as np


def main(model: str, job: str, first: str, second: str) -> None:
    if job == "quantize":
        quantize(model, first, second)
    elif job == "logits":
        np.save(second, logits(model, np.load(first)))
    else:
        measure(model, job, int(first), int(second))


def measure(model: str, job: str, count: int, threads: int) -> None:
    from sides import peak_rss_mb, serve

    tokens = np.random.default_rng(0).integers(0, 2000, max(count, 1)).tolist()
    # The cache holds what the job needs and a token more.
    engine = opened(model, len(tokens) + 8, threads)
    engine.eval(tokens)

    def decode() -> None:
        engine._ctx.kv_cache_seq_rm(-1, len(tokens), -1)
        engine.n_tokens = len(tokens)
        engine.eval([7])

    def prefill() -> None:
        engine._ctx.kv_cache_clear()
        engine.reset()
        engine.eval(tokens)

    run = decode if job == "decode" else prefill
    run()
    serve(run, runs_before=1, rss_mb=peak_rss_mb())


def logits(model: str, rows: np.ndarray) -> np.ndarray:
    engine = opened(model, rows.shape[1] + 8, 2, every=True)
    found = []
    for row in rows:
        engine._ctx.kv_cache_clear()
        engine.reset()
        engine.eval(row.tolist())
        found.append(np.array(engine.scores[: len(row)]))
    return np.stack(found)


def opened(model: str, context: int, threads: int, every: bool = False) -> llama_cpp.Llama:
    return llama_cpp.Llama(
        model, n_ctx=context, n_batch=512, n_ubatch=512, n_threads=threads, n_threads_batch=threads, flash_attn=False,
        logits_all=every, verbose=False,
    )  # fmt: skip


def quantize(source: str, kind: str, output: str) -> None:
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    options.nthread = 2
    if llama_cpp.llama_model_quantize(source.encode(), output.encode(), options):
        raise SystemExit(f"llama.cpp cannot quantize {source} to {kind}")


if __name__ == "__main__":
    main(*sys.argv[1:])
