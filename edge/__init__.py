"""edge: from a PyTorch model to a Raspberry Pi, a phone or a plain CPU.

Five verbs, the same as the command line's::

    import edge
    bundle = edge.export("tspulse", target="rpi")
    session = edge.load("tspulse-rpi.edge")
    outputs = session.run("reconstruct", {"past_values": series})
    edge.verify("tspulse-rpi.edge")
    edge.profile("tspulse-rpi.edge", threads=2)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge._version import __version__
from edge.errors import EdgeError

if TYPE_CHECKING:
    from edge.api import load, profile, verify
    from edge.export.pipeline import export

__all__ = ["EdgeError", "__version__", "export", "load", "profile", "verify"]


def __getattr__(name: str) -> object:
    # The verbs pull in numpy and a runtime; `edge --help` must not wait for them.
    if name == "export":
        import importlib

        return importlib.import_module("edge.export")
    if name in ("load", "verify", "profile"):
        from edge import api

        return getattr(api, name)
    raise AttributeError(f"module 'edge' has no attribute '{name}'")
