"""Matrix products."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from imgrec_engine import kernels, packing
from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable, is_recording
from imgrec_engine.device import contiguous, empty, place
from imgrec_engine.dtypes import is_floating, promote, uint8
from imgrec_engine.errors import DTypeError, ShapeError
from imgrec_engine.ops.activation import NEEDS_INPUT, activated, activation_gradient, activation_name
from imgrec_engine.ops.arithmetic import unbroadcast

__all__ = ["linear", "matmul"]

DType = np.dtype[Any]
Shape = tuple[int, ...]


def _multiply(c: Array, a: Array, b: Array) -> None:
    """The kernel on arrays: c (B, M, N) = a (B, M, K) b (B, K, N), or c (..., N) = a (..., K) b (K, N)."""
    module, context = kernels.of(a)
    batch, rows = (1, math.prod(a.shape[:-1])) if b.ndim == 2 else a.shape[:2]
    plan = kernels.plan(module.matmul_plan, context, batch, rows, b.shape[-1], a.shape[-1], a.dtype)
    packed = None
    if plan.packed_bytes:
        packed = empty((plan.packed_bytes,), uint8, a)
        module.matmul_pack(context, packed, b, rows)
    module.matmul(context, c, a, b, packed, None, None, "", kernels.workspace(plan, a))


def product(a: Array, b: Array) -> Array:
    """The product of a (..., M, K) with b (..., K, N), (..., M, N); leading dimensions broadcast."""
    if b.ndim == 2 and (a.ndim == 2 or a.flags.c_contiguous):  # one product of many rows instead of many products
        c = empty((*a.shape[:-1], b.shape[1]), a.dtype, a)
        _multiply(c, a, b)
        return c
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    count = math.prod(batch)
    a3 = place(np.broadcast_to(a, (*batch, m, k)).reshape(count, m, k), type(a))
    b3 = place(np.broadcast_to(b, (*batch, k, n)).reshape(count, k, n), type(b))
    c3 = empty((count, m, n), a.dtype, a)
    _multiply(c3, a3, b3)
    return c3.reshape(*batch, m, n)


def _common_dtype(name: str, a: DType, b: DType) -> DType:
    if not (is_floating(a) and is_floating(b)):
        raise DTypeError(f"{name}: the operands are {a.name} and {b.name}, expected floating dtypes")
    return a if a == b else promote(a, b)


@differentiable(precision="low")
def matmul(a: Array, b: Array) -> Result:
    """The matrix product of a (..., M, K) and b (..., K, N): (..., M, N). Also ``a @ b``.

    Leading dimensions broadcast. A vector on the left counts as one row, on the right as one column, and that
    dimension is dropped from the result. float16 and bfloat16 accumulate in float32.

    >>> import imgrec_engine as ie
    >>> (ie.ones((2, 3)) @ ie.ones((3, 4))).shape, (ie.ones(3) @ ie.ones(3)).item()
    ((2, 4), 3.0)
    """
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(f"matmul: shapes {a.shape} and {b.shape}; both need a dimension at least (use * for scalars)")
    dtype = _common_dtype("matmul", a.dtype, b.dtype)
    a, b = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
    row, column = a.ndim == 1, b.ndim == 1
    a_rows = a[None, :] if row else a
    b_columns = b[:, None] if column else b
    try:
        if a_rows.shape[-1] != b_columns.shape[-2]:
            raise ValueError
        if a_rows.ndim > 2 or b_columns.ndim > 2:
            np.broadcast_shapes(a_rows.shape[:-2], b_columns.shape[:-2])
    except ValueError:
        raise ShapeError(
            f"matmul: shapes {a.shape} and {b.shape} do not fit; expected (..., M, K) and (..., K, N)"
        ) from None
    c = product(a_rows, b_columns)
    drop = (-2,) * row + (-1,) * column

    def backward(dc: Array, needs: Needs) -> Gradients:
        dc = np.expand_dims(dc, drop) if drop else dc
        da = unbroadcast(product(dc, b_columns.swapaxes(-1, -2)), a_rows.shape).reshape(a.shape) if needs[0] else None
        db = unbroadcast(product(a_rows.swapaxes(-1, -2), dc), b_columns.shape).reshape(b.shape) if needs[1] else None
        return da, db

    return (c.squeeze(drop) if drop else c), backward


class _Linear:
    """What the kernel is told about a product of rows with a weight besides the arrays."""

    def __init__(self, module: Any, context: Any, x: Shape, weight: Shape, x_dtype: DType, weight_dtype: DType) -> None:
        if len(weight) != 2 or not x or x[-1] != weight[1]:
            raise ShapeError(f"linear: x is {x} and weight {weight}; expected (..., in) and (out, in)")
        self.dtype = _common_dtype("linear", x_dtype, weight_dtype)
        self.promotes = x_dtype != weight_dtype
        self.output, self.width = (*x[:-1], weight[0]), weight[:1]
        self.rows = rows = math.prod(x[:-1])
        self.plan = kernels.new_plan(module.matmul_plan, context, 1, rows, *weight, self.dtype)
        self.layout = packing.Layout(
            self.plan, "linear", lambda to, weight: module.matmul_pack(context, to, weight.T, rows)
        )

    def residual(self, given: Array) -> Array:
        """What the result is added to, as the kernel takes it."""
        if given.shape != self.output:
            raise ShapeError(f"linear: residual is {given.shape}, expected the result's shape {self.output}")
        if not is_floating(given.dtype):
            raise DTypeError(f"linear: residual is {given.dtype.name}, expected a floating dtype")
        return contiguous(given if given.dtype == self.dtype else given.astype(self.dtype))


_linear = functools.lru_cache(maxsize=4096)(_Linear)  # the same one for the same description


@differentiable(precision="low")
def linear(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    activation: str | None = None,
    residual: Array | None = None,
) -> Result:
    """activation(X W^T + b + residual): x (..., in) with weight (out, in) and bias (out,) gives (..., out).

    The activation is None, "relu", "gelu", "silu", "sigmoid" or "tanh". ``residual`` has the shape of the result.
    ShapeError where shapes do not fit, DTypeError for a dtype that is not floating.

    >>> import imgrec_engine as ie
    >>> linear(ie.ones((5, 3)), ie.ones((2, 3)), ie.zeros(2)).shape
    (5, 2)
    """
    module, context = kernels.of(x)
    call = _linear(module, context, x.shape, weight.shape, x.dtype, weight.dtype)
    kind, dtype = activation_name("linear", activation), call.dtype
    versions = packing.lasting_versions(weight)
    if bias is not None:
        if bias.shape != call.width:
            raise ShapeError(f"linear: bias is {bias.shape}, expected {call.width}")
        bias = contiguous(bias if bias.dtype == dtype else bias.astype(dtype))
    if residual is not None:
        residual = call.residual(residual)
    if call.promotes:
        x, weight = x.astype(dtype, copy=False), weight.astype(dtype, copy=False)
    if x.ndim != 2:
        x = contiguous(x)
    y = empty(call.output, dtype, x)
    needs_input = kind in NEEDS_INPUT and is_recording()  # then it is kept, and activated apart
    packed, follows = call.layout.of((weight,), versions), "" if needs_input else kind
    module.matmul(context, y, x, weight.T, packed, bias, residual, follows, kernels.workspace(call.plan, x))
    saved = y if kind else None
    if needs_input:
        y = activated(kind, y)

    def backward(dy: Array, needs: Needs) -> Gradients:
        dz = dy if saved is None else activation_gradient(kind, dy, saved)
        dz_rows = dz.reshape(call.rows, *call.width)
        dx = product(dz_rows, weight).reshape(x.shape) if needs[0] else None
        dweight = product(dz_rows.T, x.reshape(call.rows, weight.shape[1])) if needs[1] else None
        dbias = unbroadcast(dz_rows, call.width) if needs[2] else None
        return dx, dweight, dbias, dz if needs[3] else None

    return y, backward
