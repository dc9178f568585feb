"""TVM: lowering in every scheme, code for another CPU and its host twin, tuning and its records, and the session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tvm")

import tvm  # noqa: E402
from elftools.elf.elffile import ELFFile  # noqa: E402
from onnx_case import captured_model, make_entry, manifest_of  # noqa: E402
from torch import nn  # noqa: E402

from edge.devices.targets import load_target  # noqa: E402
from edge.errors import BundleError, UnsupportedError  # noqa: E402
from edge.errorstats import compare_all  # noqa: E402
from edge.export.base import Captured, Lowered, get_lowering  # noqa: E402
from edge.export.capture import capture  # noqa: E402
from edge.export.tvm_compile import fuse, llvm_target  # noqa: E402
from edge.export.tvm_convert import decompose, to_relax  # noqa: E402
from edge.export.tvm_quantize import quantize  # noqa: E402
from edge.export.tvm_records import RECORDS, load_records, records_path, write_records  # noqa: E402
from edge.manifest import ErrorStats, Manifest  # noqa: E402
from edge.progress import Progress, ProgressBar  # noqa: E402
from edge.runtimes.tvm import REQUIREMENTS, Requirements, TvmSession, check_cpu  # noqa: E402
from edge.spec import DEFAULT_TOLERANCE, Recipe, Scheme, Target  # noqa: E402

LOWERING = get_lowering("tvm")
HOST = load_target("cpu")
PI = load_target("rpi5")


@dataclass
class Made:
    captured: tuple[Captured, ...]
    lowered: Lowered
    manifest: Manifest
    folder: Path

    def session(self, threads: int = 1) -> TvmSession:
        return TvmSession(self.folder, self.manifest, threads)

    def errors(self) -> tuple[ErrorStats, ...]:
        """Every output's worst error over all samples, against eager."""
        session, tolerance = self.session(), DEFAULT_TOLERANCE[self.manifest.recipe.scheme]
        found: list[ErrorStats] = []
        for one in self.captured:
            pairs = [(outputs, session.run(one.entry.name, inputs)) for inputs, outputs in one.references]
            found.extend(compare_all(pairs, tolerance))
        return tuple(found)


def make(
    workdir: Path, *captured: Captured, scheme: Scheme = Scheme.FP32, target: Target = HOST, trials: int = 0,
    progress: Progress | None = None,
) -> Made:  # fmt: skip
    workdir.mkdir(exist_ok=True)
    recipe = Recipe(runtime="tvm", scheme=scheme, tune_trials=trials)
    lowered = LOWERING.lower(captured, recipe, target, workdir, progress or Progress())
    folder = workdir / ("twin" if lowered.twin else "target")
    return Made(captured, lowered, manifest_of(captured, lowered, recipe), folder)


