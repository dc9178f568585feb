"""ExecuTorch: lowering in every scheme, what is delegated and what cannot run, and the session."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("executorch")

from torch import Tensor, nn  # noqa: E402

from edge.errors import BundleError, MissingDependencyError, UnsupportedError, UsageError  # noqa: E402
from edge.errorstats import compare_all  # noqa: E402
from edge.export.base import Captured, Lowered, get_lowering  # noqa: E402
from edge.export.capture import capture  # noqa: E402
from edge.export.executorch import LOWERING  # noqa: E402
from edge.export.executorch_graph import executorch_tools, to_edge, to_executorch  # noqa: E402
from edge.export.executorch_quantize import quantize  # noqa: E402
from edge.families.base import EntryPoint  # noqa: E402
from edge.manifest import EntryRecord, Manifest  # noqa: E402
from edge.progress import Progress  # noqa: E402
from edge.runtimes.base import session_class  # noqa: E402
from edge.runtimes.executorch import ExecuTorchSession, bindings  # noqa: E402
from edge.spec import DEFAULT_TOLERANCE, DynamicDim, Recipe, Scheme, Target, TensorSpec, Tolerance  # noqa: E402

TARGET = Target(
    name="here", description="", triple="x86_64-linux-gnu", cpu="x86-64-v3", cores=2, threads=2, ram_mb=1000,
    runtime="executorch", scheme=Scheme.FP32,
)  # fmt: skip
QUANTIZED = (Scheme.INT8, Scheme.INT8_DYNAMIC, Scheme.INT4)
#: Which entries are lowered in which scheme: lowering takes seconds for each.
LOWERED = {
    Scheme.FP32: ("one", "four", "images"),
    Scheme.INT8: ("images",),
    Scheme.INT8_DYNAMIC: ("one",),
    Scheme.INT4: ("one", "four"),
}


class Mlp(nn.Module):
    """LayerNorm, which XNNPACK does not take, between layers that it does; `table` stays in float."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(64, 256)
        self.norm = nn.LayerNorm(256)
        self.down = nn.Linear(256, 64)
        self.gate = nn.Linear(64, 64)
        self.table = nn.Linear(64, 8, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.down(nn.functional.gelu(self.norm(self.up(x))))
        y = x + y * torch.softmax(self.gate(y), -1)
        return y, self.table(y)


class Images(nn.Module):
    """Convolutions with a residual sum; the offset is a buffer that state dicts leave out."""

    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.block = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)
        self.register_buffer("offset", torch.tensor([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(image - self.offset)))
        x = torch.relu(x + self.block(x))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


def entry_point(
    name: str,
    module: nn.Module,
    shape: tuple[int | str, ...],
    outputs: tuple[str, ...],
    sizes: Sequence[int] = (0, 0),
) -> EntryPoint:
    """Normal samples; ``sizes`` are what a dynamic axis takes in each."""
    random = np.random.default_rng(7)

    def sample(size: int) -> dict[str, np.ndarray]:
        fixed = [size if isinstance(axis, str) else axis for axis in shape]
        return {"x": random.standard_normal(fixed).astype(np.float32)}

    return EntryPoint(
        name=name,
        module=module.eval(),
        inputs=(TensorSpec(name="x", dtype="float32", shape=shape),),
        outputs=outputs,
        samples=[sample(size) for size in sizes],
        calibration=[sample(size) for size in (*sizes, *sizes)],
        dynamic=tuple(
            DynamicDim(input="x", axis=index, name=axis, min=1, max=8)
            for index, axis in enumerate(shape)
            if isinstance(axis, str)
        ),
    )


def entries() -> list[EntryPoint]:
    torch.manual_seed(0)
    mlp, images = Mlp(), Images()
    return [
        replace(entry_point("one", mlp, (1, 64), ("y", "t")), keep_float=("tab*",)),
        replace(entry_point("four", mlp, (4, 64), ("y", "t")), keep_float=("tab*",)),
        entry_point("images", images, (1, 3, 32, 32), ("logits",)),
    ]


@dataclass(frozen=True)
class Export:
    captured: list[Captured]
    lowered: Lowered
    root: Path
    manifest: Manifest

    def session(self, threads: int = 2) -> ExecuTorchSession:
        return ExecuTorchSession(self.root, self.manifest, threads)


def recipe(scheme: Scheme, group_size: int = 32) -> Recipe:
    return Recipe(runtime="executorch", scheme=scheme, group_size=group_size)


def export(captured: list[Captured], scheme: Scheme, root: Path) -> Export:
    lowered = LOWERING.lower(captured, recipe(scheme), TARGET, root, Progress())
    manifest = Manifest(
        schema=1, edge_version="0", model="m", family="user", config={}, checkpoint_sha256=None, random_seed=0,
        target=TARGET, runtime=lowered.runtime, recipe=recipe(scheme), verified_on="this host", notes=lowered.notes,
        entries=tuple(
            EntryRecord(
                name=item.entry.name, inputs=item.entry.inputs, outputs=item.outputs,
                artifact=lowered.artifacts[item.entry.name].file, method=lowered.artifacts[item.entry.name].method,
                samples=len(item.references), tolerance=DEFAULT_TOLERANCE[scheme], cost=item.cost, stages=(),
            )
            for item in captured
        ),
    )  # fmt: skip
    return Export(captured, lowered, root, manifest)


@pytest.fixture(scope="session")
def captured_models() -> list[Captured]:
    return [capture(entry) for entry in entries()]


@pytest.fixture(scope="session")
def exports(captured_models: list[Captured], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Scheme], Export]:
    """The entries that ``LOWERED`` names, lowered once."""
    made: dict[Scheme, Export] = {}

    def get(scheme: Scheme) -> Export:
        if scheme not in made:
            chosen = [item for item in captured_models if item.entry.name in LOWERED[scheme]]
            made[scheme] = export(chosen, scheme, tmp_path_factory.mktemp(scheme.value))
        return made[scheme]

    return get


