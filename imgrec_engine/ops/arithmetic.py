"""Arithmetic between tensors, and between tensors and Python numbers, with NumPy's broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable
from imgrec_engine.device import empty
from imgrec_engine.dtypes import bool_, float32, float64, int64, is_floating, promote
from imgrec_engine.errors import ShapeError

__all__ = ["add", "divide", "multiply", "negative", "subtract"]


def operands(name: str, x: Any, y: Any) -> tuple[Array, Array, tuple[int, ...]]:
    """Two operands in the dtype in which they meet, and the shape to which they broadcast.

    A Python number takes the other's dtype, except that a float lifts integers to float32.
    """
    if not isinstance(x, np.ndarray):
        x = _scalar(x, y)
    elif not isinstance(y, np.ndarray):
        y = _scalar(y, x)
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


def _scalar(value: Any, other: Array) -> Array:
    if is_floating(other.dtype):
        return np.asarray(value, dtype=other.dtype)
    if isinstance(value, (float, np.floating)):
        return np.asarray(value, dtype=float32)
    return np.asarray(value, dtype=int64 if other.dtype == bool_ and not isinstance(value, bool) else other.dtype)


def unbroadcast(dy: Array, shape: tuple[int, ...]) -> Array:
    """Sums a gradient over the dimensions along which its operand was repeated."""
    if dy.shape == shape:
        return dy
    lead = dy.ndim - len(shape)
    axes = tuple(i for i, n in enumerate(dy.shape) if i < lead or (shape[i - lead] == 1 and n != 1))
    wide = float64 if dy.dtype == float64 else float32
    return dy.sum(axis=axes, dtype=wide).reshape(shape).astype(dy.dtype, copy=False)


def _apply(function: Callable[..., Any], name: str, x: Any, y: Any) -> tuple[Array, Array, Array]:
    x, y, shape = operands(name, x, y)
    return x, y, function(x, y, out=empty(shape, x.dtype, x))


@differentiable
def add(x: Array, y: Array) -> Result:
    """X + y.

    >>> import imgrec_engine as ie
    >>> (ie.ones((2, 1)) + ie.ones(3)).shape
    (2, 3)
    """
    x, y, z = _apply(np.add, "add", x, y)
    shapes = x.shape, y.shape

    def backward(dz: Array, needs: Needs) -> Gradients:
        return tuple(unbroadcast(dz, shape) if needed else None for shape, needed in zip(shapes, needs, strict=True))

    return z, backward


@differentiable
def subtract(x: Array, y: Array) -> Result:
    """X - y.

    >>> import imgrec_engine as ie
    >>> (1 - ie.tensor([0.25])).item()
    0.75
    """
    x, y, z = _apply(np.subtract, "subtract", x, y)
    shapes = x.shape, y.shape

    def backward(dz: Array, needs: Needs) -> Gradients:
        dx = unbroadcast(dz, shapes[0]) if needs[0] else None
        dy = unbroadcast(np.negative(dz), shapes[1]) if needs[1] else None
        return dx, dy

    return z, backward


@differentiable
def multiply(x: Array, y: Array) -> Result:
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
def divide(x: Array, y: Array) -> Result:
    """X / y, element by element; integers are divided in float32.

    >>> import imgrec_engine as ie
    >>> (ie.tensor([1, 2]) / 2).numpy()
    array([0.5, 1. ], dtype=float32)
    """
    x, y, shape = operands("divide", x, y)
    if not is_floating(x.dtype):
        x, y = x.astype(float32), y.astype(float32)
    z = np.divide(x, y, out=empty(shape, x.dtype, x))

    def backward(dz: Array, needs: Needs) -> Gradients:
        dx = unbroadcast(dz / y, x.shape) if needs[0] else None
        dy = unbroadcast(-dz * z / y, y.shape) if needs[1] else None
        return dx, dy

    return z, backward


@differentiable
def negative(x: Array) -> Result:
    """-x."""

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (np.negative(dy),)

    return np.negative(x), backward
