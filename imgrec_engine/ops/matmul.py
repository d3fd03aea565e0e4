"""Matrix products."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from imgrec_engine import kernels, packing
from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable, is_recording
from imgrec_engine.device import contiguous, empty, place
from imgrec_engine.dtypes import is_floating, promote
from imgrec_engine.errors import DTypeError, ShapeError
from imgrec_engine.ops.activation import NEEDS_INPUT, activated, activation_gradient, activation_name
from imgrec_engine.ops.arithmetic import unbroadcast

__all__ = ["linear", "matmul"]


def _multiply(
    c: Array,
    a: Array,
    b: Array,
    weight: Array | None = None,
    versions: Any = None,
    bias: Array | None = None,
    activation: str = "",
) -> None:
    """The kernel on arrays: c (B, M, N) = activation(a (B, M, K) b (B, K, N) + bias (N,)).

    Where b is a view of a weight, and its versions are given, packed b is kept with them.
    """
    module, context = kernels.of(a)
    batch, m, k = a.shape
    plan = kernels.plan(module.matmul_plan, context, batch, m, b.shape[2], k, a.dtype)
    packed = None
    if plan.packed_bytes:
        weights = (b if weight is None else weight,)
        packed = packing.packed(weights, versions, plan, "", lambda to: module.matmul_pack(context, to, b, m))
    module.matmul(context, c, a, b, packed, bias, activation, kernels.workspace(plan, a))


def product(a: Array, b: Array) -> Array:
    """The product of a (..., M, K) with b (..., K, N), (..., M, N); leading dimensions broadcast."""
    if b.ndim == 2 and (a.ndim == 2 or a.flags.c_contiguous):  # one product of many rows instead of many products
        c = empty((*a.shape[:-1], b.shape[1]), a.dtype, a)
        rows = math.prod(a.shape[:-1])
        _multiply(c.reshape(1, rows, b.shape[1]), a.reshape(1, rows, a.shape[-1]), b[None])
        return c
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    count = math.prod(batch)
    a3 = place(np.broadcast_to(a, (*batch, m, k)).reshape(count, m, k), type(a))
    b3 = place(np.broadcast_to(b, (*batch, k, n)).reshape(count, k, n), type(b))
    c3 = empty((count, m, n), a.dtype, a)
    _multiply(c3, a3, b3)
    return c3.reshape(*batch, m, n)


def _operands(name: str, a: Array, b: Array) -> tuple[Array, Array]:
    if not (is_floating(a.dtype) and is_floating(b.dtype)):
        raise DTypeError(f"{name}: the operands are {a.dtype.name} and {b.dtype.name}, expected floating dtypes")
    if a.dtype == b.dtype:
        return a, b
    dtype = promote(a.dtype, b.dtype)
    return a.astype(dtype, copy=False), b.astype(dtype, copy=False)


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
    a, b = _operands("matmul", a, b)
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


@differentiable(precision="low")
def linear(x: Array, weight: Array, bias: Array | None = None, activation: str | None = None) -> Result:
    """activation(X W^T + b): x (..., in) with weight (out, in) and bias (out,) gives (..., out).

    The activation is None, "relu", "gelu", "silu", "sigmoid" or "tanh". ShapeError where shapes do not fit.

    >>> import imgrec_engine as ie
    >>> linear(ie.ones((5, 3)), ie.ones((2, 3)), ie.zeros(2)).shape
    (5, 2)
    """
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ShapeError(f"linear: x is {x.shape} and weight {weight.shape}; expected (..., in) and (out, in)")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(f"linear: bias is {bias.shape}, expected {weight.shape[:1]}")
    kind = activation_name("linear", activation)
    versions = packing.lasting_versions(weight)
    x, weight = _operands("linear", x, weight)
    added = None if bias is None else contiguous(bias.astype(x.dtype, copy=False))
    count, (width, depth) = math.prod(x.shape[:-1]), weight.shape
    rows = x.reshape(1, count, depth)
    y = empty((*x.shape[:-1], width), x.dtype, x)
    needs_input = kind in NEEDS_INPUT and is_recording()  # then it is kept, and activated apart
    follows = "" if needs_input else kind
    _multiply(y.reshape(1, count, width), rows, weight.T[None], weight, versions, added, follows)
    saved = y if kind else None
    if needs_input:
        y = activated(kind, y)

    def backward(dy: Array, needs: Needs) -> Gradients:
        dz = dy if saved is None else activation_gradient(kind, dy, saved)
        dz_rows = dz.reshape(count, width)
        dx = product(dz_rows, weight).reshape(x.shape) if needs[0] else None
        dweight = product(dz_rows.T, rows[0]) if needs[1] else None
        dbias = unbroadcast(dz_rows, weight.shape[:1]) if needs[2] else None
        return dx, dweight, dbias

    return y, backward
