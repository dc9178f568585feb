"""PLM-1.8B, edge against llama.cpp: the same weights, int4, two threads each, taking turns in one run.

    python benchmarks/plm_vs_llamacpp.py [--quick] [--json FILE] [--folder DIR] [--threads N] [--only decode-0,prefill-128,...]

Weights are random, of the full shape, with a wanted share of zeros behind squared ReLU (``plm_weights``); the share that
came out is printed. Ours is a bundle for ExecuTorch with edge's kernels, theirs are GGUF files of the same float16 weights,
quantized by llama.cpp itself. llama.cpp is built from llama-cpp-python's sdist on first use (ten minutes), without AMX, which
some virtual machines announce and then forbid. ``--folder`` keeps weights, bundles and GGUF files (12 GB); without it they are
made anew, which takes a quarter of an hour. At last, the KL divergence from float32 on the demo PLM's held-out text.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from plm_weights import write_checkpoint
from sides import Row, Side, interleave, median_rows, peer_python, report

import edge
from edge.bundle import open_bundle
from edge.families.plm.decoder import session_decoder
from edge.families.plm.readings import test_rows

HERE = Path(__file__).resolve().parent
#: Without pip's cache, which tells builds with other switches not apart.
PEERS = ("numpy", "llama-cpp-python==0.3.36 --no-cache-dir")
#: llama.cpp's switches for x86-64, and the kernel's names of what they stand for: all that a CPU has but AMX.
FEATURES = {
    "GGML_SSE42": "sse4_2", "GGML_AVX": "avx", "GGML_AVX2": "avx2", "GGML_BMI2": "bmi2", "GGML_FMA": "fma", "GGML_F16C": "f16c",
    "GGML_AVX_VNNI": "avx_vnni", "GGML_AVX512": "avx512f", "GGML_AVX512_VBMI": "avx512vbmi",
    "GGML_AVX512_VNNI": "avx512_vnni", "GGML_AVX512_BF16": "avx512_bf16",
}  # fmt: skip
INT4, INT8 = ("Q4_0", "Q4_K_M"), ("Q8_0",)
#: Passages of the demo's held-out text and tokens of each, for the divergence.
PASSAGES, TOKENS = 16, 128


@dataclass(frozen=True)
class Job:
    name: str
    work: str
    zeros: float
    job: str
    count: int
    rounds: int


JOBS = (
    Job("decode-0", "decode, empty context", 0.9, "decode", 1, 12),
    Job("decode-0-dense", "decode, empty context", 0.5, "decode", 1, 12),
    Job("prefill-128", "prefill of 128 tokens", 0.9, "prefill", 128, 5),
    Job("prefill-1024", "prefill of 1024 tokens", 0.9, "prefill", 1024, 2),
    Job("decode-4000", "decode after 4000 tokens", 0.9, "decode", 4000, 12),
)
QUICK = ("decode-0", "prefill-128", "kl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="keep weights, bundles and GGUF files here")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", help=f"of {', '.join(job.name for job in JOBS)}, kl")
    options = parser.parse_args()
    known = [*(job.name for job in JOBS), "kl"]
    chosen = options.only.split(",") if options.only else QUICK if options.quick else known
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"there is no job '{unknown[0]}': choose among {', '.join(known)}")
    has = set(Path("/proc/cpuinfo").read_text().split())
    if "amx_tile" in has:
        switches = [f"-D{switch}={'ON' if flag in has else 'OFF'}" for switch, flag in FEATURES.items()]
        os.environ.setdefault("CMAKE_ARGS", " ".join(["-DGGML_NATIVE=OFF", *switches]))
    python = peer_python("llamacpp", PEERS)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as scratch:
        folder = options.folder or Path(scratch)
        for job in JOBS:
            if job.name in chosen:
                rows += measure(job, prepare(folder, job.zeros, python), python, options.threads)
        if "kl" in chosen:
            rows += divergences(folder, python)
    report(rows, options.json)


@dataclass(frozen=True)
class Files:
    """One set of weights: our bundle, their files by type, and the share of zeros that came out."""

    bundle: Path
    gguf: dict[str, Path]
    zeros: float


def prepare(folder: Path, zeros: float, python: str) -> Files:
    name = f"zeros{round(100 * zeros)}"
    checkpoint, bundle = folder / name, folder / f"{name}.edge"
    gguf = {kind: folder / f"{name}-{kind}.gguf" for kind in INT4}
    if not bundle.is_dir() or not all(path.is_file() for path in gguf.values()):
        print(f"weights with {zeros:.0%} zeros", file=sys.stderr)
        write_checkpoint(checkpoint, zeros)
    if not bundle.is_dir():
        # The context that the model was trained for, as llama.cpp's cache is as long as the job needs.
        command("export", "plm-1.8b", "--checkpoint", checkpoint, "--target", "cpu", "--runtime", "executorch", "--quantize",
                "int4", "--context", "4096", "-o", bundle)  # fmt: skip
    to_gguf(("plm-1.8b", "--checkpoint", checkpoint), folder / f"{name}-f16.gguf", gguf, python)
    manifest = open_bundle(bundle).manifest
    shares = [share for key, share in manifest.report.items() if key.startswith("zeros/")]
    return Files(bundle, gguf, sum(shares) / len(shares))


def to_gguf(model: tuple[object, ...], plain: Path, wanted: dict[str, Path], python: str) -> None:
    """Their files of ``model`` (what ``edge convert`` is to be told), those that are not there."""
    for kind, path in wanted.items():
        if not path.is_file():
            if not plain.is_file():
                command("convert", *model, "--type", "f16", "-o", plain)
            partial = path.with_name(f".{path.name}.part")
            subprocess.run([python, HERE / "plm_llamacpp.py", plain, "quantize", kind, partial], check=True, stderr=subprocess.DEVNULL)
            partial.replace(path)
    plain.unlink(missing_ok=True)


def command(*arguments: object) -> None:
    """One of edge's own, in a process of its own, whose memory is free when it ends."""
    program = Path(sys.executable).with_name("edge")
    subprocess.run([str(program), *map(str, arguments)], check=True, stdout=sys.stderr)


