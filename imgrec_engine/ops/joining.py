"""Tensors put together, and taken apart again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import accumulate

import numpy as np

from imgrec_engine.autograd import Array, Gradients, Needs, Result, Results, differentiable
from imgrec_engine.device import empty, zeros
from imgrec_engine.dtypes import promote
from imgrec_engine.errors import ShapeError
from imgrec_engine.ops.shape import position

__all__ = ["concatenate", "split", "stack"]


@differentiable
def concatenate(tensors: Sequence[Array], axis: int = 0) -> Result:
    """Tensors one after another along an axis; all other lengths must be equal.

    >>> import imgrec_engine as ie
    >>> concatenate([ie.zeros((2, 3)), ie.ones((2, 1))], axis=1).shape
    (2, 4)
    """
    first = tensors[0]
    along = position("concatenate", axis, first.ndim, first.shape)
    for i, x in enumerate(tensors):
        rest, wanted = (a.shape[:along] + a.shape[along + 1 :] for a in (x, first))
        if x.ndim != first.ndim or rest != wanted:
            raise ShapeError(
                f"concatenate: tensors[{i}] has shape {x.shape}, tensors[0] {first.shape}; only axis {along} may differ"
            )
    ends = list(accumulate(x.shape[along] for x in tensors))
    shape = (*first.shape[:along], ends[-1], *first.shape[along + 1 :])
    y = empty(shape, reduce(promote, (x.dtype for x in tensors)), first)
    np.concatenate(tensors, axis=along, out=y, casting="unsafe")

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (tuple(np.split(dy, ends[:-1], axis=along)),)

    return y, backward


@differentiable
def stack(tensors: Sequence[Array], axis: int = 0) -> Result:
    """Tensors of one shape along a new axis.

    >>> import imgrec_engine as ie
    >>> stack([ie.zeros(3), ie.ones(3)], axis=-1).shape
    (3, 2)
    """
    first = tensors[0]
    along = position("stack", axis, first.ndim + 1, first.shape)
    for i, x in enumerate(tensors):
        if x.shape != first.shape:
            raise ShapeError(f"stack: tensors[{i}] has shape {x.shape}, expected that of tensors[0], {first.shape}")
    shape = (*first.shape[:along], len(tensors), *first.shape[along:])
    y = empty(shape, reduce(promote, (x.dtype for x in tensors)), first)
    np.stack(tensors, axis=along, out=y, casting="unsafe")

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (tuple(np.moveaxis(dy, along, 0)),)

    return y, backward


@differentiable
def split(x: Array, sizes: int | Sequence[int], axis: int = 0) -> Results:
    """A tuple of views along an axis: of the lengths given, or all of one length (the last may be shorter).

    >>> import imgrec_engine as ie
    >>> [part.shape for part in split(ie.zeros((5, 2)), 2)], [part.shape for part in split(ie.zeros(5), [1, 4])]
    ([(2, 2), (2, 2), (1, 2)], [(1,), (4,)])
    """
    along = position("split", axis, x.ndim, x.shape)
    shape, length = x.shape, x.shape[along]
    if isinstance(sizes, int):
        if sizes < 1:
            raise ShapeError(f"split: sizes is {sizes}, expected 1 or more")
        ends = [min(end + sizes, length) for end in range(0, max(length, 1), sizes)]
    else:
        ends = list(accumulate(sizes))
        if not ends or min(sizes) < 0 or ends[-1] != length:
            raise ShapeError(f"split: sizes are {list(sizes)}, expected lengths that add up to {length} (axis {axis})")
    lead = (slice(None),) * along
    places = [(*lead, slice(begin, end)) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]

    def backward(dys: tuple[Array | None, ...], needs: Needs) -> Gradients:
        parts = [dy for dy in dys if dy is not None]
        given = parts[0]
        if len(parts) == len(dys):
            return (np.concatenate(parts, axis=along, out=empty(shape, given.dtype, given)),)
        dx = zeros(shape, given.dtype, given)
        for place, dy in zip(places, dys, strict=True):
            if dy is not None:
                dx[place] = dy
        return (dx,)

    return tuple(x[place] for place in places), backward
