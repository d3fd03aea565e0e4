"""Reductions over axes. `axis` is an axis, a tuple of axes, or None for all of them."""

from __future__ import annotations

import functools
import math
import operator

import numpy as np

from imgrec_engine import kernels
from imgrec_engine.arrays import comparable, where
from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable
from imgrec_engine.device import empty
from imgrec_engine.dtypes import float32, float64, int64, is_floating
from imgrec_engine.errors import DTypeError, ShapeError

__all__ = ["all", "any", "argmax", "argmin", "cumsum", "max", "mean", "min", "std", "sum", "var"]

Axis = int | tuple[int, ...] | None


_LEAST = 1 << 14  # elements: NumPy's functions are as fast below
_LEAST_COLUMNS, _LEAST_RUN = 16, 64  # beside each other in memory: so are they for fewer


def has_kernels(x: Array) -> bool:
    """Whether the kernels for large sums (csrc/ops/arithmetic.h) take x; on GPUs they are CuPy's."""
    return isinstance(x, np.ndarray) and x.size >= _LEAST and is_floating(x.dtype) and is_regular(x)


def is_regular(x: Array) -> bool:
    """Whether kernels can read an array of the host as it lies."""
    return bool(x.flags.c_contiguous and x.flags.aligned)


def total(x: Array, axes: tuple[int, ...], divisor: float | None = None) -> Array:
    """The sum over axes, kept with length 1: of floating numbers divided and in x's dtype, else in int64.

    NumPy adds plain float32 along a strided axis one by one, and errors grow with the length. In float64 they vanish,
    and the result hardly depends on the layout.
    """
    if not is_floating(x.dtype):
        return x.sum(axis=axes, keepdims=True, dtype=int64)
    if axes and axes[-1] - axes[0] + 1 == len(axes) and has_kernels(x):
        batch, columns = math.prod(x.shape[: axes[0]]), math.prod(x.shape[axes[-1] + 1 :])
        rows = x.size // (batch * columns)
        if columns >= _LEAST_COLUMNS or (columns == 1 and rows >= _LEAST_RUN):
            kept = x.shape[: axes[0]] + (1,) * len(axes) + x.shape[axes[-1] + 1 :]
            return _sum_rows(x.reshape(batch, rows, columns), divisor).reshape(kept)
    y = x.sum(axis=axes, keepdims=True, dtype=float64)
    return (y if divisor is None else y / divisor).astype(x.dtype, copy=False)


def _sum_rows(x: Array, divisor: float | None) -> Array:
    """(batch, columns): the sums over the rows of (batch, rows, columns), divided, by the kernel."""
    module, context = kernels.of(x)
    y = empty((x.shape[0], x.shape[2]), x.dtype, x)
    plan = kernels.plan(module.sum_rows_plan, context, *x.shape, x.dtype)
    module.sum_rows(context, y, x, 1.0 if divisor is None else divisor, kernels.workspace(plan, x))
    return y


def _axes(name: str, shape: tuple[int, ...], axis: Axis) -> tuple[int, ...]:
    """The axes named, in increasing order; ShapeError where there is no such axis or it is named twice."""
    ndim = len(shape)
    given = tuple(range(ndim)) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    for a in given:
        if not -ndim <= a < ndim:
            raise ShapeError(f"{name}: axis {a} is out of range for a tensor of shape {shape}")
    found = sorted({a % ndim for a in given})
    if len(found) != len(given):
        raise ShapeError(f"{name}: axis {given} names an axis of a tensor of shape {shape} twice")
    return tuple(found)


