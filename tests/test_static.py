"""Static programs: what an export writes out of TVM's kernels, the protocol of --serve, and what is refused.

Only relu2-mlp here, on this machine; the other models and arm64 are in test_static_models.py.
"""

from __future__ import annotations

import itertools
import json
import shutil
import struct
import subprocess
from pathlib import Path

import msgspec
import numpy as np
import pytest
from programs import program, request, said
from runners import exported, talk

import edge
from edge import cli
from edge.bundle import Bundle, open_bundle
from edge.devices.messages import ProfileRequest
from edge.devices.verifying import Verified, VerifyRequest
from edge.errors import BundleError, UnsupportedError
from edge.export.static_plan import Place, make_plan
from edge.export.static_source import weights_file
from edge.runtimes import static
from edge.runtimes.native.program import POOL, STATIC, abi


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(exported(tmp_path_factory, "relu2-mlp", "cpu", "static", "fp32"))


@pytest.fixture(scope="module")
def model(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program(bundle, tmp_path_factory.mktemp("program"))


def test_the_bundle_verifies_and_is_what_tvm_computes(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> None:
    (check,) = edge.verify(bundle.path)
    assert check.passed and check.where.startswith("static on")
    compiled = edge.load(exported(tmp_path_factory, "relu2-mlp", "cpu", "tvm", "fp32"))
    session = edge.load(bundle.path, threads=2)
    for inputs, _ in bundle.samples("classify"):
        mine, theirs = session.run("classify", inputs)["logits"], compiled.run("classify", inputs)["logits"]
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def test_the_program_is_small_static_and_loads_on_any_page(bundle: Bundle, model: Path) -> None:
    from edge.devices import elf

    needs = elf.read_needs(model)
    assert needs is not None and needs.libraries == () and needs.glibc == () and needs.alignment == 16384
    headers = subprocess.run(["readelf", "-lW", model], capture_output=True, text=True, check=True).stdout
    assert "DYN (Position-Independent Executable" in headers and "INTERP" not in headers
    assert model.stat().st_size < 400_000


def test_a_conversation(bundle: Bundle, model: Path) -> None:
    samples = bundle.samples("classify")
    given = [inputs["features"] for inputs, _ in samples[:3]]
    status, lines, tensors = said(
        [model, "--serve"],
        b"".join(request({"id": index, "entry": "classify"}, value) for index, value in enumerate(given))
        # Nothing is sent, half is sent: the rest is what it was.
        + request({"id": 7, "entry": "classify", "inputs": [], "runs": 3, "threads": 2})
        + request({"id": 8, "entry": "classify", "inputs": [{"name": "features", "offset": 128, "bytes": 128}]}, given[0][:, 32:])
        + request({"id": 9, "entry": "classify", "inputs": [{"name": "features"}], "outputs": [], "kernels": True}, given[1]),
    )
    assert status == 0
    greeting, *answers = lines
    assert (greeting["protocol"], greeting["model"], greeting["threads"]) == (1, "relu2-mlp", 1)
    assert greeting["start_ns"] > 0
    (entry,) = greeting["entries"]
    assert entry["inputs"] == [{"name": "features", "dtype": "float32", "shape": [1, 64], "bytes": 256}]
    assert [answer["id"] for answer in answers] == [0, 1, 2, 7, 8, 9] and all(answer["ok"] for answer in answers)
    for (_, outputs), found in zip(samples[:3], tensors, strict=False):
        np.testing.assert_allclose(found, outputs["logits"], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(tensors[3], tensors[2])
    assert len(answers[3]["times_ns"]) == 3 and answers[3]["ns"] == answers[3]["times_ns"][-1] > 0
    mixed = np.concatenate((given[2][:, :32], given[0][:, 32:]), 1)
    np.testing.assert_allclose(tensors[4], edge.load(bundle.path).run("classify", {"features": mixed})["logits"], rtol=1e-6)
    kernels = answers[5]["kernels"]
    assert answers[5]["outputs"] == [] and len(kernels) > 3
    assert all(start <= end for _, start, end in kernels)
    assert all(one[2] <= other[1] for one, other in itertools.pairwise(kernels))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (b'{"id": 4, "entry": "classify"}\n' + bytes(255), "ends after 255 of the 256 bytes"),
        (b'{"id": 4, "entry": "classify"', "in the middle of a line"),
        (b'{"id": 4, "entry": "encode"}\n', "no entry point 'encode': this program has classify"),
        (b'{"id": 4}\n', "cannot be read"),
        (b"\x00\x01\xff\n", "cannot be read"),
        (b"[" * 100 + b"\n", "cannot be read"),
        (b"x" * ((1 << 20) + 70000), "longer than 1 MiB"),
        (b'{"id": 4, "entry": "classify", "bytes": 256}\n', "no field 'bytes'"),
        (b'{"id": 4, "entry": "classify", "runs": 0}\n', "'runs' is 0"),
        (b'{"id": 4, "entry": "classify", "threads": 5000}\n', "'threads' is 5000"),
        (b'{"id": 4, "entry": "classify", "outputs": ["rows"]}\n', "no output 'rows'"),
        (b'{"id": 4, "entry": "classify", "inputs": [{"name": "x"}]}\n', "no input 'x'"),
        (b'{"id": 4, "entry": "classify", "inputs": [{"name": "features", "offset": 257}]}\n', "offset 257 is outside"),
        (b'{"id": 4, "entry": "classify", "inputs": [{"name": "features", "offset": -1}]}\n', "offset -1 is outside"),
        (b'{"id": 4, "entry": "classify", "inputs": [{"name": "features", "offset": 4, "bytes": 256}]}\n', "do not fit"),
        (b'{"id": 4, "entry": "classify", "inputs": [{"name": "features", "bytes": 9223372036854775807}]}\n', "do not fit"),
    ],
)  # fmt: skip
def test_bad_requests_are_one_line_and_the_end(model: Path, given: bytes, sentence: str) -> None:
    status, lines, tensors = said([model, "--serve"], given)
    assert status == 2 and not tensors and len(lines) == 2
    assert lines[1]["ok"] is False and sentence in lines[1]["sentence"]
    assert lines[1]["id"] in (4, -1)


def test_weights_that_are_not_its_own_are_refused(model: Path, tmp_path: Path) -> None:
    whole = (model.parent / "weights.bin").read_bytes()
    other = bytearray(whole)
    other[16] ^= 1  # its SHA-256
    for name, content, sentence in (
        ("cut.bin", whole[:-1], "must be"), ("other.bin", bytes(other), "another program"), ("none.bin", None, "cannot be read"),
    ):  # fmt: skip
        if content is not None:
            (tmp_path / name).write_bytes(content)
        status, lines, _ = said([model, "--serve", "--weights", tmp_path / name], b"")
        assert status == 2 and len(lines) == 1 and sentence in lines[0]["sentence"] and lines[0]["kind"] == "BundleError"
    for arguments, sentence in ((["--threads", "0"], "no number of threads"), (["--thread", "1"], "no option"), (["--weights"], "no value")):
        status, lines, _ = said([model, "--serve", *arguments], b"")
        assert status == 2 and sentence in lines[0]["sentence"]


def test_it_is_a_native_runner_of_its_own_bundle(bundle: Bundle, model: Path, tmp_path: Path) -> None:
    asked = VerifyRequest(device="here", bundle=str(bundle.path), threads=2)
    status, messages = talk([model], msgspec.json.encode(asked))
    assert status == 0 and isinstance(messages[-1], Verified)
    (check,) = messages[-1].checks
    assert check.passed and check.samples == len(bundle.samples("classify"))
    profile = ProfileRequest(device="here", bundle=str(bundle.path), threads=1, runs=5, seconds=0.0, operators=True)
    status, messages = talk([model], msgspec.json.encode(profile))
    assert status == 0
    (traced,) = messages[-1].traces  # type: ignore[union-attr]
    rows = static.StaticSession.operators_of(bundle.path, bundle.manifest.entries[0], traced.runs)
    assert len(rows) > 3 and abs(sum(row.share for row in rows) - 1) < 1e-6 and {row.provider for row in rows} == {"static"}

    damaged = tmp_path / "damaged.edge"
    shutil.copytree(bundle.path, damaged)
    (damaged / "weights.bin").write_bytes(bytes(10))
    status, messages = talk([model], msgspec.json.encode(VerifyRequest(device="here", bundle=str(damaged), threads=1)))
    assert status == 2 and "not what was exported" in messages[-1].sentence  # type: ignore[union-attr]


def test_profile_and_run_work_on_it(bundle: Bundle, tmp_path: Path) -> None:
    measured = edge.profile(bundle.path, runs=5, seconds=0.0, roofline=False, energy=False, cool_seconds=0)
    assert len(measured.entries[0].runs) >= 5 and len(measured.entries[0].operators) > 3
    # By the program itself: no Python in its memory.
    assert not measured.device.in_python and 0 < measured.memory.peak < 10e6
    np.savez(tmp_path / "in.npz", **bundle.samples("classify")[0][0])
    assert cli.invoke(["run", str(bundle.path), "--npz", str(tmp_path / "in.npz"), "--entry", "classify", "-o", str(tmp_path / "out.npz")]) == 0
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_allclose(found["logits"], bundle.samples("classify")[0][1]["logits"], rtol=1e-3, atol=1e-3)


def test_a_bundle_of_another_protocol_or_machine_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    other = msgspec.structs.replace(bundle.manifest, runtime=msgspec.structs.replace(bundle.manifest.runtime, abi="edge-static 0"))
    with pytest.raises(BundleError, match="speaks edge-static 0"):
        static.StaticSession(bundle.path, other, 1)
    arm = tmp_path / "arm"
    shutil.copytree(bundle.path, arm)
    header = bytearray((arm / "model").read_bytes())
    header[18:20] = struct.pack("<H", 183)  # EM_AARCH64
    (arm / "model").write_bytes(header)
    with pytest.raises(BundleError, match="compiled for aarch64"):
        static.StaticSession(arm, bundle.manifest, 1)
    assert abi() == static.ABI


def test_static_is_tvms_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["export", "relu2-mlp", "--target", "cpu", "--runtime", "onnx", "--static"]) == 2
    assert "compiled by tvm, not by onnx" in capsys.readouterr().err


