"""Bundles that call edge's own kernels: PLM and the squared-ReLU MLP through ExecuTorch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge import api
from edge.cli.export_summary import summarise
from edge.errors import BundleError, UsageError
from edge.export import kernel_weights
from edge.export.capture import call, capture, eager
from edge.export.kept_inputs import kept_inputs
from edge.export.pipeline import Exported, export
from edge.families.base import Source, find
from edge.families.plm.decoder import session_decoder
from edge.progress import Progress, ProgressBar
from edge.runtimes.executorch import ExecuTorchSession, bindings
from edge.runtimes.kernels.binding import ABI
from edge.runtimes.kernels.skipping import Skipping
from edge.runtimes.kernels.weights import Weights
from edge.spec import Sparse

CONFIG = {
    "vocab_size": 2100, "hidden_size": 80, "intermediate_size": 144, "num_hidden_layers": 2, "num_attention_heads": 3,
    "kv_lora_rank": 40, "qk_nope_head_dim": 24, "qk_rope_head_dim": 8, "v_head_dim": 20, "max_position_embeddings": 96,
    "model_type": "plm",
}  # fmt: skip
Make = Callable[[str, str], Exported]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    folder = tmp_path_factory.mktemp("sparse")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    made: dict[tuple[str, str], Exported] = {}

    def build(scheme: str, sparse: str) -> Exported:
        if (scheme, sparse) not in made:
            made[scheme, sparse] = export(
                "plm", target="cpu", runtime="executorch", quantize=scheme, sparse=sparse, config=folder / "config.json",
                random_weights=5, context=80, output=folder / f"{scheme}-{sparse}.edge",
            )  # fmt: skip
        return made[scheme, sparse]

    return build


@pytest.mark.parametrize("scheme", ["int8-dynamic", "int4"])
def test_plm_computes_what_the_quantized_graph_does(make: Make, scheme: str) -> None:
    made = make(scheme, "on")
    manifest = made.bundle.manifest
    assert manifest.kernels is not None and manifest.kernels.abi == ABI and manifest.recipe.sparse
    limits = {"quantized": 0.4, "lowered": 0.4, "lowering": 0.05} if scheme == "int4" else {"quantized": 0.04, "lowered": 0.04, "lowering": 0.02}
    for entry in manifest.entries:
        assert {spec.dtype for spec in entry.inputs if spec.name.startswith("cache")} == {"float16"}
        for stage in entry.stages:
            for output in stage.outputs:
                # Rounding to 8 bits between the kernels can fall either way: only then do two builds of them differ.
                assert output.passed and output.relative <= limits.get(stage.stage, 1e-5) * 4, (stage.stage, output)
                assert output.cosine > 1 - limits.get(stage.stage, 1e-5) ** 2
    for record in manifest.notes.delegation:
        # Of the last layer a chunk without logits needs the cache's rows alone.
        mlps = 1 if record.entry == "read" else 2
        assert record.delegates == 0 and record.portable["edge.mla.default"] == 2 and record.portable["edge.relu2_mlp.default"] == mlps
        assert record.portable.get("edge.head.default", 0) == (scheme == "int4" and record.entry != "read")


@pytest.mark.parametrize(("family", "bits"), [("plm", 4), ("plm", 8), ("relu2-mlp", 4)])
def test_every_weight_that_is_packed_is_told_of_once(family: str, bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a bar that ends full, since minutes of a large model's export are this."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    source = Source(runtime="executorch", sparse=Sparse.ON)
    if family == "plm":
        source = dataclasses.replace(source, config=tmp_path / "config.json", random_seed=5, context=80)
    captured = [capture(entry) for entry in find(family)[0].load(family, None, source).entries]
    bars: list[tuple[str, int, list[int]]] = []

    class Watching(Progress):
        @contextmanager
        def bar(self, description: str, total: int) -> Iterator[ProgressBar]:
            steps: list[int] = []
            bars.append((description, total, steps))
            shown = ProgressBar()
            shown.advance = steps.append  # type: ignore[method-assign]
            yield shown

    monkeypatch.setattr(kernel_weights, "STEP", 1000)
    with kernel_weights.packing(captured, Weights(bits), Watching()) as weights:
        for item in captured:
            assert item.entry.kernels is not None
            item.entry.kernels.build(weights)
        ((description, total, steps),) = bars
        assert description.startswith("rounding and packing") and total > 5
        assert sum(steps) >= total - 1 and len(steps) > 5  # all but what is no whole step
    assert sum(steps) == total and max(steps) < total


def test_entry_points_can_have_threads_of_their_own(make: Make) -> None:
    """The pool changes its size between them."""
    made = make("int8-dynamic", "on").bundle
    assert ExecuTorchSession.takes_apart(made.manifest)
    session = ExecuTorchSession(made.path, made.manifest, 3, {"decode": 1})
    both, kept = ExecuTorchSession(made.path, made.manifest, 2), None
    for name, threads in (("decode", 1), ("prefill", 3), ("read", 3), ("decode", 1)):
        inputs, _ = made.samples(name)[0]
        found = session.run(name, inputs)
        assert bindings()._threadpool_get_thread_count() == threads
        for output, value in both.run(name, inputs).items():
            # Sums in another order, and rounding to 8 bits between the kernels.
            assert np.abs(found[output] - value).max() < 0.05 * value.std()
        assert bindings()._threadpool_get_thread_count() == 2
        # No delegate points into the pool: nothing is loaded anew.
        kept = kept or session._methods[name]
    assert session._methods["decode"] is kept
    assert session.operators(made.manifest.entry("decode"), list(inputs.values()), 2)
    assert bindings()._threadpool_get_thread_count() == 1


def test_chunks_and_single_tokens_agree(make: Make) -> None:
    """A text in chunks and token by token, on one and on two threads, through the same float16 cache."""
    made = make("int8-dynamic", "on")
    ids = np.random.default_rng(0).integers(0, 2100, 70).tolist()
    found = []
    for threads, step in ((1, 70), (2, 70), (2, 1), (1, 5)):
        decoder = session_decoder(api.load(made.bundle.path, threads=threads))
        assert decoder.caches.dtype == np.float16
        decoder.caches[:] = np.nan  # what lies beyond the position is not even read
        for begin in range(0, 70, step):
            logits = decoder.last(ids[begin : begin + step]).copy()
        found.append(logits)
    for logits in found[1:]:
        assert np.abs(logits - found[0]).max() < 0.05 * found[0].std()


def test_int4_is_small_and_the_head_is_the_embedding(make: Make) -> None:
    made = make("int4", "on")
    parameters = made.bundle.manifest.report["parameters"]
    table = CONFIG["vocab_size"] * CONFIG["hidden_size"]
    # 80 inputs take three groups of 32 and 144 neurons' 80 outputs a strip of 128: this shape is filled up by a fifth.
    # The table has 8 bits, once.
    assert made.bundle.file("model.pte").stat().st_size < 0.75 * (parameters - table) + 1.3 * table + 60_000
    session = api.load(made.bundle.path, threads=1)
    with pytest.raises(BundleError, match="'decode'"):
        inputs, _ = made.bundle.samples("decode")[0]
        session.run("decode", inputs | {"tokens": np.array([2100])})


def test_operators_show_where_the_time_goes(make: Make) -> None:
    made = make("int4", "on")
    session = api.load(made.bundle.path, threads=1)
    inputs, _ = made.bundle.samples("decode")[0]
    entry = session.manifest.entry("decode")
    rows = session.operators(entry, [inputs[spec.name] for spec in entry.inputs], 5)
    kinds = {row.kind for row in rows}
    assert {"edge::linear", "edge::mla", "edge::relu2_mlp", "edge::rms_norm", "edge::embed"} <= kinds
    assert any(row.module.startswith("stack.layers.1") for row in rows if row.kind == "edge::mla")


def test_another_abi_is_refused(make: Make) -> None:
    bundle = make("int4", "on").bundle
    assert bundle.manifest.kernels is not None
    kernels = msgspec.structs.replace(bundle.manifest.kernels, abi=ABI + 1)
    with pytest.raises(BundleError, match=f"ABI {ABI + 1}.*has ABI {ABI}"):
        ExecuTorchSession(bundle.path, msgspec.structs.replace(bundle.manifest, kernels=kernels), 1)


def test_the_digits_are_read_as_well(tmp_path: Path) -> None:
    made = export("relu2-mlp", target="cpu", runtime="executorch", quantize="int8-dynamic", sparse="on", output=tmp_path)
    (accuracy,) = made.bundle.manifest.metrics
    assert accuracy.bundle >= accuracy.eager - 0.01
    (record,) = made.bundle.manifest.notes.delegation
    assert record.portable["edge.relu2_mlp.default"] == 2 and record.portable["edge.linear.default"] == 2


def test_small_models_do_without_unless_told(tmp_path: Path) -> None:
    made = export("relu2-mlp", target="cpu", runtime="executorch", quantize="int4", output=tmp_path)
    assert made.bundle.manifest.kernels is None and not made.bundle.manifest.recipe.sparse


def test_digits_whose_up_halves_are_skipped(tmp_path: Path) -> None:
    """The margin is found on the calibration digits; a batch of one is what skips."""
    made = export(
        "relu2-mlp", target="cpu", runtime="executorch", quantize="int4", sparse="on", skip_up="0.999", output=tmp_path
    )
    manifest = made.bundle.manifest
    assert manifest.recipe.skip_up == 0.999 and manifest.kernels is not None and manifest.kernels.version == "1.3"
    (accuracy,) = manifest.metrics
    assert accuracy.bundle >= accuracy.eager - 0.01
    (record,) = manifest.notes.delegation
    assert record.portable["edge.relu2_mlp_skip.default"] == 2 and "edge.relu2_mlp.default" not in record.portable
    for layer in range(2):
        found = {name: manifest.report[f"skip/layer{layer}/{name}"] for name in ("margin", "kept", "read", "live")}
        assert 0.999 <= found["kept"] < 1 and found["live"] * 0.5 < found["read"] < 1
    row = summarise(made, tmp_path)
    assert row.skip["layers"] == 2 and 0.999 <= row.skip["kept"] < 1


def test_a_decoded_token_of_plm_skips_and_a_chunk_does_not() -> None:
    family = find("plm")[0]
    model = family.load("plm", None, Source(runtime="executorch", sparse=Sparse.ON))
    entries = {entry.name: entry for entry in model.entries}
    ups = entries["decode"].kernels.ups  # type: ignore[union-attr]
    found: dict[str, list[np.ndarray]] = {name: [] for name in entries}
    with kept_inputs(ups) as inputs:
        exact = {name: eager(entry, entry.samples[0]) for name, entry in entries.items()}
    for skipping in (None, Skipping(0.5, inputs), Skipping(0.9999, inputs)):
        weights = Weights(4, skipping=skipping)
        for name, entry in entries.items():
            assert entry.kernels is not None
            found[name].append(call(entry.kernels.build(weights).eval(), entry, entry.samples[0])["rows"])
        for layer in ups if skipping is not None else ():
            assert skipping is not None and skipping.found[layer].kept == pytest.approx(skipping.share, abs=0.05)
            assert skipping.share > 0.9 or skipping.found[layer].read < skipping.found[layer].live  # type: ignore[operator]
    for name in ("prefill", "read"):
        for each in found[name][1:]:
            np.testing.assert_array_equal(each, found[name][0])
    plain, half, nearly = found["decode"]
    scale = np.abs(exact["decode"]["rows"].astype(np.float32)).max()
    assert 0 < np.abs(nearly - plain).max() < 0.02 * scale < np.abs(half - plain).max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparse": "on", "quantize": "int4", "skip_up": "1"}, "--skip-up cannot be '1': give the share to keep"),
        ({"sparse": "on", "quantize": "int4", "skip_up": "some"}, "--skip-up cannot be 'some'"),
        ({"sparse": "on", "quantize": "int8-dynamic", "skip_up": "0.99"}, "only 4-bit weights come in two halves and this is int8-dynamic"),
        ({"runtime": "onnx", "sparse": "on", "quantize": "int4", "skip_up": "0.99"}, "onnx cannot skip up halves"),
        ({"sparse": "off", "quantize": "int4", "skip_up": "0.99"}, "only edge's own kernels skip up halves: pass --sparse on"),
    ],
)
def test_what_cannot_be_skipped_is_refused(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        export("relu2-mlp", target="cpu", output=tmp_path, **{"runtime": "executorch", **options})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("relu2-mlp", {"runtime": "static", "quantize": "int8"}, "static takes them for no scheme"),
        ("relu2-mlp", {"runtime": "onnx", "quantize": "fp16"}, "onnx takes them for int8, int8-dynamic, int4 and this is fp16"),
        ("relu2-mlp", {"runtime": "executorch", "quantize": "fp32"}, "and this is fp32"),
        ("relu2-mlp", {"runtime": "executorch", "quantize": "int4", "group_size": 64}, "groups are of 32"),
        ("fmvit", {"runtime": "executorch", "quantize": "int8-dynamic"}, "fmvit has no form for edge's kernels"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, model: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        export(model, target="cpu", sparse="on", output=tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_only_three_words_are_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--sparse cannot be 'maybe'"):
        export("relu2-mlp", target="cpu", sparse="maybe", output=tmp_path)
