"""PLM as a model family: loading, its two entry points with real samples, perplexity, and its task.

``prefill`` takes 32 tokens and ``decode`` one; both take the position and a latent cache for each layer, and give logits
and the new rows of the caches (see ``deployed``). With edge's own kernels there is ``read`` as well: 64 tokens of which only
the rows are wanted. ``--context`` sets how many tokens the caches hold: at most what the
model was trained for, and 1024 if that is more and nothing is said.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec
import numpy as np

from edge import checkpoints
from edge.errors import CheckpointError, UsageError
from edge.families.base import EntryPoint, KernelForm, Model, ModelFamily, Source
from edge.families.plm import readings
from edge.families.plm.config import PLM_1_8B, PLMConfig, read_config
from edge.families.plm.decoder import CHUNK, DECODE, PREFILL, READ, READ_CHUNK
from edge.families.plm.generate import Generate, measure_perplexity
from edge.families.plm.vocabulary import TOKENIZER, Vocabulary
from edge.families.plm.weights import Take, from_checkpoint, seeded, tensor_shapes
from edge.progress import Progress
from edge.spec import Scheme, Sparse, TensorSpec
from edge.tasks import Perplexity, Task

if TYPE_CHECKING:
    from edge.conditions import Figure
    from edge.families.plm.deployed import Chunk, Stack
    from edge.manifest import Manifest
    from edge.measurement import EntryMeasurement
    from edge.runtimes.base import Session

DEMO = readings.DEMO
VARIANTS: Mapping[str, PLMConfig] = {"1.8b": PLM_1_8B}
#: Every token's attention goes over the whole cache, filled or not: a longer context has to be asked for.
DEFAULT_CONTEXT = 1024
#: Means of squares, which XNNPACK computes as a product: quantizing it would cost as much as it saves.
KEEP_FLOAT = ("*norm*",)
#: Parameters from which edge's own kernels are the default where they can serve: what no cache holds is read from memory.
LARGE = 1 << 25


class PLMFamily(ModelFamily):
    name: ClassVar[str] = "plm"
    summary: ClassVar[str] = "language model with a latent cache; the demo writes like Python's manual"
    paper: ClassVar[str] = "arXiv 2503.12167"
    variants: ClassVar[tuple[str, ...]] = tuple(VARIANTS)
    has_context: ClassVar[bool] = True

    def load(self, name: str, variant: str | None, source: Source) -> Model:
        from edge.families.plm.deployed import Chunk, Stack, Style

        weights = _weights(name, variant, source)
        config = weights.config
        context = _context(config, source.context)
        if weights.tokenizer is not None:
            Vocabulary(weights.tokenizer, config.vocab_size)
        style = Style.XNNPACK if source.runtime == "executorch" else Style.NATIVE
        stack = Stack(config, weights.take, style, source.progress).eval()
        kernels = _kernel_forms(stack) if _wants_kernels(config, source.sparse) else None
        sizes = {PREFILL: min(CHUNK, context), DECODE: 1}
        if kernels is not None and context > READ_CHUNK:
            sizes[READ] = READ_CHUNK
        modules = {
            entry: Chunk(stack, size, context, half_cache=kernels is not None, says=entry != READ)
            for entry, size in sizes.items()
        }
        specs = {entry: _inputs(config, module) for entry, module in modules.items()}
        # Random weights make noise of any text: nothing to calibrate on, nothing to measure.
        real = source.random_seed is None and _is_demos(weights.tokenizer)
        learnt = None if source.random_seed is not None else weights.tokenizer
        studied = readings.study_rows(config, learnt, large=_is_large(config))
        reading = readings.read(config, modules, specs, real, source.progress)
        entries = tuple(
            EntryPoint(
                name=entry,
                module=module,
                inputs=specs[entry],
                outputs=("logits", "rows") if module.says else ("rows",),
                samples=reading.samples[entry],
                calibration=reading.calibration[entry],
                keep_float=KEEP_FLOAT,
                kernels=kernels(module) if kernels else None,
                read=functools.partial(readings.study, modules, specs, studied) if studied is not None and entry == PREFILL else None,
            )
            for entry, module in modules.items()
        )
        return Model(
            name=name,
            family=self.name,
            config=msgspec.to_builtins(config),
            entries=entries,
            checkpoint_sha256=weights.sha256,
            random_seed=source.random_seed,
            metrics=(readings.metric(config, specs),) if real else (),
            report={
                "parameters": float(sum(int(np.prod(shape)) for shape in tensor_shapes(config).values())),
                "context": float(context),
                "cache_bytes": float(reading.cache_bytes),
                **reading.zeros,
            },
            assets={TOKENIZER: weights.tokenizer} if weights.tokenizer else {},
        )

    def auto_scheme(self, suggested: Scheme) -> Scheme:
        # Squared ReLU's outliers leave nothing of a tensor that has one scale for all time.
        return Scheme.INT8_DYNAMIC if suggested is Scheme.INT8 else suggested

    def tasks(self) -> Mapping[str, Task]:
        return {Generate.name: Generate()}

    def perplexity(self, session: Session, text: str, progress: Progress) -> Perplexity:
        return measure_perplexity(session, text, progress)

    def figures(self, manifest: Manifest, entries: Mapping[str, EntryMeasurement]) -> tuple[Figure, ...]:
        from edge.families.plm.figures import figures

        return figures(manifest, entries)

    def write_gguf(self, name: str, variant: str | None, source: Source, output: Path, kind: str) -> None:
        from edge.families.plm.gguf_file import write

        weights = _weights(name, variant, source)
        write(output, weights.config, weights.take, kind, weights.tokenizer)


@dataclass(frozen=True)
class _Weights:
    config: PLMConfig
    take: Take
    sha256: str | None
    tokenizer: Path | None


def _weights(name: str, variant: str | None, source: Source) -> _Weights:
    """What ``source`` asks for. Random weights have the demo's tokenizer where its ids fit: they mean nothing anyway."""
    demo = checkpoints.demo_folder(DEMO)
    if source.random_seed is not None:
        if source.checkpoint is not None:
            raise UsageError("a checkpoint and random weights exclude each other: pass one of them.")
        config = read_config(source.config) if source.config else VARIANTS[variant] if variant else None
        config = config or read_config(demo / "config.json")
        fits = config.vocab_size >= read_config(demo / "config.json").vocab_size
        return _Weights(config, seeded(config, source.random_seed), None, demo / TOKENIZER if fits else None)
    if source.checkpoint is None and variant is not None:
        raise UsageError(
            f"{name} does not ship with edge: pass --checkpoint with the folder of PLM-Team/PLM-1.8B-Instruct (or Base), or "
            "--random-weights 0 to measure speed and memory."
        )
    if source.checkpoint is not None and source.checkpoint.suffix == ".gguf":
        return _gguf(source.checkpoint, source.config)
    checkpoint = checkpoints.read(source.checkpoint or demo, lazy=True)
    found = source.config or checkpoint.config
    if found is None and variant is None:
        raise CheckpointError(f"{checkpoint.path} has no config.json beside it: pass one with --config.")
    config = read_config(found) if found else VARIANTS[str(variant)]
    tokenizer = (checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent) / TOKENIZER
    take = from_checkpoint(checkpoint, config)
    return _Weights(config, take, checkpoint.sha256, tokenizer if tokenizer.is_file() else None)


