"""An ETDump's events as rows of the per-operator table, each with the module it comes from.

XNNPACK names what it ran ("Fully Connected (NC, F32) GEMM #2") and not what that was lowered from. It runs a delegate's
operators in the graph's order, fuses some and adds copies and layout changes of its own; so its names are aligned
with the operators that the delegate took over, and what has no counterpart gets no module.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from edge.runtimes._etdump import Block
from edge.runtimes._events import Event
from edge.runtimes.base import OperatorTime

#: The mean remainder that is lost where XNNPACK cuts a duration to whole microseconds, in nanoseconds.
HALF_MICROSECOND = 500.0
KEPT_RUNS = 0.75

#: A delegate whose operators are so short that their whole microseconds add up to less than this part of its time is
#: shown as one: their shares would be made up.
LEAST_RESOLVED = 0.2

#: What XNNPACK calls the work of an ATen operator, where the names differ by more than case.
_CALLED: Mapping[str, tuple[str, ...]] = {
    "linear": ("Fully Connected", "Dynamic Fully Connected"),
    "addmm": ("Fully Connected", "Dynamic Fully Connected"),
    "mm": ("Fully Connected", "Dynamic Fully Connected"),
    "bmm": ("Batch Matrix Multiply",),
    "convolution": ("Convolution", "Deconvolution"),
    "gelu": ("GELU", "ApproxGELU"),
    "mul": ("Multiply",),
    "sub": ("Subtract",),
    "div": ("Divide",),
    "neg": ("Negate",),
    "pow": ("Square", "Power"),
    "sqrt": ("Square Root",),
    "rsqrt": ("Reciprocal Square Root",),
    "sin": ("Sine",),
    "cos": ("Cosine",),
    "ceil": ("Ceiling",),
    "relu": ("Clamp",),
    "hardtanh": ("Clamp",),
    "mean": ("Mean", "Global Average Pooling"),
    "avg_pool2d": ("Average Pooling",),
    "max_pool2d": ("Max Pooling",),
    "permute_copy": ("Transpose",),
    "slice_copy": ("Slice",),
    "cat": ("Concatenate", "Copy"),
    "constant_pad_nd": ("Constant Pad",),
    "view_copy": ("Static Reshape", "Copy"),
    "unsqueeze_copy": ("Static Expand Dims", "Copy"),
    "squeeze_copy": ("Fuse Dims", "Copy"),
    "_to_dim_order_copy": ("Convert", "Copy"),
    "_clone_dim_order": ("Copy",),
    "upsample_bilinear2d": ("Resize Bilinear",),
    "quantize_per_tensor": ("Convert",),
    "dequantize_per_tensor": ("Convert",),
    "quantize_affine": ("Convert",),
    "dequantize_affine": ("Convert",),
}  # fmt: skip


@dataclass
class _Row:
    instruction: int
    label: str
    provider: str
    calls: int = 0
    total: float = 0.0  # ns
    starts: list[float] = field(default_factory=list)  # ns after the run's start, one a run


def operator_times(blocks: Sequence[Block], modules: Mapping[str, Sequence[Sequence[str]]]) -> list[OperatorTime]:
    """Rows in order of execution over the ``Execute`` blocks, the slowest quarter of them (interrupted runs) left out.

    ``modules`` gives, for each instruction, the (operator, module path) pairs that it was lowered from. XNNPACK's
    durations are cut to whole microseconds: half of one is added back to each, as far as its delegate's own time,
    which has nanoseconds, has room for it. A delegate that runs too short for such a clock is one row.
    """
    runs = sorted((block for block in blocks if block.name == "Execute" and block.events), key=_duration)
    runs = runs[: math.ceil(KEPT_RUNS * len(runs))]
    coarse = _coarse(runs)
    rows: dict[tuple[int, str], _Row] = {}
    for run in runs:
        origin = min(event.start for event in run.events)
        seen = set()
        for instruction, label, provider, start, duration in _operators(run.events, coarse):
            row = rows.setdefault((instruction, label), _Row(instruction, label, provider))
            row.calls += 1
            row.total += duration
            if (instruction, label) not in seen:
                seen.add((instruction, label))
                row.starts.append(start - origin)
    ordered = sorted(rows.values(), key=lambda row: sum(row.starts) / len(row.starts))
    total = sum(row.total for row in ordered) or 1.0
    sources = _sources(ordered, modules)
    return [
        OperatorTime(
            name=f"{row.instruction}/{row.label}",
            kind=_kind(row),
            provider=row.provider,
            module=sources[row.instruction, row.label],
            calls_per_run=row.calls / len(runs),
            mean_us=row.total / row.calls / 1e3,
            share=row.total / total,
            start_us=sum(row.starts) / len(row.starts) / 1e3,
        )
        for row in ordered
    ]


def _kind(row: _Row) -> str:
    if row.provider == "portable":
        return row.label.rpartition(".")[0]
    return "delegate" if row.label.startswith("delegate of ") else row.label.split(" #")[0]


def _duration(run: Block) -> int:
    return max(event.end for event in run.events) - min(event.start for event in run.events)


def align(labels: Sequence[str], operators: Sequence[Sequence[str]]) -> list[str]:
    """For each of XNNPACK's labels the module of its operator, by the longest common subsequence; "" for none."""
    longest = [[0] * (len(operators) + 1) for _ in range(len(labels) + 1)]
    for row in range(len(labels) - 1, -1, -1):
        for column in range(len(operators) - 1, -1, -1):
            same = 1 + longest[row + 1][column + 1] if _computes(labels[row], operators[column][0]) else 0
            longest[row][column] = max(same, longest[row + 1][column], longest[row][column + 1])
    found = [""] * len(labels)
    row = column = 0
    while row < len(labels) and column < len(operators):
        if _computes(labels[row], operators[column][0]) and longest[row][column] == 1 + longest[row + 1][column + 1]:
            found[row] = operators[column][1]
            row, column = row + 1, column + 1
        elif longest[row + 1][column] >= longest[row][column + 1]:
            row += 1
        else:
            column += 1
    return found


