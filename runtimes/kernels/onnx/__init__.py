"""The kernels as operators of ONNX Runtime, domain ``edge``: a session takes them in from the kernels' own library (ops.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.errors import BundleError
from edge.runtimes import kernels

if TYPE_CHECKING:
    from onnxruntime import SessionOptions

DOMAIN = "edge"


def register(options: SessionOptions) -> None:
    """Let sessions with ``options`` call the operators. Raises as ``kernels.library`` does, BundleError for an unfit runtime."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kernels.load()  # here to stay, and of this package's ABI
    try:
        options.register_custom_ops_library(str(kernels.library()))
    except state.Fail as error:
        reason = str(error).strip().partition("\n")[0].rpartition(" : ")[2].rstrip(".")
        raise BundleError(f"the installed onnxruntime does not take edge's kernels ({reason}): install the version of edge[onnx].") from error
