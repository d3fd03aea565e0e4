"""Changes of shape; views of the same memory where the layout allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable
from imgrec_engine.errors import ShapeError
from imgrec_engine.ops.arithmetic import unbroadcast

__all__ = ["expand", "flatten", "flip", "pad", "permute", "reshape", "squeeze", "transpose", "unsqueeze"]


def lengths_of(given: tuple[Any, ...]) -> tuple[int, ...]:
    """Lets ``op(x, 2, 3)`` and ``op(x, (2, 3))`` mean the same."""
    return tuple(given[0]) if len(given) == 1 and np.iterable(given[0]) else given


def position(name: str, axis: int, ndim: int, shape: tuple[int, ...]) -> int:
    """The axis counted from 0; ShapeError where it is not one of ``ndim``."""
    if not -ndim <= axis < ndim:
        raise ShapeError(
            f"{name}: axis {axis} is out of range for a tensor of shape {shape}, expected {-ndim} to {ndim - 1}"
        )
    return axis % ndim


@differentiable
def reshape(x: Array, *shape: int | Sequence[int]) -> Result:
    """The same elements in another shape; one length may be -1.

    >>> import imgrec_engine as ie
    >>> ie.zeros((2, 6)).reshape(3, -1).shape
    (3, 4)
    """
    wanted, before = lengths_of(shape), x.shape
    try:
        y = x.reshape(wanted)
    except ValueError:
        raise ShapeError(f"reshape: a tensor of shape {before} cannot take the shape {wanted}") from None

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (dy.reshape(before),)

    return y, backward


@differentiable
def flatten(x: Array, start_axis: int = 0, end_axis: int = -1) -> Result:
    """The axes from ``start_axis`` to ``end_axis``, both included, made one; a scalar becomes one element.

    >>> import imgrec_engine as ie
    >>> flatten(ie.zeros((5, 2, 3, 4)), 1).shape
    (5, 24)
    """
    before = x.shape
    ndim = max(x.ndim, 1)
    first, last = (position("flatten", axis, ndim, before) for axis in (start_axis, end_axis))
    if first > last:
        raise ShapeError(f"flatten: start_axis {start_axis} comes after end_axis {end_axis} in a tensor of {before}")
    length = int(np.prod(before[first : last + 1], dtype=np.int64))

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (dy.reshape(before),)

    return x.reshape(*before[:first], length, *before[last + 1 :]), backward


@differentiable
def permute(x: Array, *axes: int | Sequence[int]) -> Result:
    """The dimensions in the order given: ``x.permute(0, 3, 1, 2)``.

    >>> import imgrec_engine as ie
    >>> ie.zeros((2, 3, 4)).permute(2, 0, 1).shape
    (4, 2, 3)
    """
    order = lengths_of(axes)
    try:
        y = x.transpose(order)
    except ValueError:
        raise ShapeError(f"permute: axes {order} do not name each dimension of {x.shape} once") from None
    inverse = tuple(int(i) for i in np.argsort([axis % x.ndim for axis in order]))

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (dy.transpose(inverse),)

    return y, backward


@differentiable
def transpose(x: Array, axis0: int, axis1: int) -> Result:
    """Two axes swapped.

    >>> import imgrec_engine as ie
    >>> transpose(ie.zeros((2, 3, 4)), 0, -1).shape
    (4, 3, 2)
    """
    first, second = (position("transpose", axis, x.ndim, x.shape) for axis in (axis0, axis1))

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (dy.swapaxes(first, second),)

    return x.swapaxes(first, second), backward


@differentiable
def squeeze(x: Array, axis: int | tuple[int, ...] | None = None) -> Result:
    """The axes of length 1 dropped: those named, or all of them.

    >>> import imgrec_engine as ie
    >>> squeeze(ie.zeros((1, 3, 1))).shape, squeeze(ie.zeros((1, 3, 1)), -1).shape
    ((3,), (1, 3))
    """
    before = x.shape
    named = (axis,) if isinstance(axis, int) else axis
    dropped = {position("squeeze", a, x.ndim, before) for a in named or ()}
    for a in dropped:
        if before[a] != 1:
            raise ShapeError(f"squeeze: axis {a} of a tensor of shape {before} has length {before[a]}, expected 1")
    kept = [n for i, n in enumerate(before) if (n != 1 if named is None else i not in dropped)]

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (dy.reshape(before),)

    return x.reshape(kept), backward


@differentiable
def unsqueeze(x: Array, axis: int) -> Result:
    """A new axis of length 1 at the position given: ``x[:, None]`` is ``unsqueeze(x, 1)``.

    >>> import imgrec_engine as ie
    >>> unsqueeze(ie.zeros((2, 3)), -1).shape
    (2, 3, 1)
    """
    place = position("unsqueeze", axis, x.ndim + 1, x.shape)

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (dy.squeeze(place),)

    return np.expand_dims(x, place), backward


@differentiable
def expand(x: Array, *shape: int | Sequence[int]) -> Result:
    """Axes of length 1, and new ones in front, repeated to a shape without copying; -1 keeps a length.

    The result is read-only, because several of its elements share one place in memory.

    >>> import imgrec_engine as ie
    >>> expand(ie.ones((3, 1)), 2, -1, 4).shape
    (2, 3, 4)
    """
    wanted, before = lengths_of(shape), x.shape
    lead = len(wanted) - x.ndim
    lengths = tuple(before[i - lead] if n == -1 and i >= lead else n for i, n in enumerate(wanted))
    try:
        y = np.broadcast_to(x, lengths)
    except ValueError:
        raise ShapeError(
            f"expand: a tensor of shape {before} cannot be expanded to {wanted}; from the right, lengths must be "
            "equal, -1, or 1 in the tensor"
        ) from None

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (unbroadcast(dy, before),)

    return y, backward


@differentiable
def flip(x: Array, axis: int | tuple[int, ...]) -> Result:
    """The elements in reverse order along an axis or several; a view.

    >>> import imgrec_engine as ie
    >>> flip(ie.tensor([[1, 2], [3, 4]]), axis=1).numpy()
    array([[2, 1],
           [4, 3]])
    """
    axes = tuple(position("flip", a, x.ndim, x.shape) for a in ((axis,) if isinstance(axis, int) else axis))

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (np.flip(dy, axes),)

    return np.flip(x, axes), backward


@differentiable
def pad(x: Array, widths: Sequence[tuple[int, int]], value: float = 0.0) -> Result:
    """A border of one value: ``widths`` holds a pair (before, after) for each axis, as numpy.pad has it.

    >>> import imgrec_engine as ie
    >>> pad(ie.tensor([1, 2]), [(1, 2)]).numpy()
    array([0, 1, 2, 0, 0])
    """
    pairs = [tuple(pair) if np.iterable(pair) else (pair,) for pair in widths]
    if len(pairs) != x.ndim or any(len(pair) != 2 or min(pair) < 0 for pair in pairs):
        raise ShapeError(
            f"pad: widths are {pairs}, expected a pair (before, after) of lengths >= 0 for each axis of {x.shape}"
        )
    inner = tuple(slice(pair[0], pair[0] + n) for pair, n in zip(pairs, x.shape, strict=True))

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (dy[inner],)

    return np.pad(x, pairs, constant_values=value), backward
