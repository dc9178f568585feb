"""ONNX Runtime on the CPU: one `onnxruntime.InferenceSession` per entry point.

Needs onnxruntime and numpy, no torch and no onnx. The graphs come plain; ONNX Runtime fuses and lays them out for this
CPU when the session opens.
"""

from __future__ import annotations

import bisect
import functools
import platform
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import numpy as np

from edge.dependencies import require
from edge.errors import BundleError, InputError
from edge.manifest import EntryRecord
from edge.runtimes.base import OperatorTime, Session, check_kernels
from edge.spec import DTYPES

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from edge.runtimes.kernels.onnx.matrices import Matrices

_PROVIDER = "CPUExecutionProvider"
_KERNEL = "_kernel_time"


class _Event(msgspec.Struct, frozen=True):
    """What is read of one event of ONNX Runtime's profile (Chrome trace format, microseconds)."""

    name: str
    cat: str
    ts: int
    dur: int
    args: dict[str, Any]


class OnnxSession(Session):
    runtime: ClassVar[str] = "onnx"
    packages: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    def check_abi(self) -> None:
        """Newer releases read what older ones wrote; an older one may lack the opset or a quantized kernel."""
        require("onnx", "a bundle for ONNX Runtime", "onnxruntime")
        import onnxruntime

        written, installed = self.manifest.runtime.version, str(onnxruntime.__version__)
        if not _release(written):
            raise BundleError(f"the bundle names no version of onnxruntime but '{written}': export it again.")
        if _release(installed) < _release(written):
            raise BundleError(
                f"the bundle was made for onnxruntime {written} ({self.manifest.runtime.abi}) and {installed} is "
                f"installed: run `pip install 'onnxruntime>={'.'.join(written.split('.')[:2])}'`."
            )

        check_kernels(self.manifest)

    def open(self) -> None:
        self._matrices: Matrices | None = None
        if self.manifest.kernels is not None:
            from edge.runtimes.kernels.onnx.matrices import Matrices

            self._matrices = Matrices(self.root)
        self._sessions = {entry.name: self._load(entry) for entry in self.manifest.entries}

    def bind(self, entry: EntryRecord, inputs: Sequence[np.ndarray]) -> Callable[[], Sequence[np.ndarray]]:
        """As in the base class; where all output sizes are fixed, every call returns the same arrays, written anew."""
        return _bind(self._sessions[entry.name], entry, inputs, self._matrices)

    def operators(self, entry: EntryRecord, inputs: Sequence[np.ndarray], runs: int) -> list[OperatorTime]:
        """From ONNX Runtime's profiler, in a session of its own (profiling costs about 3 us a node).

        ``module`` is the model's, for nodes that come from it; those that ONNX Runtime adds (layout changes) have none.
        """
        with tempfile.TemporaryDirectory(prefix="edge-profile-") as folder:
            session = self._load(entry, profile=Path(folder) / "ort")
            call = _bind(session, entry, inputs, self._matrices)
            for _ in range(runs + 1):
                call()
            events = msgspec.json.decode(Path(session.end_profiling()).read_bytes(), type=list[_Event])
        return _table(events)

    def _load(self, entry: EntryRecord, profile: Path | None = None) -> InferenceSession:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # it raises what it logs as an error
        options.intra_op_num_threads = self.threads_of(entry.name)
        options.inter_op_num_threads = 1
        # Threads spin while a run lasts, which is worth it, but not after it: without this a call every 20 ms kept
        # the second core busy for 10 ms each time, at the same latency.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if _saturates():
            options.add_session_config_entry("session.x64quantprecision", "1")
        if self._matrices is not None:
            from edge.runtimes.kernels.onnx import register

            register(options)
            self._matrices.lend(options, entry.name)
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        try:
            return onnxruntime.InferenceSession(str(self.root / entry.artifact), options, providers=[_PROVIDER])
        except (
            state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NoSuchFile,
            state.NotImplemented, state.RuntimeException,
        ) as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise BundleError(
                f"onnxruntime {onnxruntime.__version__} cannot load '{entry.artifact}' ({reason}): export it again."
            ) from error


SESSION = OnnxSession


def _release(version: str) -> tuple[int, ...]:
    """Major and minor; () if ``version`` is none."""
    found = re.match(r"(\d+)\.(\d+)\.", version)
    return tuple(map(int, found.groups())) if found else ()


@functools.cache
def _saturates() -> bool:
    """Whether this CPU adds products of uint8 by int8 in 16 bits: x86 without VNNI.

    ONNX Runtime then needs to be told to use exact kernels; told so needlessly, it is 1.4 times slower.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        return "vnni" not in Path("/proc/cpuinfo").read_text()
    except OSError:
        return True


def _bind(
    session: InferenceSession, entry: EntryRecord, inputs: Sequence[np.ndarray], lent: Matrices | None
) -> Callable[[], Sequence[np.ndarray]]:
    """I/O binding to numpy's own memory: a call copies nothing (5 us of 45 less than a plain run of a small model)."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    binding = session.io_binding()
    for spec, array in zip(entry.inputs, inputs, strict=True):
        binding.bind_input(spec.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    fixed = all(isinstance(axis, int) for spec in entry.outputs for axis in spec.shape)
    outputs = []
    for spec in entry.outputs:
        if fixed:
            array = np.empty([int(axis) for axis in spec.shape], DTYPES[spec.dtype])
            binding.bind_output(spec.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            outputs.append(array)
        else:
            binding.bind_output(spec.name)
    held = (tuple(inputs), outputs, lent)  # the binding and the session have addresses only: this keeps the arrays alive

    def call() -> Sequence[np.ndarray]:
        try:
            session.run_with_iobinding(binding)
        except (RuntimeError, state.InvalidArgument, state.Fail) as error:  # an index outside a table, say
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise InputError(f"entry point '{entry.name}' cannot be run on these inputs ({reason}): check their values.") from error
        return held[1] if fixed else binding.copy_outputs_to_cpu()

    return call


def _table(events: Sequence[_Event]) -> list[OperatorTime]:
    """One row a node over all runs but the first, in order of execution.

    The profiler cuts durations to whole microseconds; half a microsecond, what that loses on average, is added back.
    """
    starts = sorted(event.ts for event in events if event.cat == "Session" and event.name == "model_run")[1:]
    nodes = [event for event in events if event.cat == "Node" and event.name.endswith(_KERNEL)]
    rows: dict[tuple[str, str], list[_Event]] = {}
    for event in sorted(nodes, key=lambda event: event.ts):
        if starts and event.ts >= starts[0]:
            rows.setdefault((event.name, str(event.args.get("node_index"))), []).append(event)
    spent = {key: sum(event.dur + 0.5 for event in found) for key, found in rows.items()}
    total = sum(spent.values())
    table = []
    for key, found in rows.items():
        first = found[0]
        name = first.name.removesuffix(_KERNEL)
        module, slash, _ = name.partition("/")
        table.append(
            OperatorTime(
                name=name,
                kind=str(first.args["op_name"]),
                provider=str(first.args["provider"]),
                module=module if slash else "",
                calls_per_run=len(found) / len(starts),
                mean_us=spent[key] / len(found),
                share=spent[key] / total,
                start_us=float(first.ts - starts[bisect.bisect_right(starts, first.ts) - 1]),
            )
        )
    return table
