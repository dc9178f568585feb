"""XNNPACK's own graph passes, those that have something to do.

Each of executorch's seventeen passes over a delegate traces its whole graph again, whether it found anything or not, and
that is half the time of lowering. Here a pass whose operators do not occur in the graph is skipped; what is lowered is
the same, to the byte. A pass that is not listed below always runs.
"""

from __future__ import annotations

import contextlib
import copy
import gc
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest import mock

if TYPE_CHECKING:
    from torch.export import ExportedProgram

#: New objects between two looks for garbage (Python's own: 700).
SELDOM = 100_000
_BATCH_NORM = frozenset({"native_batch_norm", "_native_batch_norm_legit_no_training"})

#: What a pass looks for (executorch 1.5.1, backends/xnnpack/_passes): without one of these it changes nothing.
_LOOKS_FOR: Mapping[str, frozenset[str]] = {
    "ConvertToUpsampleBilinear2d": frozenset({"upsample_bilinear2d", "index"}),
    "ConvertToSDPAPass": frozenset({"bmm"}),
    "FuseBatchNormPass": _BATCH_NORM,
    "DecomposeBatchNorm": _BATCH_NORM,
    "FuseActivationPass": frozenset({"relu", "hardtanh"}),
    "DecomposeConcatenate": frozenset({"cat"}),
    "InsertPadQDQPass": frozenset({"constant_pad_nd"}),
    "Conv1dUnsqueezePass": frozenset({"convolution"}),
    "PReLUReshapePass": frozenset({"_prelu_kernel"}),
    "RemoveRedundantCopyPass": frozenset({"_to_copy"}),
}


@contextlib.contextmanager
def needed_passes() -> Iterator[None]:
    """While this is open, lowering to XNNPACK skips the passes that have nothing to do.

    Two more things are left out that cost a third of the time: copying each node's whole history at each pass (nobody
    changes it, so it is shared), and looking for garbage as often as usual among millions of objects that all live.
    """
    import torch.fx.traceback
    from executorch.backends.xnnpack import xnnpack_preprocess

    runs_all = xnnpack_preprocess.XNNPACKPassManager

    class Needed(runs_all):  # type: ignore[misc, valid-type]
        def transform(self) -> ExportedProgram:
            program: ExportedProgram = self.exported_program
            for each in self.passes:
                looks_for = _LOOKS_FOR.get(each.__name__)
                if looks_for is None or looks_for & _operators(program):
                    program = runs_all(program, passes=[each]).transform()
            return program

    shared = SimpleNamespace(deepcopy=lambda history: history, copy=copy.copy)
    usual = gc.get_threshold()
    gc.set_threshold(SELDOM, *usual[1:])
    try:
        with (
            mock.patch.object(xnnpack_preprocess, "XNNPACKPassManager", Needed),
            mock.patch.object(torch.fx.traceback, "copy", shared),
        ):
            yield
    finally:
        gc.set_threshold(*usual)


def _operators(program: ExportedProgram) -> frozenset[str]:
    """Names without namespace and overload: ``linear``."""
    calls = (node for node in program.graph.nodes if node.op == "call_function")
    targets = (str(getattr(node.target, "_op", node.target)) for node in calls)
    return frozenset(target.split(".")[1] if "." in target else target for target in targets)
