"""ExecuTorch's session: bound calls, operator times, and what this installation cannot load."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("executorch")

from executorch_case import Export, Order, entry_point, lowered, recipe  # noqa: E402

from edge.errors import BundleError, MissingDependencyError  # noqa: E402
from edge.export.capture import capture  # noqa: E402
from edge.export.executorch import LOWERING  # noqa: E402
from edge.export.executorch_graph import executorch_tools, to_edge, to_executorch  # noqa: E402
from edge.runtimes.executorch import ExecuTorchSession, bindings  # noqa: E402
from edge.spec import Scheme  # noqa: E402


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Scheme], Export]:
    return functools.partial(lowered, tmp_path_factory)


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


def test_packed_weights_are_not_packed_again_for_another_number_of_threads(exports: Callable[[Scheme], Export]) -> None:
    """Without edge's kernels every entry point has the same number, so that none is loaded anew after another."""
    assert not ExecuTorchSession.takes_apart(exports(Scheme.FP32).manifest)


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


def test_a_program_with_missing_kernels_is_refused_by_name(tmp_path: Path, exports: Callable[[Scheme], Export]) -> None:
    captured = capture(entry_point("one", Order(), (2, 64), ("y",)))
    program = to_executorch({"one": to_edge("one", captured.program)})
    (tmp_path / "model.pte").write_bytes(program.buffer)
    base = exports(Scheme.FP32).manifest
    manifest = msgspec.structs.replace(base, entries=base.entries[:1])
    with pytest.raises(BundleError, match=r"missing operators: .*aten::cumprod\.out"):
        ExecuTorchSession(tmp_path, manifest, 2)
