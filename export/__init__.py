"""Export: capture -> quantize -> lower -> verify -> pack.

The package is also the verb: ``edge.export("tspulse", target="rpi")`` calls ``pipeline.export``.
"""

from __future__ import annotations

import sys
import types
from typing import Any


class _Verb(types.ModuleType):
    """``edge.export`` names both this sub-package and the function that users call."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        from edge.export.pipeline import export

        return export(*args, **options)


sys.modules[__name__].__class__ = _Verb
