"""Functions of each element by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from imgrec_engine import arrays
from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable
from imgrec_engine.device import empty, empty_like
from imgrec_engine.dtypes import bool_, float32, is_floating
from imgrec_engine.errors import DTypeError, ShapeError
from imgrec_engine.ops.arithmetic import operands, unbroadcast

__all__ = ["abs", "cast", "clip", "clone", "cos", "exp", "log", "sin", "sqrt", "where"]


@differentiable
def clone(x: Array) -> Result:
    """A copy in memory of its own.

    >>> import imgrec_engine as ie
    >>> x = ie.zeros(2)
    >>> clone(x).fill_(1).numpy(), x.numpy()
    (array([1., 1.], dtype=float32), array([0., 0.], dtype=float32))
    """
    y = empty_like(x)
    np.copyto(y, x)

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (dy,)

    return y, backward


@differentiable
def cast(x: Array, dtype: np.dtype[np.generic]) -> Result:
    """The same values rounded to another dtype; the gradient is rounded back. Also ``x.to(dtype)``.

    >>> import imgrec_engine as ie
    >>> cast(ie.tensor([1.7, -1.7]), ie.dtypes.int64).numpy()
    array([ 1, -1])
    """
    before = x.dtype

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (dy.astype(before),)

    return x.astype(dtype), backward


def _map(function: Callable[..., Any], x: Array) -> tuple[Array, Array]:
    """The operand and the function's value, both floating: integers are lifted to float32."""
    if not is_floating(x.dtype):
        x = x.astype(float32)
    return x, function(x, out=empty(x.shape, x.dtype, x))


@differentiable(precision="full")
def exp(x: Array) -> Result:
    """E to the power of x; integers give float32.

    >>> import imgrec_engine as ie
    >>> exp(ie.tensor([0.0, 1.0])).numpy().round(4)
    array([1.    , 2.7183], dtype=float32)
    """
    _, y = _map(np.exp, x)

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (dy * y,)

    return y, backward


@differentiable(precision="full")
def log(x: Array) -> Result:
    """The natural logarithm: -inf at 0, NaN below; integers give float32.

    >>> import imgrec_engine as ie
    >>> log(ie.tensor([1.0, 0.0])).numpy()
    array([  0., -inf], dtype=float32)
    """
    x, y = _map(np.log, x)

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (dy / x,)

    return y, backward


@differentiable(precision="full")
def sqrt(x: Array) -> Result:
    """The square root: NaN below 0; integers give float32.

    >>> import imgrec_engine as ie
    >>> sqrt(ie.tensor([4.0, 9.0])).numpy()
    array([2., 3.], dtype=float32)
    """
    _, y = _map(np.sqrt, x)

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (dy / (y + y),)

    return y, backward


@differentiable
def sin(x: Array) -> Result:
    """The sine of an angle in radians; integers give float32.

    >>> import imgrec_engine as ie
    >>> sin(ie.tensor([0.0])).item()
    0.0
    """
    x, y = _map(np.sin, x)

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (dy * np.cos(x),)

    return y, backward


@differentiable
def cos(x: Array) -> Result:
    """The cosine of an angle in radians; integers give float32.

    >>> import imgrec_engine as ie
    >>> cos(ie.tensor([0.0])).item()
    1.0
    """
    x, y = _map(np.cos, x)

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (-dy * np.sin(x),)

    return y, backward


@differentiable
def abs(x: Array) -> Result:
    """The absolute value; its gradient at 0 is 0.

    >>> import imgrec_engine as ie
    >>> abs(ie.tensor([-2, 3])).numpy()
    array([2, 3])
    """

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (dy * np.sign(x),)

    return np.abs(x), backward


@differentiable
def clip(x: Array, min: float | None = None, max: float | None = None) -> Result:
    """X, but not below ``min`` nor above ``max``; the gradient passes where min <= x <= max.

    >>> import imgrec_engine as ie
    >>> clip(ie.tensor([-1.0, 0.5, 3.0]), 0, 1).numpy()
    array([0. , 0.5, 1. ], dtype=float32)
    """
    if min is None and max is None:
        raise ValueError("clip: neither min nor max is given, expected one at least")
    y = x
    for bound, limit in ((np.maximum, min), (np.minimum, max)):
        if limit is not None:
            y = bound(*operands("clip", y, limit)[:2])

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (arrays.where(x == y, dy, dy.dtype.type(0), dy.dtype),)

    return y, backward


@differentiable
def where(condition: Array, x: Array | float, y: Array | float) -> Result:
    """X where the boolean condition holds, y elsewhere; the three broadcast.

    >>> import imgrec_engine as ie
    >>> where(ie.tensor([True, False]), ie.tensor([1.0, 2.0]), 0).numpy()
    array([1., 0.], dtype=float32)
    """
    if condition.dtype != bool_:
        raise DTypeError(f"where: condition is {condition.dtype.name}, expected bool")
    x, y, shape = operands("where", x, y)
    try:
        shape = np.broadcast_shapes(condition.shape, shape)
    except ValueError:
        raise ShapeError(f"where: condition {condition.shape} and values {shape} do not broadcast") from None
    z = arrays.where(condition, x, y, x.dtype)
    shapes = x.shape, y.shape

    def backward(dz: Array, needs: Needs) -> Gradients:
        zero = dz.dtype.type(0)
        dx = unbroadcast(arrays.where(condition, dz, zero, dz.dtype), shapes[0]) if needs[1] else None
        dy = unbroadcast(arrays.where(condition, zero, dz, dz.dtype), shapes[1]) if needs[2] else None
        return None, dx, dy

    return z, backward