def test_a_plan_of_views_constants_and_inputs_that_come_out() -> None:
    """What needs no kernel of its own: an input that is an output, a constant, a view, one tensor as two outputs."""
    import tvm
    from tvm import relax

    from edge.devices.targets import load_target
    from edge.export.tvm_compile import fuse, llvm_target, schedule

    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            total = builder.emit(relax.op.exp(relax.op.add(x, relax.const(table))))
            flat = builder.emit(relax.op.reshape(total, (6,)))
            out = builder.emit_output(relax.Tuple([flat, flat, x, relax.const(table)]))
        builder.emit_func_output(out)
    llvm = llvm_target(load_target("cpu"))
    plan = make_plan(schedule(fuse({"main": builder.get()["main"]}, llvm), llvm), ["main"], llvm)
    (entry,) = plan.entries
    assert [one.shape for one in entry.outputs] == [(6,), (6,), (2, 3), (2, 3)]
    assert plan.weights.startswith(table.tobytes()) and entry.arena_bytes == 0
    kernel, *copies = entry.steps
    assert kernel.tensors[-1].place is Place.OUTPUT and {step.kernel for step in copies} == {"edge_copy"}
    assert [step.tensors[0].place for step in copies] == [Place.OUTPUT, Place.INPUT, Place.WEIGHTS]
    assert isinstance(plan.kernels, tvm.IRModule)