@pytest.mark.parametrize("scheme", [Scheme.FP32, *QUANTIZED])
def test_every_scheme_computes_what_the_model_computes(exports: Callable[[Scheme], Export], scheme: Scheme) -> None:
    made = exports(scheme)
    session = made.session()
    for item in made.captured:
        name = item.entry.name
        ran = [session.run(name, sample) for sample, _ in item.references]
        expected = [reference for _, reference in item.references]
        for stat in compare_all(zip(expected, ran, strict=True), DEFAULT_TOLERANCE[scheme]):
            assert stat.passed, (name, stat)
        if scheme is Scheme.FP32:
            assert made.lowered.quantized is None
            continue
        assert made.lowered.quantized is not None
        eager = [made.lowered.quantized[name](sample) for sample, _ in item.references]
        for stat in compare_all(zip(eager, ran, strict=True), Tolerance(atol=0.5, cosine=0.995)):
            assert stat.passed, (name, stat)
        # Quantized for real: the errors are those of few bits, not of rounding.
        errors = compare_all(zip(expected, eager, strict=True), DEFAULT_TOLERANCE[scheme])
        assert max(stat.relative for stat in errors) > 1e-4


def test_quantized_programs_are_smaller_and_methods_share_weights(exports: Callable[[Scheme], Export]) -> None:
    size = {scheme: exports(scheme).lowered.files["model.pte"].stat().st_size for scheme in LOWERED}
    mlp, images = (sum(p.nbytes for p in module.parameters()) for module in (Mlp(), Images()))
    assert mlp + images < size[Scheme.FP32] < 1.25 * (mlp + images)  # twice the MLP would be 1.9 times
    assert size[Scheme.INT8] < 0.5 * images
    assert size[Scheme.INT8_DYNAMIC] < 0.45 * mlp
    assert size[Scheme.INT4] < 0.3 * mlp  # in two methods: 0.18 of it each
    assert set(exports(Scheme.FP32).lowered.artifacts) == {"one", "four", "images"}


def test_delegation_says_what_xnnpack_left(exports: Callable[[Scheme], Export]) -> None:
    for scheme, names in LOWERED.items():
        records = {record.entry: record for record in exports(scheme).lowered.notes.delegation}
        assert tuple(records) == names
        if "one" in records:
            assert records["one"].delegates == 2
            assert records["one"].portable == {"aten.native_layer_norm.default": 1}
            # linear | gelu, linear, linear, softmax, mul, add, linear
            assert records["one"].delegated == 8
        if "images" in records:
            assert records["images"].portable == {"aten.mean.dim": 1}


