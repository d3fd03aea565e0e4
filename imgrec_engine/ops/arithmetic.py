"""Arithmetic between tensors, and between tensors and Python numbers, with NumPy's broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from imgrec_engine import kernels
from imgrec_engine.arrays import number, where
from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable
from imgrec_engine.device import empty
from imgrec_engine.dtypes import bool_, float32, int64, is_floating, promote
from imgrec_engine.errors import DTypeError, ShapeError
from imgrec_engine.ops.reduction import has_kernels, is_regular, total

__all__ = ["add", "divide", "maximum", "minimum", "multiply", "negative", "power", "subtract"]


def operands(name: str, x: Any, y: Any) -> tuple[Array, Array, tuple[int, ...]]:
    """Two operands in the dtype in which they meet, and the shape to which they broadcast.

    A Python number takes the other's dtype, except that a float lifts integers to float32.
    """
    if not isinstance(x, kernels.ARRAYS):
        x = _scalar(name, x, y)
    elif not isinstance(y, kernels.ARRAYS):
        y = _scalar(name, y, x)
    if x.dtype != y.dtype:
        dtype = promote(x.dtype, y.dtype)
        x, y = x.astype(dtype, copy=False), y.astype(dtype, copy=False)
    if x.shape == y.shape:
        return x, y, x.shape
    try:
        return x, y, np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        raise ShapeError(
            f"{name}: shapes {x.shape} and {y.shape} do not broadcast; from the right, lengths must be equal or 1"
        ) from None


def _scalar(name: str, value: Any, other: Any) -> Array:
    if not isinstance(other, kernels.ARRAYS):
        raise TypeError(f"{name}: {value!r} and {other!r} are plain numbers, expected a Tensor at least for one")
    if is_floating(other.dtype):
        return number(value, other.dtype, other)
    if isinstance(value, (float, np.floating)):
        return number(value, float32, other)
    dtype = int64 if other.dtype == bool_ and not isinstance(value, (bool, np.bool_)) else other.dtype
    try:
        return number(int(value), dtype, other)
    except OverflowError:
        raise OverflowError(
            f"{name}: the number {value} does not fit into {dtype.name}; cast the tensor first"
        ) from None


def unbroadcast(dy: Array, shape: tuple[int, ...]) -> Array:
    """Sums a gradient over the dimensions along which its operand was repeated."""
    if dy.shape == shape:
        return dy
    lead = dy.ndim - len(shape)
    axes = tuple(i for i, n in enumerate(dy.shape) if i < lead or (shape[i - lead] == 1 and n != 1))
    return total(dy, axes).reshape(shape)


def plus(x: Array, y: Array, out: Array) -> Array:
    """Writes x + y, which broadcast, to ``out``, which may be one of them; returns it."""
    if x.size < y.size:
        x, y = y, x
    is_tail = 0 < y.ndim <= x.ndim and x.shape[x.ndim - y.ndim :] == y.shape
    if is_tail and x.shape == out.shape and has_kernels(x) and x.dtype == y.dtype == out.dtype and is_regular(y):
        module, context = kernels.of(x)
        module.add(context, out, x, y)
        return out
    return np.add(x, y, out=out)


def _apply(function: Callable[..., Any], name: str, x: Any, y: Any) -> tuple[Array, Array, Array]:
    x, y, shape = operands(name, x, y)
    return x, y, function(x, y, out=empty(shape, x.dtype, y if isinstance(x, np.generic) else x))


@differentiable
def add(x: Array | float, y: Array | float) -> Result:
    """X + y.

    >>> import imgrec_engine as ie
    >>> (ie.ones((2, 1)) + ie.ones(3)).shape
    (2, 3)
    """
    x, y, z = _apply(plus, "add", x, y)
    shapes = x.shape, y.shape

    def backward(dz: Array, needs: Needs) -> Gradients:
        return tuple(unbroadcast(dz, shape) if needed else None for shape, needed in zip(shapes, needs, strict=True))

    return z, backward


@differentiable
def subtract(x: Array | float, y: Array | float) -> Result:
    """X - y.

    >>> import imgrec_engine as ie
    >>> (1 - ie.tensor([0.25])).item()
    0.75
    """
    if getattr(x, "dtype", None) == getattr(y, "dtype", None) == bool_:
        raise DTypeError("subtract: x and y are bool, expected numbers; cast one with x.to('int64')")
    x, y, z = _apply(np.subtract, "subtract", x, y)
    shapes = x.shape, y.shape

    def backward(dz: Array, needs: Needs) -> Gradients:
        dx = unbroadcast(dz, shapes[0]) if needs[0] else None
        dy = unbroadcast(np.negative(dz), shapes[1]) if needs[1] else None
        return dx, dy

    return z, backward


@differentiable
def multiply(x: Array | float, y: Array | float) -> Result:
    """X y, element by element.

    >>> import imgrec_engine as ie
    >>> (ie.tensor([2.0, 3.0]) * 2).numpy()
    array([4., 6.], dtype=float32)
    """
    x, y, z = _apply(np.multiply, "multiply", x, y)

    def backward(dz: Array, needs: Needs) -> Gradients:
        dx = unbroadcast(dz * y, x.shape) if needs[0] else None
        dy = unbroadcast(dz * x, y.shape) if needs[1] else None
        return dx, dy

    return z, backward


@differentiable
def divide(x: Array | float, y: Array | float) -> Result:
    """X / y, element by element; integers are divided in float32.

    >>> import imgrec_engine as ie
    >>> (ie.tensor([1, 2]) / 2).numpy()
    array([0.5, 1. ], dtype=float32)
    """
    x, y, shape = operands("divide", x, y)
    if not is_floating(x.dtype):
        x, y = x.astype(float32), y.astype(float32)
    z = np.divide(x, y, out=empty(shape, x.dtype, y if isinstance(x, np.generic) else x))
    x_shape = x.shape

    def backward(dz: Array, needs: Needs) -> Gradients:
        dx = unbroadcast(dz / y, x_shape) if needs[0] else None
        dy = unbroadcast(-dz * z / y, y.shape) if needs[1] else None
        return dx, dy

    return z, backward


@differentiable(precision="full")
def power(x: Array | float, y: Array | float) -> Result:
    """X to the power of y, element by element. Also ``x ** y``.

    The gradient for y is 0 where x is 0; negative x with a fractional y gives NaN.

    >>> import imgrec_engine as ie
    >>> (ie.tensor([2.0, 3.0]) ** 2).numpy()
    array([4., 9.], dtype=float32)
    """
    x, y, shape = operands("power", x, y)
    if not is_floating(x.dtype) and (y < 0).any():
        raise ValueError(f"power: y has negative integers for {x.dtype.name}; make x or y floating")
    square = y.ndim == 0 and y == 2
    z = (
        np.multiply(x, x)
        if square
        else np.power(x, y, out=empty(shape, x.dtype, y if isinstance(x, np.generic) else x))
    )

    def backward(dz: Array, needs: Needs) -> Gradients:
        zero, one = dz.dtype.type(0), dz.dtype.type(1)
        dx = dy = None
        if needs[0]:
            slope = x + x if square else where(y == 0, zero, np.multiply(y, np.power(x, y - one)), dz.dtype)
            dx = unbroadcast(dz * slope, x.shape)
        if needs[1]:
            dy = unbroadcast(dz * where(x == 0, zero, z * np.log(x), dz.dtype), y.shape)
        return dx, dy

    return z, backward


def _extreme(function: Callable[..., Any], compare: Callable[..., Any], x: Any, y: Any) -> Result:
    x, y, z = _apply(function, function.__name__, x, y)

    def backward(dz: Array, needs: Needs) -> Gradients:
        zero = dz.dtype.type(0)
        shared = where(np.equal(x, y), dz * dz.dtype.type(0.5), zero, dz.dtype)
        dx = unbroadcast(where(compare(x, y), dz, shared, dz.dtype), x.shape) if needs[0] else None
        dy = unbroadcast(where(compare(y, x), dz, shared, dz.dtype), y.shape) if needs[1] else None
        return dx, dy

    return z, backward


@differentiable
def maximum(x: Array | float, y: Array | float) -> Result:
    """The larger of x and y, element by element; equal ones share the gradient evenly.

    >>> import imgrec_engine as ie
    >>> maximum(ie.tensor([1.0, 5.0]), 3).numpy()
    array([3., 5.], dtype=float32)
    """
    return _extreme(np.maximum, np.greater, x, y)


@differentiable
def minimum(x: Array | float, y: Array | float) -> Result:
    """The smaller of x and y, element by element; equal ones share the gradient evenly.

    >>> import imgrec_engine as ie
    >>> minimum(ie.tensor([1.0, 5.0]), 3).numpy()
    array([1., 3.], dtype=float32)
    """
    return _extreme(np.minimum, np.less, x, y)


@differentiable
def negative(x: Array) -> Result:
    """-x; not for booleans.

    >>> import imgrec_engine as ie
    >>> (-ie.tensor([1, -2])).numpy()
    array([-1,  2])
    """
    if x.dtype == bool_:
        raise DTypeError("negative: x is bool, expected numbers; logical_not(x) is its opposite")

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (np.negative(dy),)

    return np.negative(x), backward
