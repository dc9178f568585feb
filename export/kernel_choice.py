"""Whether an export takes edge's own kernels, and how: what ``--sparse`` and ``--skip-up`` come to for a runtime, scheme and model."""

from __future__ import annotations

from edge.errors import UsageError
from edge.export.base import Lowering
from edge.families.base import Model
from edge.runtimes.kernels.binding import GROUP
from edge.spec import Scheme, Sparse, Target


def sparse_for(asked: str, lowering: Lowering, scheme: Scheme, target: Target, group_size: int) -> Sparse:
    """What the family is asked for: OFF where the kernels cannot serve, unless they were asked for by name."""
    try:
        wanted = Sparse(asked)
    except ValueError:
        raise UsageError(f"--sparse cannot be '{asked}': choose auto, on or off.") from None
    lacks = ""
    if scheme not in lowering.kernels:
        known = ", ".join(item.value for item in lowering.kernels) or "no scheme"
        lacks = f"{lowering.runtime} takes them for {known} and this is {scheme.value}"
    elif group_size != GROUP and scheme is Scheme.INT4:
        lacks = f"their groups are of {GROUP} weights"
    elif not target.triple.endswith("linux-gnu"):
        lacks = f"they are built for Linux with glibc and the target is {target.triple}"
    if lacks and wanted is Sparse.ON:
        raise UsageError(f"edge's kernels cannot serve here ({lacks}): leave --sparse on out, or choose otherwise.")
    return Sparse.OFF if lacks else wanted


def skip_up_for(asked: str, lowering: Lowering, scheme: Scheme) -> float | None:
    """The share to keep, None for off."""
    if asked == "off":
        return None
    try:
        share = float(asked)
    except ValueError:
        share = 0.0
    if not 0.5 <= share < 1:
        raise UsageError(f"--skip-up cannot be '{asked}': give the share to keep, 0.5 to 0.99999 (0.999, say), or off.")
    if scheme is not Scheme.INT4:
        raise UsageError(f"only 4-bit weights come in two halves and this is {scheme.value}: pass --quantize int4, or leave --skip-up out.")
    if not lowering.skips:
        raise UsageError(f"{lowering.runtime} cannot skip up halves: pass --runtime executorch or tvm, or leave --skip-up out.")
    return share


def offers_kernels(name: str, model: Model, wanted: Sparse) -> bool:
    offers = wanted is not Sparse.OFF and all(entry.kernels is not None for entry in model.entries)
    if wanted is Sparse.ON and not offers:
        raise UsageError(
            f"{name} has no form for edge's kernels, which know PLM and MLPs of squared ReLUs without biases: leave --sparse on out."
        )
    return offers
