"""Changes of shape; views of the same memory where the layout allows."""

from __future__ import annotations

import numpy as np

from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable
from imgrec_engine.errors import ShapeError

__all__ = ["permute", "reshape"]


@differentiable
def reshape(x: Array, *shape: int | tuple[int, ...]) -> Result:
    """The same elements in another shape; one length may be -1.

    >>> import imgrec_engine as ie
    >>> ie.zeros((2, 6)).reshape(3, -1).shape
    (3, 4)
    """
    wanted = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    before = x.shape
    try:
        y = x.reshape(wanted)
    except ValueError:
        raise ShapeError(f"reshape: a tensor of shape {before} cannot take the shape {wanted}") from None

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (dy.reshape(before),)

    return y, backward


@differentiable
def permute(x: Array, *axes: int | tuple[int, ...]) -> Result:
    """The dimensions in the order given: ``x.permute(0, 3, 1, 2)``.

    >>> import imgrec_engine as ie
    >>> ie.zeros((2, 3, 4)).permute(2, 0, 1).shape
    (4, 2, 3)
    """
    order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
    try:
        y = x.transpose(order)
    except ValueError:
        raise ShapeError(f"permute: axes {order} do not name each dimension of {x.shape} once") from None
    inverse = np.argsort([axis % x.ndim for axis in order])

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (dy.transpose(inverse),)

    return y, backward