def measure(job: Job, files: Files, python: str, threads: int) -> list[Row]:
    ours, rounds = "edge ExecuTorch int4", job.rounds
    sides = [Side(ours, [sys.executable, str(HERE / "plm_ours.py"), str(files.bundle), job.job, str(job.count), str(threads)])]
    sides += [
        Side(f"llama.cpp {kind}", [python, str(HERE / "plm_llamacpp.py"), str(path), job.job, str(job.count), str(threads)])
        for kind, path in files.gguf.items()
    ]
    memory = {side.name: [side.facts["rss_mb"]] for side in sides}
    times = interleave(sides, rounds=rounds, runs=3 if job.job == "decode" else 1)
    for side in sides:
        side.close()
    work = f"PLM-1.8B, {job.work}, {files.zeros:.0%} zeros, {threads} threads"
    peers = [side.name for side in sides[1:]]
    found = median_rows(work, times, [ours], peers)
    if job.job == "decode":
        found += [Row(f"{work}: peak RSS", ours, peer, memory[ours][0], memory[peer][0], "MB") for peer in peers]
    return found


def divergences(folder: Path, python: str) -> list[Row]:
    """Mean KL divergence in nats a token of each quantized demo PLM from float32."""
    import torch

    from edge import checkpoints
    from edge.families.plm.config import read_config
    from edge.families.plm.modules import PLM
    from edge.families.plm.weights import from_checkpoint

    demo = checkpoints.read(checkpoints.demo_folder("plm"))
    config = read_config(checkpoints.demo_folder("plm") / "config.json")
    take = from_checkpoint(demo, config)
    model = PLM(config).eval()
    model.load_state_dict({name: take(name) for name in model.state_dict()})
    passages = test_rows(True, config)[:PASSAGES, :TOKENS]
    with torch.inference_mode():
        exact = model(torch.from_numpy(passages)).numpy()
    found: dict[str, float] = {}
    for scheme in ("int4", "int8-dynamic"):
        bundle = folder / f"demo-{scheme}.edge"
        if not bundle.is_dir():
            command("export", "plm", "--target", "cpu", "--runtime", "executorch", "--quantize", scheme,
                    "--sparse", "on", "-o", bundle)  # fmt: skip
        found[scheme] = divergence(exact, decoded(bundle, passages))
    gguf = {kind: folder / f"demo-{kind}.gguf" for kind in (*INT4, *INT8)}
    to_gguf(("plm",), folder / "demo-f16.gguf", gguf, python)
    np.save(folder / "passages.npy", passages)
    for kind, path in gguf.items():
        output = folder / f"logits-{kind}.npy"
        subprocess.run([python, HERE / "plm_llamacpp.py", path, "logits", folder / "passages.npy", output], check=True)
        found[kind] = divergence(exact, np.load(output))
    work = f"the demo PLM: KL from float32, {PASSAGES} passages of {TOKENS} tokens"
    pairs = [("int4", kind) for kind in INT4] + [("int8-dynamic", kind) for kind in INT8]
    return [
        Row(work, f"edge ExecuTorch {mine}", f"llama.cpp {theirs}", 1e3 * found[mine], 1e3 * found[theirs], "mnat")
        for mine, theirs in pairs
    ]


def decoded(bundle: Path, passages: np.ndarray) -> np.ndarray:
    decoder = session_decoder(edge.load(bundle, threads=2))

    def one(passage: np.ndarray) -> np.ndarray:
        decoder.reset()
        return np.concatenate([logits.copy() for logits in decoder.feed(passage.tolist())])

    return np.stack([one(passage) for passage in passages])


def divergence(exact: np.ndarray, other: np.ndarray) -> float:
    """Mean over all rows of KL(exact || other), in nats; logits [passages, tokens, vocabulary]."""
    first, second = (wide - np.logaddexp.reduce(wide, -1, keepdims=True) for wide in (exact.astype(np.float64), other.astype(np.float64)))
    return float((np.exp(first) * (first - second)).sum(-1).mean())


if __name__ == "__main__":
    main()
