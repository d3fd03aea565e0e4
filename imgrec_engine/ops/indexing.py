"""Indexing and its gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from imgrec_engine import deferred, kernels
from imgrec_engine.arrays import namespace
from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable
from imgrec_engine.device import beside, contiguous, zeros
from imgrec_engine.dtypes import bool_, int64, is_floating
from imgrec_engine.errors import DTypeError, ShapeError
from imgrec_engine.ops.shape import position

__all__ = ["gather", "getitem"]


def plain(index: Any, like: Any) -> Any:
    """An index into ``like`` with arrays, where it can use them, in place of tensors."""
    if isinstance(index, tuple):
        return tuple(plain(part, like) for part in index)
    part = getattr(index, "_array", index)
    if isinstance(part, list):
        part = np.array(part, dtype=None if part else int64)
    return beside(part, like) if isinstance(part, kernels.ARRAYS) else part


def add_rows(rows: Array, positions: Array, count: int) -> Array:
    """Y (count, ...) with y[p] = the sum of the rows (n, ...) whose position is p; zero where there is none.

    Positions are sorted, and each run of equal ones is summed in order: the same bits each time, unlike atomics.
    """
    y = zeros((count, *rows.shape[1:]), rows.dtype, rows)
    if rows.size == 0:
        return y
    columns = math.prod(rows.shape[1:])
    order = np.argsort(positions, kind="stable")
    module, context = kernels.of(rows)
    workspace = kernels.workspace(module.index_add_plan(context, len(rows), columns), rows)
    matrix = contiguous(rows).reshape(len(rows), columns)
    ordered = positions[order].astype(int64, copy=False)
    module.index_add(context, y.reshape(count, columns), matrix, order, ordered, workspace)
    return y


@differentiable
def getitem(x: Array, index: object) -> Result:
    """``x[index]`` with all that NumPy takes: integers, slices, None, ..., integer and boolean arrays or tensors.

    Integers and slices give a view; arrays give a copy, and where they name an element twice its gradients add up.

    >>> import imgrec_engine as ie
    >>> x = ie.tensor([[1, 2, 3], [4, 5, 6]])
    >>> x[:, -1].numpy(), x[ie.tensor([0, 0]), 1:].numpy().tolist(), x[x > 4].numpy()
    (array([3, 6]), [[2, 3], [2, 3]], array([5, 6]))
    """
    parts = _parts(index, x)
    try:
        if not isinstance(x, np.ndarray):
            _check_places(parts, x.shape)
        y = x[parts]
    except IndexError as error:
        raise IndexError(f"getitem: x[{_describe(parts)}] of a tensor of shape {x.shape}: {error}") from None
    shape, size = x.shape, x.size
    arrays = [part for part in parts if isinstance(part, kernels.ARRAYS)]

    def backward(dy: Array, needs: Needs) -> Gradients:
        if all(array.dtype == bool_ for array in arrays):  # slices and masks name no element twice
            dx = zeros(shape, dy.dtype, dy)
            dx[parts] = dy
        elif len(parts) == 2 and isinstance(parts[0], kernels.ARRAYS):  # whole rows
            positions = parts[0].ravel().astype(int64) % shape[0]
            dx = add_rows(dy.reshape(positions.size, math.prod(shape[1:])), positions, shape[0])
        else:
            positions = namespace(dy).arange(size).reshape(shape)[parts].ravel()
            dx = add_rows(dy.reshape(-1), positions, size)
        return (dx.reshape(shape),)

    return y, backward


def _parts(index: Any, x: Array) -> tuple[Any, ...]:
    """The index as a tuple with an ellipsis, through which an element comes as a view and not as a number."""
    found = plain(index, x)
    parts = [_own(part) for part in (found if isinstance(found, tuple) else (found,))]
    return tuple(parts) if any(part is Ellipsis for part in parts) else (*parts, Ellipsis)


def _own(part: Any) -> Any:
    """A copy of an array: who changes an index after the call does not change where gradients go."""
    if not isinstance(part, kernels.ARRAYS):
        return part
    return int(part) if part.ndim == 0 and part.dtype.kind in "iu" else part.copy()


def _check_places(parts: tuple[Any, ...], shape: tuple[int, ...]) -> None:
    """Notes where an array of integers names a place outside of its axis, which CuPy takes as another one."""
    taken = [_axes_taken(part) for part in parts]
    axis = 0
    for i, part in enumerate(parts):
        if part is Ellipsis:
            axis = len(shape) - sum(taken[i:])
        elif taken[i] == 1 and isinstance(part, kernels.ARRAYS) and part.dtype != bool_ and part.size:
            length = shape[axis]
            message = f"getitem: x[{_describe(parts)}] of a tensor of shape {shape}: index {{}} is out of bounds"
            deferred.check_indices(part, -length, length, f"{message} for axis {axis} with size {length}")
        axis += taken[i]


def _axes_taken(part: Any) -> int:
    """How many axes one part of an index stands for; an ellipsis takes what the others leave."""
    if part is None or part is Ellipsis:
        return 0
    return part.ndim if isinstance(part, kernels.ARRAYS) and part.dtype == bool_ else 1


def _describe(parts: tuple[Any, ...]) -> str:
    return ", ".join(
        f"{part.dtype.name}{list(part.shape)}" if isinstance(part, kernels.ARRAYS) else repr(part) for part in parts
    )


@differentiable
def gather(x: Array, axis: int, indices: Array) -> Result:
    """For each element of the integer ``indices``, the element of x at that place of ``axis``: PyTorch's gather.

    ``indices`` has the shape of x except along ``axis``: out[i, j] = x[i, indices[i, j]] for axis 1.

    >>> import imgrec_engine as ie
    >>> gather(ie.tensor([[1, 2, 3], [4, 5, 6]]), 1, ie.tensor([[2], [0]])).numpy()
    array([[3],
           [4]])
    """
    along = position("gather", axis, x.ndim, x.shape)
    check_indices("gather", indices, x.shape[along])
    if indices.ndim != x.ndim or any(
        a != b for k, (a, b) in enumerate(zip(indices.shape, x.shape, strict=True)) if k != along
    ):
        raise ShapeError(
            f"gather: indices are {indices.shape}, expected the shape of x, {x.shape}, but for axis {axis}"
        )
    shape = x.shape

    def backward(dy: Array, needs: Needs) -> Gradients:
        size = math.prod(shape)
        places = np.take_along_axis(namespace(dy).arange(size).reshape(shape), indices, along)
        return add_rows(dy.reshape(-1), places.ravel(), size).reshape(shape), None

    return np.take_along_axis(x, indices, along), backward


def check_indices(name: str, indices: Array, length: int) -> None:
    """DTypeError unless they are integers; IndexError, on a GPU later, unless all lie within 0 and length - 1."""
    if is_floating(indices.dtype) or indices.dtype == bool_:
        raise DTypeError(f"{name}: indices are {indices.dtype.name}, expected integers")
    if indices.size == 0:
        return
    message = f"{name}: an index is {{}}, expected 0 to {length - 1}"
    if not isinstance(indices, np.ndarray):
        deferred.check_indices(indices, 0, length, message)
        return
    lowest, highest = indices.min(), indices.max()
    if lowest < 0 or highest >= length:
        raise IndexError(message.format(lowest if lowest < 0 else highest))
