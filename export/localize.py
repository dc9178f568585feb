"""Localize: the layers where a failing stage's error starts.

The entry's module is copied and made to return the output of each of its submodules as well; the copy goes through the
same stages, and each submodule's output is compared with eager's. The first ones that are off, in order of execution,
are where to look: what comes after inherits their error.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edge.errorstats import compare_all
from edge.export.base import Captured
from edge.export.capture import capture, complete, to_tensors
from edge.families.base import Arrays, EntryPoint
from edge.manifest import LayerError
from edge.spec import Tolerance

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Runs a tapped entry at the failing stage: takes its capture, gives a function of a sample.
Stage = Callable[[Captured], Callable[[Arrays], Arrays]]


def first_error(entry: EntryPoint, stage: Stage, tolerance: Tolerance, limit: int = 3) -> tuple[LayerError, ...]:
    """Up to ``limit`` submodules, in order of execution, whose outputs leave ``tolerance`` at ``stage``.

    Empty if every submodule is within it (then the error starts between submodules, in the entry's own code).
    """
    tapped, kinds = tap(entry)
    if not kinds:
        return ()
    captured = capture(tapped)
    compute = stage(captured)
    stats = compare_all([(reference, compute(sample)) for sample, reference in captured.references], tolerance)
    wrong = [
        LayerError(
            module=stat.output.removeprefix(_PREFIX).replace(_DOT, "."),
            operator=kinds[stat.output],
            relative=stat.relative,
            cosine=stat.cosine,
        )
        for stat in stats
        if stat.output in kinds and not stat.passed
    ]
    return tuple(wrong[:limit])


# Runtimes want plain identifiers as tensor names.
_PREFIX = "tap__"
_DOT = "__"


def tap(entry: EntryPoint) -> tuple[EntryPoint, Mapping[str, str]]:
    """The entry with every submodule's tensor as a further output, and each such output's module class."""
    import torch

    module = copy.deepcopy(entry.module)
    kinds: dict[str, str] = {}
    taken: dict[str, torch.Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.is_floating_point():
                # A clone: an output that aliases another, or an input, confuses memory planners.
                taken[name] = output.clone()

        return hook

    handles = []
    for path, submodule in module.named_modules():
        if path:
            name = _PREFIX + path.replace(".", _DOT)
            kinds[name] = type(submodule).__name__
            handles.append(submodule.register_forward_hook(watch(name)))
    with torch.no_grad():
        module(*to_tensors(entry, complete(entry, entry.samples[0])))
    order = list(taken)  # in order of execution
    forward = module.forward

    def tapped(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        taken.clear()
        outputs = forward(*arguments)
        listed = (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)
        return (*(taken[name] for name in order), *listed)

    module.forward = tapped
    outputs = (*order, *entry.outputs)
    return replace(entry, module=module, outputs=outputs), {name: kinds[name] for name in order}
