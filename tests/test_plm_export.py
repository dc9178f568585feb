"""PLM through the three runtimes: bundles that generate what eager generates, and the command line on them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from edge import api
from edge.bundle import open_bundle
from edge.cli.app import app
from edge.cli.export_summary import print_summary, summarise
from edge.errors import CheckpointError, EdgeError, UsageError
from edge.export.pipeline import Exported, export
from edge.families.base import find
from edge.families.plm.config import read_config
from edge.families.plm.decoder import session_decoder
from edge.families.plm.modules import PLM
from edge.families.plm.weights import seeded
from edge.progress import Progress, ProgressBar
from edge.spec import Scheme

CONFIG = {
    "vocab_size": 2100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 8,
    "v_head_dim": 32,
    "max_position_embeddings": 96,
    "model_type": "plm",
}
Make = Callable[[str, str], Exported]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    folder = tmp_path_factory.mktemp("plm")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    made: dict[tuple[str, str], Exported] = {}

    def build(runtime: str, scheme: str) -> Exported:
        if (runtime, scheme) not in made:
            made[runtime, scheme] = export(
                "plm",
                target="cpu",
                runtime=runtime,
                quantize=scheme,
                config=folder / "config.json",
                random_weights=5,
                context=80,
                output=folder / f"{runtime}-{scheme}.edge",
            )
        return made[runtime, scheme]

    return build


def greedy(made: Exported, prompt: list[int], count: int) -> tuple[list[int], np.ndarray]:
    """Tokens and the last logits, through the bundle's own runtime."""
    decoder = session_decoder(api.load(made.bundle.path, threads=1))
    decoder.caches[:] = 50.0
    decoder.last(prompt[:3])
    decoder.reset()
    logits = decoder.last(prompt)
    found: list[int] = []
    while len(found) < count:
        found.append(int(logits.argmax()))
        logits = decoder.last(found[-1:])
    return found, logits.copy()


def faithful(made: Exported) -> PLM:
    model = PLM(read_config(made.bundle.path.parent / "config.json")).eval()
    take = seeded(model.config, 5)
    model.load_state_dict({name: take(name) for name in model.state_dict()})
    return model


PROMPT = np.random.default_rng(1).integers(0, 2100, 45).tolist()


@pytest.mark.parametrize("runtime", ["onnx", "executorch", "tvm"])
def test_every_runtime_generates_what_eager_does(make: Make, runtime: str) -> None:
    made = make(runtime, "fp32")
    tokens, logits = greedy(made, PROMPT, 12)
    with torch.no_grad():
        expected = faithful(made)(torch.tensor([PROMPT + tokens]))[0]
    assert tokens == expected[len(PROMPT) - 1 : -1].argmax(1).tolist()
    assert np.abs(logits - expected[-1].numpy()).max() < 1e-4
    manifest = made.bundle.manifest
    assert [entry.name for entry in manifest.entries] == ["prefill", "decode"]
    assert manifest.report["cache_bytes"] == 2 * 80 * 40 * 4 and manifest.report["context"] == 80
    row = summarise(made, Path.cwd())
    assert row.context == 80 and row.cache_bytes == 2 * 80 * 40 * 4
    assert set(row.planned_bytes) == ({"prefill", "decode"} if runtime == "executorch" else set())
    assert all(1000 < count < 10e6 for count in row.planned_bytes.values())


@pytest.mark.parametrize("runtime", ["onnx", "executorch", "tvm"])
def test_ids_that_the_model_does_not_know(make: Make, runtime: str) -> None:
    made = make(runtime, "fp32")
    session = api.load(made.bundle.path, threads=1)
    inputs, expected = made.bundle.samples("decode")[0]
    beyond = inputs | {"tokens": np.array([2100])}
    if runtime == "tvm":  # takes the nearest id, since its kernels do not check
        last = session.run("decode", inputs | {"tokens": np.array([2099])})
        np.testing.assert_array_equal(session.run("decode", beyond)["logits"], last["logits"])
        return
    with pytest.raises(EdgeError, match="'decode'"):
        session.run("decode", beyond)
    np.testing.assert_allclose(session.run("decode", inputs)["logits"], expected["logits"], atol=1e-4)