def test_the_runtime_record_names_what_loading_depends_on(exports: Callable[[Scheme], Export]) -> None:
    record = exports(Scheme.FP32).lowered.runtime
    assert (record.name, record.abi) == ("executorch", "ET12/XnnpackBackend")
    assert exports(Scheme.FP32).lowered.twin is None
    assert get_lowering("executorch") is LOWERING
    assert session_class("executorch") is ExecuTorchSession


def test_other_processes_make_the_same_bytes_and_stay_quiet(
    exports: Callable[[Scheme], Export], tmp_path: Path
) -> None:
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from edge.export.capture import capture; from edge.spec import Scheme; from test_executorch import *\n"
        "captured = [capture(entry) for entry in entries() if entry.name in LOWERED[Scheme.INT8]]\n"
        "made = export(captured, Scheme.INT8, Path(sys.argv[2]))\n"
        "made.session().run('images', made.captured[0].references[0][0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path)],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONHASHSEED": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    for name, path in exports(Scheme.INT8).lowered.files.items():
        assert (tmp_path / name).read_bytes() == path.read_bytes(), name


@pytest.mark.parametrize("scheme", [Scheme.FP32, Scheme.INT8])
def test_operator_times_name_kernels_and_modules(exports: Callable[[Scheme], Export], scheme: Scheme) -> None:
    made = exports(scheme)
    session = made.session(threads=1)
    record = made.manifest.entry("images")
    rows = session.operators(record, [made.captured[-1].references[0][0]["x"]], 10)
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert [row.start_us for row in rows] == sorted(row.start_us for row in rows)
    assert len({row.name for row in rows}) == len(rows)
    assert all(row.mean_us > 0 and row.calls_per_run == 1 for row in rows)
    (mean,) = (row for row in rows if row.provider == "portable")
    assert mean.kind == "mean"
    convolutions = [row for row in rows if row.kind.startswith("Convolution")]
    assert [row.module for row in convolutions] == ["stem", "block"]
    assert all(("QC8" if scheme is Scheme.INT8 else "F32") in row.kind for row in convolutions)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spectrum = Spectrum()
        self.order = Order()
        self.mix = nn.Linear(33, 33)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.order(self.mix(self.spectrum(x)))
        return y


class Spectrum(nn.Module):
    """A real factor on a complex spectrum: there is a kernel for mul, but not for this mixture of dtypes."""

    def forward(self, x: Tensor) -> Tensor:
        return (torch.fft.rfft(x) * 0.5).abs()


