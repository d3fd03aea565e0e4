"""Reductions over axes."""

from __future__ import annotations

import numpy as np

from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable
from imgrec_engine.dtypes import float32, float64, is_floating
from imgrec_engine.errors import ShapeError

__all__ = ["sum"]


@differentiable
def sum(x: Array, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Result:
    """The sum over an axis, several, or all (None). 16-bit dtypes accumulate in float32, integers give int64.

    >>> import imgrec_engine as ie
    >>> ie.ones((2, 3)).sum(axis=(0, 1)).item()
    6.0
    """
    kept, shape = kept_shape("sum", x.shape, axis), x.shape
    y = np.asarray(x.sum(axis=axis, keepdims=keepdims, dtype=accumulator(x.dtype)))

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (np.broadcast_to(dy.reshape(kept), shape),)

    return y.astype(x.dtype, copy=False) if is_floating(x.dtype) else y, backward


def kept_shape(name: str, shape: tuple[int, ...], axis: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape after a reduction that keeps the reduced axes with length 1."""
    axes = range(len(shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
    if any(not -len(shape) <= a < len(shape) for a in axes):
        raise ShapeError(f"{name}: axis {axis} is out of range for a tensor of shape {shape}")
    reduced = {a % len(shape) for a in axes}
    return tuple(1 if i in reduced else n for i, n in enumerate(shape))


def accumulator(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """The dtype in which sums of this dtype are taken."""
    if not is_floating(dtype):
        return np.dtype(np.int64)
    return float64 if dtype == float64 else float32