class _Reduction:
    """A reduction of a shape over axes: the axes in order, the result's shape with them and as wanted, what meets."""

    def __init__(self, name: str, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> None:
        self.axes = axes = _axes(name, shape, axis)
        self.kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
        self.result = self.kept if keepdims else tuple(n for i, n in enumerate(shape) if i not in axes)
        self.length = math.prod(shape[a] for a in axes)
        self.divisor = np.float64(self.length)


_reduction = functools.lru_cache(maxsize=4096)(_Reduction)  # the same one for the same description


def _reduced(name: str, x: Array, axis: Axis, keepdims: bool) -> _Reduction:
    if not (axis is None or isinstance(axis, int)):
        axis = tuple(map(operator.index, axis))  # numbers that equal whole ones must not pass for them
    return _reduction(name, x.shape, axis, bool(keepdims))


def _floating(name: str, x: Array) -> None:
    if not is_floating(x.dtype):
        raise DTypeError(f"{name}: x is {x.dtype.name}, expected a floating dtype; cast it with x.to('float32')")


@differentiable(precision="full")
def sum(x: Array, axis: Axis = None, keepdims: bool = False) -> Result:
    """The sum over axes, accumulated in float64; integers and booleans give int64.

    >>> import imgrec_engine as ie
    >>> sum(ie.ones((2, 3)), axis=(0, 1)).item()
    6.0
    """
    shape, over = x.shape, _reduced("sum", x, axis, keepdims)

    def backward(dy: Array, needs: Needs) -> Gradients:
        return (np.broadcast_to(dy.reshape(over.kept), shape),)

    return total(x, over.axes).reshape(over.result), backward


@differentiable(precision="full")
def mean(x: Array, axis: Axis = None, keepdims: bool = False) -> Result:
    """The mean over axes, accumulated in float64; NaN over no elements.

    >>> import imgrec_engine as ie
    >>> mean(ie.tensor([[1.0, 2.0], [3.0, 6.0]]), axis=1).numpy()
    array([1.5, 4.5], dtype=float32)
    """
    _floating("mean", x)
    shape, over = x.shape, _reduced("mean", x, axis, keepdims)
    y = total(x, over.axes, over.divisor).reshape(over.result)

    def backward(dy: Array, needs: Needs) -> Gradients:
        part = dy.reshape(over.kept).astype(float64) / over.divisor  # float16 ends at 65504
        return (np.broadcast_to(part.astype(dy.dtype), shape),)

    return y, backward


def _moments(x: Array, over: _Reduction, correction: int) -> tuple[Array, Array, float]:
    """X - mean(x) and the variance, at least in float32, and the divisor of the variance."""
    wide = x.astype(np.promote_types(x.dtype, float32) if x.dtype != float64 else float64, copy=False)
    centred = wide - total(wide, over.axes) / wide.dtype.type(over.length)
    divisor = float(np.maximum(over.length - correction, 0))
    return centred, total(centred * centred, over.axes) / wide.dtype.type(divisor), divisor


@differentiable(precision="full")
def var(x: Array, axis: Axis = None, correction: int = 1, keepdims: bool = False) -> Result:
    """The variance over axes: sum((x - mean)²) / (n - correction); NaN where n <= correction.

    As in PyTorch, the default is the unbiased estimate; ``correction=0`` gives the population's variance.

    >>> import imgrec_engine as ie
    >>> var(ie.tensor([1.0, 3.0])).item(), var(ie.tensor([1.0, 3.0]), correction=0).item()
    (2.0, 1.0)
    """
    _floating("var", x)
    over, dtype = _reduced("var", x, axis, keepdims), x.dtype
    centred, y, divisor = _moments(x, over, correction)

    def backward(dy: Array, needs: Needs) -> Gradients:
        scale = (
            dy.reshape(over.kept).astype(centred.dtype, copy=False)
            * centred.dtype.type(2)
            / centred.dtype.type(divisor)
        )
        return ((scale * centred).astype(dtype, copy=False),)

    return y.astype(dtype, copy=False).reshape(over.result), backward


@differentiable(precision="full")
def std(x: Array, axis: Axis = None, correction: int = 1, keepdims: bool = False) -> Result:
    """The standard deviation over axes: the root of ``var`` with the same arguments; its gradient at 0 is 0.

    >>> import imgrec_engine as ie
    >>> std(ie.tensor([1.0, 5.0]), correction=0).item()
    2.0
    """
    _floating("std", x)
    over, dtype = _reduced("std", x, axis, keepdims), x.dtype
    centred, variance, divisor = _moments(x, over, correction)
    y = np.sqrt(variance)

    def backward(dy: Array, needs: Needs) -> Gradients:
        scale = dy.reshape(over.kept).astype(y.dtype, copy=False) / (y * y.dtype.type(divisor))
        return ((np.where(y == 0, y.dtype.type(0), scale) * centred).astype(dtype, copy=False),)

    return y.astype(dtype).reshape(over.result), backward


def _extreme(name: str, x: Array, axis: Axis, keepdims: bool) -> Result:
    """The largest or smallest elements."""
    over = _reduced(name, x, axis, keepdims)
    if over.length == 0:
        raise ShapeError(f"{name}: axis {axis} of a tensor of shape {x.shape} has no elements to choose from")
    if x.size == 0:  # of no elements CuPy makes none, though there is none to choose
        kept_y = empty(over.kept, x.dtype, x)
    else:
        kept_y = getattr(np, name)(comparable(x), axis=over.axes, keepdims=True).astype(x.dtype, copy=False)

    def backward(dy: Array, needs: Needs) -> Gradients:
        chosen = x == kept_y
        share = dy.reshape(over.kept) / chosen.sum(axis=over.axes, keepdims=True).astype(dy.dtype)
        return (where(chosen, share, dy.dtype.type(0), dy.dtype),)

    return kept_y.reshape(over.result), backward


@differentiable
def max(x: Array, axis: Axis = None, keepdims: bool = False) -> Result:
    """The largest element over axes; equal ones share the gradient evenly (as PyTorch's amax). NaN if one is NaN.

    >>> import imgrec_engine as ie
    >>> max(ie.tensor([[1.0, 4.0], [3.0, 2.0]]), axis=0).numpy()
    array([3., 4.], dtype=float32)
    """
    return _extreme("max", x, axis, keepdims)


@differentiable
def min(x: Array, axis: Axis = None, keepdims: bool = False) -> Result:
    """The smallest element over axes; equal ones share the gradient evenly (as PyTorch's amin). NaN if one is NaN.

    >>> import imgrec_engine as ie
    >>> min(ie.tensor([[1.0, 4.0], [3.0, 2.0]])).item()
    1.0
    """
    return _extreme("min", x, axis, keepdims)


def _position(name: str, x: Array, axis: int | None, keepdims: bool) -> Result:
    """Where the largest or smallest elements are."""
    over = _reduced(name, x, axis, keepdims)
    if over.length == 0:
        raise ShapeError(f"{name}: axis {axis} of a tensor of shape {x.shape} has no elements to choose from")
    if x.size == 0:
        return empty(over.result, int64, x), None
    return getattr(np, name)(comparable(x), axis=axis, keepdims=keepdims).astype(int64, copy=False), None


@differentiable
def argmax(x: Array, axis: int | None = None, keepdims: bool = False) -> Result:
    """Int64: where along an axis (None: in row-major order) the largest element is; the first of equal ones.

    >>> import imgrec_engine as ie
    >>> argmax(ie.tensor([[1.0, 4.0], [3.0, 2.0]]), axis=1).numpy()
    array([1, 0])
    """
    return _position("argmax", x, axis, keepdims)


@differentiable
def argmin(x: Array, axis: int | None = None, keepdims: bool = False) -> Result:
    """Int64: where along an axis (None: in row-major order) the smallest element is; the first of equal ones.

    >>> import imgrec_engine as ie
    >>> argmin(ie.tensor([3, 1, 2])).item()
    1
    """
    return _position("argmin", x, axis, keepdims)


@differentiable
def all(x: Array, axis: Axis = None, keepdims: bool = False) -> Result:
    """Bool: whether all elements over axes are True (not zero).

    >>> import imgrec_engine as ie
    >>> all(ie.tensor([True, False])).item()
    False
    """
    return np.all(x, axis=_axes("all", x.shape, axis), keepdims=keepdims), None


@differentiable
def any(x: Array, axis: Axis = None, keepdims: bool = False) -> Result:
    """Bool: whether any element over axes is True (not zero).

    >>> import imgrec_engine as ie
    >>> any(ie.tensor([True, False])).item()
    True
    """
    return np.any(x, axis=_axes("any", x.shape, axis), keepdims=keepdims), None


@differentiable(precision="full")
def cumsum(x: Array, axis: int) -> Result:
    """The sums of the elements up to each along an axis, accumulated in float64; integers give int64.

    >>> import imgrec_engine as ie
    >>> cumsum(ie.tensor([1, 2, 3]), axis=0).numpy()
    array([1, 3, 6])
    """
    (along,) = _axes("cumsum", x.shape, axis)
    floating = is_floating(x.dtype)
    y = np.cumsum(x, axis=along, dtype=float64 if floating else int64)

    def backward(dy: Array, needs: Needs) -> Gradients:
        backwards = np.cumsum(np.flip(dy, along), axis=along, dtype=float64)
        return (np.flip(backwards, along).astype(dy.dtype, copy=False),)

    return y.astype(x.dtype, copy=False) if floating else y, backward