class Order(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        ordered, _ = torch.sort(torch.cumprod(torch.cumprod(x, -1), 0), -1)
        return ordered


def test_all_unsupported_operators_are_listed_with_their_modules() -> None:
    captured = capture(entry_point("odd", Odd(), (2, 64), ("y",)))
    lacks = LOWERING.unsupported(captured, recipe(Scheme.FP32))
    assert {(item.operator, item.module, item.count) for item in lacks} == {
        ("aten.mul.Tensor", "spectrum", 1),
        ("aten.cumprod.default", "order", 2),
        ("aten.sort.default", "order", 1),
    }
    with pytest.raises(UnsupportedError, match=r"aten\.cumprod\.default in order of odd \(2x\)"):
        LOWERING.lower([captured], recipe(Scheme.FP32), TARGET, Path("unused"), Progress())


def test_a_program_with_missing_kernels_is_refused_by_name(tmp_path: Path, exports: Callable[[Scheme], Export]) -> None:
    captured = capture(entry_point("one", Order(), (2, 64), ("y",)))
    program = to_executorch({"one": to_edge("one", captured.program)})
    (tmp_path / "model.pte").write_bytes(program.buffer)
    base = exports(Scheme.FP32).manifest
    manifest = msgspec.structs.replace(base, entries=base.entries[:1])
    with pytest.raises(BundleError, match=r"missing operators: .*aten::cumprod\.out"):
        ExecuTorchSession(tmp_path, manifest, 2)


def test_asking_for_unsupported_operators_leaves_the_capture_whole(
    captured_models: list[Captured], tmp_path: Path
) -> None:
    images = capture(captured_models[2].entry)
    assert LOWERING.unsupported(images, recipe(Scheme.FP32)) == []
    sample, reference = images.references[0]
    again = images.program.module()(torch.from_numpy(sample["x"]))
    np.testing.assert_allclose(again.detach().numpy(), reference["logits"], rtol=1e-6)
    ran = export([images], Scheme.FP32, tmp_path).session().run("images", sample)
    np.testing.assert_allclose(ran["logits"], reference["logits"], rtol=1e-4, atol=1e-5)


def test_keep_float_keeps_modules_in_float(captured_models: list[Captured]) -> None:
    mlp = captured_models[0].entry
    for scheme, patterns, layers in (
        (Scheme.INT8, ("up", "down", "g?te"), 1),
        (Scheme.INT4, ("table",), 3),
    ):
        captured = replace(captured_models[0], entry=replace(mlp, keep_float=patterns))
        assert quantize(captured, recipe(scheme)).layers == layers


class Branches(nn.Module):
    """Only `join` adds what convolutions computed; the other sum and the products belong in float."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(4, 4, 1)
        self.right = nn.Conv2d(4, 4, 1)
        self.scale = nn.Parameter(torch.ones(1, 4, 1, 1))

    def forward(self, x: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        joined = self.left(x) + torch.relu(self.right(x))
        return (joined * self.scale + 1e-3) * torch.sigmoid(joined), count + 1


def test_static_int8_takes_sums_of_convolutions_and_leaves_numbers_alone() -> None:
    random = np.random.default_rng(0)
    sample = {"x": random.standard_normal((1, 4, 5, 5)).astype(np.float32), "count": np.arange(3)}
    entry = EntryPoint(
        name="b", module=Branches().eval(), outputs=("y", "n"), samples=[sample],
        inputs=(
            TensorSpec(name="x", dtype="float32", shape=(1, 4, 5, 5)),
            TensorSpec(name="count", dtype="int64", shape=(3,)),
        ),
    )  # fmt: skip
    quantized = quantize(capture(entry), recipe(Scheme.INT8))
    inputs = {
        str(node.target): [str(source.target) for source in node.all_input_nodes]
        for node in quantized.module.graph.nodes
        if node.op == "call_function" and not str(node.target).startswith("quantized")
    }
    sums = [
        all("dequantize" in str(source.target) for source in node.all_input_nodes)
        for node in quantized.module.graph.nodes
        if str(node.target) == "aten.add.Tensor"
    ]
    assert sums == [True, False, False]
    assert "dequantize" not in inputs["aten.mul.Tensor"][1]
    y, count = quantized.module(*(torch.from_numpy(sample[name]) for name in ("x", "count")))
    assert count.dtype == torch.int64
    assert count.tolist() == [1, 2, 3]
    expected = entry.module(*(torch.from_numpy(sample[name]) for name in ("x", "count")))[0]
    assert torch.nn.functional.cosine_similarity(y.flatten(), expected.flatten(), 0) > 0.999


class Functional(nn.Module):
    """A layer without an nn.Linear, and one whose inputs do not divide into groups of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(40, 64) / 8)
        self.narrow = nn.Linear(40, 40)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.narrow(nn.functional.linear(x, self.weight))
        return y


def test_int4_notes_what_does_not_divide_and_keeps_axes_dynamic(tmp_path: Path) -> None:
    torch.manual_seed(0)
    captured = capture(entry_point("rows", Functional(), ("rows", 64), ("y",), sizes=(3, 1, 8)))
    made = export([captured], Scheme.INT4, tmp_path)
    (warning,) = made.lowered.notes.warnings
    assert "narrow (40 inputs)" in warning
    assert "rows" in warning
    session = made.session()
    for sample, reference in captured.references:
        (stat,) = compare_all([(reference, session.run("rows", sample))], DEFAULT_TOLERANCE[Scheme.INT4])
        assert stat.passed
        assert stat.relative > 1e-3


def test_group_sizes_and_models_that_cannot_be_quantized_are_refused(captured_models: list[Captured]) -> None:
    with pytest.raises(UsageError, match="groups of 48: choose a multiple of 32"):
        quantize(captured_models[0], recipe(Scheme.INT4, group_size=48))
    conv = capture(entry_point("c", nn.Conv2d(3, 4, 3), (1, 3, 8, 8), ("y",)))
    with pytest.raises(UnsupportedError, match="int4 finds no layer"):
        LOWERING.lower([conv], recipe(Scheme.INT4), TARGET, Path("unused"), Progress())