def test_what_no_kernel_does_is_refused_all_at_once() -> None:
    from tvm import relax, tirx

    from edge.devices.targets import load_target
    from edge.export.tvm_compile import llvm_target

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((tirx.Var("n", "int64"),), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            once = builder.emit(relax.call_pure_packed("my.sort", x, ty_args=relax.TensorType((4,), "float32")))
            twice = builder.emit(relax.call_pure_packed("my.pick", once, ty_args=relax.TensorType((4,), "float32")))
            out = builder.emit_output(twice)
        builder.emit_func_output(out)
    with pytest.raises(UnsupportedError, match=r"my\.pick, my\.sort, the dynamic shape"):
        make_plan(builder.get(), ["main"], llvm_target(load_target("cpu")))


@pytest.mark.slow
def test_the_executor_under_sanitizers(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    content = weights_file(np.arange(1000, dtype=np.float32).tobytes())
    fits = tmp_path / "fits.bin"
    fits.write_bytes(content[:16] + bytes([7]) + bytes(31) + content[48:])
    (tmp_path / "short.bin").write_bytes(fits.read_bytes()[:-4])
    sources = [Path(__file__).parent / "static_check.c", STATIC / "executor.c", STATIC / "backend.c", POOL / "pool.c"]
    flags = ["-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{STATIC}", f"-I{POOL}"]
    for sanitizer in ("address,undefined", "thread"):
        checked = tmp_path / sanitizer
        command = ["gcc", *flags, f"-fsanitize={sanitizer}", "-fno-sanitize-recover", *sources, "-o", checked, "-lpthread", "-lm"]
        subprocess.run(command, check=True)
        done = subprocess.run([checked, fits, tmp_path / "short.bin"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_texts_in_c_are_any_text() -> None:
    from edge.export.static_source import _text

    assert json.loads(_text("plain name")) == "plain name"
    assert _text('a"b\\c\n?é') == '"a\\042b\\134c\\012\\077\\303\\251"'
