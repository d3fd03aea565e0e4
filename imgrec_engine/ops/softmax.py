"""Softmax and its logarithm."""

from __future__ import annotations

import numpy as np

from imgrec_engine import kernels
from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable
from imgrec_engine.device import contiguous, empty_like
from imgrec_engine.errors import ShapeError

__all__ = ["log_softmax", "softmax"]


def _normalise(name: str, x: Array, axis: int) -> Result:
    """Runs one of the kernels along the axis, which is moved to the end for it."""
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(f"{name}: axis {axis} is out of range for x of shape {x.shape}")
    is_last = axis in (-1, x.ndim - 1)
    rows = contiguous(x if is_last else np.moveaxis(x, axis, -1))
    y = empty_like(rows)
    module, context = kernels.of(rows)
    logarithmic = name == "log_softmax"
    module.softmax_forward(context, y, rows, logarithmic)

    def backward(dy: Array, needs: Needs) -> Gradients:
        dx = empty_like(y)
        dy_rows = contiguous(dy if is_last else np.moveaxis(dy, axis, -1))
        module.softmax_backward(context, dx, dy_rows, y, logarithmic)
        return (dx if is_last else np.moveaxis(dx, -1, axis),)

    return (y if is_last else np.moveaxis(y, -1, axis)), backward


@differentiable(precision="full")
def softmax(x: Array, axis: int = -1) -> Result:
    """exp(x) / sum(exp(x)) along an axis, in the shape and floating dtype of ``x`` (...).

    float16 and bfloat16 are computed in float32. ShapeError where there is no such axis, DTypeError where ``x`` is not
    floating. Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990.

    >>> import imgrec_engine as ie
    >>> softmax(ie.tensor([[1.0, 1.0], [0.0, 0.0]])).numpy()
    array([[0.5, 0.5],
           [0.5, 0.5]], dtype=float32)
    """
    return _normalise("softmax", x, axis)


@differentiable(precision="full")
def log_softmax(x: Array, axis: int = -1) -> Result:
    """log(softmax(x)) along an axis, without the loss of digits of taking one after the other.

    Shapes, dtypes and errors are those of ``softmax``.

    >>> import imgrec_engine as ie
    >>> log_softmax(ie.tensor([0.0, 1000.0])).numpy()
    array([-1000.,     0.], dtype=float32)
    """
    return _normalise("log_softmax", x, axis)
