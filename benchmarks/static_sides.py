"""Sides of benchmarks/static.py: programs that say when they are ready, take the inputs' bytes and give the outputs' bytes.

    python static_sides.py onnx|executorch FILE METHOD INPUTS OUTPUTS

is one of the peers in Python: INPUTS is JSON, a list of names, dtypes and shapes, OUTPUTS a list of names.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.manifest import EntryRecord

PEERS = ("executorch", "executorch-python", "onnxruntime-python", "onnxruntime-session")
SOURCE = Path(__file__).resolve().with_name("static_start.cpp")


@dataclass(frozen=True)
class Started:
    """One start: milliseconds as the parent saw them, the first answer, and what the side said of itself."""

    ready_ms: float
    first_ms: float
    outputs: list[np.ndarray]
    facts: Mapping[str, float]


@dataclass(frozen=True)
class Side:
    """``before`` goes ahead of the inputs, and a line comes ahead of the outputs where ``announces`` says so. ``alone``: names
    under which a time that the side itself took is shown, and its name in what the side says."""

    name: str
    command: Sequence[str]
    given: bytes
    outputs: Sequence[tuple[str, Sequence[int]]]
    code_mb: float
    model_mb: float
    announces: bool = False
    alone: Mapping[str, str] = field(default_factory=dict)

    def start(self) -> Started:
        begun = time.perf_counter()
        with subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdin is not None and process.stdout is not None
            line = process.stdout.readline()
            ready = time.perf_counter()
            if not line.startswith(b"{"):
                raise SystemExit(f"the side '{self.name}' ended without an answer: run its command by hand: {' '.join(self.command)}")
            process.stdin.write(self.given)
            process.stdin.flush()
            if self.announces:
                process.stdout.readline()
            answers = [
                np.frombuffer(process.stdout.read(int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype).reshape(shape)
                for dtype, shape in self.outputs
            ]
            first = time.perf_counter()
            process.stdin.close()
        said = {name: value for name, value in json.loads(line).items() if isinstance(value, float)}
        return Started(1e3 * (ready - begun), 1e3 * (first - begun), answers, said)


def program(name: str, bundle: Bundle, entry: str, scratch: Path) -> Side:
    """The static program of ``bundle``, as one that can be started."""
    scratch.mkdir(parents=True, exist_ok=True)
    record = bundle.manifest.entry(entry)
    for part in ("model", "weights.bin"):
        shutil.copyfile(bundle.path / part, scratch / part)
    (scratch / "model").chmod(0o755)
    request = json.dumps({"id": 1, "entry": record.method}).encode() + b"\n"
    return Side(
        name, [str(scratch / "model"), "--serve"], request + _inputs(bundle, record), _outputs(record), _mb(scratch / "model"),
        _mb(scratch / "weights.bin"), announces=True,
    )


def peers(wanted: Sequence[str], bundles: Mapping[str, Bundle], entry: str, folder: Path) -> list[Side]:
    """``folder`` keeps the program of the side that has one."""
    found = []
    if "executorch" in wanted:
        found.append(_executorch(bundles["executorch"], entry, build(folder / "executorch")))
    if "executorch-python" in wanted:
        found.append(_in_python("ExecuTorch in Python", "executorch", bundles["executorch"], entry, {}))
    if "onnxruntime-python" in wanted or "onnxruntime-session" in wanted:
        alone = {"ONNX Runtime, its session alone": "load_ms"} if "onnxruntime-session" in wanted else {}
        found.append(_in_python("ONNX Runtime in Python", "onnx", bundles["onnx"], entry, alone))
    return found


def build(folder: Path) -> Path:
    """static_start.cpp as a program in ``folder``, the wheel's libraries beside it, as the native runner has them."""
    from edge.devices.host import host_facts
    from edge.runtimes.native.build import FLAGS, GLIBC
    from edge.runtimes.native.sdk import find_sdk

    program = folder / "start"
    if program.is_file():
        return program
    folder.mkdir(parents=True)
    arch = host_facts().arch
    sdk = find_sdk("executorch", arch)
    libraries = [shutil.copy(sdk.path(library), folder) for library in sdk.runtime.libraries]
    command = [
        sys.executable, "-m", "ziglang", "c++", "-target", f"{arch}-linux-gnu.{GLIBC}", *FLAGS,
        *(f"-D{name}" for name in sdk.runtime.defines),
        *(argument for name in sdk.runtime.includes for argument in ("-isystem", str(sdk.path(name)))),
        str(SOURCE), "-o", str(program), *libraries,
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return program


def _executorch(bundle: Bundle, entry: str, program: Path) -> Side:
    record = bundle.manifest.entry(entry)
    return Side(
        "ExecuTorch in C++", [str(program), str(bundle.path / record.artifact), record.method], _inputs(bundle, record),
        _outputs(record), sum(_mb(path) for path in program.parent.iterdir()), bundle.artifact_bytes / 1e6,
    )


def _in_python(name: str, runtime: str, bundle: Bundle, entry: str, alone: Mapping[str, str]) -> Side:
    record = bundle.manifest.entry(entry)
    described = json.dumps([(spec.name, spec.dtype, spec.shape) for spec in record.inputs])
    names = json.dumps([spec.name for spec in record.outputs])
    path = bundle.path / record.artifact
    command = [sys.executable, str(Path(__file__).resolve()), runtime, str(path), record.method, described, names]
    return Side(name, command, _inputs(bundle, record), _outputs(record), _libraries(runtime), bundle.artifact_bytes / 1e6, alone=alone)


def _libraries(runtime: str) -> float:
    """Of what the interpreter imports the shared libraries that hold the runtime."""
    import importlib.util

    spec = importlib.util.find_spec("onnxruntime" if runtime == "onnx" else "executorch")
    assert spec is not None and spec.submodule_search_locations is not None
    (root,) = map(Path, spec.submodule_search_locations)
    if runtime == "onnx":
        return sum(_mb(path) for path in root.glob("capi/onnxruntime_pybind11_state*.so"))
    torch = importlib.util.find_spec("torch")
    assert torch is not None and torch.origin is not None
    own = [*root.glob("extension/pybindings/_C*.so"), *root.glob("extension/pybindings/_portable_lib*.so")]
    # The bindings link to PyTorch's libraries.
    return sum(_mb(path) for path in (*own, *(Path(torch.origin).parent / "lib").glob("lib*.so*")))


def _inputs(bundle: Bundle, record: EntryRecord) -> bytes:
    inputs, _ = bundle.samples(record.name)[0]
    return b"".join(np.ascontiguousarray(inputs[spec.name]).tobytes() for spec in record.inputs)


def _outputs(record: EntryRecord) -> list[tuple[str, Sequence[int]]]:
    return [(spec.dtype, [int(size) for size in spec.shape]) for spec in record.outputs]


def _mb(path: Path) -> float:
    return path.stat().st_size / 1e6


def main(runtime: str, path: str, method: str, inputs: str, outputs: str) -> None:
    load = {"onnx": onnx, "executorch": executorch}[runtime]
    run, load_ms = load(path, method, json.loads(outputs))
    sys.stdout.write(json.dumps({"load_ms": load_ms}) + "\n")
    sys.stdout.flush()
    given = {}
    for name, dtype, shape in json.loads(inputs):
        given[name] = np.empty(shape, dtype)
        sys.stdin.buffer.readinto(given[name].data.cast("B"))
    for value in run(given):
        sys.stdout.buffer.write(np.ascontiguousarray(value).data.cast("B"))
    sys.stdout.flush()


def onnx(path: str, method: str, outputs: Sequence[str]) -> tuple[Any, float]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    begun = time.perf_counter()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    took = 1e3 * (time.perf_counter() - begun)
    return lambda given: session.run(list(outputs), given), took


def executorch(path: str, method: str, outputs: Sequence[str]) -> tuple[Any, float]:
    import torch
    from executorch.extension.pybindings import _C

    torch.set_num_threads(1)
    begun = time.perf_counter()
    loaded = _C._load_program(path).load_method(method)
    took = 1e3 * (time.perf_counter() - begun)
    return lambda given: [value.numpy() for value in loaded(tuple(torch.from_numpy(value) for value in given.values()))], took


if __name__ == "__main__":
    main(*sys.argv[1:])