def test_each_run_has_its_own_outputs_and_reads_its_inputs_in_place(exports: Callable[[Scheme], Export]) -> None:
    made = exports(Scheme.FP32)
    session = made.session()
    (first, expected), (second, _) = made.captured[0].references[:2]
    given = first["x"].copy()
    call = session.bind(made.manifest.entry("one"), [given])
    before = call()
    kept = [output.copy() for output in before]
    session.run("one", second)
    session.run("four", made.captured[1].references[0][0])
    after = call()
    for old, new, copy, output in zip(before, after, kept, ("y", "t"), strict=True):
        np.testing.assert_array_equal(old, copy)
        np.testing.assert_array_equal(new, copy)
        np.testing.assert_allclose(new, expected[output], rtol=1e-4, atol=1e-5)
        old += 1
    np.testing.assert_array_equal(call()[0], kept[0])
    given[:] = second["x"]
    np.testing.assert_array_equal(call()[0], session.run("one", second)["y"])


def test_sessions_with_other_threads_can_take_turns(exports: Callable[[Scheme], Export]) -> None:
    made = exports(Scheme.FP32)
    sample, _ = made.captured[1].references[0]
    one, three = made.session(1), made.session(3)
    calls = {session: session.bind(made.manifest.entry("four"), [sample["x"]]) for session in (one, three)}
    expected = one.run("four", sample)["y"]
    for session in (three, one, three, three, one):
        np.testing.assert_allclose(calls[session]()[0], expected, rtol=1e-4, atol=1e-5)
        assert bindings()._threadpool_get_thread_count() == session.threads
        assert session.operators(made.manifest.entry("four"), [sample["x"]], 1)


def test_what_cannot_be_loaded_is_refused_before_loading(exports: Callable[[Scheme], Export], tmp_path: Path) -> None:
    made = exports(Scheme.FP32)
    runtime = made.manifest.runtime

    def refused(match: str, root: Path = made.root, **changes: str) -> None:
        manifest = msgspec.structs.replace(made.manifest, runtime=msgspec.structs.replace(runtime, **changes))
        with pytest.raises(BundleError, match=match):
            ExecuTorchSession(root, manifest, 2)

    refused(r"made by executorch 99\.0\.0 and 1\.\d+\.\d+ is installed", version="99.0.0")
    refused("has the program schema ET99", abi="ET99/XnnpackBackend")
    refused("needs ExecuTorch's VulkanBackend", abi="ET12/VulkanBackend")
    (tmp_path / "model.pte").write_bytes(b"\0" * 100)
    refused("is not an ExecuTorch program of schema ET12", root=tmp_path)
    whole = made.lowered.files["model.pte"].read_bytes()
    (tmp_path / "model.pte").write_bytes(whole[: len(whole) // 2])
    refused("ExecuTorch cannot load this bundle", root=tmp_path)


def test_a_missing_package_is_named_with_its_extra(
    exports: Callable[[Scheme], Export], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exports(Scheme.FP32)
    found = importlib.util.find_spec

    def without_executorch(name: str, package: str | None = None) -> object:
        return None if name == "executorch" else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_executorch)
    with pytest.raises(MissingDependencyError, match=r"edge\[executorch\]"):
        made.session()
    with pytest.raises(MissingDependencyError, match=r"edge\[executorch\]"):
        LOWERING.unsupported(made.captured[0], recipe(Scheme.FP32))


def test_the_etdump_reader_agrees_with_executorchs_inspector(
    exports: Callable[[Scheme], Export], tmp_path: Path
) -> None:
    from edge.runtimes._etdump import read

    made = exports(Scheme.INT8)
    program = bindings()._load_program(str(made.root / "model.pte"), enable_etdump=True)
    method = program.load_method("images")
    for sample, _ in made.captured[-1].references:
        method((torch.from_numpy(sample["x"]),))
    dump = tmp_path / "run.etdp"
    program.write_etdump_result_to_file(str(dump), str(tmp_path / "debug"))
    with executorch_tools():
        from executorch.devtools import Inspector

        (theirs,) = (block for block in Inspector(etdump_path=str(dump)).event_blocks if block.name == "Execute")
    ours = [block for block in read(dump.read_bytes()) if block.name == "Execute"]
    assert len(ours) == len(made.captured[-1].references)
    for index, event in enumerate(theirs.events):
        mine = [block.events[index] for block in ours]
        assert {item.delegate_id or item.name for item in mine} == {event.name}
        assert [item.start for item in mine] == event.start_time
        # Theirs are milliseconds, as floats made from cumulated times.
        np.testing.assert_allclose([(item.end - item.start) / 1e6 for item in mine], event.perf_data.raw, atol=1e-9)