class Deep(nn.Module):
    """Parts that TVM's importer has no operator for, in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrum, self.cumulative = _Spectrum(), _Cumulative()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.spectrum(x) + self.cumulative(x)


class _Spectrum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft(x).abs().sum(-1, keepdim=True)


class _Cumulative(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.logcumsumexp(x, -1)


class TestSchemes:
    @pytest.mark.parametrize("scheme", LOWERING.schemes)
    def test_every_scheme_stays_close_to_eager(self, tmp_path: Path, scheme: Scheme) -> None:
        made = make(tmp_path / "it", captured_model("mixer"), scheme=scheme)
        assert [(error.output, error.passed) for error in made.errors()] == [("mean", True), ("linear", True)]

    def test_float32_differs_from_eager_by_rounding_only(self, tmp_path: Path) -> None:
        names = ("mixer", "convolutional", "clamped", "crossing")
        made = [make(tmp_path / name, captured_model(name)) for name in names]
        assert max(error.relative for one in made for error in one.errors()) < 1e-5

    def test_quantized_code_is_what_the_quantized_graph_says(self, tmp_path: Path) -> None:
        made = make(tmp_path / "it", captured_model("clamped"), scheme=Scheme.INT8)
        run = made.lowered.quantized
        assert run is not None
        session = made.session()
        for inputs, _ in made.captured[0].references:
            for name, value in run["main"](inputs).items():
                np.testing.assert_allclose(session.run("main", inputs)[name], value, atol=1e-4 * np.abs(value).max())

    @pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT8_DYNAMIC])
    def test_int8_multiplies_integers(self, scheme: Scheme) -> None:
        program = quantize(captured_model("mixer"), scheme).program
        module = fuse({"main": to_relax(decompose(program), "main")}, llvm_target(HOST))
        names = [str(variable.name_hint) for variable in module.functions]
        assert any("integer_product" in name for name in names)
        text = str(module)
        assert "R.matmul" not in text
        # LayerNorm and softmax sum floats; no float product of matrices is left.
        assert not [name for name in names if name.startswith("matmul")]

    def test_narrow_weights_make_a_smaller_library(self, tmp_path: Path) -> None:
        wide = capture(make_entry(nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 64)), 1, 256))
        sizes = {
            scheme: make(tmp_path / scheme.value, wide, scheme=scheme).lowered.files["model.so"].stat().st_size
            for scheme in (Scheme.FP32, Scheme.FP16, Scheme.INT8)
        }
        assert sizes[Scheme.FP16] < 0.7 * sizes[Scheme.FP32] and sizes[Scheme.INT8] < 0.45 * sizes[Scheme.FP32]

    def test_entries_share_one_library(self, tmp_path: Path) -> None:
        module = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
        entries = [capture(make_entry(module, *shape, name=name)) for name, shape in (("one", (1, 16)), ("six", (6, 16)))]
        made = make(tmp_path / "it", *entries)
        assert {artifact.file for artifact in made.lowered.artifacts.values()} == {"model.so"}
        assert max(error.relative for error in made.errors()) < 1e-5

    def test_the_same_model_gives_the_same_bytes(self, tmp_path: Path) -> None:
        libraries = [make(tmp_path / name, captured_model("clamped")).lowered.files["model.so"] for name in ("a", "b")]
        assert libraries[0].read_bytes() == libraries[1].read_bytes()

    def test_a_model_without_linear_layers_has_nothing_to_quantize(self, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedError, match="int8"):
            make(tmp_path / "it", capture(make_entry(nn.Softmax(-1), 2, 8)), scheme=Scheme.INT8)


class TestUnsupported:
    def test_all_that_tvm_lacks_is_listed_with_its_modules(self) -> None:
        lacking = LOWERING.unsupported(capture(make_entry(Deep(), 2, 16)), Recipe(runtime="tvm", scheme=Scheme.FP32))
        found = {(lack.operator, lack.module) for lack in lacking}
        assert ("aten.logcumsumexp.default", "cumulative") in found
        assert any(operator.startswith("aten._fft") and module == "spectrum" for operator, module in found)

    def test_what_tvm_has_is_not_listed(self) -> None:
        for name in ("mixer", "convolutional", "clamped", "crossing"):
            assert LOWERING.unsupported(captured_model(name), Recipe(runtime="tvm", scheme=Scheme.FP32)) == []


@pytest.fixture(scope="module", params=[Scheme.FP32, Scheme.INT8])
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Compiled for a Raspberry Pi."""
    return make(tmp_path_factory.mktemp("pi") / "it", captured_model("mixer"), scheme=request.param, target=PI)


class TestAnotherCpu:
    def test_the_library_is_for_that_cpu(self, foreign: Made) -> None:
        with foreign.lowered.files["model.so"].open("rb") as stream:
            assert ELFFile(stream).header["e_machine"] == "EM_AARCH64"
        needs = msgspec.json.decode(foreign.lowered.files[REQUIREMENTS].read_bytes(), type=Requirements)
        assert needs.arch == "aarch64" and "asimddp" in needs.flags

    def test_int8_uses_its_dot_product_instructions(self, foreign: Made) -> None:
        code = foreign.lowered.files["model.so"].read_bytes()
        # SDOT and UDOT (vector): 0Q?01110 100 Rm 100101 Rn Rd, little-endian words.
        words = np.frombuffer(code[: len(code) // 4 * 4], "<u4")
        dots = int((((words & 0x9FE0FC00) == 0x0E809400)).sum())
        assert (dots > 8) == (foreign.manifest.recipe.scheme is Scheme.INT8)

    def test_its_host_twin_computes_the_same(self, foreign: Made) -> None:
        assert foreign.lowered.twin is not None
        assert all(error.passed for error in foreign.errors())

    def test_it_is_refused_here_before_it_is_loaded(self, foreign: Made) -> None:
        with pytest.raises(BundleError, match="compiled for aarch64"):
            TvmSession(foreign.lowered.files["model.so"].parent, foreign.manifest, 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("tvm") / "it", captured_model("clamped"))


class TestRefusals:
    def test_another_tvm(self, made: Made) -> None:
        runtime = msgspec.structs.replace(made.manifest.runtime, version="0.20.0")
        with pytest.raises(BundleError, match=r"compiled by TVM 0\.20\.0"):
            TvmSession(made.folder, msgspec.structs.replace(made.manifest, runtime=runtime), 1)

    def test_a_cpu_that_lacks_an_instruction_set(self, tmp_path: Path) -> None:
        (tmp_path / "cpuinfo").write_text("processor : 0\nflags : fpu sse2\nFeatures : fp asimd\n")
        path = tmp_path / REQUIREMENTS
        path.write_bytes(msgspec.json.encode(Requirements(arch="x86_64", cpu="skylake", flags=("avx2", "asimddp"))))
        with pytest.raises(BundleError, match="skylake, whose avx2, asimddp this CPU lacks"):
            check_cpu(path, tmp_path / "cpuinfo")

    def test_a_library_that_is_none(self, made: Made, tmp_path: Path) -> None:
        (tmp_path / "model.so").write_bytes(b"not a library")
        with pytest.raises(BundleError, match=r"'model\.so' is not a shared library"):
            TvmSession(tmp_path, made.manifest, 1)


class TestSession:
    def test_operators_cover_a_run(self, tmp_path: Path) -> None:
        made = make(tmp_path / "it", captured_model("mixer"))
        session = made.session()
        record = made.manifest.entries[0]
        rows = session.operators(record, [made.captured[0].references[0][0]["x"]], runs=3)
        assert sum(row.share for row in rows) == pytest.approx(1.0)
        assert {row.provider for row in rows} == {"tvm"} and all(row.mean_us > 0 for row in rows)
        assert [row.start_us for row in rows] == sorted(row.start_us for row in rows)
        assert any("matmul" in row.kind for row in rows)

    def test_results_do_not_depend_on_threads_or_on_what_ran_before(self, tmp_path: Path) -> None:
        made = make(tmp_path / "it", captured_model("convolutional"))
        (first, _), (second, _) = made.captured[0].references
        one, two = made.session(1), made.session(2)
        expected = one.run("main", first)["y"].copy()
        one.run("main", second)
        np.testing.assert_array_equal(one.run("main", first)["y"], expected)
        np.testing.assert_array_equal(two.run("main", first)["y"], expected)
        apart = TvmSession(made.folder, made.manifest, 2, {"main": 1})
        count = tvm.get_global_func("runtime.NumThreads")
        two.run("main", first)
        assert count() == 2
        np.testing.assert_array_equal(apart.run("main", first)["y"], expected)
        assert count() == 1


class Recorder(Progress):
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.bars: dict[str, tuple[int, int]] = {}

    def stage(self, name: str) -> None:
        self.stages.append(name)

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[ProgressBar]:
        recorder = self

        class Counted(ProgressBar):
            def advance(self, steps: int = 1) -> None:
                recorder.bars[description] = (recorder.bars.get(description, (0, total))[0] + steps, total)

        yield Counted()


TRIALS = 8


@pytest.fixture(scope="module")
def wide() -> Captured:
    """Layers that are worth tuning."""
    return capture(make_entry(nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)), 16, 64))