def test_the_summary_says_what_memory_is_planned(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary([summarise(make("executorch", "fp32"), Path.cwd())])
    said = capsys.readouterr().out
    assert "plm: its caches hold 80 tokens in 25.6 kB; planned for activations: " in said and "decode " in said


def test_static_int8_is_not_what_auto_means() -> None:
    """One scale for a whole tensor leaves nothing of squared ReLU's outliers."""
    family, _ = find("plm")
    assert family.auto_scheme(Scheme.INT8) is Scheme.INT8_DYNAMIC
    assert family.auto_scheme(Scheme.FP32) is Scheme.FP32


def test_large_graphs_are_exported_alike(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the rewrites whose time grows with the graph's square, and with progress for each step of loading."""
    from edge.export import onnx_graph

    monkeypatch.setattr(onnx_graph, "LARGE_GRAPH", 1)
    said: list[str] = []

    class Listening(Progress):
        def bar(self, description: str, total: int) -> AbstractContextManager[ProgressBar]:
            said.append(f"{description} {total}")
            return super().bar(description, total)

    usual = make("onnx", "fp32")
    made = export(
        "plm", target="cpu", runtime="onnx", quantize="fp32", config=usual.bundle.path.parent / "config.json", random_weights=5,
        context=80, output=tmp_path / "large.edge", progress=Listening(),
    )  # fmt: skip
    assert greedy(made, PROMPT, 6)[0] == greedy(usual, PROMPT, 6)[0]
    assert said[:2] == ["layers 2", "reading the samples 80"]


def test_weights_are_stored_once(make: Make) -> None:
    floats = 4 * make("onnx", "fp32").bundle.manifest.report["parameters"]
    for runtime, artifact in (("onnx", "weights.bin"), ("executorch", "model.pte"), ("tvm", "model.so")):
        size = make(runtime, "fp32").bundle.file(artifact).stat().st_size
        # XNNPACK packs the head for its kernels, so the embedding's look-up needs its own: both are this model's most.
        # TVM's library has 0.9 MB of code beside them.
        most = {"onnx": 1.1, "executorch": 2.0, "tvm": 2.0}[runtime] * floats + (1e6 if runtime == "tvm" else 2e5)
        assert floats * 0.9 < size < most, (runtime, size / floats)


def test_executorch_leaves_nothing_but_look_ups_to_portable_kernels(make: Make) -> None:
    for record in make("executorch", "fp32").bundle.manifest.notes.delegation:
        assert record.delegates <= 2  # the head may be one of its own, since its weight is a table too
        # Look-ups, and what follows from the position alone.
        assert record.portable.keys() <= {
            "aten.add.Tensor", "aten.embedding.default", "aten.ge.Tensor", "aten.repeat.default",
            "aten.unsqueeze_copy.default", "dim_order_ops._to_dim_order_copy.default",
        }  # fmt: skip


def test_int4_in_onnx_shares_the_embedding_with_the_head(make: Make) -> None:
    import onnx

    made = make("onnx", "int4")
    model = onnx.load(made.bundle.file("decode.onnx"), load_external_data=False)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("GatherBlockQuantized") == 1
    # Two layers: projections, two heads' kv_b twice, out, up, down; and the head. The chunk's own products stay.
    assert kinds.count("MatMulNBits") == 2 * 8 + 1
    parameters = made.bundle.manifest.report["parameters"]
    # 4 bits and a float32 scale for 32 of them.
    assert made.bundle.file("weights.bin").stat().st_size < 0.63 * parameters + 3e4
    tokens, logits = greedy(made, PROMPT, 3)
    assert len(tokens) == 3 and np.isfinite(logits).all()
    assert all(stage.passed for entry in made.bundle.manifest.entries for stage in entry.stages)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "scheme", "share"),
    [
        # The embedding and the products by head stay float here, which is most of a model as small as this one.
        ("onnx", "int8-dynamic", 1.05),
        ("executorch", "int8-dynamic", 0.75),
        ("executorch", "int4", 0.75),
        ("tvm", "int8-dynamic", 0.75),
    ],
)
def test_quantized_schemes_verify(make: Make, runtime: str, scheme: str, share: float) -> None:
    made = make(runtime, scheme)
    assert made.payoff is not None and made.payoff.bytes < share * made.payoff.fp32_bytes
    assert all(stage.passed for entry in made.bundle.manifest.entries for stage in entry.stages)
    tokens, logits = greedy(made, PROMPT, 4)
    assert len(tokens) == 4 and np.isfinite(logits).all()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "plm.edge"
    return export("plm", target="cpu", runtime="onnx", quantize="fp32", context=128, output=path).bundle.path


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_demo_writes_on_the_command_line(demo: Path, capfd: pytest.CaptureFixture[str]) -> None:
    manifest = open_bundle(demo).manifest
    (metric,) = manifest.metrics
    assert metric.name == "perplexity" and metric.bundle == pytest.approx(metric.eager, rel=1e-4)
    assert {record.path for record in manifest.files} >= {"tokenizer.json", "weights.bin"}
    status, out, _ = run("run", str(demo), "--prompt", "Return the", "--max-new-tokens", "8", "--json")
    values = json.loads(out)
    assert status == 0 and values["task"] == "generate" and 1 <= len(values["tokens"]) <= 8
    capfd.readouterr()
    status, out, _ = run("run", str(demo), "--prompt", "Return the", "--max-new-tokens", "8", "--stats")
    assert status == 0 and "decode " in out and "tokens/s" in out
    assert capfd.readouterr().out == f"{values['text']}\n"  # streamed past what the command itself prints


def test_eval_on_the_command_line(demo: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Return the value of the attribute, or the default if there is none.\n" * 8, encoding="utf-8")
    status, out, _ = run("eval", str(demo), "--text", str(text), "--json")
    found = json.loads(out)
    assert status == 0 and 1 < found["perplexity"] < 2048 and found["passages"] >= 1
    assert found["bits_per_byte"] == pytest.approx(
        math.log2(found["perplexity"]) * found["tokens"] / len(text.read_bytes()), rel=1e-6
    )
    status, out, _ = run("eval", str(demo), "--text", str(text))
    assert status == 0 and out.startswith(f"perplexity {found['perplexity']:.4f} per token")


def test_random_weights_speak_in_numbers_beyond_the_tokenizer(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    made = make("onnx", "fp32")
    status, out, _ = run("run", str(made.bundle.path), "--prompt", "Return", "--max-new-tokens", "40", "--temperature", "9", "--json")
    values = json.loads(out)
    assert status == 0
    beyond = [token for token in values["tokens"] if token >= 2048]
    assert all(f"<{token}>" in values["text"] for token in beyond)


def test_exports_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="trained for 1 to 512"):
        export("plm", target="cpu", context=5000, output=tmp_path)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        export("plm", target="cpu", checkpoint=tmp_path / "gone", output=tmp_path)
    with pytest.raises(UsageError, match="--random-weights 0"):
        export("plm-1.8b", target="cpu", output=tmp_path)
    assert list(tmp_path.iterdir()) == []