def _computes(label: str, operator: str) -> bool:
    head = label.split(" (")[0].split(" #")[0]
    return head in _CALLED.get(operator, ()) or head.replace(" ", "").lower() == operator.replace("_", "")


def _coarse(runs: Sequence[Block]) -> set[int]:
    """Instructions whose delegates' operators XNNPACK's clock does not resolve."""
    parts: dict[int, int] = {}
    whole: dict[int, int] = {}
    for event in (event for run in runs for event in run.events):
        if event.delegate_id:
            parts[event.instruction] = parts.get(event.instruction, 0) + event.end - event.start
        elif event.name == "DELEGATE_CALL":
            whole[event.instruction] = whole.get(event.instruction, 0) + event.end - event.start
    return {key for key, total in whole.items() if parts.get(key, 0) < LEAST_RESOLVED * total}


def _operators(events: Sequence[Event], coarse: set[int]) -> Iterator[tuple[int, str, str, float, float]]:
    """(instruction, label, provider, start, duration) of each operator of one run, times in ns."""
    inside: list[Event] = []
    for event in events:
        if event.delegate_id:
            inside.append(event)
        elif event.name == "DELEGATE_CALL":
            if event.instruction in coarse and inside:
                label = f"delegate of {len(inside)} operators" if len(inside) > 1 else inside[0].delegate_id
                yield event.instruction, label, "XNNPACK", event.start, event.end - event.start
            else:
                yield from _delegated(inside, event)
            inside = []
        elif event.name.startswith("native_call_"):
            label = event.name.removeprefix("native_call_")
            yield event.instruction, label, "portable", event.start, event.end - event.start


def _delegated(parts: Sequence[Event], whole: Event) -> Iterator[tuple[int, str, str, float, float]]:
    if not parts:
        return
    spare = whole.end - parts[0].start - sum(part.end - part.start for part in parts)
    lost = max(0.0, min(HALF_MICROSECOND, spare / len(parts)))
    start = float(parts[0].start)
    for part in parts:
        duration = part.end - part.start + lost
        yield part.instruction, part.delegate_id, "XNNPACK", start, duration
        start += duration


def _sources(rows: Sequence[_Row], modules: Mapping[str, Sequence[Sequence[str]]]) -> dict[tuple[int, str], str]:
    found: dict[tuple[int, str], str] = {}
    for instruction in {row.instruction for row in rows}:
        mine = [row for row in rows if row.instruction == instruction]
        known = modules.get(str(instruction), ())
        if mine[0].provider == "portable":
            paths = [known[0][1] if known else ""] * len(mine)
        else:
            paths = align([row.label for row in mine], known)
        found.update({(instruction, row.label): path for row, path in zip(mine, paths, strict=True)})
    return found