def _gguf(path: Path, config: Path | None) -> _Weights:
    from edge.families.plm.gguf_file import GgufFile

    file = GgufFile(path)
    checkpoint = file.checkpoint()
    shape = read_config(config) if config else file.config()
    text = file.tokenizer_json()
    tokenizer = None
    if text is not None:
        tokenizer = _scratch() / f"{checkpoint.sha256}.json"
        tokenizer.write_text(text, encoding="utf-8")
    return _Weights(shape, from_checkpoint(checkpoint, shape), checkpoint.sha256, tokenizer)


@functools.cache
def _scratch() -> Path:
    """A folder that lasts as long as the process: a bundle takes its files from where they lie."""
    folder = tempfile.mkdtemp(prefix="edge-plm-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _context(config: PLMConfig, asked: int | None) -> int:
    if asked is None:
        return min(config.max_position_embeddings, DEFAULT_CONTEXT)
    if not 1 <= asked <= config.max_position_embeddings:
        raise UsageError(
            f"a context of {asked} tokens is out of reach: the model was trained for 1 to {config.max_position_embeddings}."
        )
    return asked


def _inputs(config: PLMConfig, module: Chunk) -> tuple[TensorSpec, ...]:
    cache = (1, len(module.places), config.row)
    return (
        TensorSpec(name="tokens", dtype="int64", shape=(len(module.steps),)),
        TensorSpec(name="position", dtype="int64", shape=(1,)),
        *(
            TensorSpec(name=f"cache{index}", dtype="float16" if module.half_cache else "float32", shape=cache)
            for index in range(config.num_hidden_layers)
        ),
    )


def _wants_kernels(config: PLMConfig, sparse: Sparse) -> bool:
    return _is_large(config) if sparse is Sparse.AUTO else sparse is Sparse.ON


def _is_large(config: PLMConfig) -> bool:
    return sum(int(np.prod(shape)) for shape in tensor_shapes(config).values()) >= LARGE


def _kernel_forms(stack: Stack) -> Callable[[Chunk], KernelForm]:
    from edge.families.plm.kernels import KernelChunk, units, ups

    found, skippable = units(stack), ups(stack)
    return lambda chunk: KernelForm(functools.partial(KernelChunk, chunk), found, skippable)


def _is_demos(tokenizer: Path | None) -> bool:
    """Whether ids mean what they mean in the demo's text."""
    demos = checkpoints.demo_folder(DEMO) / TOKENIZER
    return tokenizer is not None and tokenizer.read_bytes() == demos.read_bytes()
