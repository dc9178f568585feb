"""exp, erf, tanh and sigmoid as arithmetic that vectorizes, where TVM calls the C library for each element.

A pass over scheduled kernels, float32 only. Rounding aside they are what the library computes: the largest relative
errors, measured over all of the range where the result is not constant, are 1.2e-7 (exp) and 4.4e-7 (erf, tanh);
infinities, NaN and overflow come out as they should. ``round`` becomes the CPU's own rounding to even, as in torch.

The coefficients are our own fits (iteratively reweighted least squares on the relative error, rounded to float32):
exp(r) - 1 - r over r**2 on [-ln2/2, ln2/2]; erf(x)/x on x**2 in [0, 3.925**2], tanh(x)/x on x**2 in [0, 8.4**2], beyond
which both are 1 in float32.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

EXP = (0.4999999403953552, 0.1666652113199234, 0.04166838899254799, 0.008368716575205326, 0.0013814597623422742)
ERF = (
    (
        1.1283791065216064, 0.1905927062034607, 0.05276905745267868,
        0.003772472497075796, 0.0002848361909855157, 2.045964720309712e-06,
    ),
    (
        1.0, 0.5022411346435547, 0.11418219655752182,
        0.01498305331915617, 0.0011638280702754855, 3.80467354261782e-05,
    ),
    3.925,
)  # fmt: skip
TANH = (
    (1.0, 0.1341959685087204, 0.003541636746376753, 2.138007403118536e-05, 1.445823638590582e-08),
    (1.0, 0.46752920746803284, 0.026051513850688934, 0.0003361458075232804, 8.220125096158881e-07),
    8.4,
)
#: ln 2 in two parts, the first of few enough bits that k times it is exact (Cody and Waite, 1980).
LN2 = (0.693359375, -2.12194440e-4)
#: exp is 0 below and infinite above in float32, with a margin for results that are not normal numbers.
EXP_RANGE = (-104.0, 89.0)


def vectorize_math(module: Any) -> Any:
    """``module`` with the calls in its kernels replaced."""
    import tvm
    from tvm import tirx

    updated = tvm.IRModule(dict(module.functions_items()), attrs=module.attrs)
    for variable, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc):
            updated[variable] = _replace(function)
    return updated


def _replace(function: Any) -> Any:
    import tvm
    import tvm_ffi
    from tvm import tirx

    write = _Writer()
    known: dict[str, Callable[[Any], Any]] = {
        "tirx.exp": write.exp,
        "tirx.erf": lambda x: write.ratio(x, *ERF),
        "tirx.tanh": lambda x: write.ratio(x, *TANH),
        "tirx.sigmoid": lambda x: _float(1.0) / (_float(1.0) + write.exp(_float(0.0) - x)),
        "tirx.round": tirx.nearbyint,
    }

    def replaced(call: Any) -> Any:
        rule = known.get(getattr(call.op, "name", ""))
        return call if rule is None or str(call.ty.dtype) != "float32" else rule(call.args[0])

    return tvm_ffi.structural_map(function, (tvm.ir.Call, replaced), order="post")


class _Writer:
    """Writes expressions; each intermediate value gets a name, since an expression cannot use it twice otherwise."""

    def __init__(self) -> None:
        self._names = (f"math_{index}" for index in itertools.count())

    def exp(self, x: Any) -> Any:
        """2**k * (1 + r + r**2 * P(r)) with x = k ln2 + r."""
        from tvm import tirx

        low, high = _float(EXP_RANGE[0]), _float(EXP_RANGE[1])

        def of_x(x: Any) -> Any:
            clamped = tirx.min(tirx.max(x, low), high)
            return self._let(tirx.nearbyint(clamped * _float(1.0 / math.log(2.0))), lambda k: of_k(x, k))

        def of_k(x: Any, k: Any) -> Any:
            r = (x - k * _float(LN2[0])) - k * _float(LN2[1])
            return self._let(r, lambda r: self._let(tirx.Cast("int32", k), lambda power: of_r(x, r, power)))

        def of_r(x: Any, r: Any, power: Any) -> Any:
            series = _horner(r, EXP) * (r * r) + r + _float(1.0)
            # In two steps, since 2**128 is not a float, nor are powers of results that are not normal numbers.
            half = tirx.op.shift_right(power, tirx.IntImm("int32", 1))
            scaled = self._let(half, lambda half: series * _power_of_two(half) * _power_of_two(power - half))
            above = tirx.Select(x > high, _float(math.inf), scaled)
            return tirx.Select(x < low, _float(0.0), above)

        return self._let(x, of_x)

    def ratio(self, x: Any, over: Sequence[float], under: Sequence[float], limit: float) -> Any:
        """x * P(x**2) / Q(x**2) within ``limit``; the constant first in min and max, which lets NaN through."""
        from tvm import tirx

        def of_x(x: Any) -> Any:
            return self._let(x * x, lambda t: x * _horner(t, over) / _horner(t, under))

        value = self._let(tirx.max(_float(-limit), tirx.min(_float(limit), x)), of_x)
        return tirx.max(_float(-1.0), tirx.min(_float(1.0), value))

    def _let(self, value: Any, body: Callable[[Any], Any]) -> Any:
        from tvm import tirx

        variable = tirx.Var(next(self._names), str(value.ty.dtype))
        return tirx.Let(variable, value, body(variable))


def _horner(x: Any, coefficients: Sequence[float]) -> Any:
    value = _float(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + _float(coefficient)
    return value


def _power_of_two(exponent: Any) -> Any:
    """By the exponent's place in a float32."""
    from tvm import tirx

    bits = tirx.op.shift_left(exponent + tirx.IntImm("int32", 127), tirx.IntImm("int32", 23))
    return tirx.reinterpret("float32", bits)


def _float(value: float) -> Any:
    from tvm import tirx

    return tirx.FloatImm("float32", value)
