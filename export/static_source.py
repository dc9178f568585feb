"""A plan as what the executor reads: constants in C, by ``runtimes/native/src/static/plan.h``, and the weights' file."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence

from edge.export.static_plan import COPY, EntryPlan, Placed, Plan

#: DLPack's type codes (dlpack.h, DLDataTypeCode): whole numbers, unsigned ones, floats, truth values; and their bits.
_CODES: Mapping[str, tuple[int, int]] = {
    "int8": (0, 8), "int16": (0, 16), "int32": (0, 32), "int64": (0, 64),
    "uint8": (1, 8), "uint16": (1, 16), "uint32": (1, 32), "uint64": (1, 64),
    "float16": (2, 16), "float32": (2, 32), "float64": (2, 64), "bool": (6, 8),
}  # fmt: skip
_MAGIC = b"EDGEWGT1"
#: How TVM names the C function of a kernel (tvm-ffi's TVMFFISymbolPrefix).
_PREFIX = "__tvm_ffi_"


def weights_file(weights: bytes) -> bytes:
    """A header of 64 bytes (magic, size, SHA-256), and the constants."""
    return struct.pack("<8sQ32s16x", _MAGIC, len(weights), hashlib.sha256(weights).digest()) + weights


def plan_source(plan: Plan, model: str, inputs: Mapping[str, Sequence[str]], outputs: Mapping[str, Sequence[str]]) -> str:
    """C of ``plan``; ``inputs`` and ``outputs`` are the names of each entry point's tensors."""
    kernels = list(dict.fromkeys(step.kernel for entry in plan.entries for step in entry.steps))
    shapes = _Shapes()
    parts = [_entry(number, entry, kernels, shapes, inputs[entry.name], outputs[entry.name]) for number, entry in enumerate(plan.entries)]
    functions = [COPY if name == COPY else f"{_PREFIX}{name}" for name in kernels]
    digest = ", ".join(map(str, hashlib.sha256(plan.weights).digest()))
    return "\n".join([
        '#include "plan.h"',
        *(f"int {name}(void *, const edge_argument *, int32_t, edge_argument *);" for name in functions if name != COPY),
        f"static const edge_kernel kernels[] = {{{', '.join(functions)}}};",
        f"static const char *const kernel_names[] = {{{', '.join(map(_text, kernels))}}};",
        f"static const int64_t shapes[] = {{{', '.join(map(str, shapes.sizes or [0]))}}};",
        *parts,
        "static const edge_entry entries[] = {",
        *(
            f"  {{{_text(entry.name)}, inputs{number}, outputs{number}, tensors{number}, arguments{number}, calls{number}, "
            f"{len(entry.inputs)}, {len(entry.outputs)}, {len(_tensors(entry))}, {len(entry.steps)}}},"
            for number, entry in enumerate(plan.entries)
        ),
        "};",
        f"const edge_plan edge_static_plan = {{{_text(model)}, shapes, kernels, kernel_names, entries, {plan.arena_bytes}, "
        f"{len(plan.weights)}, {len(plan.entries)}, {{{digest}}}}};",
        "",
    ])  # fmt: skip


class _Shapes:
    """Every shape once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._known: dict[tuple[int, ...], int] = {}

    def start(self, shape: tuple[int, ...]) -> int:
        if shape not in self._known:
            self._known[shape] = len(self.sizes)
            self.sizes += shape
        return self._known[shape]


def _entry(
    number: int, entry: EntryPlan, kernels: Sequence[str], shapes: _Shapes, inputs: Sequence[str], outputs: Sequence[str]
) -> str:
    tensors = _tensors(entry)
    indices = {tensor: index for index, tensor in enumerate(tensors)}
    arguments = [indices[tensor] for step in entry.steps for tensor in step.tensors]
    calls, first = [], 0
    for step in entry.steps:
        calls.append(f"{{{first}, {kernels.index(step.kernel)}, {len(step.tensors)}}}")
        first += len(step.tensors)

    def values(names: Sequence[str], placed: Sequence[Placed]) -> list[str]:
        return [
            f"{{{_text(name)}, {_text(one.dtype)}, {one.bytes}, {shapes.start(one.shape)}, {len(one.shape)}}}"
            for name, one in zip(names, placed, strict=True)
        ]

    def tensor(one: Placed) -> str:
        code, bits = _CODES[one.dtype]
        return f"{{{one.offset}, {shapes.start(one.shape)}, {one.index}, {int(one.place)}, {len(one.shape)}, {code}, {bits}}}"

    return "\n".join([
        *_table("edge_value", f"inputs{number}", values(inputs, entry.inputs)),
        *_table("edge_value", f"outputs{number}", values(outputs, entry.outputs)),
        *_table("edge_tensor", f"tensors{number}", [tensor(one) for one in tensors]),
        *_table("uint32_t", f"arguments{number}", [str(index) for index in arguments]),
        *_table("edge_call", f"calls{number}", calls),
    ])  # fmt: skip


def _tensors(entry: EntryPlan) -> list[Placed]:
    return list(dict.fromkeys(tensor for step in entry.steps for tensor in step.tensors))


def _table(kind: str, name: str, rows: Sequence[str]) -> Iterator[str]:
    yield f"static const {kind} {name}[] = {{"
    yield from (f"  {row}," for row in rows or ["0" if kind == "uint32_t" else "{0}"])
    yield "};"


def _text(text: str) -> str:
    """A C string of any text."""
    escaped = "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\?' else f"\\{byte:03o}" for byte in text.encode())
    return f'"{escaped}"'