@pytest.fixture(scope="module")
def tuned(wide: Captured, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Made, Recorder, Path]]:
    """``wide`` tuned, what its progress said, and the folder with its cache, which is the user's meanwhile."""
    folder = tmp_path_factory.mktemp("tuned")
    progress = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_CACHE", str(folder / "cache"))
        yield make(folder / "it", wide, trials=TRIALS, progress=progress), progress, folder


class TestTuning:
    def test_it_spends_its_trials_and_says_so(self, tuned: tuple[Made, Recorder, Path]) -> None:
        made, progress, _ = tuned
        assert progress.stages == ["tune"] and progress.bars["tune"] == (TRIALS, TRIALS)
        assert made.lowered.notes.tuned_trials == TRIALS and made.lowered.notes.tuned_tasks >= 1

    def test_tuned_code_is_right(self, tuned: tuple[Made, Recorder, Path]) -> None:
        assert max(error.relative for error in tuned[0].errors()) < 1e-5

    def test_the_next_export_takes_it_from_the_users_cache(
        self, tuned: tuple[Made, Recorder, Path], wide: Captured
    ) -> None:
        first, _, folder = tuned
        again = make(folder / "again", wide)
        assert again.lowered.notes.tuned_trials == 0
        assert again.lowered.notes.tuned_tasks == first.lowered.notes.tuned_tasks
        assert again.lowered.files["model.so"].read_bytes() == first.lowered.files["model.so"].read_bytes()

    def test_the_bundle_carries_its_records(self, tuned: tuple[Made, Recorder, Path]) -> None:
        made, _, folder = tuned
        carried = load_records(made.lowered.files[RECORDS]).get_all_tuning_records()
        assert len(carried) == made.lowered.notes.tuned_tasks
        write_records(folder / "copy.json.gz", carried)
        assert (folder / "copy.json.gz").read_bytes() == made.lowered.files[RECORDS].read_bytes()

    def test_a_broken_cache_counts_as_none(self, wide: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
        path = records_path(HOST)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"\x1f\x8b not gzip")
        made = make(tmp_path / "it", wide)
        assert made.lowered.notes.tuned_tasks == 0
        assert "no kernel is tuned" in made.lowered.notes.warnings[0]

    def test_where_there_is_nothing_to_tune_it_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
        made = make(tmp_path / "it", capture(make_entry(nn.Softmax(-1), 2, 8)), trials=4)
        assert made.lowered.notes.tuned_trials == 0 and "nothing to tune" in made.lowered.notes.warnings[0]
